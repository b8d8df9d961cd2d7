"""Several models vote together; what they cannot decide goes to another model, and at last to a person."""

import anyio

import mdap
from mdap_hanoi import Hanoi

SMALL = ["sim/one?error_rate=0.3", "sim/two?error_rate=0.3&seed=1", "sim/three?error_rate=0.3&seed=2"]
LARGE = "sim/large?error_rate=0.01"


async def main() -> None:
    voting = mdap.VotingSettings(k=3, max_samples=10)
    async with mdap.Session(SMALL, escalate_to=LARGE, db="ensemble.db") as session:
        solution = await session.run(Hanoi(disks=6), voting=voting, run_id="tower")

    print(solution.status, solution.steps, "steps,", solution.totals.votes, "votes")
    if solution.status is mdap.RunStatus.UNDECIDED:
        print(f"{solution.reason}; settle it with: mdap decide tower STEP --answer JSON --reason TEXT")
    with mdap.open_log("ensemble.db") as log:
        answered = {sample.model for sample in log.samples("tower")}
    print("asked:", ", ".join(sorted(answered)))


if __name__ == "__main__":
    anyio.run(main)
