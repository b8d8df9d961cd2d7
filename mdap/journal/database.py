"""Open the database file, migrate its schema under the write lock, and notice if the file is replaced."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
import anyio
import anyio.to_thread

from mdap.errors import DatabaseError, UsageError
from mdap.journal.logfile import (
    APPLICATION_ID,
    CONNECTION,
    TRY_SECONDS,
    check_readable,
    owner_version,
    prepare_reading,
    read_uri,
    translated,
    waited_out,
)
from mdap.journal.statements import KEPT, migrations

T = TypeVar("T")

_OLDEST_SQLITE: Final = (3, 38, 0)


class Connection(aiosqlite.Connection):
    """A connection in its own thread that runs several statements in one visit.

    Each call of a plain connection costs turns of the event loop and several waits for the interpreter's
    lock, 5 ms each in a busy loop: a commit with twenty calls takes most of a second.
    """

    async def visit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call *work* in the connection's thread and return its result."""
        done: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call] # as all its calls do
        return done


class Visited:
    """A connection for code that already is in its thread: each visit runs immediately."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def visit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call *work* and return its result."""
        return work(self._connection)


@asynccontextmanager
async def open_writing(path: Path) -> AsyncIterator[Connection]:
    """Open the database for the one writer, creating or migrating it where needed.

    Raises:
        UsageError: the folder does not exist.
        DatabaseError: the file is foreign, damaged, newer, or not writable.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise DatabaseError(f"mdap needs SQLite 3.38 or newer; this Python has {sqlite3.sqlite_version}")
    _check_place(path)
    with translated(path):
        connection = await _connect(str(path))
        try:
            with anyio.CancelScope(shield=True):
                await connection.visit(lambda plain: _prepare(plain, path))
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close()


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        advice = "create it, or name another file with --db"
        raise UsageError(f"the folder {path.parent} does not exist: {advice}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file with --db")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = waited_out(connection, lambda: _check(connection, path))
    if version == 0:
        # Only before the first table: larger pages keep long replies out of overflow chains.
        connection.execute("PRAGMA page_size = 16384").close()
    # SQLite refuses this immediately instead of waiting for a lock.
    waited_out(connection, lambda: connection.execute("PRAGMA journal_mode = WAL").close())
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if version < max(migrations()):
        with transaction(connection):
            _migrate(connection, path)


def migrate(path: Path) -> int | None:
    """Migrate a log with an earlier schema; leave every other file alone.

    Returns:
        The earlier schema; None if there was nothing to do.

    Raises:
        DatabaseError: the log is of an earlier schema and cannot be written.
    """
    with translated(path), closing(sqlite3.connect(read_uri(path), uri=True)) as connection:
        try:
            [[owner]] = connection.execute("PRAGMA application_id")
            [[version]] = connection.execute("PRAGMA user_version")
        except sqlite3.Error:  # its reader reports this
            return None
    if owner != APPLICATION_ID or version >= max(migrations()):
        return None
    with writing(path) as connection:
        _migrate(connection, path)
    return int(version)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    # Read again under the lock: another process may have migrated in between.
    version = _check(connection, path)
    for number, parts in migrations().items():
        if number > version:
            for statement in parts:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version, 0 for a new file; refuse a foreign or newer file."""
    version, newest = owner_version(connection, path), max(migrations())
    if version > newest:
        check_readable(version, path, newest)
    return version


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock within the block; commit at its end, or roll back after an error."""
    waited_out(connection, lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors, such as a full disk, SQLite rolls back itself; keep the first error.
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing log for one transaction, without an event loop."""
    timing: dict[str, Any] = {"isolation_level": None, "timeout": TRY_SECONDS}
    with (
        translated(path),
        closing(sqlite3.connect(path, factory=CONNECTION, **timing)) as connection,
        transaction(connection),
    ):
        yield connection


@asynccontextmanager
async def open_reading(path: Path) -> AsyncIterator[Connection]:
    """Open the database read-only; keep every transaction short, or the log cannot be checkpointed.

    Raises:
        UsageError: there is no such file.
        DatabaseError: the file is foreign, damaged, older or newer.
    """
    uri = read_uri(path)
    with translated(path):
        connection = await _connect(uri, uri=True)
        try:
            await connection.visit(lambda plain: prepare_reading(plain, path, max(migrations())))
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close()


async def _connect(place: str, *, uri: bool = False) -> Connection:
    """Open a connection; shielded like every use of it, since a cancelled call continues in its thread."""
    with anyio.CancelScope(shield=True):
        # Try first: if the file cannot be opened, aiosqlite's thread would outlive the event loop.
        await anyio.to_thread.run_sync(lambda: sqlite3.connect(place, uri=uri).close())
        connection = Connection(
            lambda: sqlite3.connect(
                place,
                uri=uri,
                isolation_level=None,
                timeout=TRY_SECONDS,
                cached_statements=KEPT,
                factory=CONNECTION,
            ),
            0,  # rows are read within one visit
        )
        await connection
    return connection


class Files:
    """The database's file and its write-ahead log, as first seen.

    If they are deleted or replaced, SQLite continues to write to the lost files and reports success.
    """

    def __init__(self, path: Path) -> None:
        self._files = (path, Path(f"{path}-wal"))
        known = {file: _identity(file) for file in self._files}
        self._seen = {file: found for file, found in known.items() if found is not None}

    def check(self) -> None:
        """Raise DatabaseError if one is missing or replaced; call it after a commit, when both must exist."""
        for file in self._files:
            found = _identity(file)
            if found is None or self._seen.setdefault(file, found) != found:
                raise DatabaseError(
                    f"{file} was deleted or replaced while it was in use, and what was written since may be "
                    f"lost: put the old file back if you can, and resume the run"
                )


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
