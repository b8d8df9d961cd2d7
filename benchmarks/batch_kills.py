"""Kill a client of the batch lane at every request of a job's life, resume it, and count what was paid.

``python -m benchmarks.batch_kills [KILLS]``
"""

import random
import sys
import tempfile
from pathlib import Path

from mdap.testing import BatchFaults
from tests.batching import VENDORS, Client, KillingServer, answer, check_paid_once, client, query

DOCS = 8
MOMENTS = ("before", "after", "half")


def requests_of(run: Client, vendor: str, db: Path) -> int:
    """Return how many requests a client makes that nobody kills."""
    with KillingServer.in_thread(answer, batches=BatchFaults(polls=2)) as server:
        server.begin(None)
        assert run(server, {"vendor": vendor, "db": str(db), "docs": DOCS}) == 0
        check_paid_once(server, db)
        return server.requests


def killed(run: Client, vendor: str, db: Path, plan: list[tuple[int, str]]) -> int:
    """Kill a client as *plan* says, resume it each time, check the outcome, and return the kills."""
    about = {"vendor": vendor, "db": str(db), "docs": DOCS}
    kills = 0
    with KillingServer.in_thread(answer, batches=BatchFaults(polls=2)) as server:
        for at, moment in plan:
            server.begin(at, moment)
            kills += run(server, about) < 0
        server.begin(None)
        assert run(server, about) == 0, plan
        check_paid_once(server, db)
        assert query(db, "SELECT count(*) FROM decisions") == [(DOCS,)], plan
    return kills


def main(wanted: int = 200) -> None:
    """Kill as often as *wanted*, at every point at least once."""
    rng = random.Random(7)
    with client() as run, tempfile.TemporaryDirectory() as folder:
        kills, number = 0, 0
        most = {vendor: requests_of(run, vendor, Path(folder) / f"{vendor}.db") for vendor in VENDORS}
        points = [(vendor, at, how) for vendor in VENDORS for at in range(most[vendor]) for how in MOMENTS]
        plans = [(vendor, [(at, how)]) for vendor, at, how in points]
        while kills < wanted:
            if number < len(plans):
                vendor, plan = plans[number]
            else:
                vendor = rng.choice(VENDORS)
                plan = [(rng.randrange(most[vendor]), rng.choice(MOMENTS)) for _ in range(3)]
            kills += killed(run, vendor, Path(folder) / f"{number}.db", plan)
            number += 1
            print(f"\r{kills} kills, {number} runs", end="", flush=True)
    print(f"\n{kills} kills at {len(points)} points of {number} runs: every row paid once and counted once")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
