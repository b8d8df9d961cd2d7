"""Runs through the command line against an HTTP server that misbehaves, is out of quota, or goes away.

The server is `mdap.testing.FaultyServer` in a process of its own; it plays Towers of Hanoi, wrongly in one
reply of a hundred and unreadably in one of two hundred, and keeps a log of its own, which each figure is
compared with.

  smooth    a tower of Hanoi without faults
  rough     the same with three requests of ten failing in all ways that the server knows
  quota     the account is empty after 500 answers, and filled again after the run has stopped
  gone      nobody listens at the address any more
  hung      one request of twenty hangs
  budget    the run stops before its budget in USD is spent, and goes on with a higher one
  ledger    many small runs, each through a mix of faults of its own: their totals, the probe's among them,
            hold every token that the server told in a whole answer, and no other
"""

import argparse
import json
import os
import random
import shlex
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import finish, parser, print_environment, scratch
from mdap.testing import Faults, FaultyServer
from tests.acceptance.player import play

CANARY = "sk-canary-5d1f0c6a9b7e4832"
PRICE = {"openai/m": {"input": 400.0, "output": 1600.0}}
ROUGH = {
    "rate_limit": 0.03,
    "rate_limit_silent": 0.02,
    "server_error": 0.05,
    "overloaded": 0.04,
    "hang": 0.01,
    "reset": 0.05,
    "truncated": 0.04,
    "wrong_type": 0.03,
    "empty_choices": 0.025,
    "huge_body": 0.005,
    "drip": 0.02,
    "missing_usage": 0.02,
    "content_filter": 0.005,
    "drip_interval": 0.0005,
    "retry_after": 0.2,
    "huge_bytes": 20 * 2**20,
}
FAILED: tuple[str, ...] = (
    *("rate_limit", "rate_limit_silent", "server_error", "overloaded", "hang", "reset", "truncated"),
    *("wrong_type", "empty_choices", "huge_body", "out_of_quota", "unreadable"),
)
# What the server billed and told in an answer that arrived.
TOLD = ("ok", "drip", "content_filter", "unreadable")
MIXED = (
    *("rate_limit_silent", "server_error", "overloaded", "reset", "truncated", "wrong_type", "empty_choices"),
    *("missing_usage", "content_filter", "drip", "unreadable"),
)


class Calm(random.Random):
    """Draws that make the player err a tenth as often."""

    def random(self) -> float:
        return min(0.999, 10 * super().random())


def calm(body: dict[str, Any], rng: random.Random) -> str:
    return play(body, Calm(rng.getrandbits(64)))


def serve(faults: str) -> None:
    """Serve until standard input ends; then print the log, one line of JSON."""
    with FaultyServer.in_thread(calm, faults=Faults(**json.loads(faults)), seed=1) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()
        log = [(one.outcome, one.prompt_tokens, one.completion_tokens) for one in server.log]
    print(json.dumps(log), flush=True)


class Server:
    """A server in a process of its own, and the log that it left."""

    def __init__(self, faults: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--serve", json.dumps(faults)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.log: list[tuple[str, int, int]] = []

    def end(self) -> Counter[str]:
        if self._process.returncode is None:
            self.log = json.loads(self._process.communicate("")[0])
        return Counter(outcome for outcome, _, _ in self.log)


@contextmanager
def serving(**faults: Any) -> Iterator[Server]:
    server = Server(faults)
    try:
        yield server
    finally:
        server.end()


def mdap(folder: Path, url: str, command: str, *, probe: bool = False) -> dict[str, Any]:
    """Run the command line; return exit code, seconds, what it said and its JSON."""
    started = time.monotonic()
    env = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": CANARY, "MDAP_DB": str(folder / "a.db")}
    line = [sys.executable, "-m", "mdap", *shlex.split(command), "--json", *([] if probe else ["--no-probe"])]
    ended = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True)
    files = b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    if CANARY in ended.stdout + ended.stderr or CANARY.encode() in files:
        raise SystemExit("the key has leaked")
    return {
        "code": ended.returncode,
        "seconds": time.monotonic() - started,
        "said": ended.stderr.strip(),
        **(json.loads(ended.stdout) if ended.stdout else {}),
    }


def query(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "a.db")) as connection:
        return connection.execute(sql).fetchall()


def accounts(folder: Path, server: Server) -> dict[str, Any]:
    """Hold the run's rows against the server's log."""
    met = server.end()
    [[rows, different, without]] = query(
        folder, "SELECT count(*), count(DISTINCT request_id), sum(request_id IS NULL) FROM samples"
    )
    [[failed]] = query(folder, "SELECT count(*) FROM run_events WHERE kind = 'attempt_failed'")
    refused = sum(met[kind] for kind in FAILED)
    return {
        "server_requests": sum(met.values()),
        "server_failed": refused,
        "server_answered": sum(met.values()) - refused,
        "rows": rows,
        "different_request_ids": different,
        "given_up": without,
        "failed_attempts": failed,
        "outcomes": dict(met),
    }


def tower(arguments: argparse.Namespace, folder: Path, faults: dict[str, Any]) -> dict[str, Any]:
    with serving(latency=arguments.latency, sigma=0.5, **faults) as server:
        run = f"run hanoi -p disks={arguments.disks} -k 4 --model openai/m --timeout {arguments.timeout:g}"
        ended = mdap(folder, server.url, f"{run} --speculate {arguments.speculate}")
    found = accounts(folder, server)
    kept = ("code", "seconds", "said", "status", "result", "votes", "samples", "failed_attempts", "void")
    return {**{name: ended.get(name) for name in kept}, **found}


def quota(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    run = "run hanoi -p disks=8 -k 4 --model openai/m --run-id poor"
    with serving(latency=0.02, sigma=0.5, out_of_quota_after=500) as server:
        stopped = mdap(folder, server.url, run)
        met = server.end()
    with serving(latency=0.02, sigma=0.5) as server:
        resumed = mdap(folder, server.url, "resume poor")
    return {
        "code": stopped["code"],
        "seconds": stopped["seconds"],
        "said": stopped["said"],
        "asked_after_the_end": met["out_of_quota"],
        "resumed": (resumed["code"], resumed["result"]),
    }


def gone(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with serving(latency=0.02, sigma=0.5) as server:
        pass
    run = "run hanoi -p disks=8 -k 4 --model openai/m --max-attempts 4"
    ended = mdap(folder, server.url, run)
    return {name: ended[name] for name in ("code", "seconds", "said")}


def hung(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with serving(latency=0.02, sigma=0.5, hang=0.05) as server:
        run = "run hanoi -p disks=6 -k 4 --model openai/m --timeout 1 --speculate guess"
        ended = mdap(folder, server.url, run)
    met = server.end()
    return {
        "code": ended["code"],
        "seconds": ended["seconds"],
        "result": ended["result"],
        "hung": met["hang"],
    }


def budget(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prices are a thousand times those of a small model, so that a few hundred samples cost dollars."""
    (folder / "prices.json").write_text(json.dumps(PRICE), encoding="utf-8")
    run = "run hanoi -p disks=7 -k 4 --model openai/m --prices prices.json --speculate off --run-id paid"
    faults: dict[str, Any] = {"server_error": 0.05, "content_filter": 0.03}
    with serving(latency=0.01, sigma=0.5, **faults) as server:
        stopped = mdap(folder, server.url, f"{run} --budget-usd 25")
        resumed = mdap(
            folder, server.url, "resume paid --prices prices.json --speculate off --budget-usd 900"
        )
        server.end()
    given, made = (sum(tokens) for tokens in zip(*(one[1:] for one in server.log), strict=True))
    most = max(prompt * 400e-6 + reply * 1600e-6 for _, prompt, reply in server.log)
    return {
        "code": stopped["code"],
        "said": stopped["said"],
        "spent_when_stopped": stopped["cost_usd"],
        "dearest_request": most,
        "resumed": (resumed["code"], resumed["status"], resumed["result"]),
        "cost_usd": resumed["cost_usd"],
        "by_the_servers_log": given * 400e-6 + made * 1600e-6,
    }


def mix(number: int) -> dict[str, float]:
    """Return fault rates of a mix: some of all kinds, up to three answers of ten."""
    rng = random.Random(number)
    kinds = rng.sample(MIXED, rng.randint(1, len(MIXED)))
    weights = [rng.random() for _ in kinds]
    share = rng.uniform(0.05, 0.3) / sum(weights)
    return {kind: share * weight for kind, weight in zip(kinds, weights, strict=True)}


def ledger(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Hold each run's totals against the server's own ledger."""
    off, tokens, unread = [], 0, 0
    for number in range(arguments.mixes):
        name = f"mix{number}"
        run = f"run hanoi -p disks=3 --model openai/m --run-id {name} --budget-tokens 10000000"
        with serving(drip_interval=0.0, **mix(number)) as server:
            ended = mdap(folder, server.url, f"{run} --speculate {arguments.speculate}", probe=True)
            met = server.end()
        whole = [tuple(one[1:]) for one in server.log if one[0] in TOLD]
        billed = tuple(map(sum, zip(*whole, strict=True))) if whole else (0, 0)
        counted = (ended["usage"]["input_tokens"], ended["usage"]["output_tokens"])
        tokens, unread = tokens + sum(billed), unread + met["unreadable"]
        if counted != billed:
            off.append((name, counted, billed))
        progress = f"{name} of {arguments.mixes}: {sum(counted):,} tokens counted, {sum(billed):,} billed"
        print(f"{progress}; {len(off)} off so far", file=sys.stderr, flush=True)
    return {"mixes": arguments.mixes, "tokens": tokens, "unreadable_answers": unread, "off": off}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--disks", type=int, default=10, help="of the tower")
    cli.add_argument("--latency", type=float, default=0.2, help="median seconds of an answer")
    cli.add_argument("--timeout", type=float, default=1.5, help="seconds until a hung request is given up")
    cli.add_argument("--speculate", choices=["off", "vote", "guess"], default="vote", help="how far ahead")
    cli.add_argument(
        "--ways", nargs="+", default=["smooth", "rough", "quota", "gone", "hung", "budget", "ledger"]
    )
    cli.add_argument("--mixes", type=int, default=100, help="of faults, for the ledger")
    cli.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = cli.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    environment = print_environment("openai")
    results: dict[str, Any] = {}
    others = {"quota": quota, "gone": gone, "hung": hung, "budget": budget, "ledger": ledger}
    for way in arguments.ways:
        with scratch() as folder:
            if way in others:
                results[way] = others[way](arguments, folder)
            else:
                results[way] = tower(arguments, folder, ROUGH if way == "rough" else {})
        print(way, json.dumps(results[way], indent=1), sep=": ", flush=True)
    if {"smooth", "rough"} <= results.keys():
        print("rough over smooth:", round(results["rough"]["seconds"] / results["smooth"]["seconds"], 2))
    finish(arguments, environment, results)


if __name__ == "__main__":
    main()
