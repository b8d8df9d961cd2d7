"""A run is begun by one visit to the database and ended by one; a claim is never left behind."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from benchmarks.way import traced
from mdap.journal.claims import Claims
from mdap.journal.database import Connection
from mdap.journal.reader import Reader, open_log
from mdap.journal.runs import Runs
from mdap.journal.writer import open_journal
from mdap.records import RunEvent, RunStatus
from mdap_hanoi import Hanoi
from tests.helpers import Walk

COLUMNS = {
    "run_id": "r",
    "kind": "run",
    "parent": None,
    "task": "walk",
    "task_version": "1",
    "params": "{}",
    "settings": "{}",
    "provider": '{"models":["sim"]}',
    "k": 3,
    "mdap_version": "0",
}


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of what each visit to a connection's thread did."""
    done: list[str] = []
    visit: Callable[..., Any] = Connection.visit

    async def counted(self: Connection, work: Callable[[sqlite3.Connection], Any]) -> Any:
        done.append(getattr(work, "__qualname__", "").split(".<locals>")[0])
        return await visit(self, work)

    monkeypatch.setattr(Connection, "visit", counted)
    return done


async def test_a_case_of_a_batch_visits_the_database_once_beside_commits(
    tmp_path: Path, visits: list[str]
) -> None:
    """To read what its seal is about: all that is written, its own row too, goes with the commits of all."""

    async def counted(name: str, cases: int) -> list[str]:
        visits.clear()
        solutions = session.solve_all([Hanoi(disks=2)] * cases, k=2, run_id=name)
        assert [one.status async for one in solutions] == [RunStatus.FINISHED] * cases
        return [name for name in visits if name != "Writer._write"]

    async with mdap.Session(db=tmp_path / "a.db") as session:
        few, many = await counted("few", 5), await counted("many", 25)
        again = await counted("few", 5)
    assert len(many) - len(few) == 20
    assert many.count("Reader.visit") == 1 + 25
    assert again.count("Reader.visit") == 2 + 5  # each is found, with its solution, in one visit


async def test_a_run_is_taken_up_by_one_at_a_time_and_its_end_is_sealed(tmp_path: Path) -> None:
    """Two sessions of one database: the second is told, until the first has ended or given back its run."""
    path = tmp_path / "a.db"
    async with open_journal(path) as writer, open_log(path) as reader:
        with closing(Claims(path)) as own, closing(Claims(path)) as others:
            first, second = Runs(writer, reader, own), Runs(writer, reader, others)
            start = await first.begin(COLUMNS, known=False)
            assert (start.number, start.row, start.point.decisions) == (1, None, 0)
            for known in (False, True):
                with pytest.raises(mdap.RunBusyError, match="run r is being worked on"):
                    await second.begin(COLUMNS, known=known)
            await first.release(1)
            taken = await second.begin(COLUMNS, known=False)
            assert taken.row is not None
            assert (taken.row.run_id, taken.record) == ("r", None)
            record = await second.end(RunEvent(1, "finished", data={"result": 7, "seconds": 1.5}))
            assert record is not None
            assert (record.row.status, record.data["result"], record.seconds) == ("finished", 7, 1.5)
            assert record.seal == await reader.value("last_seal", 1)
            assert await reader.is_sealed(1)
            await second.release(1)
            assert (await first.begin(COLUMNS, known=True)).record == record


async def test_what_cannot_be_read_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not be taken up can be, once its rows can be read."""
    path = tmp_path / "a.db"
    async with mdap.Session(db=path, budget=mdap.Budget(tokens=1)) as session:
        assert (await session.run(Walk(steps=9), k=3, run_id="r")).status is RunStatus.STOPPED
    async with mdap.Session(db=path) as session:
        with monkeypatch.context() as patched:

            async def failing(self: Reader, run: int) -> Any:
                raise mdap.DatabaseError("unreadable")

            patched.setattr(Reader, "absences", failing)
            with pytest.raises(mdap.DatabaseError, match="unreadable"):
                await session.resume("r")
        assert (await session.resume("r")).status is RunStatus.FINISHED


async def test_reading_in_one_visit_waits_for_nothing_else(tmp_path: Path) -> None:
    """Whoever waits for something else there would stop the database's thread; that is said."""
    path = tmp_path / "a.db"

    async def waits(reader: Reader) -> int:
        import asyncio

        await asyncio.sleep(0)
        return 1

    async with open_journal(path), open_log(path) as reader:
        with pytest.raises(RuntimeError, match="can wait for nothing but the log"):
            await reader.visit(waits)
        assert await reader.visit(Reader.unfinished) == []


@pytest.mark.slow
async def test_the_way_of_a_task_is_short() -> None:
    """What `benchmarks/way.py` prints: who makes it longer says so here."""
    figures = (await traced()).figures()
    assert figures["functions"] <= 26
    assert figures["modules"] <= 15
    assert figures["climbs"] <= 2
