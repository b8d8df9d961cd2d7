"""Load the SQL statements from their files."""

import re
import sqlite3
from functools import cache
from importlib.resources import files
from typing import Any, Final

from mdap.records import CHAINED_COLUMNS, SAMPLE_COLUMNS, Decided, StepOpened

KEPT: Final = 80
"""Number of prepared statements to keep: all of a writer's, in all sizes."""

_MARK: Final = "-- name:"
_FRAGMENT: Final = re.compile(r"\{(\w+)\}")

# Binding None takes Python over ten times as long as a number, so columns that are often NULL bind one that
# none of them can hold.
_OFTEN_NULL: Final = (
    "flag_reason",
    "request_id",
    "served_model",
    "fingerprint",
    "reasoning_tokens",
    "reasoning",
)


def _value(place: int, name: str) -> str:
    """Return the SQL for a sample's column number *place*, from 1, in an INSERT."""
    column = f"column{place}"
    if name in _OFTEN_NULL:
        column = f"nullif({column}, -1)"
    return f"(SELECT id FROM texts WHERE digest = {column})" if name in ("text", "reasoning") else column


# A digest is empty if the text of its row is missing.
_DIGEST: Final = "CASE WHEN s.{0} IS NULL THEN NULL ELSE coalesce({1}.digest, '') END AS {0}_digest"
_READ: Final = {"text": _DIGEST.format("text", "t"), "reasoning": _DIGEST.format("reasoning", "h")}
_SEALED: Final = ("step", "opening", "counted", *CHAINED_COLUMNS[CHAINED_COLUMNS.index("ordinal") :])

# Fragments derived from the classes that name a table's columns; `fragments.sql` has the rest.
_COLUMNS: Final = {
    "columns": ", ".join(SAMPLE_COLUMNS),
    "values": ", ".join(_value(place, name) for place, name in enumerate(SAMPLE_COLUMNS, start=1)),
    "marks": ", ".join("?" for _ in SAMPLE_COLUMNS),
    "voided": ", ".join({"counted": "NULL", "verdict": "'void'"}.get(name, name) for name in SAMPLE_COLUMNS),
    "sample": ", ".join(
        (*(_READ.get(name, f"s.{name}") for name in SAMPLE_COLUMNS), "t.body AS text", "h.body AS reasoning")
    ),
    "sealed": ", ".join(
        f"(SELECT digest FROM texts t WHERE t.id = s.{name})" if name in _READ else f"s.{name}"
        for name in _SEALED
    ),
    "decision": ", ".join(f"d.{name}" for name in Decided._fields),
    "opening": ", ".join(f"p.{name}" for name in StepOpened._fields),
}
READING: Final = ("read", "view", "audit", "seal", "jobs")
"""The files of statements that read."""


@cache
def statements(file: str) -> dict[str, str]:
    """Return the statements of ``sql/<file>.sql`` by the names on their ``-- name:`` lines."""
    return {name: _filled(text) for name, text in _named(file).items()}


@cache
def statement(name: str) -> str:
    """Return the reading statement *name* from any file."""
    return next(statements(file)[name] for file in READING if name in statements(file))


def query(connection: sqlite3.Connection, name: str, *values: Any, table: str = "") -> sqlite3.Cursor:
    """Execute the reading statement *name*; *table* fills in the table of one that serves several."""
    return connection.execute(statement(name).replace("{table}", table), values)


@cache
def _named(file: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in _text(f"{file}.sql").splitlines():
        if line.startswith(_MARK):
            name = line.removeprefix(_MARK).strip()
            found[name] = []
        elif name and not line.startswith("--"):
            found[name].append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def _filled(text: str) -> str:
    fragments = {**_COLUMNS, **_named("fragments")}
    while (filled := _FRAGMENT.sub(lambda found: fragments.get(found[1], found[0]), text)) != text:
        text = filled
    return text


@cache
def migrations() -> dict[int, list[str]]:
    """Return each migration's statements by its number, which is the schema version it leads to."""
    folder = files("mdap.journal") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name[:4].isdigit())
    return {
        int(name[:4]): [part.strip() for part in _text(name).split("\n;\n") if part.strip()] for name in names
    }


def _text(name: str) -> str:
    return (files("mdap.journal") / "sql" / name).read_text(encoding="utf-8")
