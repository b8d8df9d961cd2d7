"""What tests of the batch lane share: documents to decide, a server that kills its client, and a client."""

import importlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import anyio

import mdap
from mdap.providers.prices import price_of
from mdap.testing import FaultyServer
from mdap.testing.faults import Canned
from mdap.testing.http import Request, Response

QUICK = mdap.Waves(quiet=0.05, poll=0.02, settle=0.05)
"""Waves that wait for nobody."""

WHOLE = QUICK.model_copy(update={"quiet": 0.5})
"""Waves that have every sample wanted at the time, however busy the machine is."""

VENDORS = ("openai", "anthropic")

# Once, for all clients.
_LOADED = ("aiohttp", "anthropic", "mdap.providers.anthropic", "mdap.providers.openai", "openai")


class Digit(mdap.Process[int]):
    """Decide one digit about one document."""

    doc: int = 0

    async def solve(self, ask: mdap.Ask) -> int:
        return await ask(mdap.Step(user=f"Document {self.doc}: which digit?", parse=self.read))

    def read(self, text: str) -> int:
        if text not in tuple("0123456789"):
            raise mdap.RedFlag("no digit")
        return int(text)

    def length(self) -> int:
        return 1


def answer(body: dict[str, Any], rng: random.Random) -> str:
    """Say the document's last digit, or in an eighth of all replies another one: by the request's seed."""
    found = re.search(r"Document (\d+)", str(body["messages"]))
    if found is None:
        return f"story {rng.getrandbits(128):x}"
    number = int(found[1])
    drawn = random.Random(f"{body.get('seed')}:{number}") if "seed" in body else rng
    return str((number + (drawn.random() < 0.125) * drawn.randrange(1, 10)) % 10)


def environment(server: FaultyServer) -> dict[str, str]:
    """Return the variables by which both vendors are at *server*."""
    return {
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "sk-canary-1234567890",
        "ANTHROPIC_BASE_URL": server.base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": "sk-canary-1234567890",
    }


def session(vendor: str, db: Path, waves: mdap.Waves = QUICK, **more: Any) -> mdap.Session:
    """Return a session that asks *vendor* in waves, without a probe."""
    options = {"seed": 1} if vendor == "openai" else {}
    limits = mdap.Limits(probe=False)
    return mdap.Session(
        f"{vendor}/m", db=db, options=options, limits=limits, **{"lane": "batch", "waves": waves, **more}
    )


async def solve(vendor: str, db: Path, docs: int, waves: mdap.Waves = QUICK, **more: Any) -> list[Any]:
    """Decide documents and return the solutions."""
    async with session(vendor, db, waves, **more) as opened:
        tasks = [Digit(doc=doc) for doc in range(docs)]
        return [one async for one in opened.solve_all(tasks, k=2, run_id="docs")]


def query(db: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


def check_paid_once(server: FaultyServer, db: Path) -> None:
    """Check that every row that was answered is one sample, and every sample one answered row."""
    rows = [name for job in server.desk.jobs for name in job.rows]
    taken = query(db, "SELECT request_id, ordinal FROM samples")
    assert len(set(taken)) == len(taken), "a row was counted twice"
    assert len(rows) == len(server.log), "a row was answered twice"
    assert sorted(rows) == sorted(name for name, _ in taken), "a row was lost, or paid for in vain"


# -- a client that is killed -----------------------------------------------------------------------


class KillingServer(FaultyServer):
    """A server that kills its client at one of its requests, before or after it is handled, or half-way."""

    victim: int | None = None
    at: int | None = None
    moment: str = "before"
    requests: int = 0
    known: threading.Event

    def begin(self, at: int | None, moment: str = "before") -> None:
        """Kill the next client at its request number *at*, from 0; None for not at all."""
        self.at, self.moment, self.requests = at, moment, 0
        self.victim, self.known = None, threading.Event()

    def _respond(self, request: Request) -> Response:
        number, self.requests = self.requests, self.requests + 1
        if number != self.at:
            return super()._respond(request)
        self.known.wait(20)
        assert self.victim is not None
        if self.moment == "before":
            os.kill(self.victim, signal.SIGKILL)
            return Response(Canned(), "hang")
        response = super()._respond(request)
        if self.moment == "after":
            os.kill(self.victim, signal.SIGKILL)
            return response
        threading.Timer(0.02, os.kill, (self.victim, signal.SIGKILL)).start()
        return Response(response.what, "drip")


class Client:
    """Processes that solve documents, each a copy of one that has loaded everything."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, server: KillingServer, about: dict[str, Any]) -> int:
        """Run one client to its end and return its status: negative if it was killed."""
        stdin, stdout = _pipes(self._process)
        stdin.write(json.dumps({**about, "env": environment(server)}) + "\n")
        stdin.flush()
        server.victim = int(stdout.readline())
        server.known.set()
        return int(stdout.readline())


def _pipes(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


@contextmanager
def client() -> Iterator[Client]:
    """Start what starts clients."""
    command = [sys.executable, "-c", "from tests.batching import serve; serve()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Client(process)
        _pipes(process)[0].close()


def serve() -> None:
    """Run clients, as told on standard input."""
    for name in _LOADED:
        importlib.import_module(name)
    price_of("openai/gpt-4.1-mini", {})
    for line in sys.stdin:
        about = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ.update(about["env"])
            try:
                anyio.run(solve, about["vendor"], Path(about["db"]), about["docs"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)  # noqa: T201
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
