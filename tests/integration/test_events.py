"""Following a run: every recorded fact, in order, from the log, at the reader's own pace."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import mdap
from mdap.errors import own_cause
from mdap.records import EVENTS, RunStatus, StopCause
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, Model, Walk, cut_at
from tests.integration.test_session import query

HUGE = '[0,0,0,[-1,-1],[[0,0,"0:999999999999"]]]'
FIELDS: dict[str, int] = {}
SLOW = {"error_rate": 0.3, "flag_rate": 0.1, "latency": 0.0005, "fault_rate": 0.05, "seed": 2}


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture(autouse=True)
def _providers() -> Iterator[None]:
    PROVIDED.clear()
    yield
    PROVIDED.clear()


class Asks(mdap.Process[list[int]]):
    """Asks for some digits at once, and does without those it cannot have."""

    steps: int = 12

    async def solve(self, ask: mdap.Ask) -> list[int]:
        async with ask.group() as group:
            found = [
                group.start(ask.decision, mdap.Step(user=f"digit {at}", parse=self._parse, key=f"d/{at}"))
                for at in range(self.steps)
            ]
        return [one.value.answer or 0 for one in found]

    def _parse(self, text: str) -> int:
        if not text.isdigit():
            raise mdap.RedFlag("no digit")
        return int(text)

    def oracle(self, step: mdap.Step[Any]) -> int:
        return int(step.user.split()[1]) % 4

    def mistakes(self, step: mdap.Step[Any], truth: Any) -> list[int]:
        return [7]

    def render(self, step: mdap.Step[Any], answer: Any) -> str:
        return str(answer)


async def read(session: mdap.Session, run_id: str, after: str | None = None) -> list[mdap.Event]:
    return [event async for event in session.events(run_id, after=after)]


def facts(events: list[mdap.Event]) -> list[str]:
    """Their facts, in an order that does not hang on when they were read."""
    return sorted(str(event.fact) for event in events)


def rows(db: Path, run_id: str) -> int:
    """How many rows the log has of a run: each is one fact."""
    sql = "SELECT count(*) FROM {} WHERE run = (SELECT id FROM runs WHERE run_id = ?)"
    tables = ("run_events", "steps", "prompts", "samples", "decisions")
    return sum(query(db, sql.format(table), run_id)[0][0] for table in tables)


TASKS = [Walk(steps=30, seed=1), Asks()]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=["chain", "process"])
@pytest.mark.parametrize(
    "settings", [{}, {"k": 4, "voting": mdap.VotingSettings(max_samples=5)}], ids=["ok", "few"]
)
async def test_every_row_is_one_event(db: Path, task: mdap.Task, settings: dict[str, Any]) -> None:
    """Those that follow a run while it goes on and those that read it later get the same, each fact once."""
    live: list[mdap.Event] = []
    async with mdap.Session(db=db, options=SLOW) as session, anyio.create_task_group() as group:

        async def follow() -> None:
            live.extend(await read(session, "one"))

        group.start_soon(follow)
        solution = await session.run(task, run_id="one", **settings)
    async with mdap.Session(db=db) as session:
        later = await read(session, "one")
    assert len(later) == len(set(map(str, later))) == rows(db, "one")
    assert facts(live) == facts(later)
    decided = [event.fact for event in later if isinstance(event.fact, mdap.Decided)]
    assert [fact.place for fact in decided] == list(range(solution.steps))
    events = [event.fact.kind for event in later if isinstance(event.fact, mdap.RunEvent)]
    assert (events[0], events[-2:]) == ("started", [str(solution.status), "sealed"])


@pytest.mark.parametrize("task", TASKS, ids=["chain", "process"])
async def test_a_reader_goes_on_where_it_left_off(db: Path, task: mdap.Task) -> None:
    """Behind whatever event it stopped: nothing is missing, nothing comes twice."""
    async with mdap.Session(db=db, options=SLOW) as session:
        await session.run(task, run_id="one", k=4, voting=mdap.VotingSettings(max_samples=6))
        whole = await read(session, "one")
        for place in (*range(0, len(whole), 7), *range(len(whole) - 9, len(whole))):
            assert await read(session, "one", whole[place].cursor) == whole[place + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=["chain", "process"])
async def test_sessions_of_a_run_are_followed_one_after_the_other(db: Path, task: mdap.Task) -> None:
    """A run that is cut and resumed again and again: a reader that keeps its cursor gets each fact once."""
    got: list[mdap.Event] = []
    for votes in (1, 9, 18, 1_000):
        async with mdap.Session(db=db, options=SLOW) as session:
            ended = await cut_at(session, task, votes, run_id="one")
            assert (ended is None) is (votes < 1_000)
            got += await read(session, "one", got[-1].cursor if got else None)
    async with mdap.Session(db=db) as session:
        whole = await read(session, "one")
    assert len(whole) == rows(db, "one")
    assert facts(got) == facts(whole)


@pytest.mark.slow
async def test_a_slow_reader_delays_nothing(db: Path) -> None:
    """It is at its first event while the run comes to its end, and still gets all of them."""
    finished = anyio.Event()
    got: list[mdap.Event] = []
    async with mdap.Session(db=db, options=SLOW) as session, anyio.create_task_group() as group:

        async def follow() -> None:
            async for event in session.events("one"):
                got.append(event)
                await finished.wait()

        group.start_soon(follow)
        await session.run(Walk(steps=30, seed=1), run_id="one")
        assert len(got) <= 1
        finished.set()
    assert len(got) == rows(db, "one")


async def test_a_reader_that_leaves_is_forgotten(db: Path) -> None:
    """The run goes on to its end."""
    async with mdap.Session(db=db, options=SLOW) as session, anyio.create_task_group() as group:
        group.start_soon(partial(session.run, Walk(steps=30, seed=1), run_id="one"))
        async for event in session.events("one"):
            if isinstance(event.fact, mdap.Decided):
                break
    async with mdap.Session(db=db) as session:
        found = await session.find("one")
    assert found is not None
    assert found.status is RunStatus.FINISHED


async def test_what_cannot_be_followed(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that never begins, and a cursor that is none, in a sentence each."""
    monkeypatch.setattr("mdap.session.following._BEGIN", 0.01)
    async with mdap.Session(db=db) as session:
        with pytest.raises(mdap.UsageError, match=r"there is no run 'none' to follow in .*: start it first"):
            await read(session, "none")
        for wrong in ("7", "x", "[]", '{"a": 1}', "[0,0,0,0,0]", HUGE):
            with pytest.raises(
                mdap.UsageError, match="is no cursor: pass the `cursor` of an event that you got"
            ):
                await read(session, "none", wrong)


async def test_a_session_that_is_closed_meanwhile(db: Path) -> None:
    """Its reader is told so, in a sentence; another session goes on where it was."""
    got: list[mdap.Event] = []

    async def follow(session: mdap.Session) -> None:
        async for event in session.events("one"):
            got.append(event)
            reading.set()
            await closed.wait()

    async def refused(session: mdap.Session) -> None:
        with pytest.raises(mdap.UsageError, match="the session was closed while run one was followed"):
            await follow(session)

    reading, closed = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        async with mdap.Session(db=db) as session:
            await session.run(Walk(steps=300), run_id="one")
            group.start_soon(refused, session)
            await reading.wait()
        closed.set()
    async with mdap.Session(db=db) as session:
        got += await read(session, "one", got[-1].cursor)
    assert len(got) == rows(db, "one")


async def test_a_killed_run_is_over(db: Path) -> None:
    """If nobody works on a run that has no end on record, its reader does not wait for ever."""
    async with mdap.Session(db=db) as session:
        number = await session._resources.writer.begin_run(
            {
                "run_id": "cut",
                "kind": "run",
                "task": "t",
                "task_version": "1",
                "params": "{}",
                "settings": "{}",
                "provider": "{}",
                "k": 3,
                "mdap_version": "0",
            }
        )
        session._resources.writer.append(mdap.RunEvent(number, "started"))
        with anyio.fail_after(120):
            assert [event.fact for event in await read(session, "cut")] == [mdap.RunEvent(number, "started")]


async def test_on_event_is_called_with_the_same(db: Path) -> None:
    """In order, with everything that this call adds to the record, its end included."""
    got: list[mdap.Event] = []
    async with mdap.Session(db=db, options=SLOW) as session:
        assert await cut_at(session, Walk(steps=30, seed=1), 20, run_id="one") is None
        before = rows(db, "one")
        await session.solve(Walk(steps=30, seed=1), run_id="one", on_event=got.append)
        whole = await read(session, "one")
    assert isinstance(got[0].fact, mdap.RunEvent)
    assert isinstance(got[-1].fact, mdap.RunEvent)
    assert (got[0].fact.kind, got[-1].fact.kind) == ("resumed", "sealed")
    assert len(got) >= len(whole) - before > 0
    assert [event.fact for event in whole if event in got] == [event.fact for event in got if event in whole]


class Held(ScriptedProvider):
    """A provider that waits at a gate after some replies, so that listeners hear of a run before it ends."""

    gate: anyio.Event

    async def sample(self, request: mdap.SampleRequest) -> Sequence[mdap.Reply]:
        if not self.nonblocking and len(self.requests) > 200:
            await self.gate.wait()
        return await super().sample(request)


@pytest.mark.parametrize(("nonblocking", "steps"), [(True, 2_000), (False, 100)])
@pytest.mark.slow
async def test_an_on_event_that_fails_stops_the_run(db: Path, steps: int, *, nonblocking: bool) -> None:
    """With its line and its cause; what was asked for by then is on record, and the run can be resumed."""
    task = Walk(steps=steps, seed=1)
    model = Model(task)
    said: list[int] = []

    def says(request: mdap.SampleRequest, ordinal: int) -> mdap.Reply:
        said.append(ordinal)
        return model.says(request.user, ordinal)

    PROVIDED["it"] = held = Held(says, nonblocking=nonblocking)
    held.gate = anyio.Event()

    def show(event: mdap.Event) -> None:
        if isinstance(event.fact, mdap.Decided):
            held.gate.set()
            FIELDS["fone"]

    async with mdap.Session("tests.helpers:provided/it", db=db) as session:
        with pytest.raises(
            mdap.StoppedError,
            match=r"on_event failed while being told of Decided: test_events.py:\d+ in show: KeyError",
        ) as raised:
            await session.solve(task, run_id="one", on_event=show)
        assert isinstance(raised.value.__cause__, KeyError)
        solution = raised.value.solution
        assert solution.stop_cause is StopCause.ERROR
        assert solution.traceback.endswith("KeyError: 'fone'")
        sql = "SELECT (SELECT count(*) FROM samples) + (SELECT count(*) FROM pending)"
        assert query(db, sql) == [(len(said),)]
        assert solution.steps < steps
        assert (await session.solve(task, run_id="one")).status is RunStatus.FINISHED


async def test_an_on_event_that_fails_at_the_end_is_raised(db: Path) -> None:
    """The run is finished, and the next call returns it."""

    def show(event: mdap.Event) -> None:
        if isinstance(event.fact, mdap.RunEvent) and event.fact.kind == "finished":
            raise ValueError("no room")

    async with mdap.Session(db=db) as session:
        with pytest.raises(mdap.PluginError, match="in show: ValueError: no room") as raised:
            await session.solve(Walk(steps=2), run_id="one", on_event=show)
        assert isinstance(own_cause(raised.value), ValueError)
        assert (await session.solve(Walk(steps=2), run_id="one")).status is RunStatus.FINISHED


async def test_an_on_event_that_must_be_awaited(db: Path) -> None:
    """Is refused before anything is asked."""

    async def show(event: mdap.Event) -> None:
        raise AssertionError

    async with mdap.Session(db=db) as session:
        with pytest.raises(mdap.UsageError, match=r"on_event takes a plain function .* session\.events"):
            await session.solve(Walk(steps=1), run_id="one", on_event=show)
        assert await session.find("one") is None


def test_kinds_are_documented() -> None:
    """Whatever kind an event has, the table says what it means."""
    assert {"started", "sealed", "finished"} <= set(EVENTS)
