"""Whether every value of a run is of its column's type, which SQLite does not see to.

What mdap writes always is. A value that is not was put there by something else, and what reads the log would
stumble over it in as many ways as there are places: so it is looked for first.
"""

import sqlite3
from pathlib import Path
from typing import Final

from mdap.errors import DatabaseError

__all__ = ["check_types"]

_TABLES: Final = {
    "runs": "id = ?1",
    "run_events": "run = ?1",
    "steps": "run = ?1",
    "samples": "run = ?1",
    "pending": "run = ?1",
    "decisions": "run = ?1",
    "texts": "?1",  # they belong to no run
}
_LARGEST: Final = "1.7976931348623157e308"


def check_types(connection: sqlite3.Connection, path: Path, run: int) -> None:
    """Look whether all values of a run are of their columns' types, and all numbers finite.

    Args:
        connection: the log.
        path: where it is.
        run: the run's number.

    Raises:
        DatabaseError: one is not.
    """
    for table, rows in _TABLES.items():
        columns = {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}
        wrong = " OR ".join(_wrong(name, kind) for name, kind in columns.items())
        # Each table once, and what is wrong only where something is.
        if connection.execute(f"SELECT 1 FROM {table} WHERE {rows} AND ({wrong}) LIMIT 1", (run,)).fetchone():
            for name, kind in columns.items():
                _refuse(connection, path, run, (table, rows, name, kind))


def _refuse(connection: sqlite3.Connection, path: Path, run: int, where: tuple[str, str, str, str]) -> None:
    """Raise the error for a column if a value in it is wrong."""
    table, rows, name, kind = where
    sql = f"SELECT typeof({name}) FROM {table} WHERE {rows} AND {_wrong(name, kind)} LIMIT 1"
    for (found,) in connection.execute(sql, (run,)):
        what = "an infinite number" if found == "real" == kind.lower() else f"a value of type {found}"
        raise DatabaseError(
            f"{path} holds {what} in {table}.{name}, which is {kind}: something other than mdap has written "
            "to it; restore a copy"
        )


def _wrong(name: str, kind: str) -> str:
    """Return the SQL condition that a column of this name and type holds what it must not."""
    other = f"({name} IS NOT NULL AND typeof({name}) <> '{kind.lower()}')"
    return f"{other} OR abs({name}) > {_LARGEST}" if kind == "REAL" else other
