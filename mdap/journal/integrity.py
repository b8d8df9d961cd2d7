"""Check that every value of a log has its column's type; SQLite does not enforce this.

mdap always writes the right types. Only another program can have written a wrong one, and it would break the
log's readers in many different ways. An audit checks the types first. Other readers check them only after an
error, since the check takes as long as reading the whole log.
"""

import sqlite3
from pathlib import Path
from typing import Final

from mdap.errors import DatabaseError
from mdap.journal.logfile import reading

# The column with the run of a row.
OF_A_RUN: Final = ("run_events", "steps", "prompts", "samples", "pending", "decisions")
_TABLES: Final = {"runs": "id", **dict.fromkeys(OF_A_RUN, "run")}
# Columns whose text is JSON.
_JSON: Final = {
    "runs": ("params", "settings", "provider"),
    "run_events": ("data",),
    "steps": ("input",),
    "decisions": ("winner", "tally"),
}
_LARGEST: Final = "1.7976931348623157e308"


def check_log(path: Path) -> None:
    """Check that all values of a log have their columns' types, and that its JSON is valid.

    Raises:
        UsageError: there is no such file.
        DatabaseError: it is not a log, or a value has the wrong type.
    """
    with reading(path) as connection:
        for table in (*_TABLES, "texts"):
            _check(connection, path, table, "true")
        for table, columns in _JSON.items():
            for name in columns:
                if _found(connection, "1", table, f"{name} IS NOT NULL AND NOT json_valid({name})"):
                    raise _foreign(path, "text that is no JSON", table, name)


def check_types(connection: sqlite3.Connection, path: Path, run: int | None = None) -> None:
    """Check that all values of a run have their columns' types, and that all numbers are finite.

    Without *run*, it checks the texts, which belong to no run.

    Raises:
        DatabaseError: one is not.
    """
    if run is None:
        _check(connection, path, "texts", "true")
        return
    for table, key in _TABLES.items():
        _check(connection, path, table, f"{key} = {run:d}")


def _check(connection: sqlite3.Connection, path: Path, table: str, rows: str) -> None:
    columns = {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}
    wrong = {name: _wrong(name, kind) for name, kind in columns.items()}
    # Check the table once, and single columns only after a mismatch.
    if not _found(connection, "1", table, f"{rows} AND ({' OR '.join(wrong.values())})"):
        return
    for name, kind in columns.items():
        for found in _found(connection, f"typeof({name})", table, f"{rows} AND ({wrong[name]})"):
            what = "an infinite number" if found == kind.lower() else f"a value of type {found}"
            raise _foreign(path, what, table, f"{name}, which is {kind}")


def _foreign(path: Path, what: str, table: str, column: str) -> DatabaseError:
    holds = f"{path} holds {what} in {table}.{column}"
    return DatabaseError(f"{holds}: something other than mdap has written to it; restore a copy")


def _found(connection: sqlite3.Connection, what: str, table: str, where: str) -> list[str]:
    return [found for (found,) in connection.execute(f"SELECT {what} FROM {table} WHERE {where} LIMIT 1")]


def _wrong(name: str, kind: str) -> str:
    """Return the SQL condition for an invalid value in a column of this name and type."""
    other = f"{name} IS NOT NULL AND typeof({name}) <> '{kind.lower()}'"
    return f"{other} OR abs({name}) > {_LARGEST}" if kind == "REAL" else other
