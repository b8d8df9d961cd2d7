"""A batch over several workers: the same decisions, one log, and no case lost with a worker."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import mdap
from mdap.audit.verifying import verify
from mdap.cluster import head
from mdap.cluster.cases import Member, Shared
from mdap.cluster.channels import memory_pair
from mdap.engine.budget_guard import BudgetGuard
from mdap.errors import StoppedError, UsageError
from mdap.plugins import make_recorded
from mdap.records import Reply, RunStatus, SampleRequest
from mdap.session import dealing, working
from mdap_hanoi import Hanoi
from tests.helpers import PROVIDED, Walk
from tests.workers import LoopPool, loop_pool

SIM = {"error_rate": 0.1, "latency": 0.01, "seed": 7}
CASES = [Hanoi(disks=3) for _ in range(12)]


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LoopPool]:
    async with loop_pool() as made:
        monkeypatch.setattr(dealing, "_pool_of", lambda cluster: made)
        yield made


AWAY = "elsewhere:6379"
"""The address of a cluster whose workers cannot read the log themselves."""


def session(db: Path, workers: int | None, address: str = "processes") -> mdap.Session:
    cluster = None if workers is None else mdap.Cluster(workers=workers, address=address)
    return mdap.Session("sim", options=SIM, db=db, cluster=cluster)


def decisions(db: Path) -> list[Any]:
    with closing(sqlite3.connect(db)) as log:
        sql = "SELECT run_id, step, winner FROM decisions JOIN runs ON runs.id = run ORDER BY 1, 2"
        return log.execute(sql).fetchall()


def warnings(db: Path) -> list[str]:
    with closing(sqlite3.connect(db)) as log:
        return [row[0] for row in log.execute("SELECT reason FROM run_events WHERE kind = 'warning'")]


async def solved(db: Path, workers: int | None, address: str = "processes") -> list[mdap.Solution[Any]]:
    async with session(db, workers, address) as open_session:
        return [one async for one in open_session.solve_all(CASES, run_id="b")]


@pytest.mark.parametrize("address", ["processes", AWAY])
async def test_workers_decide_what_one_process_decides(pool: LoopPool, tmp_path: Path, address: str) -> None:
    """The same seed gives the same decisions, in the order of the cases, and the log verifies."""
    pool.whole = address == AWAY
    there = await solved(tmp_path / "there.db", 3, address)
    here = await solved(tmp_path / "here.db", None)
    assert [(one.run_id, one.status, one.result) for one in there] == [
        (one.run_id, one.status, one.result) for one in here
    ]
    assert decisions(tmp_path / "there.db") == decisions(tmp_path / "here.db")
    assert len(pool.channels) == 3
    assert verify(tmp_path / "there.db", "b", make_recorded).verdict == "verified"


class Summed(mdap.Process[int]):
    """Asks for a number of its own, and for that of a smaller one."""

    size: int = 2

    async def solve(self, ask: mdap.Ask) -> int:
        own = await ask(mdap.Step(user=f"{self.size}", parse=int))
        return own if not self.size else own + await ask.solve(Summed(size=self.size - 1))


@pytest.mark.parametrize("address", ["processes", AWAY])
async def test_processes_keep_their_nested_tasks(
    pool: LoopPool, model: "Asked", tmp_path: Path, address: str
) -> None:
    """A worker decides a process with all its parts, also a second time, from what is on record."""
    pool.whole = address == AWAY
    tasks = [Summed(size=size) for size in (1, 2, 3)]
    budgets = (mdap.Budget(tokens=1_600), None)
    for budget in budgets:
        cluster = mdap.Cluster(workers=2, address=address)
        async with mdap.Session(
            "tests.helpers:provided/it", db=tmp_path / "a.db", cluster=cluster, budget=budget
        ) as open_session:
            ended = [one async for one in open_session.solve_all(tasks, run_id="b")]
    assert [one.result for one in ended] == [2, 3, 4]
    assert verify(tmp_path / "a.db", "b", make_recorded).verdict == "verified"


async def test_cases_are_dealt_evenly(pool: LoopPool, tmp_path: Path) -> None:
    """No worker is dealt more than its share, though one may have joined before the others."""
    await solved(tmp_path / "a.db", 3)
    with closing(sqlite3.connect(tmp_path / "a.db")) as log:
        sql = "SELECT data->>'worker' AS worker, count(*) FROM run_events WHERE kind = 'started' GROUP BY 1"
        shares = dict(log.execute(sql).fetchall())
    assert shares == {None: 1, "worker 1": 4, "worker 2": 4, "worker 3": 4}


@pytest.mark.parametrize("address", ["processes", AWAY])
async def test_a_lost_workers_cases_are_dealt_again(pool: LoopPool, tmp_path: Path, address: str) -> None:
    """A worker that is killed costs no case and no decision; the batch says what happened."""
    pool.fate, pool.whole = "dies", address == AWAY
    db = tmp_path / "a.db"
    async with session(db, 2, address) as open_session:
        ended = [one async for one in open_session.solve_all(CASES, run_id="b")]
        summary = await open_session.find("b")
    assert {one.status for one in ended} == {RunStatus.FINISHED}
    assert len(ended) == len(CASES)
    assert len(pool.channels) == 3  # another worker took its place
    assert summary is not None
    [warning] = [one for one in summary.warnings if "was lost" in one]
    assert warning.startswith("worker 1 was lost (killed); mdap deals ")
    await solved(tmp_path / "here.db", None)
    assert decisions(db) == decisions(tmp_path / "here.db")
    assert verify(db, "b", make_recorded).verdict == "verified"


async def test_a_worker_that_is_lost_before_it_joins_is_replaced(pool: LoopPool, tmp_path: Path) -> None:
    """The batch keeps as many workers as it was given, and says what happened."""
    pool.fate = "never joins"
    ended = await solved(tmp_path / "a.db", 2)
    assert {one.status for one in ended} == {RunStatus.FINISHED}
    assert len(pool.channels) == 3
    assert warnings(tmp_path / "a.db") == ["worker 1 was lost (killed)"]


@pytest.mark.slow
async def test_a_zombies_facts_are_refused(
    pool: LoopPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker sends that was frozen and given up is refused; it ends when it hears so."""
    monkeypatch.setattr(head, "LEASE", 1.5)
    pool.fate = "freezes"
    db = tmp_path / "a.db"
    async with session(db, 2) as open_session:
        dealer = open_session._resources.dealer
        assert dealer is not None
        ended = [one async for one in open_session.solve_all(CASES, run_id="b")]
        assert dealer.head.lost == 1
        pool.channels[0].thaw()
        await pool.over[0].wait()
        assert dealer.head.refused > 0
    assert {one.status for one in ended} == {RunStatus.FINISHED}
    await solved(tmp_path / "here.db", None)
    assert decisions(db) == decisions(tmp_path / "here.db")
    assert verify(db, "b", make_recorded).verdict == "verified"


class Asked:
    """A model whose every answer is 1, under the eyes of a test."""

    name, nonblocking, max_n = "asked", False, 1

    def __init__(self) -> None:
        self.asked: Callable[[SampleRequest], Awaitable[None]] = self._turn
        self.in_flight = self.most = 0

    async def _turn(self, request: SampleRequest) -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()

    async def sample(self, request: SampleRequest) -> list[Reply]:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await self.asked(request)
        finally:
            self.in_flight -= 1
        return [Reply("1", self.name, input_tokens=10, output_tokens=1)]

    def describe(self) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        pass


@pytest.fixture
def model() -> Iterator[Asked]:
    PROVIDED["it"] = model = Asked()
    yield model
    PROVIDED.clear()


def asking(db: Path, workers: int, **settings: Any) -> mdap.Session:
    return mdap.Session("tests.helpers:provided/it", db=db, cluster=mdap.Cluster(workers=workers), **settings)


async def kills_at_666(pool: LoopPool, request: SampleRequest) -> None:
    """Kill the newest worker at each request of `Walk(seed=666)`."""
    if request.user.startswith("666 "):
        await pool.kill(-1)
        await anyio.sleep_forever()
    await anyio.lowlevel.checkpoint()


async def test_a_case_that_three_workers_died_of_is_given_up(
    pool: LoopPool, model: Asked, tmp_path: Path
) -> None:
    """It takes no other case with it, and its run says why it failed."""
    model.asked = partial(kills_at_666, pool)
    tasks = [Walk(seed=1), Walk(seed=666), Walk(seed=2)]
    async with asking(tmp_path / "a.db", 1) as open_session:
        ended = [one async for one in open_session.solve_all(tasks, run_id="b")]
        recorded = await open_session.find("b/1")
    assert [one.status for one in ended] == [RunStatus.FINISHED, RunStatus.FAILED, RunStatus.FINISHED]
    assert ended[1].reason is not None
    assert ended[1].reason.startswith("3 workers were lost while they worked on b/1; the last one: worker 3 ")
    assert recorded is not None
    assert recorded.reason == ended[1].reason
    assert len(pool.channels) == 4


class Fan(mdap.Process[int]):
    """Solve several walks concurrently."""

    async def solve(self, ask: mdap.Ask) -> int:
        done: list[str] = []
        await ask.solve_all(
            [(f"w{seed}", Walk(seed=seed)) for seed in (1, 2, 3, 666, 5)],
            lambda run_id, result: done.append(run_id),
        )
        return len(done)


async def test_parts_of_lost_workers_end_with_their_process(
    pool: LoopPool, model: Asked, tmp_path: Path
) -> None:
    """It fails with a part that three workers died of, and no other part is left as if it were running."""
    model.asked = partial(kills_at_666, pool)
    async with asking(tmp_path / "a.db", 1) as open_session:
        ended = await open_session.run(Fan(), run_id="fan")
    assert ended.status is RunStatus.FAILED
    assert str(ended.reason).startswith("3 workers were lost while they worked on fan/w666; the last one: ")
    with closing(sqlite3.connect(tmp_path / "a.db")) as log:
        last = "SELECT kind FROM run_events WHERE run = runs.id AND kind != 'sealed' ORDER BY id DESC LIMIT 1"
        ends = dict(log.execute(f"SELECT run_id, ({last}) FROM runs").fetchall())
    assert ends.pop("fan") == ends.pop("fan/w666") == "failed"
    assert len(ends) == 4
    assert set(ends.values()) <= {"finished", "stopped"}  # how far they came depends on the machine


class Panic(BaseException):
    """What a library in Rust raises where it fails: no `Exception`."""


class Panics(Walk):
    """Its own code fails in one of its methods."""

    where: str = "step"

    def step(self, state: tuple[int, int]) -> mdap.Step[int] | None:
        if self.where == "step":
            raise Panic("at the disco")
        return super().step(state)

    def read(self, text: str) -> int:
        if self.where == "read":
            raise Panic("at the disco")
        return super().read(text)

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        raise Panic("at the disco")


class PanicsAtOnce(mdap.Process[int]):
    """The same of a process."""

    async def solve(self, ask: mdap.Ask) -> int:
        raise Panic("at the disco")


@pytest.mark.parametrize("workers", [None, 1])
async def test_whatever_code_of_a_task_raises_fails_its_case_alone(
    pool: LoopPool, tmp_path: Path, workers: int | None
) -> None:
    """In a sentence that says where, with or without workers, and no worker is lost."""
    tasks = [Walk(), PanicsAtOnce(), *(Panics(where=where) for where in ("step", "read", "advance")), Walk()]
    async with session(tmp_path / "a.db", workers) as open_session:
        ended = [one async for one in open_session.solve_all(tasks, run_id="b")]
    assert [one.status == "finished" for one in ended] == [True, *[False] * 4, True]
    for one in ended[1:-1]:
        assert one.status is RunStatus.FAILED
        assert str(one.reason).endswith("Panic: at the disco")
        assert verify(tmp_path / "a.db", one.run_id, make_recorded).verdict == "verified"
    assert len(pool.channels) == (workers or 0)


@pytest.mark.slow
async def test_a_case_that_goes_on_is_not_given_up_however_many_workers_are_lost(
    pool: LoopPool, model: Asked, tmp_path: Path
) -> None:
    """Only a worker lost before the next step is decided counts: machines may come and go for days."""
    met: set[str] = set()

    async def asked(request: SampleRequest) -> None:
        _, step, _ = request.user.split()
        if step != "0" and step not in met:
            met.add(step)
            while len(decisions(tmp_path / "a.db")) < int(step):
                await anyio.lowlevel.checkpoint()
            await pool.kill(-1)
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()

    model.asked = asked
    async with asking(tmp_path / "a.db", 1, speculate="off") as open_session:
        ended = [one async for one in open_session.solve_all([Walk(steps=7)], run_id="b")]
    assert [one.status for one in ended] == [RunStatus.FINISHED]
    assert len(pool.channels) == 1 + 6
    assert verify(tmp_path / "a.db", "b", make_recorded).verdict == "verified"


async def test_workers_share_one_limit(pool: LoopPool, model: Asked, tmp_path: Path) -> None:
    """No more requests are in flight in all workers together than one process may have."""
    limits = mdap.Limits(concurrency=3)
    async with asking(tmp_path / "a.db", 3, limits=limits) as open_session:
        ended = [one async for one in open_session.solve_all([Walk(seed=n) for n in range(9)])]
    assert {one.status for one in ended} == {RunStatus.FINISHED}
    assert model.most == 3


async def test_money_that_a_worker_does_not_want_any_more_comes_back() -> None:
    """Even if call and withdrawal arrive together; otherwise the last requests of a budget wait forever."""
    budget = BudgetGuard(mdap.Budget(tokens=100), [None])
    own: Any = None
    shared = Shared(
        **dict.fromkeys(("writer", "reader", "runs", "claims"), own),
        budget=budget,
        gates=(),
        named={},
        running=set(),
    )
    ends = memory_pair()
    worker = Member("worker 1", ends[0], shared)
    async with anyio.create_task_group() as group:
        for number in range(3):  # each call and its end come in one batch of messages
            group.start_soon(_answered, worker.call("hold", number, 0.0, 60.0))
            worker.spent(number, 0.0, 0.0)
    assert (await budget.reserve(0.0, 100.0)).tokens == 100.0
    for end in ends:
        await end.aclose()


async def _answered(answer: Awaitable[None]) -> None:
    await answer


@pytest.mark.slow
async def test_workers_share_one_budget(pool: LoopPool, model: Asked, tmp_path: Path) -> None:
    """The batch stops, resumably, before all workers together have spent more."""
    # With so long a number, a request is never taken for less than the 11 tokens that it takes.
    tasks = [Walk(seed=10**30 + n, steps=1) for n in range(60)]
    budget, voting = mdap.Budget(tokens=1_000), mdap.VotingSettings(max_tokens=5)
    limits = mdap.Limits(concurrency=4)
    for _ in range(3):  # what earlier sessions spent is spent
        async with asking(tmp_path / "a.db", 3, budget=budget, limits=limits) as open_session:
            ended = [one async for one in open_session.solve_all(tasks, voting=voting, run_id="b")]
            summary = await open_session.find("b")
        assert mdap.StopCause.BUDGET in {one.stop_cause for one in ended}
        assert summary is not None
        assert 0 < summary.totals.usage.input_tokens + summary.totals.usage.output_tokens <= 1_000
    async with asking(tmp_path / "a.db", 3) as open_session:
        ended = [one async for one in open_session.solve_all(tasks, voting=voting, run_id="b")]
    assert {one.status for one in ended} == {RunStatus.FINISHED}


@pytest.mark.slow
async def test_a_lost_worker_buys_again_only_what_the_head_has_not(
    pool: LoopPool, model: Asked, tmp_path: Path
) -> None:
    """After a loss, a batch asks again for at most what the lost worker had in flight and had not sent."""
    pool.fate = "dies"
    count = 0

    async def asked(request: SampleRequest) -> None:
        nonlocal count
        count += 1
        await anyio.sleep(0.01)

    model.asked = asked
    tasks = [Walk(seed=n, steps=30) for n in range(4)]
    async with asking(tmp_path / "a.db", 1, speculate="off") as open_session:
        ended = [one async for one in open_session.solve_all(tasks, run_id="b", k=3)]
    assert {one.status for one in ended} == {RunStatus.FINISHED}
    with closing(sqlite3.connect(tmp_path / "a.db")) as log:
        [[recorded]] = log.execute("SELECT count(*) FROM samples").fetchall()
    assert recorded == 4 * 30 * 3
    wave = 4 * 3  # in flight at a time; one more may have arrived since the facts were packed
    assert 0 < count - recorded <= pool.channels[0].unsent + 2 * wave


async def test_without_workers_a_batch_stops(
    pool: LoopPool, model: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of another version are refused in one sentence, and the batch can be taken up again."""
    monkeypatch.setattr(working, "__version__", "0.0.1")
    async with asking(tmp_path / "a.db", 2) as open_session:
        with pytest.raises(StoppedError, match=r"worker \d has mdap 0.0.1 on Python .*: install the same"):
            await anext(open_session.solve_all([Walk(seed=1)], run_id="b"))
    monkeypatch.undo()
    async with mdap.Session("tests.helpers:provided/it", db=tmp_path / "a.db") as open_session:
        [ended] = [one async for one in open_session.solve_all([Walk(seed=1)], run_id="b")]
    assert ended.status is RunStatus.FINISHED


async def test_a_batch_stops_when_the_pool_is_gone(pool: LoopPool, model: Asked, tmp_path: Path) -> None:
    """Resumably, in one sentence, though its workers still have cases and say nothing."""

    async def asked(request: SampleRequest) -> None:
        pool.lost.set()
        await anyio.sleep_forever()

    model.asked = asked
    tasks = [Walk(seed=n) for n in range(4)]
    async with asking(tmp_path / "a.db", 2) as open_session:
        with pytest.raises(StoppedError, match="the pool is gone"):
            await anext(open_session.solve_all(tasks, run_id="b"))
    PROVIDED["it"] = Asked()
    async with mdap.Session("tests.helpers:provided/it", db=tmp_path / "a.db") as open_session:
        ended = [one async for one in open_session.solve_all(tasks, run_id="b")]
    assert {one.status for one in ended} == {RunStatus.FINISHED}


async def test_a_worker_without_a_key_stops_the_batch(
    pool: LoopPool, model: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker loads the models in its own environment, before anything is asked."""

    def lacking(welcome: Any) -> Any:
        raise UsageError("OPENAI_API_KEY is not set")

    monkeypatch.setattr(working, "_setup", lacking)
    async with asking(tmp_path / "a.db", 2) as open_session:
        with pytest.raises(StoppedError, match=r"worker \d: OPENAI_API_KEY is not set"):
            await anext(open_session.solve_all([Walk(seed=1)], run_id="b"))
    assert model.most == 0


async def test_what_workers_cannot_have_is_refused(pool: LoopPool, model: Asked, tmp_path: Path) -> None:
    """A model that is an object, and a task that only this program has, are refused in one sentence."""
    with pytest.raises(UsageError, match="cannot be asked from other processes"):
        mdap.Session(model, db=tmp_path / "a.db", cluster=mdap.Cluster())

    class Local(Walk):
        pass

    async with asking(tmp_path / "a.db", 1) as open_session:
        [ended] = [one async for one in open_session.solve_all([Local(seed=1)])]
    assert ended.status is RunStatus.FAILED
    assert "where workers cannot find it" in str(ended.reason)


async def test_a_cancelled_batch_is_recorded_by_its_workers(
    pool: LoopPool, model: Asked, tmp_path: Path
) -> None:
    """Every case that was under way ends as interrupted, sealed, and is resumed by the same call."""
    tasks = [Walk(seed=n) for n in range(6)]
    async with asking(tmp_path / "a.db", 2) as open_session:
        batch = open_session.solve_all(tasks, run_id="b", in_order=False)
        await anext(batch)
        await batch.aclose()
        cut = [await open_session.find(f"b/{place}") for place in range(6)]
        assert {one.status for one in cut if one} <= {RunStatus.FINISHED, RunStatus.STOPPED}
        assert all(one.seal for one in cut if one)
        ended = [one async for one in open_session.solve_all(tasks, run_id="b")]
    assert {one.status for one in ended} == {RunStatus.FINISHED}
    assert verify(tmp_path / "a.db", "b", make_recorded).verdict == "verified"


async def test_a_worker_without_the_task_says_so(
    pool: LoopPool, model: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case fails with a sentence that says where the task's package is missing."""

    def lacking(name: str, params: Any) -> Any:
        raise UsageError(f"there is no task {name}")

    monkeypatch.setattr(working, "make_recorded", lacking)
    async with asking(tmp_path / "a.db", 1) as open_session:
        [ended] = [one async for one in open_session.solve_all([Walk(seed=1)], run_id="b")]
    assert ended.status is RunStatus.FAILED
    assert str(ended.reason).startswith(
        "install the task's package where workers run: at the worker, there is"
    )
