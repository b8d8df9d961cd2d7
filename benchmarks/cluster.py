"""Batches over several worker processes: what the head costs, limits and budgets, and losses.

costs   processor time a case of 45 votes, of the head and of one process that does it all, in turns; and the
        head's time a vote on longer chains, so how many workers one head can feed
limits  a server that enforces requests and tokens a minute, four workers, one of them killed half way
budget  a budget in USD over four workers, and the server's total
bought  replies that a killed worker had paid for and that are not on record, by the ledger of a faulty server
losses  batches during which a worker is killed or frozen, or the head is killed, at random moments: all cases
        end as in one process, nothing is decided twice, and the log verifies
ray     the same on three nodes that Ray simulates, which are removed, frozen and killed
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mdap
from benchmarks.cluster_losses import bought, children, losses, on_ray
from benchmarks.cluster_server import endpoint
from benchmarks.common import finish, parser, print_environment, scratch, table
from mdap_hanoi import Hanoi

SIM = {"error_rate": 0.0, "seed": 5, "latency": 0.001}


# -- costs -----------------------------------------------------------------------------------------


async def _cost(db: Path, cases: int, disks: int, workers: int | None) -> tuple[float, int]:
    """Return the seconds of processor time that this process spent on a batch, and its votes."""
    cluster = None if workers is None else mdap.Cluster(workers=workers)
    async with mdap.Session("sim", options=SIM, db=db, cluster=cluster) as session:
        async for _ in session.solve_all([Hanoi(disks=1)] * 4, run_id="warm"):
            pass
        began = time.process_time()
        async for solution in session.solve_all([Hanoi(disks=disks)] * cases, run_id="b"):
            assert solution.status is mdap.RunStatus.FINISHED
        spent = time.process_time() - began
        summary = await session.find("b")
    assert summary is not None
    return spent, summary.totals.votes


def costs(options: argparse.Namespace) -> dict[str, Any]:
    rows, measured = [], []
    for cases, disks in ((options.cases, 4), (max(4, options.cases // 40), 9)):
        found: dict[str, list[float]] = {"one process": [], "head": []}
        votes = 0
        for _ in range(options.rounds):
            for name, workers in (("one process", None), ("head", options.workers)):
                with scratch() as folder:
                    spent, votes = asyncio.run(_cost(folder / "a.db", cases, disks, workers))
                found[name].append(spent)
        local, head = (statistics.median(found[name]) for name in ("one process", "head"))
        measured.append({"cases": cases, "disks": disks, "votes": votes, **found})
        rows.append(
            [
                f"{cases:,} cases of {votes // cases:,} votes",
                f"{1e3 * local / cases:.2f} ms",
                f"{1e3 * head / cases:.2f} ms",
                f"{1e6 * local / votes:.0f} µs",
                f"{1e6 * head / votes:.0f} µs",
                f"{head / local:.2f}",
            ]
        )
    table(
        "processor time",
        ["batch", "local, a case", "head, a case", "local, a vote", "head, a vote", "head / local"],
        rows,
    )
    return {"costs": measured}


# -- limits and budget -----------------------------------------------------------------------------


async def _kill_one(after: float) -> None:
    await anyio.sleep(after)
    os.kill(children(os.getpid())[-1], signal.SIGKILL)  # the first one is the server


async def _under_limits(db: Path, options: argparse.Namespace) -> None:
    limits = mdap.Limits(requests_per_minute=options.rpm, tokens_per_minute=options.tpm)
    budget = mdap.Budget(seconds=options.seconds)
    cluster = mdap.Cluster(workers=options.workers)
    async with (
        mdap.Session("openai/m", db=db, limits=limits, cluster=cluster, budget=budget) as session,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_kill_one, options.seconds / 2)
        async for _ in session.solve_all([Hanoi(disks=9)] * 400, run_id="b"):
            pass


def limits(options: argparse.Namespace) -> dict[str, Any]:
    rates = {"requests_per_minute": options.rpm, "tokens_per_minute": options.tpm}
    with scratch() as folder, endpoint(latency=0.05, **rates) as log:
        asyncio.run(_under_limits(folder / "a.db", options))
    first, counts = log[0].at, Counter(one.outcome for one in log)
    window = [one for one in log if first + 5 <= one.at < first + options.seconds - 2]
    minutes = (options.seconds - 7) / 60
    requests = len(window) / minutes / options.rpm
    tokens = sum(one.prompt + one.completion for one in window) / minutes / options.tpm
    refused = sum(count for name, count in counts.items() if "limit" in name)
    print(
        f"{requests:.1%} of {options.rpm:,} requests and {tokens:.1%} of {options.tpm:,} tokens a minute "
        f"used, {refused} refused, {dict(counts)}"
    )
    return {"requests": requests, "tokens": tokens, "refused": refused, "counts": dict(counts)}


async def _budgeted(db: Path, usd: float, workers: int) -> str | None:
    prices = {"openai/m": mdap.Price(input=400.0, output=1600.0)}
    async with mdap.Session(
        "openai/m",
        db=db,
        budget=mdap.Budget(usd=usd),
        prices=prices,
        limits=mdap.Limits(concurrency=16),
        cluster=mdap.Cluster(workers=workers),
    ) as session:
        async for _ in session.solve_all([Hanoi(disks=6)] * 200, run_id="b"):
            pass
        summary = await session.find("b")
    return None if summary is None else f"{summary.cost_usd:.2f}"


def budget(options: argparse.Namespace) -> dict[str, Any]:
    with scratch() as folder, endpoint(latency=0.02) as log:
        told = asyncio.run(_budgeted(folder / "a.db", options.usd, options.workers))
    prices = [400e-6 * one.prompt + 1600e-6 * one.completion for one in log]
    allowed = options.usd + options.workers * max(prices)
    print(
        f"a budget of {options.usd:g} USD: {told} by the log, {sum(prices):.2f} by the server; with one "
        f"request more of each worker it would be {allowed:.2f}"
    )
    return {"budget": options.usd, "log": told, "server": sum(prices), "allowed": allowed}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("costs", "limits", "budget", "bought", "losses", "ray"))
    arguments.add_argument("--workers", type=int, default=4)
    arguments.add_argument("--cases", type=int, default=400)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--rpm", type=int, default=6_000)
    arguments.add_argument("--tpm", type=int, default=600_000)
    arguments.add_argument("--seconds", type=float, default=90.0)
    arguments.add_argument("--usd", type=float, default=5.0)
    arguments.add_argument("--slots", type=int, default=24, help="concurrent requests of bought")
    arguments.add_argument("--latency", type=float, default=0.1, help="seconds a reply takes, for bought")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    environment = print_environment()
    measured = {"costs": costs, "limits": limits, "budget": budget}
    modes = {**measured, "bought": bought, "losses": losses, "ray": on_ray}
    finish(options, environment, modes[options.what](options))


if __name__ == "__main__":
    main()
