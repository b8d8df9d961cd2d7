"""The log's file: whether it is ours, what its errors mean, and opening it to read without an event loop."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from mdap.errors import DatabaseError, UsageError
from mdap.records import SAMPLE_COLUMNS

__all__ = ["APPLICATION_ID", "SAMPLE", "SCHEMA", "TEXTS", "outdated", "read_uri", "reading", "translated"]

APPLICATION_ID: Final = 0x6D646170
"""Marks a SQLite file as ours: "mdap" in ASCII, shown by ``file`` and checked before anything is written."""

SCHEMA: Final = 2
"""The schema that this mdap reads: the number of the newest migration."""

_BUSY_SECONDS: Final = 10.0

# A digest is empty where the text that a row refers to is gone.
_DIGEST: Final = "CASE WHEN s.{0} IS NULL THEN NULL ELSE coalesce({1}.digest, '') END AS {0}_digest"
_READ: Final = {"text": _DIGEST.format("text", "t"), "reasoning": _DIGEST.format("reasoning", "h")}

SAMPLE: Final = ", ".join(
    (*(_READ.get(name, f"s.{name}") for name in SAMPLE_COLUMNS), "t.body AS text", "h.body AS reasoning")
)
"""What to select of samples *s* with their texts: the fields of `mdap.records.SampleTaken`."""

TEXTS: Final = "LEFT JOIN texts t ON t.id = s.text LEFT JOIN texts h ON h.id = s.reasoning"
"""Joins samples *s* with the texts that `SAMPLE` needs."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one sentence that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(_explain(path, error)) from error


def _explain(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "not a database" in text:
        return f"{path} is not an mdap database: name another file with --db"
    if "locked" in text or "busy" in text:
        return f"{path} is locked by another program: close that program, or wait, and try again"
    if "full" in text:
        return f"the disk that holds {path} is full: make room and resume the run"
    if "disk I/O error" in text:
        return f"{path} cannot be read or written ({text}): check the disk and its free space, then resume"
    if "readonly" in text or "read-only" in text:
        return f"{path} cannot be written: check its permissions, or name another file with --db"
    if "malformed" in text:
        return f"{path} is damaged ({text}): restore a copy, or recover it with the sqlite3 shell's .recover"
    if "unable to open" in text:
        return f"{path} cannot be opened: check that it is a file that you may read and write"
    if "UNIQUE constraint" in text:
        return f"another process is writing the same run in {path}: let one of them finish"
    return f"{path} cannot be used ({text})"


def outdated(path: Path, version: int) -> str:
    """Return the sentence for a log of an earlier schema, which every command migrates."""
    if version == 0:
        return f"{path} is empty: run any task in it, or name another file with --db"
    return f"{path} has schema {version}, this mdap reads {SCHEMA}: `mdap runs --db {path}` migrates it"


def read_uri(path: Path) -> str:
    """Return the URI under which SQLite opens the file at *path* to read it.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"there is no database {path}: run a task first, or name another file with --db")
    return f"{path.absolute().as_uri()}?mode=ro"


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the log at *path* to read it; rows can be had by name.

    Raises:
        UsageError: there is no such file.
        DatabaseError: the file is foreign, damaged, older or newer; or a query fails.
    """
    uri = read_uri(path)
    with (
        translated(path),
        closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)) as connection,
    ):
        [owner] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if owner != APPLICATION_ID:
            raise DatabaseError(f"{path} is not an mdap database: name another file with --db")
        if version < SCHEMA:
            raise DatabaseError(outdated(path, version))
        if version > SCHEMA:
            raise DatabaseError(f"{path} has schema {version}, this mdap reads {SCHEMA}: upgrade mdap")
        connection.row_factory = sqlite3.Row
        yield connection
