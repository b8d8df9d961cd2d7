"""A long run over HTTP with faults, at the highest rate the machine sustains: does anything grow?

Small towers of Hanoi, one after the other and many side by side, go through one session against the faulty
test server in a process of its own: a fifth of all requests meets a fault. Every so often are taken: votes a
second, resident memory, open files, the size of the write-ahead log, and how late the event loop is (the
worst of looks every 50 ms). A curve is called flat if the median of its last quarter is at most a fifth
above that of its second quarter; the first quarter is for warming up.
"""

import json
import os
import sqlite3
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mdap
from benchmarks.common import finish, memory, parser, print_environment, raise_file_limit, scratch, table
from benchmarks.fire.forked import serving
from mdap_hanoi import Hanoi

# Few 429s, since mdap slows down after them: the machine, not a rate, should be the limit.
FAULTS = {
    **{"rate_limit": 0.005, "rate_limit_silent": 0.005, "server_error": 0.05, "overloaded": 0.04},
    **{"reset": 0.04, "truncated": 0.03, "wrong_type": 0.02, "empty_choices": 0.01, "missing_usage": 0.01},
    **{"hang": 0.002, "latency": 0.02, "sigma": 0.5, "retry_after": 0.05},
}
FIGURES = ("votes_per_s", "memory_mb", "open_files", "wal_mb", "lag_ms")
FLAT = 1.2
K = 6
"""At a tenth of wrong replies, one of some 30,000 towers may come out wrong by the law."""


@dataclass(slots=True)
class Watch:
    """What was seen."""

    db: Path
    every: float
    progress: mdap.Progress
    lag: float = 0.0
    seen: list[dict[str, float]] = field(default_factory=list)

    async def loop(self) -> None:
        """Look how late the event loop is, every 50 ms."""
        while True:
            started = time.monotonic()
            await anyio.sleep(0.05)
            self.lag = max(self.lag, time.monotonic() - started - 0.05)

    async def figures(self) -> None:
        """Take all figures every so often."""
        votes, last = self.progress.votes, time.monotonic()
        while True:
            await anyio.sleep(self.every)
            now, lag, self.lag = time.monotonic(), self.lag, 0.0
            wal = self.db.with_name(f"{self.db.name}-wal")
            self.seen.append(
                {
                    "at": now,
                    "votes_per_s": (self.progress.votes - votes) / (now - last),
                    "memory_mb": (memory() or (0.0,))[0],
                    "open_files": len(os.listdir("/proc/self/fd")),
                    "wal_mb": wal.stat().st_size / 1e6,
                    "lag_ms": 1000 * lag,
                }
            )
            votes, last = self.progress.votes, now
            print(json.dumps({name: round(self.seen[-1][name], 1) for name in FIGURES}), flush=True)


def towers(until: float) -> Iterator[Hanoi]:
    """Yield towers until the time is over."""
    while time.monotonic() < until:
        yield Hanoi(disks=4)


async def soak(db: Path, minutes: float, every: float, concurrency: int) -> dict[str, Any]:
    progress = mdap.Progress()
    watch = Watch(db, every, progress)
    ended: Counter[str] = Counter()
    limits = mdap.Limits(concurrency=concurrency, attempt_timeout=5, probe=False, max_attempts=60)
    started = time.monotonic()
    until = started + 60 * minutes
    async with mdap.Session("openai/m", db=db, limits=limits) as session, anyio.create_task_group() as group:
        group.start_soon(watch.loop)
        group.start_soon(watch.figures)
        async for solution in session.solve_all(towers(until), k=K, progress=progress):
            right = solution.result == {"solved": True, "moves": 15}
            ended["right" if right else f"{solution.status}: {solution.reason or solution.result}"] += 1
        group.cancel_scope.cancel()
    seconds = time.monotonic() - started
    limited = await anyio.to_thread.run_sync(limits_of, db)
    return {
        "limits": limited,
        "cpu_share": time.process_time() / (time.monotonic() - started),
        "seen": watch.seen,
        "seconds": seconds,
        "towers": dict(ended),
        "votes": progress.votes,
        "failed_attempts": progress.failed_attempts,
        "votes_per_s": progress.votes / seconds,
    }


def limits_of(db: Path) -> list[str]:
    """Return the changes of limits, in order, each once: every run that was open then has it."""
    with closing(sqlite3.connect(db)) as log:
        sql = "SELECT DISTINCT at, reason FROM run_events WHERE kind = 'limits' ORDER BY id"
        return list(dict.fromkeys(reason for _, reason in log.execute(sql)))


def curves(seen: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the medians of each figure's quarters, and the last one over the second one."""
    quarter = max(1, len(seen) // 4)
    found = {}
    for name in FIGURES:
        parts = [
            statistics.median(one[name] for one in seen[at * quarter : (at + 1) * quarter]) for at in range(4)
        ]
        found[name] = {f"quarter {at + 1}": part for at, part in enumerate(parts)}
        found[name]["growth"] = parts[3] / parts[1] if parts[1] else 1.0
    return found


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--minutes", type=float, default=60.0, help="how long")
    cli.add_argument("--every", type=float, default=10.0, help="seconds between two looks")
    cli.add_argument("--concurrency", type=int, default=64, help="requests in flight")
    cli.add_argument("--quick", action="store_true", help="one minute, a look every 2 s")
    arguments = cli.parse_args()
    minutes, every = (1.0, 2.0) if arguments.quick else (arguments.minutes, arguments.every)
    environment = print_environment("openai")
    raise_file_limit()
    with scratch() as folder, serving(forget=True, **FAULTS) as server:
        os.environ.update(server.env)
        results = anyio.run(soak, folder / "soak.db", minutes, every, arguments.concurrency)
        size = (folder / "soak.db").stat().st_size / 1e6
    found = curves(results["seen"])
    rows = [[name, *(f"{value:.2f}" for value in curve.values())] for name, curve in found.items()]
    table(f"medians over {minutes:g} minutes", ["", *next(iter(found.values()))], rows)
    growing = [name for name in FIGURES[1:] if found[name]["growth"] > FLAT]
    print(
        f"{results['votes']:,} votes, {results['votes_per_s']:.0f} a second; {results['towers']} towers; ",
        end="",
    )
    print(f"{results['failed_attempts']:,} failed attempts; database {size:.0f} MB")
    print(f"not flat: {', '.join(growing) or 'nothing'}")
    print(f"{results['cpu_share']:.0%} of a core; limits: {'; '.join(results['limits']) or 'none'}")
    finish(arguments, environment, {**results, "curves": found, "database_mb": size})
    sys.exit(0 if set(results["towers"]) == {"right"} else 1)


if __name__ == "__main__":
    main()
