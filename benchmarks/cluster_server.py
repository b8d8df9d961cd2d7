"""A server for `benchmarks/cluster.py`, in a process of its own, and the ledger that it leaves."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from anyio.abc import SocketAttribute

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mdap.testing.server as serving
from mdap.testing import Faults, FaultyServer
from tests.acceptance.player import play

ANSWERED = ("ok", "missing_usage")
"""Outcomes of requests whose replies reach the client."""


class Entry(NamedTuple):
    """One request, as the server saw it.

    Attributes:
        at: when it arrived, in seconds of `time.monotonic`, which all processes of a machine share.
        left: when its reply left the server; infinite if none did.
        port: the client's end of its connection.
        outcome: see `mdap.testing.faults.Served`.
        prompt: tokens billed for the prompt.
        completion: tokens billed for its replies.
    """

    at: float
    left: float
    port: int
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


def _clocked() -> dict[int, tuple[float, int]]:
    """Return a table of when and to which port the server sends its replies, by the request's number."""
    sent: dict[int, tuple[float, int]] = {}
    send = serving.send_response  # type: ignore[attr-defined] # not part of its interface

    async def noted(stream: Any, response: Any, faults: Faults) -> bool:
        name = response.what.headers.get("X-Request-Id")
        if name is not None:
            port = stream.extra(SocketAttribute.remote_port)
            sent[int(name.removeprefix("req-"))] = time.monotonic(), port
        return await send(stream, response, faults)

    serving.send_response = noted  # type: ignore[attr-defined]
    return sent


def main() -> None:
    """Serve until standard input ends; then print the ledger."""
    sent = _clocked()
    with FaultyServer.in_thread(_right, faults=Faults(**json.loads(sys.argv[1])), seed=1) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()
        ledger = [
            (one.at, *sent.get(one.number, (1e300, 0)), one.outcome, one.prompt_tokens, one.completion_tokens)
            for one in server.log
        ]
    print(json.dumps(ledger), flush=True)


if __name__ == "__main__":
    main()
