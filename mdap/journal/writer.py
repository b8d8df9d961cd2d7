"""The one writer of the database: appending never waits, and commits go out in groups."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from mdap.errors import DatabaseError
from mdap.groups import gathered
from mdap.journal.batch import Batch, NewRun, in_blocks
from mdap.journal.database import Connection, Files, open_writing, transaction
from mdap.journal.logfile import TRY_SECONDS, translated
from mdap.journal.statements import statements
from mdap.records import Fact

T = TypeVar("T")

COMMIT_SECONDS: Final = 0.05
"""Seconds to gather facts for one commit: a killed process loses at most these and pays for them again."""

_MOST_PENDING: Final = 20_000
# Not more: pending facts slow decisions down once both no longer fit in the
# processor's cache.
_SOON: Final = 2_000


class Writer:
    """The append-only record of runs; see `mdap.protocols.Journal`.

    Args:
        watch: called with facts once they are durable; None for no calls.
        every: tells before each commit whether *watch* wants all facts or only events.
    """

    def __init__(
        self,
        path: Path,
        connection: Connection,
        watch: Callable[[Fact], None] | None = None,
        every: Callable[[], bool] = lambda: True,
    ) -> None:
        self.path = path
        self._connection = connection
        self._watch = watch
        self._every = every
        self._keeps = watch is not None and every()
        self._files = Files(path)
        self._batch = Batch()
        self._untold: list[Fact] = []  # kept only for *watch*
        self._taken = 0
        self._committed = 0
        self._wake = anyio.Event()
        self._hurry = anyio.Event()
        self._done = anyio.Event()
        self._error: DatabaseError | None = None
        self._closing = False
        self._committing_since: float | None = None

    def append(self, *facts: Fact) -> None:
        """Append *facts* to the next commit.

        Raises:
            DatabaseError: an earlier commit failed; its facts are lost, earlier ones are safe.
        """
        if self._error is not None:
            raise self._error
        batch = self._batch
        if not batch.size:
            self._wake.set()
        for fact in facts:
            batch.take(fact)
        if batch.size - len(facts) < _SOON <= batch.size:
            self._hurry.set()
        if self._keeps:
            self._untold += facts

    @property
    def usable(self) -> bool:
        """Whether commits still work."""
        return self._error is None

    @property
    def behind(self) -> bool:
        """Whether a commit waits for another program's lock, or too many facts are pending."""
        since = self._committing_since
        if since is not None and time.monotonic() - since > TRY_SECONDS:
            return True
        return self._batch.size > _MOST_PENDING

    async def wait_for_room(self) -> None:
        """Wait while the journal is `behind`.

        Raises:
            DatabaseError: an earlier commit failed.
        """
        while self.behind:
            self._hurry.set()
            await self.next_commit()
        if self._error is not None:
            raise self._error

    async def flush(self) -> None:
        """Wait until every fact appended so far is durable."""
        target = self._taken + self._batch.size
        while self._committed < target:
            self._hurry.set()
            await self.next_commit()
        if self._error is not None:
            raise self._error

    async def next_commit(self) -> None:
        """Wait until the current or else the next commit is done."""
        if self._error is not None:
            raise self._error
        await self._done.wait()

    async def begin_run(self, columns: Mapping[str, Any]) -> int:
        """Insert a row into *runs* with the next commit, which does not wait for more, and return its number.

        Args:
            columns: values by column name, all but *id* and *created_at*.

        Raises:
            DatabaseError: the run_id is taken, or the file cannot be written.
        """
        if self._closing:
            raise DatabaseError(f"{self.path} is closed")
        run = NewRun(columns)
        if not self._batch.size:
            self._wake.set()
        self._batch.begin(run)
        with translated(self.path), anyio.CancelScope(shield=True):
            await self.flush()
            if run.error is not None:
                raise run.error
        assert run.number is not None
        return run.number

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call *work* and return its result once its writes are on disk, safe from a power cut."""

        def surely(connection: sqlite3.Connection) -> T:
            connection.execute("PRAGMA synchronous = FULL")
            try:
                with transaction(connection):
                    return work(connection)
            finally:
                connection.execute("PRAGMA synchronous = NORMAL")

        with translated(self.path), anyio.CancelScope(shield=True):
            done = await self._connection.visit(surely)
        return done

    async def serve(self) -> None:
        """Commit in groups until `close` is called and nothing is pending.

        It is shielded: after a cancellation, mdap still commits everything that the runs appended.
        """
        try:
            with anyio.CancelScope(shield=True):
                while not (self._closing and not self._batch.size) and self._error is None:
                    await self._commit_next()
        finally:
            if not self._closing:  # a second Ctrl-C hits any code: nobody may wait for what does not come
                self._error = self._error or DatabaseError(f"nothing more was written to {self.path}")
            self._done.set()

    async def _commit_next(self) -> None:
        await self._gather()
        self._wake, self._hurry = anyio.Event(), anyio.Event()
        batch, self._batch = self._batch, Batch()
        untold: Sequence[Fact] = self._untold if self._keeps else batch.events
        self._untold = []
        self._keeps = self._watch is not None and self._every()
        self._taken += batch.size
        if batch.size:
            await self._commit_or_fail(batch, untold)
        done, self._done = self._done, anyio.Event()
        done.set()

    async def _gather(self) -> None:
        # By asyncio itself, from which no scope shields: a loop that ends cancels every task.
        with suppress(asyncio.CancelledError):
            await self._wake.wait()
            if not (self._closing or self._hurry.is_set()):
                with anyio.move_on_after(COMMIT_SECONDS):
                    await self._hurry.wait()

    def close(self) -> None:
        """Let `serve` end after the pending facts."""
        self._closing = True
        self._wake.set()
        self._hurry.set()

    async def _commit_or_fail(self, batch: Batch, facts: Sequence[Fact]) -> None:
        self._committing_since = time.monotonic()
        try:
            with translated(self.path), anyio.CancelScope(shield=True):
                await self._write(batch, facts)
        except DatabaseError as error:
            self._error = error
            return
        except (Exception, asyncio.CancelledError) as error:
            # Whatever the error is, callers must not wait for this commit forever.
            self._error = DatabaseError(f"{self.path} cannot take what was to be recorded ({error})")
            return
        finally:
            self._committing_since = None
        self._committed += batch.size
        if self._watch is not None:
            for fact in facts:
                self._watch(fact)

    async def _write(self, batch: Batch, facts: Sequence[Fact]) -> None:
        """Commit *batch*, which holds *facts*."""
        await self._connection.visit(lambda connection: _commit(connection, batch))
        self._files.check()


def _commit(connection: sqlite3.Connection, batch: Batch) -> None:
    """Write all of *batch* or nothing, but for runs that the table refuses."""
    sql = statements("append")
    with transaction(connection):
        for run in batch.runs:
            _begin(connection, run)
        for name, parameters in batch.statements():
            for statement, some in in_blocks(sql[name], parameters):
                connection.execute(statement, some)


def _begin(connection: sqlite3.Connection, run: NewRun) -> None:
    names, marks = ", ".join(run.columns), ", ".join("?" * len(run.columns))
    sql = f"INSERT INTO runs({names}) VALUES ({marks})"
    try:
        run.number = connection.execute(sql, tuple(run.columns.values())).lastrowid
    except Exception as error:
        if not connection.in_transaction:  # after a full disk, for one
            raise
        run.error = error


@asynccontextmanager
async def open_journal(
    path: Path, watch: Callable[[Fact], None] | None = None, every: Callable[[], bool] = lambda: True
) -> AsyncIterator[Writer]:
    """Open the journal at *path*; commit all appended facts before closing it."""
    async with open_writing(path) as connection:
        writer = Writer(path, connection, watch, every)
        async with gathered() as group:
            group.start_soon(writer.serve)
            try:
                yield writer
            finally:
                writer.close()
