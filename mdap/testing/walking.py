"""Run a process with its oracle instead of a model, and keep its questions."""

import inspect
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import anyio

from mdap.errors import UndecidedError
from mdap.groups import Group
from mdap.rules.canonical import canonical
from mdap.rules.certificate import confident, shape_of
from mdap.tasks import Decision, Process, Step, Task

T = TypeVar("T")

_VOTES: Final = 3
"""Votes for the right answer to each step that an oracle decides."""


class TooManyError(BaseException):
    """Raised when a process asks for more than it may; `except Exception` does not hide it."""


class OracleAsk:
    """An `mdap.Ask` that answers immediately with the oracle's answers, or those that *answer* makes of them.

    That takes a step's number, from 0, and the oracle's answer; an `UndecidedError` as its answer is raised.
    More different steps than *most* raise `TooManyError`. With *backwards*, concurrent requests are answered
    from the last to the first. *asked* has each step once, *nested* the tasks that were solved as parts.
    """

    run_id = "conformance"
    open_steps = 512
    dry_run = True

    def __init__(
        self,
        task: Process[Any],
        most: int,
        answer: Callable[[int, Any], Any] | None = None,
        *,
        backwards: bool = False,
    ) -> None:
        self.asked: list[Step[Any]] = []
        self.nested: list[Task] = []
        self._task = task
        self._most = most
        self._answer = answer
        self._backwards = backwards
        self._decided: dict[tuple[Any, ...], Any] = {}
        self._once: dict[str, Any] = {}

    async def __call__(self, step: Step[Any]) -> Any:
        """Return the answer to *step*."""
        content = (step.key, step.system, step.user, *((view.system, view.user) for view in step.views))
        if content not in self._decided:
            if len(self.asked) >= self._most:
                raise TooManyError
            self.asked.append(step)
            truth = self._task.canonical(self._task.oracle(step))
            self._decided[content] = self._answer(len(self.asked) - 1, truth) if self._answer else truth
        if isinstance(self._decided[content], UndecidedError):
            raise self._decided[content]
        return self._decided[content]

    async def decision(self, step: Step[Any]) -> Decision[Any]:
        """Return the answer to *step* as the outcome of a vote."""
        try:
            answer = await self(step)
        except UndecidedError as error:
            return _decision(len(self.asked) - 1, None, {}, str(error))
        return _decision(len(self.asked) - 1, answer, {canonical(answer): _VOTES})

    async def decisions(self, steps: Iterable[Step[Any]]) -> list[Decision[Any]]:
        """Return the answers to *steps* as the outcomes of votes."""
        return await self._each(steps, self.decision)

    async def map(self, steps: Iterable[Step[Any]]) -> list[Any]:
        """Return the answers to *steps*."""
        return await self._each(steps, self)

    async def _each(self, steps: Iterable[Step[Any]], ask: Callable[[Step[Any]], Awaitable[T]]) -> list[T]:
        order = -1 if self._backwards else 1
        return [await ask(step) for step in list(steps)[::order]][::order]

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Group]:
        """Open a group whose members are called one after the other when it is left."""
        members = _Members()
        yield Group(members, self)
        while members:  # what was started, and what that starts
            await members.pop(-1 if self._backwards else 0)()

    async def solve(self, task: Task, key: str | None = None) -> Any:
        """Return the result of a nested task, decided by its oracle."""
        self.nested.append(task)
        if isinstance(task, Process):
            nested = OracleAsk(task, self._most, backwards=self._backwards)
            result = json.loads(canonical(await task.solve(nested)))
            self.nested += nested.nested
            return result
        return json.loads(canonical(_played(task, self._most)))

    async def solve_all(self, tasks: Iterable[tuple[str, Task]], take: Callable[[str, Any], None]) -> None:
        """Solve nested tasks one after the other, each by its oracle."""
        for key, task in tasks:
            take(f"{self.run_id}/{key}", await self.solve(task, key))

    async def once(self, function: Callable[[], Any], key: str) -> Any:
        """Return what *function* returned the first time."""
        if key not in self._once:
            result = function()
            self._once[key] = json.loads(canonical(await result if inspect.isawaitable(result) else result))
        return self._once[key]


class _Members(list[Callable[[], Awaitable[object]]]):
    """Members of a group that have not been called yet."""

    def start_soon(self, member: Callable[[], Awaitable[object]], /) -> None:
        self.append(member)


def _played(task: Any, most: int) -> Any:
    """Return the result of a chain whose steps its oracle decides."""
    state, number = task.start(), 0
    length = task.length()
    while (number != length) if length is not None else (task.step(state) is not None):
        if number >= most:
            raise TooManyError
        state = task.advance(state, task.canonical(task.oracle(state)))
        number += 1
    return task.result(state)


def solved(task: Process[Any], ask: OracleAsk) -> Any:
    """Return the result of *task* with *ask*, with or without a running event loop."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(anyio.run(task.solve, ask))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()


def _decision(step: int, answer: Any, votes: dict[str, int], reason: str | None = None) -> Decision[Any]:
    decided = reason is None
    decision = Decision(
        step=step, answer=answer, decided=decided, votes=votes, key=f"walk/{step}", reason=reason
    )
    return confident([decision], [shape_of(next(iter(votes)), votes) if votes else None])[0]
