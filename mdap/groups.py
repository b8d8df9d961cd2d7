"""Groups of concurrent calls, as `mdap.Ask.group` yields them in runs, previews and tests."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from mdap.errors import reraise
from mdap.tasks import Step

A = TypeVar("A")
T = TypeVar("T")


class Pending(Generic[T]):
    """The result of a member of a group, available once the group's block has ended."""

    def __init__(self) -> None:
        self._value: list[T] = []

    @property
    def value(self) -> T:
        """The result.

        Raises:
            RuntimeError: the group's block has not ended yet.
        """
        if not self._value:
            raise RuntimeError("a group's values are there once its `async with` block is left")
        return self._value[0]


class Starter(Protocol):
    """What calls the members of a group: a task group, or a test that calls them one by one."""

    def start_soon(self, member: Callable[[], Coroutine[Any, Any, object]], /) -> object:
        """Call *member* soon."""


class Group:
    """A group of concurrent calls; see `mdap.Ask.group`."""

    def __init__(self, tasks: Starter, ask: Callable[[Step[Any]], Awaitable[Any]]) -> None:
        self._tasks = tasks
        self._ask = ask

    def ask(self, step: Step[A]) -> Pending[A]:
        """Ask for *step*."""
        return self.start(partial(self._ask, step))

    def start(self, function: Callable[..., Awaitable[T]], *args: Any) -> Pending[T]:
        """Call an async *function*, which may itself ask for steps."""
        pending: Pending[T] = Pending()

        async def run() -> None:
            try:
                pending._value.append(await function(*args))
            except SystemExit as error:  # it would end the event loop with all its tasks
                raise RuntimeError(f"it calls sys.exit({error.code!r})") from error

        self._tasks.start_soon(run)
        return pending


def of_its_own(error: BaseException) -> bool:
    """Return whether *error* is the code's own failure, not a cancellation from outside.

    Code that awaits a task which it has cancelled raises `asyncio.CancelledError`, too.
    """
    if not isinstance(error, asyncio.CancelledError):
        # A panic of a library in Rust, for one, is no `Exception`.
        return not isinstance(error, KeyboardInterrupt | GeneratorExit)
    task = asyncio.current_task()
    return anyio.current_effective_deadline() != -math.inf and (task is None or not task.cancelling())


def cancelled_itself() -> asyncio.CancelledError:
    """Return the error of code that cancelled the task in which mdap called it, as a broken scope does."""
    return asyncio.CancelledError("it cancelled the asyncio task in which mdap called it")


@asynccontextmanager
async def gathered() -> AsyncIterator[TaskGroup]:
    """Open a task group that raises its first failure itself, in no group: the others follow from it."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as raised:
        first = first_of(raised)
        if isinstance(first, KeyboardInterrupt):
            # It has left the loop, which now ends all tasks: raised again, it would end the loop before them.
            raise asyncio.CancelledError from first
        reraise(first)


def first_of(raised: BaseException) -> BaseException:
    """Return the first error in *raised* that is no group of errors."""
    found: deque[BaseException] = deque([raised])
    while found:
        error = found.popleft()
        if not isinstance(error, BaseExceptionGroup):
            return error
        found.extendleft(reversed(error.exceptions))
    return raised
