"""Host a session in its own task, so that any task may open, use and close it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Generic, TypeVar

import anyio

from mdap.errors import UsageError

__all__ = ["Host"]

T = TypeVar("T")


class Host(Generic[T]):
    """Keep resources open from `open` to `close`, whichever tasks call these.

    Args:
        resources: opens the resources.

    Attributes:
        closing: whether the resources are being closed, or are closed.
    """

    def __init__(self, resources: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self.closing = False
        self._resources = resources
        self._loop = _loop()
        self._opened = anyio.Event()
        self._leave = anyio.Event()
        self._visits: set[anyio.CancelScope] = set()
        self._gone = anyio.Event()
        self._value: T
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
    def visit(self, scope: anyio.CancelScope) -> Iterator[T]:
        """Give the resources; they stay open until the end of the block.

        Args:
            scope: cancelled when the session is closed.

        Raises:
            UsageError: another event loop opened them.
        """
        value = self.value
        self._visits.add(scope)
        try:
            yield value
        finally:
            self._visits.discard(scope)
            self._gone.set()

    @property
    def value(self) -> T:
        """The resources.

        Raises:
            UsageError: another event loop opened them.
        """
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
