"""Decide documents in waves and by ordinary requests, and compare decisions and the server's own ledger.

``python -m benchmarks.batches [DOCUMENTS]``
"""

import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio

import mdap
from mdap.audit import verify
from mdap.plugins import make_task
from mdap.testing import FaultyServer
from tests.batching import VENDORS, Digit, answer, check_paid_once, environment, query, session

WAVES = mdap.Waves(quiet=2.0, poll=0.5, settle=0.1)
BATCH_SHARE = 0.5


def steady() -> Any:
    """Return an answer that goes by document, temperature and how often they were asked, not by order."""
    drawn: Counter[tuple[str, Any]] = Counter()

    def same(body: dict[str, Any], rng: random.Random) -> str:
        place = (str(body["messages"]), body["temperature"])
        drawn[place] += 1
        return answer({**body, "seed": f"{place}{drawn[place]}"}, rng)

    return same


async def lane(vendor: str, how: str, db: Path, docs: int) -> dict[str, Any]:
    """Decide *docs* documents, and return decisions, dollars by the ledger, waves and seconds."""
    began = time.perf_counter()
    async with FaultyServer(steady()) as server:
        os.environ |= environment(server)
        async with session(vendor, db, WAVES, lane=how) as opened:
            tasks = (Digit(doc=doc) for doc in range(docs))
            async for one in opened.solve_all(tasks, k=3, run_id="docs"):
                assert one.status == "finished", one.reason
    share = {"batched": BATCH_SHARE, "ok": 1.0}
    dollars = sum((one.prompt_tokens + 4 * one.completion_tokens) * share[one.outcome] for one in server.log)
    if how == "batch":
        check_paid_once(server, db)
    return {
        "decisions": query(db, "SELECT winner, tally FROM decisions ORDER BY run"),
        "dollars": dollars,
        "waves": query(db, "SELECT wave, sum(requests) FROM batch_jobs GROUP BY wave"),
        "verified": verify(db, "docs", make_task).ok,
        "seconds": time.perf_counter() - began,
    }


async def main(docs: int = 2000) -> None:
    """Compare both lanes at both vendors."""
    with tempfile.TemporaryDirectory() as folder:
        for vendor in VENDORS:
            found = {
                how: await lane(vendor, how, Path(folder) / f"{vendor}-{how}.db", docs)
                for how in ("requests", "batch")
            }
            batch, ordinary = found["batch"], found["requests"]
            print(f"{vendor}: {docs} documents, requests by wave {batch['waves']}")
            print(f"  price {batch['dollars'] / ordinary['dollars']:.3f} times that of ordinary requests")
            print(f"  decisions equal: {batch['decisions'] == ordinary['decisions']}")
            print(f"  verified: {ordinary['verified']}, {batch['verified']}")
            print(f"  seconds: {ordinary['seconds']:.0f} and {batch['seconds']:.0f}")


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
