"""Two towers in one session: they share its model, its limits and its database."""

import anyio

import mdap
from mdap_hanoi import Hanoi


async def main() -> None:
    async with mdap.Session("sim", db="runs.db", options={"error_rate": 0.05}) as session:

        async def solve(disks: int) -> None:
            try:
                solution = await session.solve(Hanoi(disks=disks), k=5, run_id=f"tower-{disks}")
            except mdap.StoppedError as stopped:
                print(f"{stopped}; call this again to resume")
            else:
                print(solution.result, solution.steps, solution.totals.votes, solution.usage)

        async with anyio.create_task_group() as group:
            group.start_soon(solve, 4)
            group.start_soon(solve, 8)


anyio.run(main)
