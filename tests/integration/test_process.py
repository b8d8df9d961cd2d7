"""Processes and batches over a real database: every way to ask, cut anywhere, and resumed."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import mdap
from mdap.audit import verify
from mdap.errors import UsageError
from mdap.plugins import make_task
from mdap.records import RunStatus
from mdap.session.deciding import settle_step
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, cut_at, mostly_slow
from tests.integration.test_session import events, provide, query
from tests.processes import (
    CALLS,
    SENT,
    Changing,
    Double,
    Doubles,
    Forgiving,
    ForgivingGroup,
    HanoiProcess,
    Sender,
    Tree,
    double,
)

NOISY = {"error_rate": 0.15, "flag_rate": 0.05, "seed": 4}
SLOW = {**NOISY, "latency": 0.0005}


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CALLS.clear()
    yield
    PROVIDED.clear()
    CALLS.clear()
    SENT.clear()


def by_content(db: Path, run_id: str) -> list[tuple[Any, ...]]:
    """What was decided on which votes, whatever the order."""
    return query(
        db,
        """SELECT r.run_id, p.key, p.input, d.winner, d.tally,
            (SELECT group_concat(s.ordinal || s.verdict || coalesce(s.answer_key, '')) FROM samples s
             WHERE s.run = d.run AND s.step = d.step AND s.counted IS NOT NULL ORDER BY s.ordinal)
        FROM decisions d JOIN runs r ON r.id = d.run
        JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening
        WHERE r.run_id = ?1 OR r.run_id LIKE ?1 || '/%' ORDER BY 1, 2, 3""",
        run_id,
    )


# --- asking


@pytest.mark.parametrize("options", [NOISY, SLOW])
async def test_every_way_to_ask(db: Path, options: dict[str, Any]) -> None:
    """Side by side, in turn, nested, twice the same, and once: each step is decided once, and recorded."""
    solution = await mdap.solve(Tree(), k=4, options=options, db=db, run_id="t")
    assert solution.result == Tree().expected("note 1")
    assert CALLS == ["noted"]
    # 12 in the map, some of them asked for again; the climb goes beyond them; one note and two parts.
    kinds = query(db, "SELECT d.author IS NULL, count(*) FROM decisions d GROUP BY 1 ORDER BY 1")
    assert kinds == [(0, 3), (1, 12 + 1 + 1 + 3)]
    assert solution.steps == 20
    runs = query(
        db, "SELECT r.run_id, p.run_id FROM runs r LEFT JOIN runs p ON p.id = r.parent ORDER BY r.id"
    )
    assert runs[0] == ("t", None)
    assert {parent for _, parent in runs[1:]} == {"t"}
    assert ("t/tower", "t") in runs
    [(samples,)] = query(db, "SELECT count(*) FROM samples")
    assert solution.totals.samples == samples


async def test_what_a_process_comes_to_does_not_depend_on_concurrency(db: Path) -> None:
    """The same seed gives the same decisions on the same votes, whatever is in flight at once."""
    for number, concurrency in enumerate((1, 3, 200)):
        limits = mdap.Limits(concurrency=concurrency)
        await mdap.solve(Tree(), k=3, options=SLOW, db=db, run_id=f"r{number}", limits=limits)
    one, *others = (
        [(key, about, winner, tally, votes) for _, key, about, winner, tally, votes in by_content(db, name)
         if not key.startswith("once")]
        for name in ("r0", "r1", "r2")
    )  # fmt: skip
    assert len(one) >= 18
    assert all(sorted(other) == sorted(one) for other in others)


async def test_the_same_tower_as_a_chain_and_as_a_process(db: Path) -> None:
    """A chain written as a process: the same answers, by the same votes."""
    from mdap_hanoi import Hanoi

    options = {"error_rate": 0.2, "flag_rate": 0.05, "seed": 1}
    chain = await mdap.solve(Hanoi(disks=5), k=5, options=options, db=db, run_id="c")
    process = await mdap.solve(HanoiProcess(disks=5), k=5, options=options, db=db, run_id="p")
    assert chain.result == process.result == {"solved": True, "moves": 31}
    assert [row[1:] for row in by_content(db, "c")] == [row[1:] for row in by_content(db, "p")]
    assert chain.totals == process.totals


async def test_open_steps_are_bounded(db: Path) -> None:
    """However wide the fan-out, no more steps are open than the limits can use."""
    limits = mdap.Limits(concurrency=4)
    solution = await mdap.solve(Tree(width=300), k=2, options=SLOW, db=db, run_id="t", limits=limits)
    assert solution.status is RunStatus.FINISHED
    sql = "SELECT max(d.step - d.place) FROM decisions d JOIN runs r ON r.id = d.run WHERE r.run_id = 't'"
    [(widest,)] = query(db, sql)
    assert 0 < widest <= 64


# --- ends other than the good one


async def test_an_undecided_step_can_be_caught(db: Path) -> None:
    """A process may go on without a winner; the step is on record, without a decision."""
    provider = ScriptedProvider(lambda request, n: str(n % 2))
    voting = mdap.VotingSettings(k=2, max_samples=8)
    solution = await mdap.solve(Forgiving(number=1), model=provide(provider), voting=voting, db=db)
    assert solution.status is RunStatus.FINISHED
    assert "no winner after 8 samples" in solution.result
    assert query(db, "SELECT count(*) FROM decisions") == [(0,)]


async def test_a_group_fails_alike_when_it_is_audited(db: Path) -> None:
    """What ends a group comes out bare, in the run and when its function is run again from the record."""
    provider = ScriptedProvider(lambda request, n: str(n % 2) if request.user == "double 1" else "4")
    voting = mdap.VotingSettings(k=2, max_samples=8)
    task = ForgivingGroup(number=1)
    solution = await mdap.solve(task, model=provide(provider), voting=voting, db=db, run_id="g")
    assert (solution.status, solution.result) == (RunStatus.FINISHED, "no winner")
    found = verify(db, "g", make_task)
    assert (found.verdict, found.mismatches) == ("verified", ())


@pytest.mark.parametrize("wide", [False, True])
async def test_an_undecided_step_that_is_not_caught_ends_the_process(db: Path, wide: bool) -> None:
    """Out of a map or a plain ask: the run is undecided, one bare error, and a person can settle it."""
    provider = ScriptedProvider(lambda request, n: str(n % 2) if request.user == "double 1" else "7")
    voting = mdap.VotingSettings(k=2, max_samples=8)
    task = Tree(width=3) if wide else Double(number=1)
    async with mdap.Session(provide(provider), db=db) as session:
        with pytest.raises(mdap.UndecidedError, match="no winner after 8 samples"):
            await session.solve(task, voting=voting, run_id="t")
        [(step,)] = query(db, "SELECT step FROM steps WHERE input = '1'")
    with pytest.raises(UsageError, match="no answer"):
        await settle_step(db, "t", step, answer='"x"', author="me", reason="why")
    with pytest.raises(UsageError, match="not one that voting left undecided"):
        await settle_step(db, "t", 99, answer="2", author="me", reason="why")
    await settle_step(db, "t", step, answer="2", author="me", reason="why")
    assert query(db, "SELECT winner, author, reason FROM decisions WHERE author = 'me'") == [
        ("2", "me", "why")
    ]
    if not wide:
        async with mdap.Session(provide(provider), db=db) as session:
            solution = await session.resume("t")
        assert (solution.status, solution.result) == (RunStatus.FINISHED, 2)


async def test_an_error_of_the_author_names_the_task(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the author's code raises ends the run as failed; mended, it goes on from its decisions."""
    monkeypatch.setattr(Changing, "breaks", True)
    with pytest.raises(mdap.FailedError, match=r"task .*Changing failed .*ZeroDivisionError: by the author"):
        await mdap.solve(Changing(), db=db, options=NOISY, run_id="t")
    samples = query(db, "SELECT count(*) FROM samples")
    monkeypatch.setattr(Changing, "breaks", False)
    solution = await mdap.solve(Changing(), db=db, options=NOISY, run_id="t")
    assert solution.result == [2, 4, 6]
    assert query(db, "SELECT count(*) FROM samples") == samples


async def test_a_part_that_stops_stops_the_whole(db: Path) -> None:
    """An exhausted budget in a nested task ends the run as stopped; with a higher one, it goes on."""
    budget = mdap.Budget(tokens=400)
    with pytest.raises(mdap.StoppedError, match="budget"):
        await mdap.solve(Tree(), k=3, options=SLOW, db=db, run_id="t", budget=budget)
    solution = await mdap.solve(Tree(), k=3, options=SLOW, db=db, run_id="t")
    assert solution.result == Tree().expected("note 1")


# --- going on


@pytest.mark.parametrize("seed", mostly_slow(range(4)))
async def test_a_process_that_is_cut_again_and_again_ends_as_if_it_was_not(db: Path, seed: int) -> None:
    """P3: cancelled anywhere and resumed in new sessions: the same votes and decisions, none twice."""
    rng = random.Random(seed)
    options = {**SLOW, "seed": seed}
    plain = await mdap.solve(Tree(), k=3, options=options, db=db, run_id="plain")
    cuts = 0
    while True:
        async with mdap.Session(options=options, db=db, limits=mdap.Limits(concurrency=8)) as session:
            begun = await session.find("cut")
            votes = rng.randrange(8) if cuts < 15 else 10**9
            votes += begun.totals.votes if begun is not None else 0
            solution = await cut_at(session, Tree(), votes, rng.randrange(40), k=3, run_id="cut")
        if solution is not None:
            break
        cuts += 1
    assert cuts > 0
    assert solution.status is RunStatus.FINISHED
    assert (solution.result[:5], solution.result[6]) == (plain.result[:5], plain.result[6])
    decided = [row[1:] for row in by_content(db, "cut") if row[1] != "once:note"]
    assert decided == [row[1:] for row in by_content(db, "plain") if row[1] != "once:note"]


async def test_a_step_asked_otherwise_is_decided_anew_and_named(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On resume, a changed prompt under a known key, and a step that nobody asks for any more, are named."""
    monkeypatch.setattr(Changing, "breaks", True)
    first = await run_once(db)
    assert first.status is RunStatus.FAILED
    monkeypatch.setattr(Changing, "breaks", False)
    monkeypatch.setattr(Changing, "wording", "twice")
    monkeypatch.setattr(Changing, "asks", (2, 3))
    solution = await run_once(db)
    assert solution.result == [4, 6]
    changed, forgotten = solution.warnings[:2]
    assert changed == "step 'n2' is asked otherwise than recorded: its prompt changed; decided anew"
    assert forgotten.endswith("but not asked for when it was resumed: 'n1', 'n2'")
    assert [row[1] for row in by_content(db, "t")] == ["n1", "n2", "n2", "n3"]


async def run_once(db: Path) -> mdap.Solution:
    async with mdap.Session(options=NOISY, db=db) as session:
        return await session.run(Changing(), run_id="t")


# --- effects


@pytest.mark.parametrize("options", [NOISY, SLOW])
async def test_effects_happen_once_and_in_order(
    db: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call a decision, after it is durable; one that fails ends the run, and is made up for on resume."""
    monkeypatch.setattr(Sender, "fails_at", 2)
    with pytest.raises(mdap.FailedError, match=r"bringing about the effects of step 2: .* nobody listens"):
        await mdap.solve(Sender(), k=3, options=options, db=db, run_id="s")
    assert SENT == [("s/0", 2), ("s/1", 4)]
    assert query(db, "SELECT count(*) >= 3 FROM decisions") == [(1,)]
    monkeypatch.setattr(Sender, "fails_at", None)
    solution = await mdap.solve(Sender(), k=3, options=options, db=db, run_id="s")
    assert solution.result == 32
    assert [(f"s/{step}", 2 ** (step + 1)) for step in range(5)] == SENT
    again = await mdap.solve(Sender(), k=3, options=options, db=db, run_id="s")
    assert (again.result, len(SENT)) == (32, 5)


async def test_effects_of_the_last_step_are_not_forgotten(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last decision's effects failed, the resumed run owes them, with nothing left to decide."""
    monkeypatch.setattr(Sender, "fails_at", 4)
    with pytest.raises(mdap.FailedError):
        await mdap.solve(Sender(), k=3, options=NOISY, db=db, run_id="s")
    monkeypatch.setattr(Sender, "fails_at", None)
    assert (await mdap.solve(Sender(), k=3, options=NOISY, db=db, run_id="s")).result == 32
    assert [key for key, _ in SENT] == [f"s/{step}" for step in range(5)]


# --- many tasks


async def test_a_batch_solves_every_task(db: Path) -> None:
    """In order or as they come: each task a run of its own, failures among them; again, nothing is asked."""
    tasks = [Double(number=number) if number % 5 else Changing() for number in range(40)]
    for in_order in (True, False):
        async with mdap.Session(options=SLOW, db=db) as session:
            batch = session.solve_all(tasks, k=3, run_id="b", in_order=in_order)
            solutions = [solution async for solution in batch]
            whole = await session.find("b")
        names = [solution.run_id for solution in solutions]
        assert (names if in_order else sorted(names, key=number_of)) == [f"b/{place}" for place in range(40)]
        by_name = {solution.run_id: solution.result for solution in solutions}
        assert [by_name[f"b/{place}"] for place in range(40)] == [
            [2, 4, 6] if place % 5 == 0 else 2 * place for place in range(40)
        ]
        assert whole is not None
        # One whose few votes disagree is doubtful.
        doubtful = sum(solution.outcome is mdap.Outcome.DOUBTFUL for solution in solutions)
        counts = {"cases": 40, "finished": 40} | ({"doubtful": doubtful} if doubtful else {})
        assert (whole.status, whole.result) == (RunStatus.FINISHED, counts)
        [(samples,)] = query(db, "SELECT count(*) FROM samples")
        assert whole.totals.samples == samples == sum(solution.totals.samples for solution in solutions)
    assert events(db, "b/3") == ["started", "finished"]


def number_of(name: str) -> int:
    return int(name.rpartition("/")[2])


async def test_one_bad_task_does_not_keep_others_from_being_solved(db: Path) -> None:
    """Undecided, failed, or another task than before: a status with its reason, and the rest goes on."""
    provider = ScriptedProvider(lambda request, n: str(n % 2) if "7" in request.user else "5")
    voting = mdap.VotingSettings(k=2, max_samples=6)
    async with mdap.Session(provide(provider), db=db) as session:
        first = [s async for s in session.solve_all([Double(number=1)], voting=voting, run_id="b")]
        tasks = [Double(number=2), Double(number=7), Double(number=3)]
        solutions = [s async for s in session.solve_all(tasks, voting=voting, run_id="b")]
    assert [s.status for s in first] == [RunStatus.FINISHED]
    assert [s.status for s in solutions] == [RunStatus.FAILED, RunStatus.UNDECIDED, RunStatus.FINISHED]
    assert "was started with number = 1, not 2" in (solutions[0].reason or "")


async def test_a_batch_takes_tasks_no_faster_than_its_solutions_are_taken(db: Path) -> None:
    """Neither tasks nor solutions pile up, however many there are and however slow the reader is."""
    taken: list[int] = []

    def tasks() -> Iterator[mdap.Task]:
        for number in range(1000):
            taken.append(number)
            yield Double(number=number)

    async with mdap.Session(options=NOISY, db=db, limits=mdap.Limits(concurrency=4)) as session:
        batch = session.solve_all(tasks(), k=2)
        for place in range(5):
            assert (await anext(batch)).result == 2 * place
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            assert len(taken) <= place + 1 + 64 + 1
        await batch.aclose()


async def test_a_batch_that_is_cut_goes_on(db: Path) -> None:
    """P3: a batch left early, and run again under its name, decides nothing twice."""
    tasks = [Double(number=number) for number in range(30)]
    async with mdap.Session(options=SLOW, db=db, limits=mdap.Limits(concurrency=4)) as session:
        batch = session.solve_all(tasks, k=3, run_id="b")
        for _ in range(7):
            await anext(batch)
        await batch.aclose()
    async with mdap.Session(options=SLOW, db=db) as session:
        solutions = [s async for s in session.solve_all(tasks, k=3, run_id="b")]
    assert [s.result for s in solutions] == [2 * number for number in range(30)]
    assert events(db, "b") == ["started", "stopped", "resumed", "finished"]
    assert query(db, "SELECT count(*), count(DISTINCT run) FROM decisions") == [(30, 30)]


async def test_a_budget_stops_the_whole_batch(db: Path) -> None:
    """Once one is stopped, no more are begun."""
    tasks = (Double(number=number) for number in range(500))
    async with mdap.Session(options=SLOW, db=db, budget=mdap.Budget(tokens=2000)) as session:
        solutions = [s async for s in session.solve_all(tasks, k=3, run_id="b")]
    assert RunStatus.STOPPED in {s.status for s in solutions}
    assert len(solutions) < 400
    assert events(db, "b") == ["started", "stopped"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch", "independent parts", "nested parts"])
async def test_a_budget_counts_all_parts_of_earlier_sessions_once(db: Path, kind: str) -> None:
    """Those that ended, and those that go on: each session stops where the whole has spent its budget."""

    options, voting = {**SLOW, "error_rate": 0.2, "flag_rate": 0}, mdap.VotingSettings(k=4, max_tokens=5)

    async def solved(budget: int) -> tuple[set[RunStatus], int]:
        async with mdap.Session(
            options=options, db=db, limits=mdap.Limits(concurrency=4), budget=mdap.Budget(tokens=budget)
        ) as session:
            if kind == "batch":
                tasks = [Double(number=number) for number in range(50)]
                ended = [one async for one in session.solve_all(tasks, voting=voting, run_id="b")]
            else:
                task = Doubles(count=50, noted=kind == "nested parts", tower=False)
                ended = [await session.run(task, voting=voting, run_id="b")]
        [(tokens,)] = query(db, "SELECT sum(input_tokens + output_tokens) FROM samples")
        return {one.status for one in ended}, tokens

    for budget in (400, 800, 800):
        statuses, tokens = await solved(budget)
        assert RunStatus.STOPPED in statuses
        assert budget - 100 < tokens < budget + 100
    assert (await solved(1_000_000))[0] == {RunStatus.FINISHED}


def test_a_double_is_read() -> None:
    """A step's own parser is strict."""
    with pytest.raises(mdap.RedFlag):
        double(1).parse("one")
