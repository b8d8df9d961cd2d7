"""Batches over several worker processes: what the head costs, limits and budgets, and losses.

costs   processor time a case of 45 votes, of the head and of one process that does it all, in turns; and the
        head's time a vote on longer chains, so how many workers one head can feed
limits  a server that enforces requests and tokens a minute, four workers, one of them killed half way
budget  a budget in USD over four workers, and what the server's own count comes to
losses  batches in which a worker is killed, one is frozen and thawed, or the head is killed, at random
        moments: all cases end, as in one process, nothing is decided twice, and the log verifies
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mdap
from benchmarks.common import finish, parser, print_environment, scratch, table
from mdap.audit.verifying import verify
from mdap.plugins import make_recorded
from mdap.testing import Faults, FaultyServer
from mdap_hanoi import Hanoi
from tests.acceptance.player import play

SIM = {"error_rate": 0.0, "seed": 5, "latency": 0.001}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def decisions(db: Path) -> list[Any]:
    with closing(sqlite3.connect(db)) as log:
        sql = "SELECT run_id, step, winner FROM decisions JOIN runs ON runs.id = run ORDER BY 1, 2"
        return log.execute(sql).fetchall()


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


def serve(faults: str) -> None:
    """Serve until standard input ends; then print what came, one line of JSON."""
    with FaultyServer.in_thread(play, faults=Faults(**json.loads(faults))) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()
        log = [(one.at, one.outcome, one.prompt_tokens, one.completion_tokens) for one in server.log]
    print(json.dumps(log), flush=True)


@contextmanager
def endpoint(**faults: float) -> Iterator[list[list[Any]]]:
    """Serve in a process of its own; what came is in the list that is given, after the block."""
    command = [sys.executable, __file__, "serve", "--faults", json.dumps(faults)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    os.environ |= {"OPENAI_BASE_URL": server.stdout.readline().strip(), "OPENAI_API_KEY": "sk-benchmark"}
    log: list[list[Any]] = []
    yield log
    log += json.loads(server.communicate()[0])


async def _kill_one(after: float) -> None:
    await anyio.sleep(after)
    os.kill(children(os.getpid())[-1], signal.SIGKILL)  # the first one is the server


async def _under_limits(db: Path, options: argparse.Namespace) -> None:
    limits = mdap.Limits(requests_per_minute=options.rpm, tokens_per_minute=1_000 * options.rpm)
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
    rates = {"requests_per_minute": options.rpm, "tokens_per_minute": 1_000 * options.rpm}
    with scratch() as folder, endpoint(latency=0.05, **rates) as log:
        asyncio.run(_under_limits(folder / "a.db", options))
    at, counts = [one[0] for one in log], Counter(one[1] for one in log)
    first = at[0]
    window = [moment for moment in at if first + 5 <= moment < first + options.seconds - 2]
    share = len(window) / (options.seconds - 7) / options.rpm * 60
    refused = sum(count for name, count in counts.items() if "limit" in name)
    print(f"{share:.1%} of {options.rpm:,} requests a minute used, {refused} refused, {counts}")
    return {"share": share, "refused": refused, "rpm": options.rpm, "counts": dict(counts)}


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
    spent = sum(400e-6 * given + 1600e-6 * made for _, _, given, made in log)
    print(f"a budget of {options.usd:g} USD: {told} by the log, {spent:.2f} by the server")
    return {"budget": options.usd, "log": told, "server": spent}


# -- losses ----------------------------------------------------------------------------------------


def _command(folder: Path, options: argparse.Namespace) -> list[str]:
    return [
        *(sys.executable, "-m", "mdap", "run", "hanoi", "--inputs", str(folder / "cases.jsonl")),
        *("--run-id", "b", "--db", str(folder / "a.db"), "--workers", str(options.workers)),
        *("-M", "latency=0.02", "-M", "error_rate=0.05", "-M", "seed=3", "--display", "none", "--json"),
    ]


def _lossy(folder: Path, options: argparse.Namespace, rng: random.Random) -> dict[str, Any]:
    """Run a batch through losses until it ends; return what was done to it and what came of that."""
    done: list[str] = []
    while True:
        process = subprocess.Popen(_command(folder, options), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if len(done) < 3:
            time.sleep(2.0 + 6.0 * rng.random())
            fate = rng.choice(("worker", "frozen", "head"))
            workers = children(process.pid) if process.poll() is None else []
            if not workers:
                fate = "none"
            elif fate == "worker":
                os.kill(rng.choice(workers), signal.SIGKILL)
            elif fate == "frozen":
                frozen = rng.choice(workers)
                os.kill(frozen, signal.SIGSTOP)
                time.sleep(20)
                with suppress(ProcessLookupError):  # the batch has ended, and its head has ended it
                    os.kill(frozen, signal.SIGCONT)
            else:
                process.kill()
            done.append(fate)
        out, err = process.communicate(timeout=300)
        if process.returncode == 0:
            return {"done": done, "samples": json.loads(out)["samples"]}
        assert process.returncode == -signal.SIGKILL, err.decode()


def losses(options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(options.seed)
    found = []
    with scratch() as folder:
        (folder / "cases.jsonl").write_text(options.cases * '{"disks": 4}\n')
        plain = [word for word in _command(folder, options) if word != str(folder / "a.db")]
        at = plain.index("--workers")
        plain = [*plain[:at], *plain[at + 2 :]]
        plain[plain.index("--db")] = f"--db={folder / 'local.db'}"
        out = subprocess.run(plain, check=True, capture_output=True).stdout
        local, alone = decisions(folder / "local.db"), json.loads(out)["samples"]
        for number in range(options.rounds):
            one = _lossy(folder, options, rng)
            db = folder / "a.db"
            assert decisions(db) == local
            assert verify(db, "b", make_recorded).verdict == "verified"
            with closing(sqlite3.connect(db)) as log:
                sql = "SELECT count(*) FROM run_events WHERE kind = 'warning' AND reason LIKE '%was lost%'"
                [one["lost"]] = log.execute(sql).fetchone()
            one["more"] = one["samples"] - alone
            print(number, one, flush=True)
            found.append(one)
            for file in folder.glob("a.db*"):
                file.unlink()
    print(f"{options.rounds} batches of {options.cases:,} cases: all as in one process, all verified")
    return {"losses": found}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("costs", "limits", "budget", "losses", "serve"))
    arguments.add_argument("--faults", default="{}", help=argparse.SUPPRESS)
    arguments.add_argument("--workers", type=int, default=4)
    arguments.add_argument("--cases", type=int, default=400)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--rpm", type=int, default=6_000)
    arguments.add_argument("--seconds", type=float, default=90.0)
    arguments.add_argument("--usd", type=float, default=5.0)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    if options.what == "serve":
        serve(options.faults)
        return
    environment = print_environment()
    act = {"costs": costs, "limits": limits, "budget": budget, "losses": losses}[options.what]
    finish(options, environment, act(options))


if __name__ == "__main__":
    main()
