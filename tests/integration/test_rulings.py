"""People settle steps beside runs that go on: claims, rulings, and runs that wait for a person."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import mdap
from mdap.audit import verify
from mdap.audit.review import Ruling
from mdap.errors import ClaimedError, RunBusyError, UsageError
from mdap.plugins import make_task
from mdap.rules.digests import answer_key
from mdap.session.desk import Desk
from mdap.testing import ScriptedProvider
from tests.helpers import Walk
from tests.integration.test_decisions import DIVIDED, Table, says
from tests.integration.test_session import provide, query

VOTING = mdap.VotingSettings(k=3, max_samples=12)
WAITING = mdap.Limits(wait_for_person=600)


class Spread(Walk):
    """A chain of digits, whose effects are noted."""

    async def effects(self, state: tuple[int, int], decision: mdap.Decision[int]) -> None:
        EFFECTS.append((decision.step, decision.answer, decision.author))


def query_and_commit(db: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(sql, values)


EFFECTS: list[tuple[int, Any, str | None]] = []


def divided_at(*steps: int) -> ScriptedProvider:
    """A model that is of two minds at some steps of a walk, and says 1 at the others."""

    def reply(request: mdap.SampleRequest, ordinal: int) -> str:
        step = int(request.user.split()[1])
        return str(ordinal % 2) if step in steps else "1"

    return ScriptedProvider(reply)


@pytest.fixture(autouse=True)
def _no_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    EFFECTS.clear()
    monkeypatch.setattr("mdap.session.desk._PATIENCE", 120.0)  # for runs that are slow to take an answer up


async def until_waiting(session: mdap.Session, run_id: str, steps: int = 1) -> list[mdap.Waiting]:
    """Return the steps of a run that wait for a person, once there are some."""
    with anyio.fail_after(120):
        async for event in session.events(run_id):
            if isinstance(event.fact, mdap.RunEvent) and event.fact.kind == "waiting":
                steps -= 1
                if not steps:
                    break
    found = await session.waiting(run_id)
    return [one for one in found if one.state == "waiting"]


BY_ADA: dict[str, Any] = {"author": "ada", "reason": "I looked"}


@pytest.mark.slow
async def test_a_chain_that_waits_goes_on_as_soon_as_a_person_rules(tmp_path: Path) -> None:
    """Each divided step waits, with effects, speculation and audit as ever; no sample is bought after."""
    db = tmp_path / "mdap.db"
    async with mdap.Session(provide(divided_at(1, 3)), db=db, limits=WAITING) as session:
        async with anyio.create_task_group() as group:
            solutions: list[mdap.Solution] = []

            async def run() -> None:
                solutions.append(await session.run(Spread(steps=5), run_id="c", voting=VOTING))

            group.start_soon(run)
            for count, step in enumerate((1, 3), 1):
                [one] = await until_waiting(session, "c", count)
                assert (one.run_id, one.step, one.state, one.doubt) == ("c", step, "waiting", None)
                assert [(each.votes, each.key) for each in one.candidates] == [
                    (6, answer_key("0")),
                    (6, answer_key("1")),
                ]
                settled = await session.settle("c", step, answer=3, **BY_ADA)
                assert settled == mdap.Settled("c", step, "ada", goes_on=True)
        assert await session.waiting("c") == []
    [solution] = solutions
    assert solution.status == "finished"
    rows = query(db, "SELECT step, winner, author, reason FROM decisions ORDER BY place")
    assert rows == [
        (step, "3" if step in (1, 3) else "1", *(("ada", "I looked") if step in (1, 3) else (None, None)))
        for step in range(5)
    ]
    assert [author for _, _, author in EFFECTS] == [None, "ada", None, "ada", None]
    assert query(db, "SELECT count(*) FROM samples WHERE step = 1 AND verdict = 'vote'") == [(12,)]
    assert verify(db, "c", make_task).verdict == "verified"


@pytest.mark.slow
@pytest.mark.parametrize("robust", [False, True])
async def test_rows_of_a_process_wait_side_by_side(tmp_path: Path, robust: bool) -> None:
    """The others are decided meanwhile; what people say reaches the result of the same session."""
    db = tmp_path / "mdap.db"
    settings: dict[str, Any] = {"voting": VOTING}
    if robust:
        settings = {"k": "robust", "voting": mdap.VotingSettings(max_samples=12, k=1)}
    async with mdap.Session(provide(ScriptedProvider(says)), db=db, limits=WAITING) as session:
        async with anyio.create_task_group() as group:
            solutions: list[mdap.Solution] = []

            async def run() -> None:
                solutions.append(await session.run(Table(), run_id="r", **settings))

            group.start_soon(run)
            found = await until_waiting(session, "r", 3)
            assert [one.step for one in found] == [3, 5, 7]
            for one in reversed(found):
                ruling = Ruling(str(2 * one.step), "ada", "I looked")
                if one.candidates:
                    ruling = Ruling(f"candidate:{answer_key(str(2 * one.step))}", "ada", "I looked")
                # The process that waits has the task: nobody else needs its code.
                assert (await Desk(db, pytest.fail).settle("r", one.step, ruling)).goes_on
        [solution] = solutions
    assert [row[0] for row in solution.result] == [2 * number for number in range(10)]
    assert [row[4] for row in solution.result] == ["ada" if n in (*DIVIDED, 5) else None for n in range(10)]
    assert solution.undecided == 0
    assert verify(db, "r", make_task).verdict == "verified"


@pytest.mark.slow
async def test_nobody_comes(tmp_path: Path) -> None:
    """The wait ends: a chain is undecided then, and a process goes on without; both as without a wait."""
    db = tmp_path / "mdap.db"
    brief = mdap.Limits(wait_for_person=0.01)
    async with mdap.Session(provide(divided_at(2)), db=db, limits=brief) as session:
        ended = await session.run(Walk(steps=4), run_id="c", voting=VOTING)
        assert (ended.status, ended.stop_cause, ended.steps) == ("undecided", "samples", 2)
        [one] = await session.waiting("c")
        assert (one.step, one.state) == (2, "undecided")
        settled = await session.settle("c", 2, answer=1, **BY_ADA)
        assert not settled.goes_on
        assert (await session.resume("c")).status == "finished"
    async with mdap.Session(provide(ScriptedProvider(says)), db=db, limits=brief) as session:
        solution = await session.run(Table(), run_id="r", voting=VOTING)
        assert (solution.status, solution.undecided) == ("finished", 3)
        assert [one.step for one in await session.waiting("r") if one.doubt is None] == [3, 5, 7]
    for run_id in ("c", "r"):
        assert verify(db, run_id, make_task).verdict == "verified"


async def test_an_answer_that_cannot_be_is_refused_and_the_run_waits_on(tmp_path: Path) -> None:
    """The person is told why; the step is free again."""
    db = tmp_path / "mdap.db"
    async with (
        mdap.Session(provide(divided_at(1)), db=db, limits=WAITING) as session,
        anyio.create_task_group() as group,
    ):
        group.start_soon(partial(session.run, Walk(steps=3), run_id="c", voting=VOTING))
        await until_waiting(session, "c")
        for answer, sentence in [
            (9, "9 is no answer to this step: not a digit"),
            ("x", "is no answer to this step"),
            (float("nan"), "answer takes a JSON value, not nan"),
            (object(), "answer takes a JSON value, not <object"),
        ]:
            with pytest.raises(UsageError, match=sentence):
                await session.settle("c", 1, answer=answer, **BY_ADA)
        with pytest.raises(UsageError, match="nobody voted for an answer with the key 'none'"):
            await Desk(db).settle("c", 1, Ruling("candidate:none", "ada", "I looked"))
        with pytest.raises(UsageError, match="step takes the number of a step"):
            await session.settle("c", 1.5, answer=1, **BY_ADA)  # type: ignore[arg-type]
        with pytest.raises(RunBusyError):
            await session.settle("c", 2, answer=1, **BY_ADA)
        assert (await session.settle("c", 1, answer=2, author="bob", reason="he could not")).goes_on
    assert query(db, "SELECT winner, author FROM decisions WHERE step = 1") == [("2", "bob")]


async def test_a_ruling_that_nobody_took_up_waits_for_the_next_session(tmp_path: Path) -> None:
    """Its process ended before it could: the resumed run takes it up, though it waits for nobody."""
    db = tmp_path / "mdap.db"
    async with mdap.Session(
        provide(divided_at(1)), db=db, limits=mdap.Limits(wait_for_person=0.01)
    ) as session:
        await session.run(Walk(steps=3), run_id="c", voting=VOTING)
    async with mdap.Session(provide(divided_at(1)), db=db) as session:
        columns = "run, step, kind, author, answer, reason"
        query_and_commit(db, f"INSERT INTO rulings({columns}) VALUES (1, 1, 'ruled', 'ada', '2', 'so')")
        [one] = await session.waiting("c")
        assert (one.state, one.ruled_by) == ("undecided", "ada")
        solution = await session.resume("c")
    assert solution.status == "finished"
    assert query(db, "SELECT winner, author, reason FROM decisions WHERE step = 1") == [("2", "ada", "so")]
    assert verify(db, "c", make_task).verdict == "verified"


async def test_a_step_belongs_to_one_person_at_a_time(tmp_path: Path) -> None:
    """Until the claim ends, is given back, or the step is settled; a second settlement is refused."""
    db = tmp_path / "mdap.db"
    desk = Desk(db)
    await mdap.solve(Table(), model=provide(ScriptedProvider(says)), db=db, run_id="r", voting=VOTING)
    hers = await desk.claim("r", 3, "ada")
    with pytest.raises(ClaimedError, match=r"ada has step 3 of r until 20..-.*: wait, or ask ada"):
        await desk.claim("r", 3, "bob")
    with pytest.raises(ClaimedError, match="ada has step 3 of r"):
        await desk.settle("r", 3, Ruling("6", "bob", "sure"))
    [one] = [one for one in await desk.waiting("r") if one.step == 3]
    assert one.claim == hers
    # Another browser of the same name has another claim.
    with pytest.raises(ClaimedError, match="ada has step 3 of r"):
        await desk.settle("r", 3, Ruling("6", "ada", "sure", claim=hers.number + 1))
    await desk.release("r", 3, "ada", hers.number)
    with pytest.raises(ClaimedError, match="was given back by ada meanwhile"):
        await desk.settle("r", 3, Ruling("6", "ada", "sure", claim=hers.number))
    his = await desk.claim("r", 3, "bob")
    assert await desk.settle("r", 3, Ruling("6", "bob", "sure", override=False, claim=his.number)) == (
        mdap.Settled("r", 3, "bob", goes_on=False)
    )
    with pytest.raises(ClaimedError, match="step 3 of r was settled by bob meanwhile"):
        await desk.settle("r", 3, Ruling("7", "bob", "sure", claim=his.number, override=True))
    with pytest.raises(ClaimedError, match="step 3 of r was decided by bob meanwhile"):
        await desk.settle("r", 3, Ruling("7", "ada", "sure", override=False))
    with pytest.raises(ClaimedError, match="step 4 of r was decided by votes meanwhile"):
        await desk.settle("r", 4, Ruling("7", "ada", "sure", override=False))
    with pytest.raises(UsageError, match="step 7 of r is not decided"):
        await desk.settle("r", 7, Ruling("14", "ada", "sure", override=True))
    assert query(db, "SELECT author, winner FROM decisions WHERE step = 3") == [("bob", "6")]
    assert query(db, "SELECT count(*) FROM runs") == [(1,)]


async def test_a_claim_ends_by_itself(tmp_path: Path) -> None:
    """Whoever forgets a step holds nobody up; but who comes back to it first still has it."""
    db = tmp_path / "mdap.db"
    desk = Desk(db)
    await mdap.solve(Table(), model=provide(ScriptedProvider(says)), db=db, run_id="r", voting=VOTING)
    long_ago = "(1, ?, 'claimed', 'ada', '2001-01-01T00:00:00.000Z')"
    sql = f"INSERT INTO rulings(run, step, kind, author, until) VALUES {long_ago}"
    for step in (3, 7):
        query_and_commit(db, sql, step)
    assert [one.claim for one in await desk.waiting("r") if one.step in (3, 7)] == [None, None]
    assert (await desk.settle("r", 3, Ruling("6", "bob", "sure"))).author == "bob"
    assert (await desk.settle("r", 7, Ruling("14", "ada", "sure", claim=2))).author == "ada"


async def test_a_decided_step_is_overridden_and_leaves_the_queue(tmp_path: Path) -> None:
    """By a run that takes over, as `mdap decide` does; by a candidate's key too."""
    db = tmp_path / "mdap.db"
    reply = ScriptedProvider(lambda request, n: str(2 * int(request.user.split()[1]) + (n == 1)))
    async with mdap.Session(provide(reply), db=db) as session:
        await session.run(Table(), run_id="r", voting=VOTING)
        doubtful = await session.waiting("r")
        assert {one.state for one in doubtful} == {"doubtful"}
        first = doubtful[0]
        key = next(one.key for one in first.candidates if not one.won)
        settled = await Desk(db).settle(
            "r", first.step, Ruling(f"candidate:{key}", "ada", "x", override=True)
        )
        assert settled == mdap.Settled("r-override-1", first.step, "ada", goes_on=False)
        assert first.step not in [one.step for one in await session.waiting("r")]
        assert (await session.resume("r-override-1")).result[first.step][0] == 2 * first.step + 1


async def test_a_name_and_a_reason_are_needed(tmp_path: Path) -> None:
    """They are what the record has to show for it."""
    db = tmp_path / "mdap.db"
    await mdap.solve(Table(), model=provide(ScriptedProvider(says)), db=db, run_id="r", voting=VOTING)
    for ruling, sentence in [
        (Ruling("6", " ", "sure"), "give your name"),
        (Ruling("6", "ada", ""), "give your reason"),
        (Ruling("", "ada", "sure"), "give your answer"),
        (Ruling("6", "a" * 101, "sure"), "the name may have 100 characters, not 101"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            await Desk(db).settle("r", 3, ruling)
    with pytest.raises(UsageError, match="r has no step 99"):
        await Desk(db).claim("r", 99, "ada")


class Tagged(mdap.Process[str]):
    tag: str

    async def solve(self, ask: mdap.Ask) -> str:
        return await ask(mdap.Step(user=f"of {self.tag}", parse=str))


class Depending(mdap.Process[list[str | None]]):
    """A nested task depends on an answer that a person may settle later; a key does not tell which."""

    key: str | None

    async def solve(self, ask: mdap.Ask) -> list[str | None]:
        row = await ask.decision(mdap.Step(user="row", parse=str))
        return [row.answer, await ask.solve(Tagged(tag=str(row.answer)), self.key)]


@pytest.mark.parametrize("key", [None, "part"])
@pytest.mark.parametrize("divided", ["row", "row, of None"])
async def test_what_depends_on_a_settled_answer_is_solved_again(
    tmp_path: Path, key: str | None, divided: str
) -> None:
    """Or refused by a sentence that says why, where its key stands for what it was before."""
    model = ScriptedProvider(
        lambda request, ordinal: "ab"[ordinal % 2] if request.user in divided else "a", name="torn"
    )
    voting = mdap.VotingSettings(max_samples=6)
    async with mdap.Session(model, db=tmp_path / "a.db") as session:
        await session.run(Depending(key=key), run_id="r", voting=voting)
        await session.settle("r", 0, answer="b", author="ada", reason="I looked")
        again = await session.resume("r")
    if key is None:
        assert again.result == ["b", "a"]
    else:
        assert again.status is mdap.RunStatus.FAILED
        assert "key 'part' stands for a nested task of another class, version or parameters" in str(
            again.reason
        )


SCRIPT = """
import itertools

import anyio
import mdap
from mdap.testing import ScriptedProvider


class Torn(mdap.Process[str]):
    async def solve(self, ask):
        return await ask(mdap.Step(user="q", parse=str))


replies = itertools.cycle("ab")


async def main():
    model = ScriptedProvider(lambda request, ordinal: next(replies), name="torn")
    async with mdap.Session(model, db="a.db") as session:
        torn = await session.run(Torn(), run_id="r", voting=mdap.VotingSettings(max_samples=6))
        assert torn.status == "undecided"
        await session.settle("r", 0, answer="b", author="ada", reason="I looked")
        print((await session.resume("r")).result)


anyio.run(main)
"""


def test_a_script_without_a_guard_settles_its_own_steps(tmp_path: Path) -> None:
    """Its task is the class that it has, not one of a second import, which would run it again."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.returncode) == ("b\n", 0), done.stderr
