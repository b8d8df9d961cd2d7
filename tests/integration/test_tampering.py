"""P4: whatever is changed in a log afterwards is found, by step, by both verifiers."""

import asyncio
import json
import runpy
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest

import mdap
from mdap.audit import Verification, verify
from mdap.plugins import make_task
from mdap.records import SAMPLE_COLUMNS
from mdap.session import settle_step
from mdap_arithmetic import Multiply
from mdap_hanoi import Hanoi
from tests.helpers import mostly_slow

T = TypeVar("T")
ALONE = Path(mdap.__file__).parents[1] / "docs" / "examples" / "verify_log.py"
LIVELY = {"error_rate": 0.25, "flag_rate": 0.1, "fault_rate": 0.1, "latency": 0.001, "seed": 4}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with all there is: void, cancelled, flagged, escalated, settled, failed attempts, prompts."""
    path = tmp_path_factory.mktemp("log") / "a.db"
    voting = mdap.VotingSettings(hedge=1, record_prompts=True)
    mdap.solve_sync(Hanoi(disks=5, views=2), options=LIVELY, db=path, run_id="lively", k=3, voting=voting)
    settled(path)
    mdap.solve_sync(Hanoi(disks=2), db=path, run_id="other")
    with closing(sqlite3.connect(path)) as connection:
        for [name] in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


def settled(path: Path) -> None:
    """Run a task whose models often agree on nothing, so that a person settles what they leave."""
    voting = mdap.VotingSettings(k=3, max_samples=4, record_prompts=True)
    models: dict[str, Any] = {"model": "sim/a?error_rate=0.4", "escalate_to": ["sim/b?error_rate=0.3"]}
    task = Hanoi(disks=4)
    for _ in range(15):
        try:
            mdap.solve_sync(task, db=path, run_id="settled", voting=voting, options={"seed": 5}, **models)
            return
        except mdap.UndecidedError as error:
            step = error.solution.steps
            state = task.start()
            for _ in range(step):
                state = task.advance(state, task.oracle(state))
            answer = json.dumps(
                {"move": task.oracle(state).move, "next_state": task.oracle(state).next_state}
            )
            how = {"answer": answer, "author": "me", "reason": "seen"}
            asyncio.run(settle_step(path, "settled", step, **how))


def proven(path: Path, run_id: str) -> Verification:
    return verify(path, run_id, make_task)


def alone(path: Path, run_id: str) -> subprocess.CompletedProcess[str]:
    """The verifier that knows nothing of mdap."""
    command = [sys.executable, "-I", str(ALONE), str(path), run_id]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def alone_finds(path: Path, run_id: str) -> bool:
    """Whether that verifier refuses the log; in this process, since starting Python takes longer."""
    connect, arguments = sqlite3.connect, [str(ALONE), str(path), run_id]
    with ExitStack() as stack:

        def connected(*where: Any, **how: Any) -> sqlite3.Connection:
            opened: sqlite3.Connection = stack.enter_context(closing(connect(*where, **how)))
            return opened

        with patch("sqlite3.connect", connected), patch("sys.argv", arguments), redirect_stdout(StringIO()):
            try:
                runpy.run_path(str(ALONE))
            except (SystemExit, ValueError):  # a text that is no JSON ends it with a traceback
                return True
    return False


def change(log: Path, sql: str, *values: Any) -> int:
    with closing(sqlite3.connect(log)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        return connection.execute(sql, values).rowcount


def ask(log: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(log)) as connection:
        return connection.execute(sql, values).fetchall()


@pytest.mark.parametrize("run_id", ["lively", "settled", "other"])
def test_an_honest_log_is_verified(log: Path, run_id: str) -> None:
    """Both verifiers pass what nobody has touched, and tell the same digest and seal."""
    came = verify(log, run_id, make_task, oracle=run_id == "other")
    assert (came.verdict, came.mismatches, came.notes) == ("verified", (), ())
    said = alone(log, run_id)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == f"{came.decisions} decisions, head {came.digest}\nseal {came.seal}\n"


def test_the_log_has_everything_in_it(log: Path) -> None:
    """The changes below are made to every kind of row."""
    verdicts = dict(ask(log, "SELECT verdict, count(*) FROM samples WHERE run = 1 GROUP BY 1"))
    assert min(verdicts[name] for name in ("vote", "flag", "void", "cancelled")) >= 3
    kinds = {kind for [kind] in ask(log, "SELECT kind FROM run_events")}
    assert kinds >= {"attempt_failed", "settled", "escalated", "undecided", "resumed", "finished", "sealed"}


# --- one value of each column

COLUMNS = {
    "runs": "run_id kind parent task_version params settings provider k mdap_version created_at outcome",
    "run_events": "run kind at author reason step opening data",
    "texts": "digest body",
    "steps": "step opening key input prompt_digest run",
    "prompts": "run step opening view system user schema max_tokens",
    "samples": "run step opening counted ordinal verdict answer_key flag_reason model view temperature "
    "input_tokens output_tokens cached_tokens latency attempts request_id finish_reason text began "
    "cache_write_tokens",
    "decisions": "run place step opening winner tally votes margin author reason digest",
}
CASES = [(table, column) for table, columns in COLUMNS.items() for column in columns.split()]
ROWS = {
    "runs": "id IN (1, 2)",
    # The time of a seal itself is the only thing that nothing covers.
    "run_events": "run < 3 AND NOT (kind = 'sealed')",
    "texts": "id IN (SELECT text FROM samples WHERE run < 3)",
}


@dataclass(frozen=True)
class Row:
    """A row to change: its run, the step it belongs to if it has one, and whether it was counted."""

    rowid: tuple[Any, ...]
    run: int
    step: int | None
    counted: bool


def keys(table: str) -> list[str]:
    return {
        "steps": ["run", "step", "opening"],
        "prompts": ["run", "step", "opening", "view"],
        "samples": ["run", "step", "opening", "ordinal"],
        "decisions": ["run", "place"],
    }.get(table, ["id"])


def chosen(log: Path, table: str) -> Iterator[Row]:
    """Some rows of each run: of every kind, at the beginning, in the middle and at the end."""
    step = {"run_events": "NULL", "runs": "NULL", "texts": "NULL"}.get(table, "step")
    run = {"runs": "id", "texts": "(SELECT min(run) FROM samples WHERE text = texts.id)"}.get(table, "run")
    counted = {"samples": "counted IS NOT NULL", "decisions": "1"}.get(table, "0")
    kind = {"samples": "verdict", "run_events": "kind"}.get(table, "1")
    sql = f"SELECT {', '.join(keys(table))}, {run}, {step}, {counted}, {kind} FROM {table}"
    rows = ask(log, f"{sql} WHERE {ROWS.get(table, 'run < 3')}")
    by_kind: dict[Any, list[tuple[Any, ...]]] = {}
    for row in rows:
        by_kind.setdefault((row[-4], row[-1]), []).append(row)
    for alike in by_kind.values():
        for row in {alike[0], alike[len(alike) // 2], alike[-1]}:
            yield Row(row[:-4], row[-4], row[-3], bool(row[-2]))


def every_third(rows: Iterable[T], some: bool) -> list[T]:
    """Every third of some rows, or all but these."""
    return [row for place, row in enumerate(rows) if (place % 3 == 0) is some]


OTHER_VERDICTS = {
    "vote": "flag",
    "flag": "vote",
    "void": "cancelled",
    "cancelled": "void",
    "solved": "unsolved",
    "unsolved": "solved",
}


def other_than(value: Any) -> Any:
    """The smallest change of a value."""
    if value in OTHER_VERDICTS:
        return OTHER_VERDICTS[value]
    if value is None:
        return 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    # Far enough that no key is taken.
    return value + 1000 if isinstance(value, int) else value + 0.25


@pytest.mark.parametrize("some", mostly_slow([True, False]))
@pytest.mark.parametrize(("table", "column"), CASES)
def test_one_changed_value_is_found(log: Path, tmp_path: Path, table: str, column: str, some: bool) -> None:
    """Each column of each table, in rows of every kind: always found, and where it can be, by its step."""
    copy = tmp_path / "copy.db"
    names = {1: "lively", 2: "settled"}
    where = " AND ".join(f"{key} = ?" for key in keys(table))
    for row in every_third(chosen(log, table), some):
        [(value,)] = ask(log, f"SELECT {column} FROM {table} WHERE {where}", *row.rowid)
        shutil.copy(log, copy)
        change(copy, f"UPDATE {table} SET {column} = ? WHERE {where}", other_than(value), *row.rowid)
        name = other_than(names[row.run]) if (table, column) == ("runs", "run_id") else names[row.run]
        check_found(copy, name, row, f"{table}.{column} of {row}: {value!r}")


def check_found(copy: Path, run_id: str, row: Row, what: str) -> None:
    if row.step is None:
        # A run's row may be past reading.
        assert found(copy, run_id), what
        return
    came = proven(copy, run_id)
    assert came.verdict == "mismatch", f"{what}: {came.verdict} {came.mismatches}"
    if row.counted and "samples.began" not in what:  # the times of a run are covered together
        assert row.step in {mismatch.step for mismatch in came.mismatches}, what


def found(copy: Path, run_id: str) -> bool:
    try:
        return proven(copy, run_id).verdict == "mismatch"
    except (mdap.UsageError, mdap.DatabaseError):
        return True


@pytest.mark.parametrize("table", list(COLUMNS))
def test_the_verifier_without_mdap_finds_it_too(log: Path, tmp_path: Path, table: str) -> None:
    """One changed value of each column, found with nothing but the standard library."""
    copy = tmp_path / "copy.db"
    where = " AND ".join(f"{key} = ?" for key in keys(table))
    rows = [row for row in chosen(log, table) if row.run == 1]
    for number, column in enumerate(COLUMNS[table].split()):
        row = rows[number % len(rows)]
        [(value,)] = ask(log, f"SELECT {column} FROM {table} WHERE {where}", *row.rowid)
        shutil.copy(log, copy)
        change(copy, f"UPDATE {table} SET {column} = ? WHERE {where}", other_than(value), *row.rowid)
        name = "livel0" if (table, column) == ("runs", "run_id") else "lively"
        assert alone_finds(copy, name), f"{table}.{column} of {row}: {value!r}"


# --- rows that go, come or change places


def of_middle(log: Path, sql: str) -> Any:
    rows = ask(log, sql)
    return rows[len(rows) // 2][0]


def delete_sample(copy: Path) -> int | None:
    change(copy, "DELETE FROM samples WHERE run = 1 AND step = 9 AND counted = 1")
    return 9


def delete_last_sample(copy: Path) -> int | None:
    sql = "DELETE FROM samples WHERE run = 1 AND step = 9 AND counted = (SELECT max(counted) FROM samples o \
        WHERE o.run = 1 AND o.step = 9 AND o.opening = samples.opening)"
    assert change(copy, sql)
    return 9


def delete_void(copy: Path) -> int | None:
    first = "(SELECT step FROM samples WHERE run = 1 AND verdict = 'void' LIMIT 1)"
    assert change(copy, f"DELETE FROM samples WHERE run = 1 AND verdict = 'void' AND step = {first}")
    return None


def delete_void_opening(copy: Path) -> int | None:
    sql = """SELECT step, opening FROM steps p WHERE run = 1 AND NOT EXISTS (SELECT 1 FROM decisions d
        WHERE d.run = 1 AND d.step = p.step AND d.opening = p.opening) LIMIT 1"""
    [place] = ask(copy, sql)
    change(copy, "DELETE FROM samples WHERE run = 1 AND step = ? AND opening = ?", *place)
    change(copy, "DELETE FROM steps WHERE run = 1 AND step = ? AND opening = ?", *place)
    return None


def insert_vote(copy: Path) -> int | None:
    moved = {"counted": "counted + 90", "ordinal": "ordinal + 90"}
    change(
        copy,
        f"""INSERT INTO samples({", ".join(SAMPLE_COLUMNS)}) SELECT {
            ", ".join(moved.get(name, name) for name in SAMPLE_COLUMNS)
        } FROM samples WHERE run = 1 AND step = 9 AND counted = 1""",
    )
    return 9


def swap_counting(copy: Path) -> int | None:
    """Two different votes change places in the order of counting, so that the race ends too early or late."""
    sql = """SELECT d.step, d.opening FROM decisions d WHERE d.run = 1 AND d.tally LIKE '%,%'"""
    for step, opening in ask(copy, sql):
        rows = ask(
            copy,
            "SELECT counted, answer_key FROM samples WHERE run = 1 AND step = ? AND opening = ? "
            "AND verdict = 'vote' ORDER BY counted",
            step,
            opening,
        )
        last = rows[-1]
        other = next((row for row in rows if row[1] != last[1]), None)
        if other is not None:
            sql = "UPDATE samples SET counted = ? WHERE run = 1 AND step = ? AND opening = ? AND counted = ?"
            for now, then in ((999, last[0]), (last[0], other[0]), (other[0], 999)):
                change(copy, sql, now, step, opening, then)
            return int(step)
    raise AssertionError("no race with two different votes")


def swap_steps(copy: Path) -> int | None:
    for now, then in ((999, 7), (7, 8), (8, 999)):
        for table in ("samples", "steps"):
            change(copy, f"UPDATE {table} SET step = ? WHERE run = 1 AND step = ?", now, then)
    return 7


def swap_decisions(copy: Path) -> int | None:
    for now, then in ((999, 7), (7, 8), (8, 999)):
        change(copy, "UPDATE decisions SET place = ? WHERE run = 1 AND place = ?", now, then)
    return 7


def truncate(copy: Path) -> int | None:
    """The last decisions go with all that led to them."""
    for table in ("decisions", "samples", "prompts", "steps"):
        change(copy, f"DELETE FROM {table} WHERE run = 1 AND step >= 28")
    return 28


def truncate_with_events(copy: Path) -> int | None:
    """The end event and its seal go too: only a digest noted elsewhere can tell this from a killed run."""
    truncate(copy)
    change(copy, "DELETE FROM run_events WHERE run = 1 AND kind IN ('finished', 'sealed')")
    change(copy, "UPDATE runs SET outcome = NULL WHERE id = 1")
    return None


def delete_event(copy: Path) -> int | None:
    change(copy, "DELETE FROM run_events WHERE id = (SELECT min(id) FROM run_events WHERE run = 1)")
    return None


def insert_event(copy: Path) -> int | None:
    change(copy, "INSERT INTO run_events(run, kind, reason) VALUES (1, 'settled', 'x')")
    return None


def exchange_text(copy: Path) -> int | None:
    change(copy, "UPDATE samples SET text = text + 1 WHERE run = 1 AND step = 9 AND counted = 1")
    return 9


def forge(copy: Path) -> int | None:
    """A vote for something else, text and key alike, with the tally to match."""
    [(wrong, text)] = ask(
        copy,
        "SELECT s.answer_key, s.text FROM samples s WHERE run = 1 AND step = 9 AND verdict = 'vote' AND "
        "answer_key <> (SELECT answer_key FROM samples o WHERE run = 1 AND step = 8 AND counted = 1) LIMIT 1",
    )
    sql = "UPDATE samples SET answer_key = ?, text = ? WHERE run = 1 AND step = 12 AND counted = 1"
    change(copy, sql, wrong, text)
    return 12


FORGERIES = [
    delete_sample,
    delete_last_sample,
    delete_void,
    delete_void_opening,
    insert_vote,
    swap_counting,
    swap_steps,
    swap_decisions,
    truncate,
    delete_event,
    insert_event,
    exchange_text,
    forge,
]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_rows_that_go_come_or_change_places_are_found(
    log: Path, tmp_path: Path, forgery: Callable[[Path], int | None]
) -> None:
    """Both verifiers find it; where it is a step's, the step is named."""
    copy = tmp_path / "copy.db"
    shutil.copy(log, copy)
    step = forgery(copy)
    came = proven(copy, "lively")
    assert came.verdict == "mismatch"
    if step is not None:
        assert step in {mismatch.step for mismatch in came.mismatches}
    if forgery is not insert_event:
        assert alone_finds(copy, "lively")


def test_a_cut_off_end_is_found_by_what_was_noted_elsewhere(log: Path, tmp_path: Path) -> None:
    """Without its end, a run looks like a killed one; the digest that `run` printed tells."""
    copy = tmp_path / "copy.db"
    shutil.copy(log, copy)
    noted = proven(log, "lively")
    truncate_with_events(copy)
    came = proven(copy, "lively")
    # Without the runs after it, whose events have higher numbers.
    assert (came.verdict, dict(came.counts)) == ("mismatch", {"stray": 1})
    change(copy, "DELETE FROM run_events WHERE id > (SELECT max(id) FROM run_events WHERE run = 1)")
    change(copy, "DELETE FROM runs WHERE id > 1")
    for table in ("decisions", "samples", "prompts", "steps"):
        change(copy, f"DELETE FROM {table} WHERE run > 1")
    came = proven(copy, "lively")
    assert (came.verdict, came.status, len(came.notes)) == ("verified", "running", 1)
    for digest in (noted.digest, noted.seal):
        assert verify(copy, "lively", make_task, expect=digest).verdict == "mismatch"
        assert verify(log, "lively", make_task, expect=digest).ok


# --- a process with parts, and a batch


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a process, a process that solves a task, and a batch."""
    path = tmp_path_factory.mktemp("nested") / "a.db"
    options = {"error_rate": 0.2, "flag_rate": 0.1, "seed": 3}
    mdap.solve_sync(Multiply(a=12, b=34), db=path, run_id="process", k=2, options=options)
    mdap.solve_sync(Outer(), db=path, run_id="outer", k=2, options=options)
    asyncio.run(batch(path, options))
    with closing(sqlite3.connect(path)) as connection:
        for [name] in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


async def batch(path: Path, options: dict[str, Any]) -> None:
    async with mdap.Session(db=path, options=options) as session:
        async for _ in session.solve_all((Hanoi(disks=disks) for disks in (1, 2)), k=2, run_id="batch"):
            pass


class Outer(mdap.Process[Any]):
    """Solves a tower as a part of itself."""

    async def solve(self, ask: mdap.Ask) -> Any:
        """Return what the tower came to."""
        return await ask.solve(Hanoi(disks=2), key="tower")


NAMES = ("process", "outer", "batch")


def stays_unseen(copy: Path) -> bool:
    """Whether every run of the log is verified all the same."""
    return all(is_ok(copy, name) for name in NAMES)


def is_ok(copy: Path, name: str) -> bool:
    try:
        return verify(copy, name, make_task).ok
    except (mdap.UsageError, mdap.DatabaseError):
        return False


def test_an_honest_log_of_processes_is_verified(nested: Path) -> None:
    """So that what follows can fail."""
    assert stays_unseen(nested)
    assert [alone(nested, name).returncode for name in NAMES] == [0, 0, 0]


@pytest.mark.parametrize("some", mostly_slow([True, False]))
@pytest.mark.parametrize(("table", "column"), CASES)
def test_a_changed_value_is_found_in_processes_and_batches(
    nested: Path, tmp_path: Path, table: str, column: str, some: bool
) -> None:
    """Each column of each table, in the first row of each run that has one, parts included."""
    copy = tmp_path / "copy.db"
    where = " AND ".join(f"{key} = ?" for key in keys(table))
    run = {"runs": "id", "texts": "(SELECT min(run) FROM samples WHERE text = texts.id)"}.get(table, "run")
    used = {"run_events": "kind <> 'sealed'"}.get(table, f"{run} IS NOT NULL")
    sql = f"SELECT {', '.join(keys(table))}, min({run}) FROM {table} WHERE {used} GROUP BY {run}"
    for *rowid, _ in every_third(ask(nested, sql), some):
        [(value,)] = ask(nested, f"SELECT {column} FROM {table} WHERE {where}", *rowid)
        shutil.copy(nested, copy)
        other = f"{value}x" if column == "run_id" else other_than(value)
        if column == "outcome" and value is None:
            other = "solved"
        change(copy, f"UPDATE {table} SET {column} = ? WHERE {where}", other, *rowid)
        assert not stays_unseen(copy), f"{table}.{column} of {rowid}: {value!r}"


TABLES = ("runs", "run_events", "texts", "steps", "samples", "decisions")
WHOLE = {
    **{f"{table} emptied": f"DELETE FROM {table}" for table in TABLES},
    "first run": "DELETE FROM runs WHERE id = 1",
    "first event": "DELETE FROM run_events WHERE id = 1",
    "run renumbered": "UPDATE runs SET id = 99 WHERE id = 1",
    "event moved": "UPDATE run_events SET run = 2 WHERE id = (SELECT max(id) FROM run_events WHERE run = 1)",
    "end moved": "UPDATE run_events SET run = 2 WHERE run = 1 AND kind IN ('finished', 'sealed')",
    "events reordered": "UPDATE run_events SET id = -id WHERE run = 1 AND kind = 'finished'",
    "event doubled": "INSERT INTO run_events(run, kind, at, data) SELECT run, kind, at, data FROM run_events "
    "WHERE run = 1 AND kind = 'finished'",
    "case taken out": "UPDATE runs SET parent = NULL WHERE run_id = 'batch/0'",
    "part taken out": "UPDATE runs SET parent = NULL WHERE run_id LIKE 'outer/%'",
    "case of another batch": "UPDATE runs SET parent = 1 WHERE run_id = 'batch/1'",
    "step doubled": "INSERT INTO steps SELECT run, step + 100, opening, key, input, prompt_digest FROM steps "
    "WHERE run = 1 LIMIT 1",
    "decision moved": "UPDATE decisions SET run = 4 WHERE run = 1 AND place = 0",
    "sample of no run": "INSERT INTO samples(run, step, opening, ordinal, verdict, model, view, attempts) "
    "VALUES (77, 0, 0, 0, 'void', 'sim', 0, 1)",
    "run without a row": "INSERT INTO run_events(run, kind) VALUES (88, 'started')",
}


@pytest.mark.parametrize("what", list(WHOLE))
def test_rows_that_vanish_move_or_appear_are_found_in_processes_and_batches(
    nested: Path, tmp_path: Path, what: str
) -> None:
    """By mdap and by the verifier without it, in the run that it concerns or in any."""
    copy = tmp_path / "copy.db"
    shutil.copy(nested, copy)
    change(copy, WHOLE[what])
    assert not stays_unseen(copy)
    assert any(alone_finds(copy, name) for name in NAMES)


def test_a_run_from_another_log_is_found_by_what_was_noted_elsewhere(nested: Path, tmp_path: Path) -> None:
    """A whole run of another seed in the place of this one agrees with itself; its seal is another."""
    noted = verify(nested, "process", make_task)
    other = tmp_path / "other.db"
    mdap.solve_sync(
        Multiply(a=12, b=34), db=other, run_id="process", k=2, options={"error_rate": 0.2, "seed": 9}
    )
    assert verify(other, "process", make_task).ok
    assert verify(other, "process", make_task, expect=noted.seal).verdict == "mismatch"
