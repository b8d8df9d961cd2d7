"""Processor time a case of a batch of short cases, in all threads, most of it to begin and end runs.

Towers of Hanoi at k = 3 with a provider that never waits. Each round has a database and a session of its own;
sizes take turns, and medians of the rounds are shown.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio

import mdap
from benchmarks.common import K, finish, parser, print_environment, scratch, summary, table
from mdap_hanoi import Hanoi


def _arguments() -> argparse.Namespace:
    made = parser(__doc__, repeat=7)
    made.add_argument("--cases", type=int, default=300, help="cases of a batch")
    made.add_argument("--disks", type=int, nargs="+", default=[2, 4], help="sizes of the cases")
    return made.parse_args()


async def _batch(disks: int, cases: int) -> float:
    """Return the milliseconds of processor time that a case took."""
    with scratch() as folder:
        async with mdap.Session(db=folder / "cases.db") as session:
            await session.run(Hanoi(disks=disks), k=K)  # what the first run imports
            began = time.process_time()
            async for solution in session.solve_all([Hanoi(disks=disks)] * cases, k=K):
                assert solution.status is mdap.RunStatus.FINISHED, solution
            return (time.process_time() - began) / cases * 1e3


def main() -> None:
    """Measure, and print a table."""
    arguments = _arguments()
    environment = print_environment()
    took: dict[int, list[float]] = {disks: [] for disks in arguments.disks}
    for _ in range(arguments.repeat):
        for disks, found in took.items():
            found.append(anyio.run(_batch, disks, arguments.cases))
    rows = [
        (f"{disks} disks, {(2**disks - 1) * K} votes", *(f"{value:.2f}" for value in _shown(found)))
        for disks, found in took.items()
    ]
    table("ms of processor time a case", ("case", "median", "least", "most"), rows)
    print(f"load {os.getloadavg()[0]:.1f}")
    finish(arguments, environment, {str(disks): summary(found) for disks, found in took.items()})


def _shown(found: list[float]) -> tuple[float, float, float]:
    return statistics.median(found), min(found), max(found)


if __name__ == "__main__":
    main()
