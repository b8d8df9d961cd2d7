"""What tests of the viewer share: a database with all that a page may meet, a server, and a client."""

import http.client
import socket
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest
from pydantic import TypeAdapter

import mdap
from mdap.rules.canonical import canonical
from mdap.session import settle_step
from mdap.session.prompting import shown
from mdap.testing import ScriptedProvider
from mdap.viewer.app import create_app, server
from mdap.viewer.guard import Key
from mdap_hanoi import Hanoi
from mdap_hanoi.state import State

SCRIPT = "<script>document.title = 'owned'</script>"
HANDLER = "<img src=x onerror=\"document.title = 'owned'\">"
QUOTES = "\"'><svg onload=alert(1)>"
TURNED = "abc\u202egnp.exe\u2066\u2069"
ANSI = "\x1b[31mred\x1b[0m\x07"
TAGS = "nothing here\U000e0041\U000e0042"
LONG = "0123456789" * 500_000
TEXTS = (SCRIPT, HANDLER, QUOTES, TURNED, ANSI, TAGS, "{{ 7 * 7 }}{% raw %}", LONG)
FLAG = "<b onclick=alert(2)>bold</b>"
HOSTILE_ID = "<img src=x onerror=alert(3)>"


class Echo(mdap.Chain[int, str]):
    """Each step's answer is the reply itself, whatever it is."""

    steps: int = len(TEXTS)
    said: str = SCRIPT

    def start(self) -> int:
        return 0

    def length(self) -> int:
        return self.steps

    def step(self, state: int) -> mdap.Step[str]:
        return mdap.Step(user=f"{state}: {SCRIPT}", system=TURNED, parse=self.read, max_tokens=10_000_000)

    def advance(self, state: int, answer: str) -> int:
        return state + 1

    def read(self, text: str) -> str:
        if text == "flag me":
            raise mdap.RedFlag(FLAG)
        return text if len(text) < 1000 else text[:10]


class Pair(mdap.Process[str]):
    """Two questions side by side, and a chain as a part."""

    async def solve(self, ask: mdap.Ask) -> str:
        steps = [mdap.Step(user=f"question {one}", parse=str.strip, key=f"q{one}") for one in range(2)]
        answers = await ask.map(steps)
        await ask.solve(Echo(steps=2, said="part"), key="part")
        return " ".join(answers)


ECHO = f"{__name__}:Echo"


def _says(request: mdap.SampleRequest, ordinal: int) -> mdap.Reply:
    """Three votes for each text, with a red flag first and another answer second."""
    if request.user.startswith("question"):
        return mdap.Reply("an answer", TOY, input_tokens=1000, output_tokens=100)
    step = int(request.user.partition(":")[0])
    if ordinal == 0:
        return mdap.Reply("flag me", "<model>", input_tokens=10, output_tokens=2)
    if ordinal == 1:
        return mdap.Reply("another answer", "<model>", input_tokens=10, output_tokens=2)
    return mdap.Reply(
        TEXTS[step % len(TEXTS)], "<model>", input_tokens=10, output_tokens=20, latency=0.25 * ordinal
    )


def says(model: str, options: Mapping[str, Any]) -> ScriptedProvider:
    """The provider of the hostile runs."""
    return ScriptedProvider(_says, name=TOY)


TOY = f"{__name__}:says"


def make_database(path: Path) -> None:
    """Write runs: 1 plain; 2 undecided, once settled; 3 hostile; 4 a process; 5 its part; 6 stopped."""
    mistaken = {"error_rate": 0.1, "flag_rate": 0.05, "seed": 5}
    mdap.solve_sync(Hanoi(disks=6), db=path, run_id="plain", options=mistaken)
    voting = mdap.VotingSettings(max_samples=3)
    hard: dict[str, Any] = {"options": {"error_rate": 0.35, "seed": 0}, "voting": voting, "run_id": "hard"}
    with pytest.raises(mdap.UndecidedError) as undecided:
        mdap.solve_sync(Hanoi(disks=3), db=path, **hard)
    settle(path, undecided.value.solution.steps)
    with suppress(mdap.UndecidedError):
        mdap.solve_sync(Hanoi(disks=3), db=path, **hard)
    mdap.solve_sync(Echo(), model=TOY, db=path, run_id=HOSTILE_ID)
    mdap.solve_sync(Pair(), model=TOY, db=path, run_id="pair")
    prices = {"sim": mdap.Price(input=1.0, output=2.0)}
    budget = mdap.Budget(tokens=10_000)
    with pytest.raises(mdap.StoppedError):
        mdap.solve_sync(Hanoi(disks=6), db=path, run_id="poor", budget=budget, prices=prices)


def settle(path: Path, step: int) -> None:
    """Settle the open step of the run called hard."""
    with closing(sqlite3.connect(path)) as connection:
        (text,) = connection.execute("SELECT input FROM steps WHERE run = 2 AND step = ?", (step,)).fetchone()
    state = TypeAdapter(State).validate_json(text)
    answer = canonical(Hanoi(disks=3).oracle(state))
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(
            partial(
                settle_step, path, "hard", step, answer=answer, author="ada <b>", reason=f"I checked {SCRIPT}"
            )
        )


# --- a server


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass(frozen=True)
class Site:
    """A viewer on loopback."""

    path: Path
    port: int
    token: str | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", body: str | bytes = b"", **headers: str) -> Answer:
        """Send one request, with *path* as it is; ``_`` in names of *headers* stands for ``-``."""
        sent = body.encode() if isinstance(body, str) else body
        if method == "POST":
            headers.setdefault("Content_Length", str(len(sent)))
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def page(self, path: str) -> str:
        """Return a page that must be there."""
        answer = self.ask(path)
        assert answer.status == 200, f"{path}: {answer.status} {answer.text[:500]}"
        return answer.text


@contextmanager
def serving(path: Path, tasks: tuple[str, ...] = (), token: str | None = None) -> Iterator[Site]:
    """Serve the database at *path* by a real server, in a thread; with a *token*, steps can be settled."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        hosts = [f"127.0.0.1:{port}", f"localhost:{port}"]
        key = None if token is None else Key(token, port)
        running = server(create_app(shown(path, tasks, decide=token is not None), hosts, key))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Site(path, port, token)
        finally:
            running.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
