"""A session: runs from end to end over a real database, however they end and however often they are cut."""

import gc
import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

import mdap
from mdap.engine.recording import Opening
from mdap.engine.voting import Race
from mdap.errors import (
    FailedError,
    StoppedError,
    TransientError,
    UnavailableError,
    UndecidedError,
    UsageError,
)
from mdap.journal.logfile import CONNECTION
from mdap.records import Reply, RunStatus, SampleRequest
from mdap.rules.certificate import error_upper_bound
from mdap.rules.scaling import minimal_k
from mdap.settings import Limits, VotingSettings
from mdap.testing import ScriptedProvider
from mdap_hanoi import Hanoi
from tests.helpers import PROVIDED, Model, Walk, cut_at, mostly_slow

SLOW = {"error_rate": 0.3, "flag_rate": 0.1, "latency": 0.0005, "seed": 2}
MODES = ["off", "vote", "guess"]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture(autouse=True)
def _providers() -> Iterator[None]:
    PROVIDED.clear()
    yield
    PROVIDED.clear()


def provide(provider: Any) -> str:
    PROVIDED["it"] = provider
    return "tests.helpers:provided/it"


def said_by(model: Model, *, nonblocking: bool = True) -> ScriptedProvider:
    return ScriptedProvider(lambda request, n: model.says(request.user, n), nonblocking=nonblocking)


def query(db: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db, timeout=0, factory=CONNECTION)) as connection:
        return connection.execute(sql, values).fetchall()


def decisions(db: Path, run_id: str) -> list[tuple[Any, ...]]:
    """What was decided, and by which samples: all that may not depend on when samples came."""
    return query(
        db,
        """SELECT d.step, p.input, d.winner, d.tally, d.votes, d.margin,
            (SELECT group_concat(line, ' ') FROM (
                SELECT s.ordinal || ':' || s.verdict || ':' || t.body AS line
                FROM samples s JOIN texts t ON t.id = s.text
                WHERE s.run = d.run AND s.step = d.step AND s.opening = d.opening AND s.counted IS NOT NULL
                ORDER BY s.ordinal))
        FROM decisions d JOIN runs r ON r.id = d.run
        JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening
        WHERE r.run_id = ? ORDER BY d.place""",
        run_id,
    )


def events(db: Path, run_id: str) -> list[str]:
    sql = """SELECT e.kind FROM run_events e JOIN runs r ON r.id = e.run
        WHERE r.run_id = ? AND e.kind <> 'sealed' ORDER BY e.id"""
    return [kind for (kind,) in query(db, sql, run_id) if kind != "attempt_failed"]


# --- how a run ends


async def test_d16_a_run_from_end_to_end(db: Path) -> None:
    """D16: through the public entry point, a task is solved, and every number is in the database."""
    task = Walk(steps=30, seed=1)
    options = {"error_rate": 0.1, "flag_rate": 0.1}
    solution = await mdap.solve(task, k=4, options=options, db=db, run_id="one")

    state = task.start()
    for _ in range(30):
        state = task.advance(state, task.oracle(state))
    assert (solution.status, solution.result) == (RunStatus.FINISHED, list(state))
    assert (solution.run_id, solution.k, solution.steps, solution.reason) == ("one", 4, 30, None)
    [row] = query(
        db, "SELECT steps, samples, votes, red_flags, void, input_tokens, output_tokens FROM run_totals"
    )
    totals, usage = solution.totals, solution.usage
    counted = (totals.steps, totals.samples, totals.votes, totals.red_flags, totals.void)
    assert row == (*counted, usage.input_tokens, usage.output_tokens)
    assert totals.red_flags > 0
    assert totals.votes >= 4 * 30
    assert events(db, "one") == ["started", "finished"]
    assert query(db, "SELECT digest FROM decisions ORDER BY place DESC LIMIT 1") == [(solution.digest,)]
    assert 0 < (solution.p_zero_errors or 0) <= 1


def test_a_script_needs_no_loop(db: Path) -> None:
    """`solve_sync` does what `solve` does."""
    solution = mdap.solve_sync(Walk(steps=3), k=2, options={"error_rate": 0}, db=db)
    assert (solution.status, solution.totals.votes) == (RunStatus.FINISHED, 6)


@pytest.mark.parametrize("mode", MODES)
async def test_d6_an_undecided_step_is_visible(db: Path, mode: str) -> None:
    """D6: no winner within the allowed samples is an error and a status, with no decision and no result."""
    task = Walk(steps=5)
    provider = ScriptedProvider(lambda request, n: str(n % 2), nonblocking=mode == "off")
    voting = VotingSettings(k=2, max_samples=9)
    async with mdap.Session(provide(provider), db=db, speculate=mode) as session:
        with pytest.raises(UndecidedError, match="step 0 has no winner after 9 samples") as raised:
            await session.solve(task, voting=voting, run_id="one")
        solution = raised.value.solution
        again = await session.run(task, voting=voting, run_id="one")
    assert (solution.status, solution.result, solution.steps) == (RunStatus.UNDECIDED, None, 0)
    assert again.status is RunStatus.UNDECIDED
    assert query(db, "SELECT * FROM decisions") == []
    assert query(db, "SELECT verdict, count(*) FROM samples GROUP BY verdict") == [("vote", 9)]
    assert events(db, "one") == ["started", "undecided", "resumed", "undecided"]
    assert len([asked for asked in provider.requests if asked.key == "0"]) == 9


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (UnavailableError("no key"), StoppedError, RunStatus.STOPPED),
        (TransientError("down", kind="connection"), StoppedError, RunStatus.STOPPED),
        (ZeroDivisionError("a bug"), FailedError, RunStatus.FAILED),
    ],
)
@pytest.mark.parametrize("nonblocking", [True, False])
async def test_a_provider_that_fails_ends_the_run(
    db: Path,
    monkeypatch: pytest.MonkeyPatch,
    nonblocking: bool,
    error: Exception,
    kind: type[mdap.RunError],
    status: RunStatus,
) -> None:
    """Stopped where a person can help, failed where the run cannot go on; resumable, and never a group."""
    monkeypatch.setattr("mdap.engine.scheduler.backoff", lambda *_: 0.0)
    task = Walk(steps=6, seed=4)
    model = Model(task)

    def say(request: SampleRequest, ordinal: int) -> Reply | Exception:
        return error if int(request.key) >= 3 else model.says(request.user, ordinal)

    async with mdap.Session(provide(ScriptedProvider(say, nonblocking=nonblocking)), db=db) as session:
        with pytest.raises(kind) as raised:
            await session.solve(task, k=2, run_id="one")
    solution = raised.value.solution
    assert (solution.status, solution.steps, solution.result) == (status, 3, None)
    assert str(error) in (solution.reason or "")
    assert str(raised.value) == f"run one: {solution.reason}"
    assert events(db, "one")[-1] == str(status)

    healed = said_by(model, nonblocking=nonblocking)
    async with mdap.Session(provide(healed), db=db) as session:
        assert (await session.solve(task, k=2, run_id="one")).status is RunStatus.FINISHED
    assert min(int(asked.key) for asked in healed.requests) == 3


class Broken(Walk):
    where: str

    def read(self, text: str) -> int:
        if self.where == "parse":
            raise LookupError("a bug")
        return super().read(text)

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        if self.where == "advance":
            raise LookupError("a bug")
        return super().advance(state, answer)

    def start(self) -> tuple[int, int]:
        if self.where == "start":
            raise LookupError("a bug")
        return super().start()

    def result(self, state: tuple[int, int]) -> Any:
        if self.where == "result":
            raise LookupError("a bug")
        return object() if self.where == "json" else state


@pytest.mark.parametrize("where", ["start", "parse", "advance", "result", "json"])
@pytest.mark.parametrize("latency", [0, 0.0001])
async def test_a_tasks_own_bug_fails_the_run(db: Path, where: str, latency: float) -> None:
    """The error names the task and what it was doing; what was paid for is on record."""
    async with mdap.Session(db=db, options={"latency": latency}) as session:
        with pytest.raises(FailedError, match=r"run one: task .*Broken failed while") as raised:
            await session.solve(Broken(steps=3, where=where), run_id="one")
    assert raised.value.solution.status is RunStatus.FAILED
    assert events(db, "one") == ["started", "failed"]
    if where == "parse":
        assert query(db, "SELECT DISTINCT verdict, flag_reason FROM samples") == [
            ("cancelled", "parser error: LookupError")
        ]


async def test_an_error_of_the_body_comes_out_bare(db: Path) -> None:
    """A session adds nothing to the errors of those who use it."""

    async def body() -> None:
        async with mdap.Session(db=db):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await body()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"k": 0}, "k"),
        ({"k": -3}, "k"),
        ({"k": 1001}, "k"),
        (
            {"voting": VotingSettings(k=3, max_samples=5), "k": 6},
            "max_samples=5 can never give a lead of k=6",
        ),
    ],
)
async def test_d13_a_margin_that_cannot_be_used_is_refused(db: Path, what: Any, sentence: str) -> None:
    """D13: refused with a sentence that names k, before anything is recorded or asked."""
    async with mdap.Session(db=db) as session:
        with pytest.raises(UsageError, match=sentence):
            await session.solve(Walk(), **what)
    assert query(db, "SELECT * FROM runs") == []


MARGINS = (*range(1, 13), 16, 23, 31, 40)


@pytest.mark.slow
async def test_d13_every_margin_is_used_as_requested(db: Path) -> None:
    """D13: no ceiling and no floor: k from 1 to 40 is recorded, and every decision's lead is just k."""
    async with mdap.Session(db=db, options={"error_rate": 0.2, "flag_rate": 0.05}) as session:
        for k in MARGINS:
            solution = await session.solve(Walk(steps=2, seed=k), k=k, run_id=f"run {k}")
            assert (solution.k, solution.steps) == (k, 2)
    assert query(db, "SELECT k FROM runs ORDER BY id") == [(k,) for k in MARGINS]
    rows = query(
        db,
        "SELECT k, settings->>'k', margin, votes, tally FROM decisions JOIN runs ON runs.id = run",
    )
    assert len(rows) == 2 * len(MARGINS)
    for k, setting, margin, votes, tally in rows:
        first, second = [*sorted(json.loads(tally).values(), reverse=True), 0][:2]
        assert (setting, margin, votes, first - second) == (k, k, first, k)


@pytest.mark.parametrize("model", ["nonsense", "no.such.module:create", "tests.helpers:nothing"])
async def test_a_model_that_is_not_to_be_had_is_refused(db: Path, model: str) -> None:
    """Before the database is touched."""
    with pytest.raises(UsageError):
        async with mdap.Session(model, db=db):
            pytest.fail("opened")
    assert not await anyio.Path(db).exists()


async def test_a_session_closes_its_provider(db: Path) -> None:
    """However it ends, once."""
    closed: list[str] = []

    class Closing(ScriptedProvider):
        async def aclose(self) -> None:
            closed.append(self.name)

    async with mdap.Session(provide(Closing([])), db=db):
        assert closed == []
    assert closed == ["scripted"]

    async def body() -> None:
        async with mdap.Session(provide(Closing([])), db=db):
            raise LookupError

    with pytest.raises(LookupError):
        await body()
    assert len(closed) == 2


# --- going on


async def cut(session: mdap.Session, task: Walk, rng: random.Random, **settings: Any) -> bool:
    """Run *task*, cancelled at some turn of the loop after some votes; return whether it was."""
    begun = await session.find(settings.get("run_id", "-"))
    votes = rng.randrange(40) + (begun.totals.votes if begun is not None else 0)
    return await cut_at(session, task, votes, rng.randrange(40), **settings) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", mostly_slow(range(3)))
async def test_a_run_that_is_cut_again_and_again_ends_as_if_it_was_not(
    db: Path, mode: str, seed: int
) -> None:
    """P3: cancelled at random moments, resumed by name in new sessions: the same decisions, none twice."""
    rng = random.Random(seed)
    task, options = Walk(steps=25, seed=seed), {**SLOW, "seed": seed}
    plain = await mdap.solve(task, k=3, options={**options, "latency": 0}, db=db, run_id="plain")
    cuts = 0
    for _ in range(6):
        async with mdap.Session(db=db, options=options, speculate=mode) as session:
            cuts += await cut(session, task, rng, k=3, run_id="cut")
    async with mdap.Session(db=db, options=options, speculate=mode) as session:
        ended = await session.solve(task, k=3, run_id="cut")
    assert cuts > 0
    assert (ended.result, ended.steps) == (plain.result, 25)
    assert decisions(db, "cut") == decisions(db, "plain")
    assert query(db, "SELECT count(*) FROM pending") == [(0,)]
    # A run that was resumed after its end says nothing new.
    ends = events(db, "cut")
    assert (ends[0], ends[-1], ends.count("finished")) == ("started", "finished", 1)
    assert set(ends) <= {"started", "resumed", "stopped", "finished"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", mostly_slow(range(2)))
async def test_a_run_can_go_on_in_the_session_in_which_it_was_cut(db: Path, mode: str, seed: int) -> None:
    """Resumed at once, before what the cut one left is committed: the same decisions, none twice."""
    rng = random.Random(seed)
    task, options = Walk(steps=25, seed=seed), {**SLOW, "seed": seed}
    await mdap.solve(task, k=3, options={**options, "latency": 0}, db=db, run_id="plain")
    async with mdap.Session(db=db, options=options, speculate=mode) as session:
        for _ in range(6):
            await cut(session, task, rng, k=3, run_id="cut")
        ended = await session.solve(task, k=3, run_id="cut")
    assert ended.status is RunStatus.FINISHED
    assert decisions(db, "cut") == decisions(db, "plain")


@pytest.mark.parametrize("mode", ["off", "vote"])
@pytest.mark.parametrize("seed", mostly_slow(range(2)))
async def test_a_run_can_go_on_at_once_in_another_session(db: Path, mode: str, seed: int) -> None:
    """A cut run is given back only when all of it is durable: whoever resumes it then finds it whole."""
    rng = random.Random(seed)
    task, options = Walk(steps=25, seed=seed), {**SLOW, "seed": seed}
    await mdap.solve(task, k=3, options={**options, "latency": 0}, db=db, run_id="plain")
    async with (
        mdap.Session(db=db, options=options, speculate=mode) as one,
        mdap.Session(db=db, options=options, speculate=mode) as other,
    ):
        for session in (one, other, one, other):
            await cut(session, task, rng, k=3, run_id="cut")
        ended = await one.solve(task, k=3, run_id="cut")
    assert ended.status is RunStatus.FINISHED
    assert decisions(db, "cut") == decisions(db, "plain")


class Legal(Walk):
    """Knows the right answer only in states that right answers lead to."""

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        return (state[0] + 1, state[1] + (answer != 1))

    def step(self, state: tuple[int, int]) -> mdap.Step[int] | None:
        return mdap.Step(user=str(state), parse=self.read)

    def oracle(self, state: tuple[int, int]) -> int:
        if state[1]:
            raise LookupError("nothing is right here")
        return 1


@pytest.mark.parametrize("mode", MODES)
async def test_an_oracle_need_not_know_what_is_right_after_a_wrong_answer(db: Path, mode: str) -> None:
    """A provider's failure on a guessed input matters only if the guess comes true."""
    options = {"error_rate": 0.3, "latency": 0.0003, "seed": 1}
    solution = await mdap.solve(Legal(steps=30), k=5, options=options, db=db, speculate=mode)
    assert (solution.status, solution.result) == (RunStatus.FINISHED, [30, 0])


@pytest.mark.parametrize("mode", ["vote", "guess"])
@pytest.mark.parametrize("seed", mostly_slow(range(4), 2))
async def test_speculation_changes_no_decision(db: Path, mode: str, seed: int) -> None:
    """The same seed gives the same decisions by the same samples; what was taken in vain is void, by row."""
    rng = random.Random(seed)
    options = {"error_rate": rng.choice([0.01, 0.1, 0.3]), "flag_rate": 0.1, "seed": seed}
    task = Walk(steps=40, seed=seed)
    off = await mdap.solve(task, k=3, options=options, db=db, run_id="off")
    slow = {**options, "latency": 0.0003, "latency_sigma": 1.0}
    on = await mdap.solve(task, k=3, options=slow, db=db, run_id="on", speculate=mode)
    assert decisions(db, "on") == decisions(db, "off")
    assert (off.totals.void, on.result) == (0, off.result)
    counted = on.totals.votes + on.totals.red_flags
    assert counted == off.totals.samples == len(query(db, "SELECT * FROM samples WHERE run = 1"))
    verdicts = query(db, "SELECT DISTINCT verdict FROM samples WHERE run = 2 AND counted IS NULL")
    assert verdicts in ([], [("void",)])


async def test_a_run_is_resumed_by_its_name_alone(db: Path) -> None:
    """`resume` takes task, parameters and settings from the rows; a beginning of the name will do."""
    provider = ScriptedProvider(["1"] * 5)
    task = Walk(steps=4, seed=9)
    async with mdap.Session(provide(provider), db=db) as session:
        assert (await session.run(task, k=2, run_id="alpha-1")).status is RunStatus.STOPPED
        assert (await session.run(task, k=2, run_id="beta-1")).status is RunStatus.STOPPED
    async with mdap.Session(provide(ScriptedProvider(["1"] * 30)), db=db) as session:
        assert (await session.resume("alpha")).run_id == "alpha-1"
        latest = await session.resume("latest")
        assert (latest.run_id, latest.k, latest.steps) == ("beta-1", 2, 4)
        with pytest.raises(UsageError, match="there is no run 'gamma'"):
            await session.resume("gamma")
        found = await session.find("beta-1")
        assert found == latest
        assert await session.find("beta") is None


async def test_a_finished_run_is_returned_as_it_is(db: Path) -> None:
    """Nothing is asked and nothing is recorded."""
    provider = ScriptedProvider(["1"] * 6)
    async with mdap.Session(provide(provider), db=db) as session:
        first = await session.solve(Walk(steps=3), k=2, run_id="one")
        assert await session.solve(Walk(steps=3), k=2, run_id="one") == first
        assert await session.resume("one") == first
    assert len(provider.requests) == 6
    assert events(db, "one") == ["started", "finished"]


class Renewed(Walk):
    version = "2"


@pytest.mark.parametrize(
    ("task", "settings", "options", "what"),
    [
        (Walk(steps=5), {"k": 2}, {}, "steps = 4, not 5"),
        (Walk(steps=4), {"k": 3}, {}, "k = 2, not 3"),
        (Walk(steps=4), {"k": 2, "voting": VotingSettings(temperatures=(0.5,))}, {}, "temperatures = "),
        (Walk(steps=4), {"k": 2}, {"seed": 1}, "seed = 0, not 1"),
        (Renewed(steps=4), {"k": 2}, {}, "task"),
    ],
)
async def test_a_run_is_not_resumed_under_other_rules(
    db: Path, task: Walk, settings: dict[str, Any], options: dict[str, Any], what: str
) -> None:
    """What decides the law of the votes is fixed with the first session; other values are refused by name."""
    await mdap.solve(Walk(steps=4), k=2, db=db, run_id="one")
    with pytest.raises(UsageError, match=f"run one was started with {what}"):
        await mdap.solve(task, db=db, run_id="one", options=options, **settings)


async def test_limits_may_differ_from_one_session_to_the_next(db: Path) -> None:
    """How fast samples are asked for is no part of the run."""
    limits = Limits(concurrency=1, requests_per_minute=6000)
    first = await mdap.solve(Walk(steps=1), k=1, db=db, run_id="one")
    assert await mdap.solve(Walk(steps=1), k=1, db=db, run_id="one", limits=limits) == first


async def test_a_budget_counts_what_was_spent_once(db: Path) -> None:
    """A run that goes on in the session in which it stopped has spent what it has spent, not twice that."""
    reply = Reply("1", "toy", input_tokens=60, output_tokens=40)
    provider = ScriptedProvider([*[reply] * 12, UnavailableError("for now"), *[reply] * 20])
    # A model that nothing is known of is expected to use all the tokens it may.
    task, budget, voting = Walk(steps=8), mdap.Budget(tokens=1700), VotingSettings(k=2, max_tokens=40)
    async with mdap.Session(provide(provider), db=db, budget=budget) as session:
        first = await session.run(task, voting=voting, run_id="one")
        assert (first.status, first.reason) == (RunStatus.STOPPED, "for now")
        assert first.usage.input_tokens + first.usage.output_tokens == 1200
        second = await session.run(task, voting=voting, run_id="one")
    assert (second.status, second.reason) == (RunStatus.FINISHED, None)


@pytest.mark.parametrize("mode", mostly_slow(["guess", "vote"]))
async def test_samples_on_a_guess_are_paid_for(db: Path, mode: str) -> None:
    """Those that still wait for it when the run stops, too: in its totals, cost, progress and budget."""
    prices = {"sim": mdap.Price(input=1, output=1)}
    for budget in (20_000, 40_000, 40_000, 10**9):
        progress = mdap.Progress()
        async with mdap.Session(
            db=db,
            speculate=mode,
            options={"latency": 0.004, "fault_rate": 0.2},
            budget=mdap.Budget(tokens=budget),
            prices=prices,
        ) as session:
            run = await session.run(Hanoi(disks=6), k=3, run_id="one", progress=progress)
        both = "SELECT * FROM samples UNION ALL SELECT * FROM pending"
        [(samples, tokens)] = query(db, f"SELECT count(*), sum(input_tokens + output_tokens) FROM ({both})")
        assert tokens <= budget + 1_000  # the last reply may be an overlong one
        assert (run.totals.samples, run.usage.input_tokens + run.usage.output_tokens) == (samples, tokens)
        assert run.cost_usd == pytest.approx(tokens / 1e6)
        assert (progress.votes, progress.red_flags) == (run.totals.votes, run.totals.red_flags)
    assert run.status is RunStatus.FINISHED


async def test_what_is_left_of_a_budget_is_used(db: Path) -> None:
    """A resumed run knows how long replies are; where nothing is known, the sentence says what to lower."""
    taken = []
    for tokens in (1_000, 20_000, 21_400):
        async with mdap.Session(db=db, speculate="off", budget=mdap.Budget(tokens=tokens)) as session:
            run = await session.run(Hanoi(disks=7), run_id="one")
        taken.append(run.totals.samples)
        if tokens == 1_000:
            assert "750 output tokens are reserved for a reply, which --max-tokens lowers" in str(run.reason)
        else:
            assert "reserved" not in str(run.reason)
    assert taken[0] == 0 < taken[1] < taken[2]


async def test_nothing_is_in_flight_once_a_run_has_ended(db: Path) -> None:
    """Also if its time was over while it waited; the record says how many samples it had asked for."""
    progress, budget = mdap.Progress(), mdap.Budget(seconds=0.2)
    async with mdap.Session(db=db, options={"latency": 60}, budget=budget) as session:
        run = await session.run(Hanoi(disks=3), progress=progress)
    assert run.status is RunStatus.STOPPED
    assert progress.in_flight == 0
    assert query(db, "SELECT data ->> 'in_flight' FROM run_events WHERE kind = 'stopped'") == [(3,)]


async def test_a_budget_counts_the_pilot_of_a_resumed_run(db: Path) -> None:
    """Once, whether the pilot or the run stopped, and in whichever session."""
    ended = set()
    for budget in (20_000, 200_000, 230_000, 230_000, 10**9):
        async with mdap.Session(db=db, speculate="off", budget=mdap.Budget(tokens=budget)) as session:
            try:
                ended.add((await session.run(Hanoi(disks=7), k="auto", run_id="one")).status)
            except StoppedError:  # the pilot
                assert budget == 20_000
        [(tokens,)] = query(db, "SELECT sum(input_tokens + output_tokens) FROM samples")
        assert tokens <= budget + 1_000  # the last reply may be an overlong one
        assert tokens > min(budget, 230_000) - 5_000
    assert ended == {RunStatus.STOPPED, RunStatus.FINISHED}


# --- many runs


class Counting(ScriptedProvider):
    """Says what a model of the toy chain says, after some turns of the loop, and counts who is inside."""

    def __init__(self, tasks: Sequence[Walk]) -> None:
        models = {task.seed: Model(task) for task in tasks}
        super().__init__(
            lambda request, n: models[int(request.user.split()[0])].says(request.user, n), nonblocking=False
        )
        self.inside = self.most = 0

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            return await super().sample(request)
        finally:
            self.inside -= 1


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_runs_of_one_session_share_its_limits(db: Path, concurrency: int) -> None:
    """All runs together never have more in flight than allowed, and each decides what it would alone."""
    tasks = [Walk(steps=10, seed=seed) for seed in range(8)]
    provider = Counting(tasks)

    async def together(session: mdap.Session, task: Walk) -> None:
        await session.solve(task, k=2, run_id=f"together {task.seed}")

    async with (
        mdap.Session(provide(provider), db=db, limits=Limits(concurrency=concurrency)) as session,
        anyio.create_task_group() as group,
    ):
        for task in tasks:
            group.start_soon(together, session, task)
    assert provider.most == concurrency
    for task in tasks:
        async with mdap.Session(provide(said_by(Model(task))), db=db) as session:
            await session.solve(task, k=2, run_id=f"alone {task.seed}")
        assert decisions(db, f"together {task.seed}") == decisions(db, f"alone {task.seed}")


async def test_a_run_that_fails_leaves_the_others_alone(db: Path) -> None:
    """One run's end is not the session's."""
    async with mdap.Session(db=db, options={"latency": 0.0005}) as session:
        ended: dict[str, RunStatus] = {}

        async def run(task: Walk, name: str) -> None:
            ended[name] = (await session.run(task, k=2, run_id=name)).status

        async with anyio.create_task_group() as group:
            group.start_soon(run, Broken(steps=3, where="parse"), "broken")
            group.start_soon(run, Walk(steps=20), "good")
            group.start_soon(cut, session, Walk(steps=20), random.Random(1))
    assert ended == {"broken": RunStatus.FAILED, "good": RunStatus.FINISHED}


# --- what it costs


class Weighed(Walk):
    """Counts, every hundred steps, what the engine keeps in memory."""

    def step(self, state: tuple[int, int]) -> mdap.Step[int] | None:
        if state[0] % 100 == 50:
            kinds = [type(found) for found in gc.get_objects()]
            SEEN.append(sum(issubclass(kind, (Opening, Race, mdap.Step)) for kind in kinds))
        return super().step(state)


SEEN: list[int] = []


@pytest.mark.parametrize("mode", ["vote", "guess"])
@pytest.mark.slow
async def test_d21_memory_does_not_grow_with_the_steps(db: Path, mode: str) -> None:
    """D21 and P6: no more steps are in memory at the end of a run than at its beginning."""
    SEEN.clear()
    options = {"error_rate": 0.1, "latency": 0.0 if mode == "off" else 1e-6}
    solution = await mdap.solve(
        Weighed(steps=900), k=2, options=options, db=db, speculate=mode, limits=Limits(concurrency=8)
    )
    assert solution.steps == 900
    assert len(SEEN) >= 9
    assert 0 < max(SEEN[-4:]) <= max(SEEN[:4]) + 20


async def test_d12_the_margin_comes_from_valid_samples(db: Path) -> None:
    """D12: with `auto`, p is the share of right answers among *votes*; flags say nothing about it."""
    task = Walk(steps=500, seed=3)
    options = {"error_rate": 0.15, "flag_rate": 0.7, "seed": 3}
    solution = await mdap.solve(task, k="auto", target=0.99, options=options, db=db, run_id="one")
    [(samples, votes)] = query(db, "SELECT samples, votes FROM run_totals WHERE run_id = 'one-pilot'")
    [(right,)] = query(
        db, "SELECT sum(d.votes) FROM decisions d JOIN runs r ON r.id = d.run WHERE r.kind = 'pilot'"
    )
    assert solution.k == minimal_k(error_upper_bound(votes - right, votes), 500, 0.99)
    assert solution.k != minimal_k(error_upper_bound(votes - right, samples), 500, 0.99)
    assert votes >= 400
    assert solution.status is RunStatus.FINISHED


async def test_facts_are_events_of_structlog_without_model_text(db: Path) -> None:
    """With `log`, each recorded fact is one event; what a model wrote is in none of them."""
    provider = ScriptedProvider(["1", "SECRET", "1", "1"])
    with capture_logs() as logs:
        async with mdap.Session(provide(provider), db=db, log=True) as session:
            await session.solve(Walk(steps=1), k=3, run_id="one")
    names = [entry["event"] for entry in logs]
    assert names.count("sample.taken") == 4
    assert names.count("step.decided") == names.count("step.opened") == 1
    assert names[0] == "run.started"
    assert names[-2:] == ["run.finished", "run.sealed"]
    assert "SECRET" not in repr(logs)
