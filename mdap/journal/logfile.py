"""The log's file: identify it, explain its errors, and open it for reading without an event loop."""

import errno
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from mdap.errors import DatabaseError, LockedError, UsageError

T = TypeVar("T")

APPLICATION_ID: Final = 0x6D646170
"""Marks a SQLite file as an mdap log: "mdap" in ASCII, shown by ``file``. mdap checks it before it writes."""

SCHEMA: Final = 11
"""The schema that this mdap reads: the number of the newest migration."""

TOO_MANY_FILES: Final = (errno.EMFILE, errno.ENFILE)
"""Error numbers for too many open files, in a process or in the whole system."""

RAISE_FILES: Final = "raise the limit with `ulimit -n`, or lower --concurrency"

PATIENCE: Final = 60.0
"""Seconds to wait for another program's lock."""

TRY_SECONDS: Final = 2.0
"""Seconds after which mdap reports that it waits for a lock."""

_LOG: Final = logging.getLogger("mdap")
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FILES_OF_A_LOG: Final = 4  # SQLite opens this number for one connection, and closes them when it fails
_PRIMARY: Final = 0xFF
_UNWRITABLE: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL)
_PAUSE: Final = 0.05
_WAL_MARK: Final = 18  # the write version in a SQLite file's header


class Numbered(sqlite3.Connection):
    """A connection that binds values to ``?1``, ``?2``, ... by name.

    Python 3.12.0 to 3.12.3 warn about these placeholders if values are a sequence.
    """

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement."""
        if values and "?1" in sql:
            values = {str(number): value for number, value in enumerate(values, start=1)}
        return super().execute(sql, values)


CONNECTION: Final = Numbered if (3, 12) <= sys.version_info < (3, 12, 4) else sqlite3.Connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one sentence with advice."""
    try:
        yield
    except sqlite3.Error as error:
        raise (LockedError if is_locked(error) else DatabaseError)(_explain(path, error)) from error


def is_locked(error: sqlite3.Error) -> bool:
    """Return whether another program's lock caused *error*."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _BUSY


def waited_out(connection: sqlite3.Connection, act: Callable[[], T]) -> T:
    """Call *act* until no other program's lock blocks it, and return its result.

    Args:
        connection: its connection, which itself waits for `TRY_SECONDS`.
        act: must change nothing if it fails.
    """
    since, said = time.monotonic(), False
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            waited = time.monotonic() - since
            if not is_locked(error) or waited >= PATIENCE:
                raise
        # SQLite fails immediately if two programs create a file's log at the same moment.
        if not said and waited >= TRY_SECONDS:
            said = True
            [(_, _, file), *_] = connection.execute("PRAGMA database_list")
            name = os.path.basename(file)
            _LOG.warning(f"{name} is locked by another program; waiting {PATIENCE:g} seconds for it at most")
        time.sleep(_PAUSE)


def _explain(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "not a database" in text:
        return f"{path} is not an mdap database: name another file with --db"
    if "locked" in text or "busy" in text:
        return (
            f"{path} is locked by another program: close that program, such as a backup or a browser, "
            "and give the command again, or `mdap resume` the run"
        )
    if "full" in text:
        return f"the disk that holds {path} is full: make room and resume the run"
    if "unable to open" in text or "disk I/O error" in text:
        return _unopened(path, text)
    if "readonly" in text or "read-only" in text:
        return f"{path} cannot be written: check its permissions, or name another file with --db"
    if "malformed" in text:
        restore = "restore a copy, or recover it with the sqlite3 shell's .recover"
        copied = "" if _has_rows(_wal(path)) else f"; if it is a copy, copy {_wal(path)} with it"
        return f"{path} is damaged ({text}): {restore}{copied}"
    if "UNIQUE constraint" in text:
        return f"another process is writing the same run in {path}: let one of them finish"
    return f"{path} cannot be used ({text})"


def _unopened(path: Path, text: str) -> str:
    """Return the system's error for the same file, where SQLite gives no cause."""
    cause = _refusal(path)
    if cause is not None and cause.errno in TOO_MANY_FILES:
        return f"{path} cannot be opened ({cause.strerror}): {RAISE_FILES}, then resume"
    if "disk I/O error" in text:
        return f"{path} cannot be read or written ({text}): check the disk and its free space, then resume"
    if cause is not None and not isinstance(cause, FileNotFoundError):
        return f"{path} cannot be opened ({cause.strerror}): check its permissions, or name another with --db"
    if not os.access(path.absolute().parent, os.W_OK):
        return f"{path} cannot be opened, since its folder cannot be written: name another file with --db"
    return f"{path} cannot be opened: check that it is a file that you may read and write"


def _refusal(path: Path) -> OSError | None:
    """Return the system's error on opening *path* and a few files beside it, or None."""
    opened = []
    try:
        for place in (str(path), *[os.devnull] * _FILES_OF_A_LOG):
            opened.append(os.open(place, os.O_RDWR))  # noqa: PERF401 - one by one, to close them all
    except OSError as error:
        return error
    finally:
        for each in opened:
            os.close(each)
    return None


def _wal(path: Path) -> Path:
    """Return the path of the write-ahead log of the database."""
    return Path(f"{path}-wal")


def _has_rows(wal: Path) -> bool:
    return wal.is_file() and wal.stat().st_size > 0


def read_uri(path: Path) -> str:
    """Return the URI under which SQLite opens the file at *path* to read it.

    Raises:
        UsageError: there is no such file.
        DatabaseError: it cannot be read in its folder.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name a file with --db")
        if not path.is_file():
            raise UsageError(f"there is no database {path}: run a task first, or name another file with --db")
    except PermissionError as error:
        sentence = f"{path} cannot be opened ({error.strerror}): name another file with --db"
        raise DatabaseError(sentence) from None
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with translated(path):
        return f"{uri}&immutable=1" if _is_frozen(path, uri) else uri


def _is_frozen(path: Path, uri: str) -> bool:
    """Return whether SQLite must open the file as immutable, since its folder is read-only.

    SQLite creates two files beside a log to read it; a read-only folder does not allow that.
    """
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        fixed = error.sqlite_errorcode & _PRIMARY in _UNWRITABLE and not _may_change(path)
        if fixed and _has_rows(_wal(path)):
            raise DatabaseError(
                f"{path} cannot be read in a folder that cannot be written, since rows are in {_wal(path)}: "
                "copy both files to another folder"
            ) from None
        return fixed
    return False


def _may_change(path: Path) -> bool:
    """Return whether the files beside a log can be created or written."""
    beside = [file for file in (_wal(path), Path(f"{path}-shm")) if file.exists()]
    return all(os.access(place, os.W_OK) for place in (path.absolute().parent, *beside))


def owner_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema in a file, 0 without tables; raise DatabaseError if it is foreign."""
    # One read transaction: another process could turn the file into a log in between.
    alone = not connection.in_transaction
    if alone:
        connection.execute("BEGIN")
    try:
        [[version]] = connection.execute("PRAGMA user_version")
        [[owner]] = connection.execute("PRAGMA application_id")
        [[tables]] = connection.execute("SELECT count(*) FROM sqlite_master")
    finally:
        if alone:
            connection.execute("COMMIT")
    if (owner, version, tables) == (0, 0, 0):
        return 0
    if owner != APPLICATION_ID:
        raise DatabaseError(f"{path} is not an mdap database: name another file with --db")
    return int(version)


def check_readable(version: int, path: Path, known: int = SCHEMA) -> None:
    """Raise DatabaseError for an empty file, or for a schema that is not the *known* one."""
    if version > known:
        newer = f"schema {version}, this one knows {known}"
        raise DatabaseError(f"{path} was written by a newer mdap ({newer}): upgrade mdap")
    if version == 0 and _wants_wal(path) and not _has_rows(_wal(path)):
        raise DatabaseError(
            f"{path} holds no rows. If it is a copy, they are in {_wal(path)}: copy both files, or copy the "
            "log with `sqlite3 FROM '.backup TO'`. If a run could not begin in it, start that run again"
        )
    if version == 0:
        raise DatabaseError(f"{path} is empty: run any task in it, or name another file with --db")
    if version < known:
        older = f"{path} has schema {version}, this mdap reads {known}"
        raise DatabaseError(f"{older}: `mdap runs --db {path}` migrates it")


def _wants_wal(path: Path) -> bool:
    """Return whether the file may have rows in a write-ahead log beside it."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(_WAL_MARK + 1)[_WAL_MARK:] == b"\2"
    return False


def prepare_reading(connection: sqlite3.Connection, path: Path, known: int = SCHEMA) -> None:
    """Let statements of *connection* wait for locks silently, and its rows give access by name.

    Raises:
        DatabaseError: its file is foreign, or has not the *known* schema.
    """
    check_readable(waited_out(connection, lambda: owner_version(connection, path)), path, known)
    connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
    connection.row_factory = sqlite3.Row


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the log at *path* for reading; rows give access by name.

    Raises:
        UsageError: there is no such file.
        DatabaseError: the file is foreign, damaged, older or newer; or a query fails.
    """
    uri = read_uri(path)
    with (
        translated(path),
        closing(
            sqlite3.connect(uri, uri=True, timeout=TRY_SECONDS, isolation_level=None, factory=CONNECTION)
        ) as connection,
    ):
        prepare_reading(connection, path)
        yield connection
