"""Whole sessions over HTTP against a server that enforces limits.

The server is `mdap.testing.FaultyServer` in a process of its own; it enforces a limit of requests,
tokens or concurrent requests, counted exactly in a sliding window of 60 seconds, and answers 429 beyond it.
Many independent chains in one session always want more than that. The server's own log says, minute by
minute, how many requests it let through and how many it refused.

  configured     600 requests and 60,000 tokens a minute, given to mdap as well
  requests       600 requests a minute, which nobody tells mdap; nothing but 429 says so
  slots          40 at once, which nobody tells mdap
  queue          one slot; the others wait in a queue, as at Ollama, and nothing says so
  slow           30 slots that queue as well
  headers        600 requests a minute, told in the headers of each response

"achieved" is what was answered over what the limit allows, after the minutes of `--settling`;
"rejected" the share of refusals there, and "at first" that of the minutes before; "wasted" the share of
requests of the whole time that were answered to nobody, since mdap had given them up.
"""

import argparse
import json
import math
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio

import mdap
from benchmarks.common import finish, parser, print_environment, table
from mdap.testing import Faults, FaultyServer, Manners

_MINUTE = 60.0
_LATENCY, _SIGMA = 0.5, 0.4
# 80 tokens of a reply and some 20 of its prompt make 600 requests and 60,000 tokens bind together.
_WAYS: dict[str, tuple[Faults, mdap.Limits]] = {
    "configured": (
        Faults(requests_per_minute=600, tokens_per_minute=60_000, latency=_LATENCY, sigma=_SIGMA),
        mdap.Limits(requests_per_minute=600, tokens_per_minute=60_000, probe=False),
    ),
    "requests": (Faults(requests_per_minute=600, latency=_LATENCY, sigma=_SIGMA), mdap.Limits(probe=False)),
    "slots": (Faults(at_once=40, latency=_LATENCY, sigma=_SIGMA), mdap.Limits(probe=False)),
    "queue": (Faults(latency=_LATENCY, sigma=_SIGMA), mdap.Limits(probe=False, attempt_timeout=12)),
    "slow": (Faults(latency=_LATENCY, sigma=_SIGMA), mdap.Limits(probe=False, attempt_timeout=12)),
    "headers": (
        Faults(requests_per_minute=600, tells_limits=True, latency=_LATENCY, sigma=_SIGMA),
        mdap.Limits(probe=False),
    ),
}


_QUEUES = {"queue": 1, "slow": 30}


class Counting(mdap.Chain[int, int]):
    """An endless chain of small steps, each with a short prompt."""

    seed: int = 0

    def start(self) -> int:
        return 0

    def step(self, state: int) -> mdap.Step[int] | None:
        return mdap.Step(user=f"Chain {self.seed}, step {state}: what is next?", parse=self.read)

    def advance(self, state: int, answer: int) -> int:
        return state + 1

    def read(self, text: str) -> int:
        return int(text.split()[0])


def reply(body: dict[str, Any], rng: random.Random) -> str:
    """Return the answer 1 and enough words to make about 80 tokens, more or less."""
    return "1 " + "x" * int(4 * 80 * rng.lognormvariate(-0.02, 0.2))


def serve(way: str) -> None:
    """Serve until standard input ends; then print the log, one line of JSON."""
    faults, _ = _WAYS[way]
    manners = Manners(slots=_QUEUES.get(way))
    with FaultyServer.in_thread(reply, faults=faults, manners=manners) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()
        log = [(one.at, one.outcome, one.prompt_tokens + one.completion_tokens) for one in server.log]
    print(json.dumps(log), flush=True)


async def ask(
    url: str, limits: mdap.Limits, chains: int, seconds: float, db: Path
) -> tuple[list[dict[str, Any]], int]:
    """Keep *chains* going for so long; return the limits' changes, and how many requests were given up."""
    voting = mdap.VotingSettings(k=3, max_tokens=300)
    options = {"base_url": url}
    async with (
        mdap.Session("openai/m", db=db, options=options, limits=limits, speculate="off") as session,
        anyio.create_task_group() as group,
    ):
        for seed in range(chains):
            group.start_soon(chain, session, seed, voting)
        await anyio.sleep(seconds)
        group.cancel_scope.cancel()
    return changes(db), timeouts(db)


async def chain(session: mdap.Session, seed: int, voting: mdap.VotingSettings) -> None:
    await session.run(Counting(seed=seed), voting=voting, run_id=f"c{seed}")


def changes(db: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(db)) as connection:
        found = connection.execute(
            "SELECT e.at, e.reason, e.data FROM run_events e JOIN runs r ON r.id = e.run "
            "WHERE e.kind = 'limits' AND r.run_id = 'c0' ORDER BY e.id"
        ).fetchall()
    return [{"at": at, "reason": reason, **json.loads(data)} for at, reason, data in found]


def timeouts(db: Path) -> int:
    with closing(sqlite3.connect(db)) as connection:
        query = "SELECT count(*) FROM run_events WHERE kind = 'attempt_failed' AND reason LIKE '%no reply%'"
        return int(connection.execute(query).fetchone()[0])


def measure(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--serve", way]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    with tempfile.TemporaryDirectory() as folder:
        cpu, begun = time.process_time(), time.monotonic()
        told, late = anyio.run(
            ask, url, _WAYS[way][1], arguments.chains, arguments.minutes * _MINUTE, Path(folder, "a.db")
        )
        cpu = (time.process_time() - cpu) / (time.monotonic() - begun)
    log: list[tuple[float, str, int]] = json.loads(server.communicate("")[0])
    answered = sum(one[1] == "ok" for one in log)
    figures = summed_up(way, log, begun, arguments)
    return {"cpu": cpu, "changes": told, "wasted": late / max(1, answered), **figures}


def summed_up(
    way: str, log: list[tuple[float, str, int]], begun: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    faults, _ = _WAYS[way]
    since = begun + arguments.settling * _MINUTE
    until = begun + arguments.minutes * _MINUTE
    settled = [one for one in log if since <= one[0] < until]
    seconds = until - since
    through = [one for one in settled if one[1] == "ok"]
    shares: list[float] = []
    if faults.requests_per_minute:
        shares.append(len(through) / (faults.requests_per_minute * seconds / _MINUTE))
    if faults.tokens_per_minute:
        shares.append(sum(one[2] for one in through) / (faults.tokens_per_minute * seconds / _MINUTE))
    if slots := faults.at_once or _QUEUES.get(way):
        mean = _LATENCY * math.exp(_SIGMA**2 / 2)
        shares.append(len(through) * mean / (slots * seconds))
    early = [one for one in log if one[0] < since]
    minutes = Counter((int((at - begun) // _MINUTE), outcome) for at, outcome, _ in log)
    return {
        "achieved": max(shares),
        "rejected": share_refused(settled),
        "rejected_early": share_refused(early),
        "minutes": [
            {"through": minutes[minute, "ok"], "refused": minutes[minute, "limited"]}
            for minute in range(int(arguments.minutes))
        ],
    }


def share_refused(log: list[tuple[float, str, int]]) -> float:
    return sum(one[1] == "limited" for one in log) / max(1, len(log))


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument(
        "--chains", type=int, default=200, help="independent chains, each with up to 3 samples out"
    )
    cli.add_argument("--minutes", type=float, default=12.0, help="how long each way is watched")
    cli.add_argument("--settling", type=float, default=6.0, help="minutes that do not count")
    cli.add_argument("--ways", nargs="+", choices=list(_WAYS), default=list(_WAYS), help="what is measured")
    cli.add_argument("--serve", choices=list(_WAYS), help=argparse.SUPPRESS)
    arguments = cli.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    environment = print_environment("openai", "asyncio-throttle")
    results = {way: measure(way, arguments) for way in arguments.ways}
    heads = ["", "achieved", "rejected", "at first", "wasted", "CPU", "events"]
    rows = [
        [
            way,
            f"{found['achieved']:.1%}",
            f"{found['rejected']:.2%}",
            f"{found['rejected_early']:.1%}",
            f"{found['wasted']:.1%}",
            f"{found['cpu']:.0%}",
            str(len(found["changes"])),
        ]
        for way, found in results.items()
    ]
    table(f"{arguments.minutes:g} minutes each, the first {arguments.settling:g} apart", heads, rows)
    finish(arguments, environment, results)


if __name__ == "__main__":
    main()
