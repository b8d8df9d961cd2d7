"""Fault storm: runs over HTTP against random mixes of every fault of the test server.

Each run meets its own mix, of 0 to 60 % of all requests, and the same seed as a run without faults. What it
decides, and on which votes, must be the same; the rows must agree with the server's own log, request by
request: every answered request that reached the client is one row with its request id, every other one is a
failed attempt, and nothing is missing or counted twice.

One fault changes what is decided: a reply that the endpoint refuses to show (content_filter) is a red flag,
as it must be. It is part of the mix in every fifth run, of which only the accounts are compared.
"""

import json
import os
import random
import sqlite3
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import finish, parser, print_environment, scratch, table
from benchmarks.fire.crash import decided
from benchmarks.fire.forked import Child, asked_twice, serving, verified

KINDS = (
    *("rate_limit", "rate_limit_silent", "server_error", "overloaded", "hang", "drip", "reset"),
    *("truncated", "wrong_type", "empty_choices", "missing_usage", "huge_body"),
)
WHOLE = ("ok", "drip", "missing_usage", "content_filter")
"""What reaches the client as a reply."""
QUICK = {"latency": 0.002, "retry_after": 0.02, "drip_interval": 0.00005, "huge_bytes": 20 * 2**20}
LINE = (
    "run hanoi -p disks=3 --model openai/m -M seed=3 -k 3 --no-probe --speculate off "
    "--timeout 4 --max-attempts 60 --run-id r --display none"
)


def mix(rng: random.Random, number: int) -> dict[str, float]:
    """Return random rates that add up to at most 60 %; hung and huge replies are dear, and thus rarer."""
    total = rng.uniform(0, 0.6)
    weights = {kind: rng.expovariate(1) * (0.2 if kind in ("hang", "huge_body") else 1) for kind in KINDS}
    for kind in rng.sample(KINDS, rng.randrange(len(KINDS))):
        weights[kind] = 0.0
    if number % 5 == 4:
        weights["content_filter"] = rng.expovariate(1)
    scale = total / (sum(weights.values()) or 1)
    return {kind: weight * scale for kind, weight in weights.items() if weight}


def accounts(folder: Path, outcomes: dict[str, str]) -> tuple[list[str], int]:
    """Hold the rows against what the server says of each request.

    Returns:
        What is wrong, and how many attempts failed before their request reached the server: where the machine
        is busy, a connection or a whole attempt may be over before the server has read anything.
    """
    with closing(sqlite3.connect(folder / "mdap.db")) as database:
        rows = [request for (request,) in database.execute("SELECT request_id FROM samples")]
        kinds = Counter(
            kind
            for (kind,) in database.execute(
                "SELECT json_extract(data, '$.kind') FROM run_events WHERE kind = 'attempt_failed'"
            )
        )
        attempts = database.execute("SELECT sum(attempts) FROM samples").fetchone()[0]
    arrived = {request for request, outcome in outcomes.items() if outcome in WHOLE}
    unread = kinds.total() - (len(outcomes) - len(arrived))
    met = Counter(outcomes.values())
    broken = kinds["timeout"] + kinds["connection"] + kinds["disconnected"]
    spare = broken - met["hang"] - met["reset"] - met["truncated"]
    wrong = []
    if Counter(rows) != Counter(arrived):
        wrong.append(f"rows and replies differ: {set(rows) ^ arrived}, {len(rows)} of {len(arrived)}")
    if not 0 <= unread <= max(0, spare):
        wrong.append(f"{kinds} failed, by the server {met}")
    if attempts != len(outcomes) + unread:
        wrong.append(f"{attempts} attempts on the samples' rows, {len(outcomes)} requests at the server")
    return wrong, unread


def together(place: Path, mixes: list[dict[str, float]]) -> list[tuple[Path, dict[str, Any], dict[str, str]]]:
    """Do a run against each of *mixes* side by side; return its folder, how it ended, what its server met."""
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(**QUICK, **faults)) for faults in mixes]
        folders = [place / str(number) for number in range(len(mixes))]
        for folder in folders:
            folder.mkdir(parents=True)
        line = [*LINE.split(), "--json"]
        children = [
            Child(folder, line, server.env).start() for folder, server in zip(folders, servers, strict=True)
        ]
        codes = [child.end(600) for child in children]
        met = [{request: outcome for request, outcome, _, _ in server.log()} for server in servers]
    told = [child.said() for child in children]
    ends = [
        {**json.loads(out or "{}"), "code": code, "said": err}
        for code, (out, err) in zip(codes, told, strict=True)
    ]
    return list(zip(folders, ends, met, strict=True))


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--runs", type=int, default=100, help="each with its own mix of faults")
    cli.add_argument("--at-once", type=int, default=10, help="runs side by side, each with its own server")
    cli.add_argument("--seed", type=int, default=2, help="of the mixes")
    cli.add_argument("--quick", action="store_true", help="a tenth of it")
    arguments = cli.parse_args()
    environment = print_environment("openai")
    rng = random.Random(arguments.seed)
    mixes = [mix(rng, number) for number in range(arguments.runs // (10 if arguments.quick else 1))]
    met: Counter[str] = Counter()
    wrong: list[str] = []
    unread = 0
    figures: list[dict[str, Any]] = []
    with scratch() as folder:
        [(plain, whole, _)] = together(folder / "whole", [{}])
        expected = decided(plain / "mdap.db")
        for start in range(0, len(mixes), arguments.at_once):
            some = mixes[start : start + arguments.at_once]
            for faults, (place, ended, outcomes) in zip(
                some, together(folder / str(start), some), strict=True
            ):
                found, lost = accounts(place, outcomes)
                unread += lost
                found += asked_twice(place) + verified(place, "r")
                if ended["code"] != 0 or ended["result"] != whole["result"]:
                    found.append(f"it ended with {ended}")
                if "content_filter" not in faults and decided(place / "mdap.db") != expected:
                    found.append("it was decided on other votes")
                wrong += [f"{place}, {faults}: {what}" for what in found]
                met.update(outcomes.values())
                share = sum(faults.values())
                figures.append({"share": share, "requests": len(outcomes), "seconds": ended.get("seconds")})
            print(f"{len(figures)} runs, {len(wrong)} things wrong", flush=True)
    rows = [[kind, f"{count:,}", f"{count / met.total():.1%}"] for kind, count in met.most_common()]
    table(f"what {met.total():,} requests of {len(figures)} runs met", ["outcome", "requests", "share"], rows)
    print(f"attempts that failed before the server had read their request: {unread}")
    print(f"things wrong: {len(wrong)}")
    for what in wrong[:20]:
        print(" ", what[:1500])
    finish(arguments, environment, {"met": met, "unread": unread, "runs": figures, "wrong": wrong})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
