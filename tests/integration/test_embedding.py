"""A session in somebody else's program: one run for many callers, tasks that come and go, and mistakes."""

import asyncio
import inspect
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, assert_type, get_type_hints

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel

import mdap
from mdap.records import Reply, RunStatus, SampleRequest
from mdap.session.arguments import CalibrationSettings, RunSettings, SessionSettings
from mdap.testing import ScriptedProvider
from mdap_hanoi import Hanoi
from tests.helpers import Model, Walk


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


def query(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


def events(db: Path, run_id: str) -> list[str]:
    kinds = "'started', 'resumed', 'finished', 'stopped', 'undecided', 'failed'"
    of_run = f"FROM run_events e JOIN runs ON runs.id = e.run WHERE run_id = '{run_id}'"
    return [row[0] for row in query(db, f"SELECT e.kind {of_run} AND e.kind IN ({kinds}) ORDER BY e.id")]


class Gated:
    """A provider object whose replies wait for a gate."""

    nonblocking = False
    max_n = 1

    def __init__(self, task: Walk, name: str = "gated", about: Any = None) -> None:
        self.name = name
        self.gate = anyio.Event()
        self.asked = 0
        self.busy = anyio.Event()
        self.closed = 0
        self._model = Model(task, right=1.0, flagged=0.0)
        self._about = {} if about is None else about

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        self.asked += 1
        self.busy.set()
        await self.gate.wait()
        return [self._model.says(request.user, request.ordinals[0])]

    def describe(self) -> dict[str, Any]:
        return dict(self._about)

    async def aclose(self) -> None:
        self.closed += 1


TASK = Walk(steps=4)


async def settle() -> None:
    """Let every task do what it can do now."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()


# --- one run, many callers


async def test_many_callers_of_one_run_id_share_one_run(db: Path) -> None:
    """They all get the same solution, and each sample is bought once, in however many sessions they are."""
    model = Gated(TASK)
    model.gate.set()
    solutions: list[mdap.Solution] = []
    async with mdap.Session(model, db=db) as one, mdap.Session(model, db=db) as two:

        async def call(session: mdap.Session) -> None:
            solutions.append(await session.solve(TASK, k=2, run_id="same"))

        async with anyio.create_task_group() as group:
            for session in (one, two) * 5:
                group.start_soon(call, session)
    assert len(solutions) == 10
    assert all(solution == solutions[0] for solution in solutions)
    assert model.asked == solutions[0].totals.samples == 8
    assert events(db, "same") == ["started", "finished"]


def test_threads_of_one_process_share_a_run(db: Path) -> None:
    """`solve_sync` in several threads, each with a loop of its own, makes one run of one id."""
    statuses: list[str] = []

    def call() -> None:
        statuses.append(str(mdap.solve_sync(Hanoi(disks=5), db=db, run_id="same").status))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == ["finished"] * 6
    assert events(db, "same") == ["started", "finished"]


async def test_other_parameters_under_a_running_id_are_refused_immediately(db: Path) -> None:
    """The sentence names both, and does not wait for the run to end."""
    model = Gated(TASK)
    async with mdap.Session(model, db=db) as session, anyio.create_task_group() as group:
        group.start_soon(lambda: session.run(TASK, run_id="one"))
        await model.busy.wait()
        with pytest.raises(mdap.UsageError, match="was started with steps = 4, not 5"):
            await session.solve(Walk(steps=5), run_id="one")
        model.gate.set()


async def test_a_waiter_that_is_cancelled_leaves_the_run_alone(db: Path) -> None:
    """Only whoever drives the run stops it."""
    model = Gated(TASK)
    async with mdap.Session(model, db=db) as session, anyio.create_task_group() as group:
        ended: list[mdap.Solution] = []

        async def drive() -> None:
            ended.append(await session.solve(TASK, k=2, run_id="one"))

        group.start_soon(drive)
        await model.busy.wait()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await session.solve(TASK, k=2, run_id="one")
        assert scope.cancelled_caught
        model.gate.set()
    assert ended[0].status is RunStatus.FINISHED
    assert events(db, "one") == ["started", "finished"]


@pytest.mark.parametrize("together", [True, False], ids=["one session", "two sessions"])
async def test_a_waiter_drives_the_run_on_if_its_driver_is_cancelled(db: Path, together: bool) -> None:
    """The run goes on where it was: nothing is decided twice, and the waiter gets its solution."""
    model = Gated(TASK)
    ended: list[mdap.Solution] = []
    async with mdap.Session(model, db=db) as one, mdap.Session(model, db=db) as other:
        waiting_in = one if together else other

        async def wait() -> None:
            ended.append(await waiting_in.solve(TASK, k=2, run_id="one"))

        async with anyio.create_task_group() as group:
            driver = anyio.CancelScope()

            async def drive() -> None:
                with driver:
                    await one.solve(TASK, k=2, run_id="one")

            group.start_soon(drive)
            await model.busy.wait()
            group.start_soon(wait)
            await settle()
            driver.cancel()
            model.gate.set()
    assert [solution.status for solution in ended] == ["finished"]
    assert events(db, "one") == ["started", "stopped", "resumed", "finished"]
    assert query(db, "SELECT count(*), count(DISTINCT step) FROM decisions") == [(4, 4)]


async def test_whoever_waited_gets_an_undecided_run_as_it_ended(db: Path) -> None:
    """A run without a winner is not paid for again by each caller that waited."""
    model = Gated(TASK)
    voting = mdap.VotingSettings(k=2, max_samples=2, temperatures=(0.0,))
    model._model = Model(TASK, right=1.0, flagged=1.0)
    solutions: list[mdap.Solution] = []
    async with mdap.Session(model, db=db) as session, anyio.create_task_group() as group:

        async def call() -> None:
            solutions.append(await session.run(TASK, voting=voting, run_id="one"))

        for _ in range(3):
            group.start_soon(call)
        await model.busy.wait()
        await settle()
        model.gate.set()
    assert [solution.status for solution in solutions] == ["undecided"] * 3
    assert model.asked == 2
    assert events(db, "one") == ["started", "undecided"]


class Nested(mdap.Process[int]):
    """Asks for its own run from within."""

    def run_in(self, session: mdap.Session) -> None:
        SESSIONS.append(session)

    async def solve(self, ask: mdap.Ask) -> int:
        await SESSIONS[-1].solve(Nested(), run_id=ask.run_id)
        return 1


SESSIONS: list[mdap.Session] = []


async def test_a_run_that_asks_for_itself_is_told_so(db: Path) -> None:
    """It would wait for ever."""
    async with mdap.Session(db=db) as session:
        SESSIONS.append(session)
        solution = await session.run(Nested(), run_id="one")
    assert solution.status is RunStatus.FAILED
    assert "run one would wait for itself" in str(solution.reason)


async def test_a_batch_that_is_asked_for_twice_is_solved_once(db: Path) -> None:
    """Its cases wait for each other, in whatever order their turns come."""
    statuses: list[str] = []
    async with mdap.Session(db=db, options={"latency": 0.0005}) as session:

        async def call() -> None:
            tasks = [Walk(steps=3, seed=seed) for seed in range(5)]
            batch = session.solve_all(tasks, k=2, run_id="b")
            statuses.extend([str(solution.status) async for solution in batch])

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            group.start_soon(call)
    assert statuses == ["finished"] * 10
    assert query(db, "SELECT count(*) FROM run_events e WHERE kind = 'resumed' AND run > 1") == [(0,)]


# --- opening and closing


async def in_a_task(act: Callable[[], Any]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(act)


async def test_a_session_is_opened_used_and_closed_by_different_tasks(db: Path) -> None:
    """As pytest's fixtures and a notebook's cells do."""
    session = mdap.Session(db=db)
    ended: list[RunStatus] = []

    async def use() -> None:
        ended.append((await session.solve(TASK, k=2)).status)

    await in_a_task(session.open)
    await in_a_task(use)
    await in_a_task(session.close)
    assert ended == ["finished"]
    await in_a_task(session.open)
    await in_a_task(use)
    await in_a_task(session.close)
    assert ended == ["finished"] * 2


async def test_closing_a_session_stops_its_runs_resumably(db: Path) -> None:
    """Whoever waits for one gets what it came to; nothing hangs and no other error comes out."""
    model = Gated(TASK)
    session = mdap.Session(model, db=db)
    await session.open()
    solutions: list[mdap.Solution] = []
    errors: list[Exception] = []

    async def run() -> None:
        solutions.append(await session.run(TASK, k=2, run_id="one"))

    async def solve() -> None:
        try:
            await session.solve(TASK, k=2, run_id="two")
        except mdap.StoppedError as error:
            errors.append(error)

    async def batch() -> None:
        try:
            async for _ in session.solve_all([TASK], k=2, run_id="many"):
                pass
        except mdap.StoppedError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        group.start_soon(solve)
        group.start_soon(batch)
        while model.asked < 3 * 2:  # all three are at work
            await anyio.lowlevel.checkpoint()
        await session.close()
    assert [solution.status for solution in solutions] == ["stopped"]
    assert sorted(str(error) for error in errors) == [
        "batch many: the session was closed; solve it again to resume",
        "run two: interrupted",
    ]
    model.gate.set()
    async with mdap.Session(model, db=db) as again:
        assert (await again.solve(TASK, k=2, run_id="one")).steps == 4


def test_a_loop_that_ends_closes_what_was_left_open(db: Path) -> None:
    """Nobody called `close`: everything that came is on record all the same."""

    async def main() -> None:
        session = mdap.Session(db=db)
        await session.open()
        await session.solve(TASK, k=2, run_id="one")

    asyncio.run(main())
    assert events(db, "one") == ["started", "finished"]


async def never_opened(session: mdap.Session) -> None:
    await session.run(TASK)


async def never_opened_batch(session: mdap.Session) -> None:
    session.solve_all([TASK])


async def after_close(session: mdap.Session) -> None:
    async with session:
        pass
    await session.find("x")


async def batch_after_close(session: mdap.Session) -> None:
    async with session:
        batch = session.solve_all([TASK])
    async for _ in batch:
        pass


async def opened_twice(session: mdap.Session) -> None:
    async with session, session:
        pass


async def other_loop(session: mdap.Session) -> None:
    async with session:
        await anyio.to_thread.run_sync(asyncio.run, session.find("x"))


async def sync_in_a_loop(session: mdap.Session) -> None:
    mdap.solve_sync(TASK, db=session.path)


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (never_opened, "not open: write `async with mdap.Session"),
        (never_opened_batch, "not open: write `async with mdap.Session"),
        (after_close, "is closed: use it within its `async with` block"),
        (batch_after_close, "is closed: use it within its `async with` block"),
        (opened_twice, "open already: open it once, and share it"),
        (other_loop, "belongs to another event loop: open a session in each loop"),
        (sync_in_a_loop, r"write `await mdap.solve\(...\)` in place of"),
    ],
)
async def test_a_session_used_wrongly_says_what_to_write(
    db: Path, mistake: Callable[[mdap.Session], Any], sentence: str
) -> None:
    """One sentence, and no hang."""
    with pytest.raises(mdap.UsageError, match=sentence):
        await mistake(mdap.Session(db=db))


def test_a_session_without_a_loop_is_refused(db: Path) -> None:
    """Another library's loop would wait for what only asyncio does."""
    coroutine = mdap.Session(db=db).open()
    with pytest.raises(mdap.UsageError, match="needs a running asyncio loop"):
        coroutine.send(None)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"budget": 5}, r"write budget=mdap.Budget\(usd=5\)"),
        ({"budget": {"tokens": 100}}, r"write budget=mdap.Budget\(tokens=100\)"),
        ({"limits": {}}, r"write limits=mdap.Limits\(concurrency=8\)"),
        ({"limits": {"requests_per_minute": 9}}, r"write limits=mdap.Limits\(requests_per_minute=9\)"),
        ({"options": ["seed=1"]}, "options takes a dict"),
        ({"prices": {"sim": 5}}, "mdap.Price by model"),
        ({"prices": 3.0}, "mdap.Price by model"),
        ({"speculate": True}, "speculate takes 'off' or 'vote' or 'guess', not True"),
        ({"on_dead": "wait"}, "on_dead takes 'stop' or 'continue', not 'wait'"),
        ({"db": None}, "db takes a path, not None: write db='mdap.db'"),
        ({"db": "a\0b.db"}, r"db takes the path of a file, not 'a\\x00b.db'"),
        ({"log": "no"}, "log takes True or False, not 'no'"),
        ({"record_prompts": 1}, "record_prompts takes True or False, not 1"),
        ({"tracer_provider": 5}, "tracer_provider takes a TracerProvider, not 5"),
        ({"model": None}, "model takes a name such as 'openai/gpt-4.1-mini', or an object"),
        ({"model": Gated}, r"not the class Gated: write model=Gated\(...\)"),
        ({"model": ["sim", 3]}, "model takes a name"),
        ({"model": {"name": "sim"}}, "model takes a name"),
        ({"escalate_to": lambda: None}, "escalate_to takes a name"),
    ],
)
def test_a_wrong_argument_of_a_session_is_refused_with_what_to_write(given: Any, sentence: str) -> None:
    """Before anything is opened."""
    with pytest.raises(mdap.UsageError, match=sentence):
        mdap.Session(**given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"task": Walk}, r"Walk is the class of a task, not a task: write Walk\(...\)"),
        ({"task": "hanoi"}, "'hanoi' is a text, not a task"),
        ({"task": 5}, "int is no task that can be run"),
        ({"k": "3"}, "k takes a whole number, 'auto' or 'robust', not '3': write k=3"),
        ({"k": 2.5}, "write k=3"),
        ({"k": True}, "write k=3"),
        (
            {"target": 95, "k": "auto"},
            "target takes a probability above 0 and below 1, not 95: write target=0.95",
        ),
        ({"target": 0.9}, "target goes with k='auto' and k='robust', not with k=None"),
        ({"floor": 0.7, "k": "auto"}, "floor goes with k='robust', not with k='auto'"),
        ({"floor": 1, "k": "robust"}, "floor takes a probability"),
        ({"voting": {"k": 5}}, r"write voting=mdap.VotingSettings\(k=5\)"),
        ({"run_id": 7}, "run_id takes a text, not 7: write run_id='7'"),
        ({"progress": print}, r"write progress=mdap.Progress\(\)"),
    ],
)
async def test_a_wrong_argument_of_a_run_is_refused_with_what_to_write(
    db: Path, given: Any, sentence: str
) -> None:
    """Before anything is recorded."""
    async with mdap.Session(db=db) as session:
        with pytest.raises(mdap.UsageError, match=sentence):
            await session.run(**{"task": TASK, **given})
    assert query(db, "SELECT count(*) FROM runs") == [(0,)]


@pytest.mark.parametrize("tasks", [TASK, Walk, "hanoi", 5])
async def test_one_task_is_no_batch(db: Path, tasks: Any) -> None:
    """A task is a pydantic model, which Python would iterate over."""
    async with mdap.Session(db=db) as session:
        with pytest.raises(mdap.UsageError, match=r"for one, write session.solve\(task\)"):
            session.solve_all(tasks)
        with pytest.raises(mdap.UsageError, match=r"for one, write session.solve\(task\)"):
            await session.choose_k(tasks, "batch")


async def test_what_is_no_task_fails_its_case_alone(db: Path) -> None:
    """The others are solved."""
    mixed: Any = [TASK, 5, Walk]
    async with mdap.Session(db=db) as session:
        ended = [(str(one.status), str(one.reason)) async for one in session.solve_all(mixed, k=2)]
    assert [status for status, _ in ended] == ["finished", "failed", "failed"]
    assert "write Walk(...)" in ended[2][1]


# --- models as objects

NAME = f"{Gated.__module__}.Gated()/gated"


async def test_a_model_object_is_on_record_by_its_class_and_name(db: Path) -> None:
    """Its samples, prices and resumes go by it, and whoever made it closes it."""
    model = Gated(TASK, about={"level": 1})
    model.gate.set()
    prices = {"gated": mdap.Price(input=1, output=1)}
    async with mdap.Session([model, "sim", model], db=db, prices=prices) as session:
        assert NAME in repr(session)
        await session.solve(TASK, k=2, run_id="one")
    assert model.closed == 0
    [(provider,)] = query(db, "SELECT provider FROM runs")
    assert json.loads(provider)["models"] == [NAME, "sim", NAME]
    assert json.loads(provider)["about"]["members"][0] == {"level": 1}
    assert set(query(db, "SELECT DISTINCT model FROM samples")) == {("gated",), ("sim",)}


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Gated(TASK, name="changed"), "models"),
        (Gated(TASK, about={"level": 2}), "level = 1, not 2"),
        ("sim", "models"),
    ],
)
async def test_a_run_is_not_resumed_with_another_object(db: Path, other: Any, what: str) -> None:
    """As for a changed model: an object is the same by class, name and what it says of itself."""
    model = Gated(TASK, about={"level": 1})
    async with mdap.Session(model, db=db) as session:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: session.run(TASK, run_id="one"))
                await model.busy.wait()
                scope.cancel()
    async with mdap.Session(other, db=db) as session:
        with pytest.raises(mdap.UsageError, match=f"run one was started with {what}.*in its own program"):
            await session.resume("one")
    again = Gated(TASK, about={"level": 1})
    again.gate.set()
    async with mdap.Session(again, db=db) as session:
        assert (await session.resume("one")).status is RunStatus.FINISHED


async def test_an_object_cannot_be_made_from_its_name(db: Path) -> None:
    """The command line says where the run can be resumed."""
    with pytest.raises(
        mdap.UsageError, match="is an object of the program that began the run: resume it there"
    ):
        async with mdap.Session(NAME, db=db):
            pass


class Odd(Gated):
    """Returns what it is given to return."""

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        found: Sequence[Reply] = self._about["found"]
        return found

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("nonblocking", [True, False])
@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (["text"], "must return a list of mdap.Reply, not of 'text'"),
        ("text", "must return a list of mdap.Reply, not 'text'"),
        (Reply("text", "odd"), "must return a list of mdap.Reply, not Reply"),
        (None, "must return a list of mdap.Reply, not None"),
        ({"text": 5}, "the text of an mdap.Reply takes a text, not 5"),
        ({"finish_reason": None}, "the finish_reason of an mdap.Reply takes a text, not None"),
        ({"request_id": 5}, "the request_id of an mdap.Reply takes a text or None, not 5"),
        ({"latency": "1s"}, "the latency of an mdap.Reply takes seconds, not '1s'"),
        ({"attempts": 1.5}, "the attempts of an mdap.Reply takes a whole number, not 1.5"),
        ({"input_tokens": "5"}, "the input_tokens of an mdap.Reply takes a whole number from 0 on, or None"),
        ({"output_tokens": -50}, "the output_tokens of an mdap.Reply takes a whole number from 0 on"),
        ({"input_tokens": 10**20}, "the input_tokens of an mdap.Reply takes a whole number from 0 on"),
        ({"input_tokens": 5, "cached_tokens": 50}, "are parts of its input_tokens: 50 is more than 5"),
    ],
)
async def test_an_object_that_returns_no_replies_is_told_what_it_must_return(
    db: Path, nonblocking: bool, found: Any, sentence: str
) -> None:
    """Not what went wrong inside mdap because of it."""
    if isinstance(found, dict):
        found = [Reply(**{"text": "text", "model": "odd", **found})]
    model = Odd(TASK, about={"found": found})
    model.nonblocking = nonblocking
    async with mdap.Session(model, db=db) as session:
        solution = await session.run(TASK)
    assert solution.status is RunStatus.FAILED
    assert sentence in str(solution.reason)


class Tripping(Gated):
    """Its second sample does something to its task or its loop."""

    def __init__(self, trip: Callable[[], None]) -> None:
        super().__init__(TASK)
        self.gate.set()
        self._trip = trip

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        found = await super().sample(request)
        if self.asked == 2:
            self._trip()
            await asyncio.sleep(0)
        return found


async def test_a_provider_that_cancels_its_own_task_fails_the_run(db: Path) -> None:
    """As a library with a broken scope does; the run says so, and a second one with its name goes on."""

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with mdap.Session(Tripping(cancel), db=db) as session:
        solution = await session.run(TASK, run_id="one")
        assert solution.status is RunStatus.FAILED
        assert "cancelled the asyncio task in which mdap called it" in str(solution.reason)
        assert (await session.run(TASK, run_id="one")).status is RunStatus.FINISHED


async def test_a_process_that_cancels_its_own_task_fails(db: Path) -> None:
    """It would wait for ever otherwise."""

    class Rash(mdap.Process[str]):
        async def solve(self, ask: mdap.Ask) -> str:
            await ask(mdap.Step(user="?", parse=str.strip))
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
            return "done"

    model = ScriptedProvider(lambda request, ordinal: Reply("yes", "toy"), name="toy")
    async with mdap.Session(model, db=db) as session:
        solution = await session.run(Rash())
    assert solution.status is RunStatus.FAILED
    assert "cancelled the asyncio task in which mdap called it" in str(solution.reason)


# A loop that ends so leaves tasks that never began.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")
def test_a_keyboard_interrupt_in_a_task_ends_the_program(db: Path) -> None:
    """It is no `Exception`, ends the loop, and leaves a run to resume."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def program() -> None:
        async with mdap.Session(Tripping(interrupt), db=db) as session:
            await session.run(TASK, run_id="one")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(program())
    again = Tripping(lambda: None)
    assert mdap.solve_sync(TASK, db=db, run_id="one", model=again).status is RunStatus.FINISHED


class Broken(Gated):
    def describe(self) -> dict[str, Any]:
        return {"at": object()}


class Nameless:
    nonblocking = True
    max_n = 1

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        return []


def changed(**attributes: Any) -> Gated:
    model = Gated(TASK)
    vars(model).update(attributes)
    return model


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Nameless(), "which lacks name, describe, aclose"),
        (changed(name=""), "needs a name of 1 to 200 printable characters"),
        (changed(max_n=0), "needs max_n, a whole number of at least 1, not 0"),
        (changed(sample=None), "needs `async def sample"),
        ([Gated(TASK), Gated(TASK)], "two different objects are called 'gated'"),
    ],
)
def test_an_object_that_is_no_provider_is_refused(model: Any, sentence: str) -> None:
    """With what it lacks."""
    with pytest.raises(mdap.UsageError, match=sentence):
        mdap.Session(model)


async def test_an_object_that_cannot_describe_itself_is_named(db: Path) -> None:
    """What it says of itself is recorded as JSON."""
    with pytest.raises(mdap.PluginError, match=r"Broken\(\)/gated failed while describing itself"):
        async with mdap.Session(Broken(TASK), db=db):
            pass


async def test_options_do_not_reach_an_object(db: Path) -> None:
    """Rather than being dropped, they are refused."""
    with pytest.raises(mdap.UsageError, match="options are for models given by name"):
        async with mdap.Session(Gated(TASK), db=db, options={"seed": 1}):
            pass


# --- resuming all


async def test_all_unfinished_runs_are_resumed(db: Path) -> None:
    """One after another; one that cannot be resumed here stays as it is and says why."""
    stop = mdap.Budget(tokens=60)
    async with mdap.Session(db=db, budget=stop) as session:
        for name in ("one", "two"):
            assert (await session.run(TASK, k=3, run_id=name)).status is RunStatus.STOPPED
    async with mdap.Session(db=db, options={"seed": 9}, budget=stop) as session:
        assert (await session.run(TASK, k=3, run_id="other")).status is RunStatus.STOPPED
    async with mdap.Session(db=db) as session:
        await session.solve(TASK, run_id="done")
        ended = [solution async for solution in session.resume_all()]
        assert [(one.run_id, one.status) for one in ended] == [
            ("one", "finished"),
            ("two", "finished"),
            ("other", "stopped"),
        ]
        assert "was started with seed = 9, not 0" in str(ended[2].reason)
        assert [solution.run_id async for solution in session.resume_all()] == ["other"]


async def test_a_missing_run_has_an_error_of_its_own(db: Path) -> None:
    """So that nobody need read its sentence."""
    async with mdap.Session(db=db) as session:
        with pytest.raises(mdap.RunNotFoundError):
            await session.resume("nothing")
    with mdap.open_log(db) as log, pytest.raises(mdap.RunNotFoundError):
        list(log.steps("nothing"))


# --- what editors and type checkers see


class Report(BaseModel):
    total: int
    names: tuple[str, ...]


class Reporting(mdap.Process[Report]):
    async def solve(self, ask: mdap.Ask) -> Report:
        return Report(total=3, names=("a", "b"))


class Pair(Walk):
    def result(self, state: tuple[int, int]) -> tuple[int, int]:
        return state


class Loose(mdap.Process[Any]):
    async def solve(self, ask: mdap.Ask) -> Any:
        return Report(total=3, names=())


async def test_a_result_has_the_type_that_its_task_declares(db: Path) -> None:
    """For checkers, and in fact: also when a finished run is asked for again."""
    async with mdap.Session(db=db) as session:
        for _ in range(2):
            solution = await session.solve(Reporting(), run_id="report")
            assert_type(solution, mdap.Solution[Report])
            assert solution.result == Report(total=3, names=("a", "b"))
            assert solution.to_dict()["result"] == {"names": ["a", "b"], "total": 3}
        pair = await session.solve(Pair(steps=2), run_id="pair")
        assert_type(pair, mdap.Solution[tuple[int, int]])
        assert isinstance(pair.result, tuple)
        resumed = await session.resume("report")
        assert resumed.result == solution.result
        loose = await session.run(Loose())
        assert loose.result == {"names": [], "total": 3}
        [in_batch] = [one async for one in session.solve_all([Reporting()])]
        assert in_batch.result == solution.result
    task: mdap.Task = Reporting()
    assert_type(await mdap.solve(task, db=db), mdap.Solution[Any])
    assert_type(await mdap.solve(Reporting(), db=db), mdap.Solution[Report])


@pytest.mark.parametrize(
    ("settings", "function", "others"),
    [
        (SessionSettings, mdap.Session.__init__, {"self", "model"}),
        (RunSettings, mdap.Session.run, {"self", "task"}),
        (CalibrationSettings, mdap.Session.calibrate, {"self", "task"}),
    ],
)
def test_shared_keywords_are_those_of_the_function_that_takes_them(
    settings: Any, function: Any, others: set[str]
) -> None:
    """Name by name and type by type."""
    hints = get_type_hints(function)
    taken = inspect.signature(function).parameters.keys() - others
    assert get_type_hints(settings) == {name: hints[name] for name in taken}


@pytest.mark.parametrize("function", [mdap.solve, mdap.calibrate])
async def test_an_unknown_keyword_is_a_type_error(function: Any, tmp_path: Path) -> None:
    """As everywhere in Python."""
    with pytest.raises(TypeError, match="'speed'"):
        await function(TASK, db=tmp_path / "a.db", speed=3)


async def test_what_is_returned_tells_what_it_is(db: Path) -> None:
    """On one line, without what only a program reads."""
    session = mdap.Session(["sim", "sim/b"], escalate_to="sim/c", db=db)
    assert repr(session) == f"<mdap.Session of sim, sim/b, then sim/c on {db}, not open>"
    async with session:
        solution = await session.solve(TASK, k=2, run_id="one")
        calibration = await session.calibrate(Hanoi(disks=3), samples=40)
        batch = session.solve_all([TASK], run_id="b")
        assert repr(batch) == "<mdap.Batch b, not begun, 0 cases so far>"
    assert repr(session).endswith(", closed>")
    assert repr(solution).startswith("Solution(run_id='one', task='tests.helpers:Walk', status='finished', ")
    assert repr(calibration).startswith("Calibration(run_id='hanoi-")
    assert len(repr(solution)) < 300
