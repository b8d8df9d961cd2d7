"""A person overrides a decided step: nothing on record changes, and a new run goes on from there."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import mdap
from mdap.audit import verify
from mdap.errors import UsageError
from mdap.plugins import make_task
from mdap.session.deciding import settle_step
from tests.helpers import Walk
from tests.integration.test_session import query
from tests.integration.test_verify import edited
from tests.processes import SENT, Sender

OPTIONS = {"error_rate": 0.1, "seed": 3}


@pytest.fixture
def db(tmp_path: Path) -> Path:
    SENT.clear()
    return tmp_path / "a.db"


def winners(db: Path, run_id: str) -> list[tuple[int, str, str | None]]:
    sql = """SELECT d.step, d.winner, d.author FROM decisions d JOIN runs r ON r.id = d.run
    WHERE r.run_id = ? ORDER BY d.place"""
    return [(step, winner, author) for step, winner, author in query(db, sql, run_id)]


async def test_a_run_goes_on_from_an_overridden_step(db: Path) -> None:
    """The new run has the old decisions, the person's, and its own after that; both are verified."""
    task = Walk(steps=12, seed=1)
    old = await mdap.solve(task, k=3, db=db, options=OPTIONS, run_id="r")
    before = query(db, "SELECT * FROM decisions")
    [(_, was, _)] = winners(db, "r")[5:6]
    other = "1" if was != "1" else "2"
    name = await settle_step(db, "r", 5, answer=other, author="ada", reason="I looked")
    assert name == "r-override-1"
    async with mdap.Session(db=db, options=OPTIONS) as session:
        new = await session.resume(name)
    assert query(db, "SELECT * FROM decisions WHERE run = 1") == before
    copied = winners(db, name)
    assert [(step, winner) for step, winner, _ in copied[:5]] == [
        (step, winner) for step, winner, _ in winners(db, "r")[:5]
    ]
    assert copied[5] == (5, other, "ada")
    assert [author for _, _, author in copied] == ["mdap"] * 5 + ["ada"] + [None] * 6
    assert new.steps == 12
    assert new.totals.votes < old.totals.votes
    assert query(db, "SELECT min(step) FROM samples WHERE run = 2") == [(6,)]
    for run in ("r", name):
        assert verify(db, run, make_task).verdict == "verified"
    assert await settle_step(db, "r", 5, answer=was, author="ada", reason="or not") == "r-override-2"


async def test_what_was_taken_over_is_compared_with_its_source(db: Path, tmp_path: Path) -> None:
    """A source that was changed afterwards is found from the run that took it over."""
    await mdap.solve(Walk(steps=8, seed=1), k=3, db=db, options=OPTIONS, run_id="r")
    name = await settle_step(db, "r", 4, answer="3", author="ada", reason="I looked")
    sql = "UPDATE decisions SET digest = replace(digest, 'a', 'b') WHERE run = 1 AND place = 2"
    found = verify(edited(db, tmp_path, sql), name, make_task)
    assert [mismatch.what for mismatch in found.mismatches] == ["where the decision is from"]


async def test_only_an_override_decides_what_was_not_asked(db: Path, tmp_path: Path) -> None:
    """Without the event that says so, a decision by hand without samples is one that voting never left."""
    await mdap.solve(Walk(steps=8, seed=1), k=3, db=db, options=OPTIONS, run_id="r")
    name = await settle_step(db, "r", 4, answer="3", author="ada", reason="I looked")
    sql = "UPDATE run_events SET data = '{}' WHERE run = 2 AND kind = 'started'"
    found = verify(edited(db, tmp_path, sql), name, make_task)
    assert ("samples of the last tier", 4) in [(one.what, one.step) for one in found.mismatches]


async def test_an_answer_that_no_reply_could_give_is_refused(db: Path) -> None:
    """And nothing is begun."""
    await mdap.solve(Walk(steps=4, seed=1), k=3, db=db, options=OPTIONS, run_id="r")
    with pytest.raises(UsageError, match="no answer to this step"):
        await settle_step(db, "r", 2, answer="9", author="ada", reason="I looked")
    with pytest.raises(UsageError, match="not one that voting left undecided"):
        await settle_step(db, "r", 4, answer="1", author="ada", reason="I looked")
    assert query(db, "SELECT run_id FROM runs") == [("r",)]


async def test_a_run_that_was_not_taken_over_to_its_end_is_not_resumed(db: Path) -> None:
    """A crash in between would else lose the override without a word."""
    await mdap.solve(Walk(steps=6, seed=1), k=3, db=db, options=OPTIONS, run_id="r")
    name = await settle_step(db, "r", 3, answer="1", author="ada", reason="I looked")
    with closing(sqlite3.connect(db)) as log:  # as the commit before the last one left it
        log.execute("DROP TRIGGER run_events_no_delete")
        log.execute("DROP TRIGGER decisions_no_delete")
        log.execute("DELETE FROM run_events WHERE run = 2 AND kind <> 'started'")
        log.execute("DELETE FROM decisions WHERE run = 2 AND place > 1")
        log.commit()
    async with mdap.Session(db=db, options=OPTIONS) as session:
        with pytest.raises(UsageError, match="was cut while it took over another run"):
            await session.resume(name)


async def test_the_effects_of_an_override_are_brought_about(db: Path) -> None:
    """Those of the decisions taken over are not brought about again; that of the person's decision is."""
    await mdap.solve(Sender(), k=3, db=db, options=OPTIONS, run_id="s")
    name = await settle_step(db, "s", 3, answer="16", author="ada", reason="I looked")
    SENT.clear()
    async with mdap.Session(db=db, options=OPTIONS) as session:
        assert (await session.resume(name)).result == 32
    assert [(f"{name}/3", 16), (f"{name}/4", 32)] == SENT
