"""A server for `benchmarks/cluster.py`, in a process of its own, and the ledger that it leaves."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mdap.testing import Faults, FaultyServer
from tests.acceptance.player import play

ANSWERED = ("ok", "missing_usage")
"""Outcomes of requests whose replies reach the client."""


class Entry(NamedTuple):
    """One request, as the server saw it.

    Attributes:
        at: when it arrived, in seconds of `time.monotonic`, which all processes of a machine share.
        outcome: see `mdap.testing.faults.Served`.
        prompt: tokens billed for the prompt.
        completion: tokens billed for its replies.
    """

    at: float
    outcome: str
    prompt: int
    completion: int


class _Right(random.Random):
    """Draws that make the player err in none of its replies."""

    def random(self) -> float:
        return 0.9


def _right(body: dict[str, Any], rng: random.Random) -> str:
    return play(body, _Right(rng.getrandbits(64)))


@contextmanager
def endpoint(**faults: Any) -> Iterator[list[Entry]]:
    """Serve a model that errs in no step, and fill the ledger at the end of the block."""
    command = [sys.executable, __file__, json.dumps(faults)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    os.environ |= {"OPENAI_BASE_URL": server.stdout.readline().strip(), "OPENAI_API_KEY": "sk-benchmark"}
    ledger: list[Entry] = []
    try:
        yield ledger
    finally:
        ledger += [Entry(*one) for one in json.loads(server.communicate()[0])]


def main() -> None:
    """Serve until standard input ends; then print the ledger."""
    with FaultyServer.in_thread(_right, faults=Faults(**json.loads(sys.argv[1])), seed=1) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()
        ledger = [(one.at, one.outcome, one.prompt_tokens, one.completion_tokens) for one in server.log]
    print(json.dumps(ledger), flush=True)


if __name__ == "__main__":
    main()
