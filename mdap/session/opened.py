"""The part of a session that needs no task: open and close it, follow its log, settle its steps.

A session is kept in a task of its own, so that any task may open, use and close it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial
from typing import Any, Final, Self

import anyio

from mdap.audit.review import Ruling, Settled, Waiting
from mdap.errors import UsageError
from mdap.journal.reader import RunRow
from mdap.records import Event, Solution
from mdap.rules.canonical import canonical
from mdap.session.dealing import open_with_workers
from mdap.session.desk import Desk
from mdap.session.following import follow
from mdap.session.models import SessionSetup
from mdap.session.resources import SessionResources
from mdap.session.results import read_solution

_NOT_OPEN: Final = (
    "this session is not open: write `async with mdap.Session(...) as session:`, and use it in that block"
)
_CLOSED: Final = "this session is closed: use it within its `async with` block, or open another one"


class _Host:
    """Keep resources open from `open` to `close`, whichever tasks of one event loop call these."""

    def __init__(self, resources: Callable[[], AbstractAsyncContextManager[SessionResources]]) -> None:
        self.closing = False
        self._resources = resources
        self._loop = _loop()
        self._opened = anyio.Event()
        self._leave = anyio.Event()
        self._visits: set[anyio.CancelScope] = set()
        self._gone = anyio.Event()
        self._value: SessionResources
        self._task: asyncio.Task[None]

    async def open(self) -> None:
        """Open the resources; raise any error here."""
        # A task group cannot do that: the task that enters it must also leave it.
        self._task = asyncio.create_task(self._keep())  # noqa: TID251
        try:
            await self._opened.wait()
        except BaseException:
            with suppress(Exception):
                await self.close()
            raise
        if self.closing:
            self._task.result()

    async def close(self) -> None:
        """End all visits, and close the resources."""
        self._check_loop()
        self._leave.set()
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not self._task.done():
                try:
                    await asyncio.wait([self._task])  # which, unlike await, does not cancel it
                except asyncio.CancelledError as error:  # by asyncio itself, from which no scope shields
                    cancelled = error
        if cancelled is not None:
            raise cancelled
        self._task.result()

    async def _keep(self) -> None:
        try:
            async with self._resources() as self._value:
                self._opened.set()
                try:
                    await self._leave.wait()
                finally:
                    await self._end_visits()
        finally:
            self.closing = True
            self._opened.set()

    async def _end_visits(self) -> None:
        self.closing = True
        with anyio.CancelScope(shield=True):
            while self._visits:
                for scope in self._visits:
                    scope.cancel()
                self._gone = anyio.Event()
                await self._gone.wait()

    @contextmanager
    def visit(self, scope: anyio.CancelScope) -> Iterator[SessionResources]:
        """Give the resources; closing the session cancels *scope* and waits for the end of the block."""
        value = self.value
        self._visits.add(scope)
        try:
            yield value
        finally:
            self._visits.discard(scope)
            self._gone.set()

    @property
    def value(self) -> SessionResources:
        """The resources."""
        self._check_loop()
        return self._value

    def _check_loop(self) -> None:
        if self._loop is not _loop():
            raise UsageError(
                "this session belongs to another event loop: open a session in each loop, or in pytest give "
                "the fixture and its tests one loop (pytest-asyncio: loop_scope)"
            )


def _loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError(
            "a session needs a running asyncio loop: call it in an async function that "
            "asyncio.run(...) started"
        ) from None


class OpenSession:
    """The base class of `mdap.Session`."""

    def __init__(self, setup: SessionSetup) -> None:
        self.path = setup.path
        self._setup = setup
        self._host: _Host | None = None

    def __repr__(self) -> str:
        setup = self._setup
        models = ", ".join((*setup.models, *(f"then {model}" for model in setup.escalate_to)))
        state = "not open" if self._host is None else "closed" if self._host.closing else "open"
        return f"<mdap.Session of {models} on {self.path}, {state}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the database and the models; `async with` does it for you.

        Raises:
            UsageError: the session is open already, or a model is not available.
            DatabaseError: the file is not an mdap database, or cannot be written.
        """
        if self._host is not None and not self._host.closing:
            raise UsageError("this session is open already: open it once, and share it")
        self._host = _Host(partial(open_with_workers, self._setup))
        await self._host.open()

    async def close(self) -> None:
        """Stop the runs of the session, resumably, and close its connections; `async with` does it for you.

        It leaves models given as objects open.
        """
        if self._host is not None:
            await self._host.close()

    @property
    def _resources(self) -> SessionResources:
        return self._opened.value

    @property
    def _opened(self) -> _Host:
        if self._host is None:
            raise UsageError(_NOT_OPEN)
        if self._host.closing:
            raise UsageError(_CLOSED)
        return self._host

    def _begin(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._resources.group.start_soon(act)

    @contextmanager
    def _visit(self) -> Iterator[SessionResources]:
        """Use the session within the block; refuse calls if the session closes meanwhile."""
        scope = anyio.CancelScope()
        with self._opened.visit(scope) as resources, scope:
            yield resources
        if scope.cancelled_caught:
            raise UsageError(_CLOSED)

    def events(self, run_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """Follow a run: ``async for event in session.events(run_id)`` yields each of its recorded facts.

        Facts are read from the log, so a slow reader delays nothing. A step's samples come with its decision;
        those of a step without a decision come when the run ends, and that ends the iteration, too. Follow
        the runs of cases and of nested tasks by their own ids.

        Args:
            run_id: the run's id, exactly; it may be about to begin.
            after: the `cursor` of the last event that was read, to continue after it; None for the beginning.

        Returns:
            An async iterator; see `mdap.Event`.

        Raises:
            RunNotFoundError: there is no such run, and none begins within 5 seconds.
            UsageError: *after* is no cursor.
        """
        host = self._opened
        return follow(host.value, run_id, after, lambda: not host.closing)

    async def waiting(self, run_id: str | None = None, *, most: int = 50) -> list[Waiting]:
        """Return the steps that wait for a person: undecided ones, then the most doubtful decisions.

        Args:
            run_id: only those of this run and its parts; None for the newest runs of the database.
            most: the maximum number of steps.

        Raises:
            RunNotFoundError: there is no such run.
        """
        with self._visit() as resources:
            await resources.writer.flush()
            return await Desk(self.path).waiting(run_id, most)

    async def settle(
        self, run_id: str, step: int, *, answer: Any, author: str, reason: str, override: bool = False
    ) -> Settled:
        """Record a person's decision of a step, in any run of the database.

        If a process waits for the step, this one or another (see `Limits.wait_for_person`), its run
        continues; otherwise `resume` the returned run.

        Args:
            run_id: the step's run: its id, a unique prefix of it, or ``latest``.
            step: its number.
            answer: the answer, as a JSON value.
            author: who decides.
            reason: why.
            override: settle a step that votes decided; a new run then replaces the step's run.

        Raises:
            ClaimedError: another person has the step, or has settled it meanwhile.
            RunBusyError: a process is working on the run, and does not wait for the step.
            UsageError: there is no such run or step, or the answer is invalid for it.
        """
        if not isinstance(step, int):
            raise UsageError(f"step takes the number of a step, not {step!r:.60}")
        try:
            spelled = canonical(answer)
        except (TypeError, ValueError) as error:
            raise UsageError(f"answer takes a JSON value, not {answer!r:.60}: {error}") from None
        with self._visit() as resources:
            await resources.writer.flush()
            ruling = Ruling(spelled, author, reason, override)
            return await Desk(self.path).settle(run_id, step, ruling)

    async def find(self, run_id: str) -> Solution[Any] | None:
        """Return the solution so far of the run whose id is exactly *run_id*, or None if there is none."""
        with self._visit() as resources:
            row = await row_of(resources, run_id)
            return None if row is None else await read_solution(resources.reader, row)


async def row_of(resources: SessionResources, run_id: str) -> RunRow | None:
    """Return the row of a run as this session left it; None if there is no such run."""
    # Facts of a cancelled run of this session may not be committed yet.
    await resources.writer.flush()
    return await resources.reader.run(run_id)


async def left(resources: SessionResources, run_id: str) -> Solution[Any]:
    """Return the solution of a run that the close of the session interrupted."""
    row = await row_of(resources, run_id)
    if row is None:
        raise UsageError(_CLOSED)
    return await read_solution(resources.reader, row)
