"""What goes wrong in code that is not mdap's keeps its cause and its traceback, wherever it is called."""

import asyncio
import json
import pickle  # noqa: TID251 - what others do with an error
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import mdap
from mdap.errors import own_cause, reraise, traceback_of
from mdap.journal.logfile import CONNECTION
from mdap.records import EVENTS, RunStatus, StopCause
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, Walk, cut_at

FIELDS: dict[str, int] = {}


class Slip(Walk):
    """Fails in one of its methods, by a line of its own."""

    steps: int = 2
    where: str = ""

    def _at(self, where: str) -> None:
        if where == self.where:
            self._look_up()

    def _look_up(self) -> None:
        FIELDS["fone"]

    def start(self) -> tuple[int, int]:
        self._at("start")
        return super().start()

    def step(self, state: tuple[int, int]) -> mdap.Step[int] | None:
        self._at("step")
        return super().step(state)

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        self._at("advance")
        return super().advance(state, answer)

    def length(self) -> int | None:
        self._at("length")
        return super().length()

    def result(self, state: tuple[int, int]) -> Any:
        self._at("result")
        return super().result(state)

    def guess(self, state: tuple[int, int]) -> int | None:
        self._at("guess")
        return super().guess(state)

    def oracle(self, state: tuple[int, int]) -> int:
        self._at("oracle")
        return super().oracle(state)

    def render(self, answer: int) -> str:
        self._at("render")
        return super().render(answer)

    def read(self, text: str) -> int:
        self._at("parse")
        return super().read(text)

    def canonical(self, answer: Any) -> Any:
        self._at("canonical")
        return super().canonical(answer)

    async def effects(self, state: tuple[int, int], decision: mdap.Decision[int]) -> None:
        self._at("effects")


class Asks(mdap.Process[Any]):
    """Fails in one of the ways in which a process may."""

    where: str = ""

    async def solve(self, ask: mdap.Ask) -> Any:
        if self.where == "body":
            return FIELDS["fone"]
        if self.where == "once":
            return await ask.once(lambda: FIELDS["fone"], key="k")
        if self.where == "group":
            async with ask.group() as group:
                group.start(self._chained)
        if self.where == "map":
            await ask.map([mdap.Step(user="q", parse=self._parse)])
        return await ask.solve(Slip(where=self.where))

    async def _chained(self) -> None:
        try:
            FIELDS["fone"]
        except KeyError as error:
            raise LookupError("no such field") from error

    def _parse(self, text: str) -> int:
        return FIELDS["fone"]

    def oracle(self, step: mdap.Step[Any]) -> Any:
        return 1

    def mistakes(self, step: mdap.Step[Any], truth: Any) -> list[Any]:
        return [2]

    def render(self, step: mdap.Step[Any], answer: Any) -> str:
        return str(answer)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture(autouse=True)
def _providers() -> Iterator[None]:
    PROVIDED.clear()
    yield
    PROVIDED.clear()


def recorded(db: Path, run_id: str) -> tuple[str, str, dict[str, Any]]:
    """Kind, reason and data of the event that ended a run."""
    with closing(sqlite3.connect(db, factory=CONNECTION)) as connection:
        [(kind, reason, data)] = connection.execute(
            "SELECT e.kind, e.reason, e.data FROM run_events e JOIN runs r ON r.id = e.run "
            "WHERE r.run_id = ?1 AND e.kind IN ('failed', 'stopped', 'undecided') ORDER BY e.id DESC LIMIT 1",
            (run_id,),
        ).fetchall()
    return kind, reason, json.loads(data)


METHODS = [
    "start",
    "step",
    "advance",
    "length",
    "result",
    "oracle",
    "render",
    "parse",
    "canonical",
    "effects",
]


@pytest.mark.parametrize(
    "task",
    [
        *(Slip(where=where) for where in METHODS),
        *(Asks(where=where) for where in ["body", "once", "map", "parse"]),
    ],
    ids=lambda task: f"{type(task).__name__}-{task.where}",
)
async def test_the_authors_own_error_is_the_cause(db: Path, task: mdap.Task) -> None:
    """`solve` raises with the original exception as cause; log, solution and sentence name its line."""
    with pytest.raises(mdap.FailedError) as raised:
        await mdap.solve(task, db=db, run_id="one")
    cause, solution = raised.value.__cause__, raised.value.solution
    assert isinstance(cause, KeyError)
    assert cause.args == ("fone",)
    frame = r"test_tracebacks\.py:\d+ in [\w<>]+"
    assert re.search(rf"{frame}: KeyError: 'fone'", str(raised.value))
    assert solution.stop_cause is StopCause.ERROR
    assert isinstance(solution.error, mdap.MdapError)
    kind, reason, data = recorded(db, "one")
    assert (kind, data["stop_cause"]) == ("failed", "error")
    assert data["traceback"] == solution.traceback
    assert data["traceback"].endswith("KeyError: 'fone'")
    assert 'FIELDS["fone"]' in data["traceback"]
    assert reason in str(raised.value)


async def test_a_cause_that_the_author_gave_stays(db: Path) -> None:
    """In a group, too: what was raised `from` something else keeps that."""
    with pytest.raises(mdap.FailedError, match="_chained: LookupError: no such field") as raised:
        await mdap.solve(Asks(where="group"), db=db)
    assert isinstance(raised.value.__cause__, LookupError)
    assert isinstance(raised.value.__cause__.__cause__, KeyError)
    assert "direct cause" in raised.value.solution.traceback


async def test_a_run_that_is_read_later_has_it_too(db: Path) -> None:
    """The sentence, the traceback and the word are on record; the exception is of this process only."""
    async with mdap.Session(db=db) as session:
        solution = await session.run(Slip(where="parse"), run_id="one")
        found = await session.find("one")
        assert found is not None
        assert (found.reason, found.traceback, found.stop_cause) == (
            solution.reason,
            solution.traceback,
            solution.stop_cause,
        )
        assert (found.error, found) == (None, solution)
    again = pickle.loads(pickle.dumps(solution))
    assert (again, str(again.error)) == (solution, solution.reason)


async def test_a_provider_that_fails(db: Path) -> None:
    """The error of a provider's own code is the cause, as a task's is."""
    PROVIDED["it"] = ScriptedProvider(lambda request, ordinal: FIELDS["fone"])  # type: ignore[arg-type,return-value]
    with pytest.raises(mdap.FailedError, match="provider scripted failed while sampling") as raised:
        await mdap.solve(Walk(steps=1), model="tests.helpers:provided/it", db=db)
    assert isinstance(raised.value.__cause__, KeyError)


async def gives_up() -> Any:
    """Await what is cancelled, as code does whose connection is closed under it."""
    reply = asyncio.get_running_loop().create_future()
    reply.cancel()
    await reply


class GivesUp(mdap.Process[None]):
    async def solve(self, ask: mdap.Ask) -> None:
        await gives_up()


class GivesUpOutside(Walk):
    async def effects(self, state: Any, decision: mdap.Decision[int]) -> None:
        await gives_up()


class GivingUp(ScriptedProvider):
    async def sample(self, request: mdap.SampleRequest) -> Any:
        await gives_up()


@pytest.mark.parametrize(
    ("task", "model", "doing"),
    [
        (GivesUp(), "sim", "solving"),
        (GivesUpOutside(steps=1), "sim", "bringing about the effects of step 0"),
        (Walk(steps=1), GivingUp([]), "sampling"),
    ],
)
async def test_a_cancellation_that_nobody_asked_for_is_a_failure(
    db: Path, task: mdap.Task, model: Any, doing: str
) -> None:
    """It is the author's own, with its line, and does not pass for the end of the run's work."""
    sentence = rf"failed while {doing}: test_tracebacks\.py:\d+ in gives_up: CancelledError"
    with pytest.raises(mdap.FailedError, match=sentence) as raised:
        await mdap.solve(task, model=model, db=db)
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)


async def test_cases_of_a_batch_keep_their_errors_apart(db: Path) -> None:
    """Each failed case has its own; a run that was finished has none."""
    async with mdap.Session(db=db) as session:
        cases = [Slip(where="parse"), Slip(), Slip(where="advance")]
        solutions = [solution async for solution in session.solve_all(cases)]
    assert [solution.stop_cause for solution in solutions] == ["error", None, "error"]
    assert [own_cause(one.error).args for one in solutions if one.error] == [("fone",), ("fone",)]
    assert [one.traceback is not None for one in solutions] == [True, False, True]


class Sampled(Slip):
    """Needs no pilot to be calibrated."""

    def sample_state(self, rng: random.Random) -> tuple[int, int] | None:
        return (rng.randrange(self.steps), 0)


@pytest.mark.parametrize(("task", "run"), [(Slip(where="parse"), "c-pilot"), (Sampled(where="parse"), "c")])
async def test_a_calibration_that_fails_records_it(db: Path, task: mdap.Task, run: str) -> None:
    """In its pilot or by itself: the error raised has the original as its cause, the log the traceback."""
    with pytest.raises((mdap.PluginError, mdap.FailedError)) as raised:
        await mdap.calibrate(task, db=db, run_id="c", samples=8)
    assert isinstance(raised.value.__cause__, KeyError)
    assert recorded(db, run)[2]["traceback"].endswith("KeyError: 'fone'")


# -- the word for why a run ended


def scripted(*said: Any) -> str:
    PROVIDED["it"] = ScriptedProvider(said)
    return "tests.helpers:provided/it"


def gone(kind: str) -> Callable[[], str]:
    return lambda: scripted(mdap.UnavailableError("gone", kind=kind))


def flagged() -> str:
    PROVIDED["it"] = ScriptedProvider(lambda request, ordinal: "no digit")
    return "tests.helpers:provided/it"


def refusing() -> str:
    refusal = mdap.RejectedError("not this one", kind="http_400")
    PROVIDED["it"] = ScriptedProvider(lambda request, ordinal: refusal)
    return "tests.helpers:provided/it"


ENDS: dict[str, tuple[Callable[[], str], dict[str, Any], str, str]] = {
    "budget": (lambda: "sim", {"budget": mdap.Budget(tokens=2_000)}, "stopped", "budget"),
    "deadline": (
        lambda: "sim",
        {"budget": mdap.Budget(seconds=0.05), "options": {"latency": 0.03}},
        "stopped",
        "deadline",
    ),
    "quota": (gone("quota"), {}, "stopped", "quota"),
    "key": (gone("auth"), {}, "stopped", "provider"),
    "refused": (refusing, {}, "undecided", "refused"),
    "form": (flagged, {}, "stopped", "form"),
    "samples": (
        lambda: "sim",
        {"options": {"error_rate": 0.45, "seed": 1}, "voting": mdap.VotingSettings(k=9, max_samples=9)},
        "undecided",
        "samples",
    ),
}


@pytest.mark.parametrize("name", ENDS)
async def test_why_a_run_ended_is_one_word(db: Path, name: str) -> None:
    """A program need not read a sentence; nothing that is foreseen records a traceback."""
    model, settings, status, word = ENDS[name]
    with pytest.raises(mdap.RunError) as raised:
        await mdap.solve(Walk(steps=40), model=model(), db=db, run_id="one", **settings)
    error, solution = raised.value, raised.value.solution
    assert (str(solution.status), solution.stop_cause, error.stop_cause) == (status, word, word)
    assert solution.to_dict()["stop_cause"] == word
    kind, _, data = recorded(db, "one")
    assert (kind, data["stop_cause"], "traceback" in data) == (status, word, False)


async def test_a_cancelled_run_was_interrupted(db: Path) -> None:
    """The word is taken back as soon as the run goes on, and is none once it is finished."""
    async with mdap.Session(db=db, options={"latency": 0.001}) as session:
        assert await cut_at(session, Walk(steps=6), 1, run_id="one") is None
        found = await session.find("one")
        assert found is not None
        assert (found.status, found.stop_cause) == (RunStatus.STOPPED, StopCause.INTERRUPTED)
        assert (await session.run(Walk(steps=6), run_id="one")).stop_cause is None


async def test_a_process_stops_for_what_stopped_its_part(db: Path) -> None:
    """The word of a nested run is the word of the whole."""
    PROVIDED["it"] = ScriptedProvider([mdap.UnavailableError("gone", kind="quota")])
    async with mdap.Session("tests.helpers:provided/it", db=db) as session:
        solution = await session.run(Asks(), run_id="one")
    assert (solution.status, solution.stop_cause) == (RunStatus.STOPPED, StopCause.QUOTA)
    assert own_cause(solution.error or Exception()).args == ("gone",)


# -- tracebacks as text


def deep(depth: int) -> None:
    if depth:
        deep(depth - 1)
    raise ValueError("x" * 30_000)


def test_a_traceback_is_bounded() -> None:
    """The beginning and the end stay, whatever an error says of itself."""
    try:
        deep(3)
    except ValueError as error:
        text = traceback_of(error)
    assert text is not None
    assert len(text) < 16_100
    assert text.startswith("Traceback (most recent call last)")
    assert "characters left out" in text


def test_an_error_that_passed_no_code_has_none() -> None:
    """What mdap says itself needs no traceback."""
    assert traceback_of(mdap.UsageError("no")) is None
    assert traceback_of(mdap.PluginError("task t", "parsing", TypeError("no"))) is None


def test_an_error_whose_text_fails_has_one_all_the_same() -> None:
    """Somebody else's exception may fail in its own `__str__`."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(Odd) as raised:
        raise Odd
    assert "Odd" in (traceback_of(raised.value) or "")


def test_reraise_changes_nothing_of_an_error() -> None:
    """Neither its cause nor its context."""
    inner, outer = KeyError(1), ValueError(2)
    outer.__context__ = inner

    def raise_again() -> None:
        try:
            raise OSError
        except OSError:
            reraise(outer)

    with pytest.raises(ValueError, match="2"):
        raise_again()
    assert outer.__context__ is inner
    assert not outer.__suppress_context__


def test_the_events_that_end_a_run_document_the_word() -> None:
    """Whoever reads the table of events finds it."""
    assert "stop_cause" in EVENTS["undecided"][1]


async def test_an_error_that_nobody_foresaw_is_recorded(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that mdap itself fails to decide was not interrupted: the log says what happened, and where."""

    async def fails(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mdap.session.running.decide", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        await mdap.solve(Walk(steps=1), db=db, run_id="one")
    kind, reason, data = recorded(db, "one")
    assert (kind, data["stop_cause"]) == ("stopped", "error")
    assert reason.endswith("RuntimeError: a bug")
    assert data["traceback"].endswith("RuntimeError: a bug")


async def test_those_who_wait_for_a_run_get_its_cause(db: Path) -> None:
    """Two calls with one run id: both raise from the original exception."""
    causes: list[BaseException | None] = []

    async def call(session: mdap.Session) -> None:
        with pytest.raises(mdap.FailedError) as raised:
            await session.solve(Slip(where="parse"), run_id="one")
        causes.append(raised.value.__cause__)

    async with mdap.Session(db=db, options={"latency": 0.01}) as session, anyio.create_task_group() as group:
        group.start_soon(call, session)
        group.start_soon(call, session)
    assert [type(cause) for cause in causes] == [KeyError, KeyError]
