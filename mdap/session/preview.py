"""Show the prompts of a task without a model: send, pay for and record nothing.

The task's oracle answers if later steps depend on earlier answers.
"""

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

import anyio

from mdap.engine.config import RunConfig
from mdap.engine.guarded import GuardedTask, not_a_step
from mdap.engine.voting import Race
from mdap.errors import RAISED, MdapError, PluginError, UsageError, own_cause
from mdap.groups import Group, first_of, gathered
from mdap.records import Identity, ResumePoint
from mdap.rules.canonical import canonical
from mdap.rules.declared import check_methods
from mdap.rules.digests import CHAIN_START
from mdap.rules.parameters import as_resumed
from mdap.rules.parts import Parts
from mdap.settings import VotingSettings
from mdap.tasks import Chain, Decision, Process, Step, Task
from mdap.viewer.source import Rendered

A = TypeVar("A")
T = TypeVar("T")

_RUN: Final = "preview"
_MOST: Final = 1_000
_OPEN_STEPS: Final = 512
_PATIENCE: Final = 60.0
_GRACE: Final = 0.1
_LONGEST: Final = 600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One step of a task, or of its nested task *part*, with the key that its author gave it."""

    part: str | None
    step: int
    key: str | None
    prompt: Rendered


@dataclass(frozen=True, slots=True)
class Preview:
    """The steps of a task, in the order of the requests, and notes for the reader, one sentence each."""

    asked: tuple[Asked, ...]
    notes: tuple[str, ...] = ()


async def preview(name: str, task: Task, wanted: int | None = None) -> Preview:
    """Return the first steps of a task, or step *wanted*.

    The first are that of a chain, or all that a process asks before it needs an answer.

    Raises:
        UsageError: there is no such step, or its prompt depends on unknown answers.
        PluginError: the task's own code failed.
    """
    check_methods(type(task), type(task).__qualname__)
    task = as_resumed(task)
    if isinstance(task, Chain):
        return _of_chain(name, task, wanted or 0)
    if not isinstance(task, Process):
        raise UsageError(f"{name} is no task that can be run: derive it from mdap.Chain or mdap.Process")
    return await _of_process(name, task, wanted)


def _asked(name: str, part: str | None, number: int, step: Step[Any]) -> tuple[Race, Asked]:
    race = Race(RunConfig(0, VotingSettings(), task=name), number, step, None)
    views = tuple((prompt.system, prompt.user) for prompt in race.prompts)
    rendered = Rendered(views, same=True, max_tokens=race.max_tokens, schema=race.schema)
    return race, Asked(part, number, step.key, rendered)


def _oracle(name: str, wanted: int, method: Callable[..., A], *args: Any) -> A:
    """Return the right answer; refuse to go on to step *wanted* where the task has no oracle."""
    try:
        return method(*args)
    except (NotImplementedError, MdapError) as error:
        if not isinstance(own_cause(error), NotImplementedError):
            raise
    except RAISED as error:
        raise PluginError(f"task {name}", "calling oracle", error) from error
    raise UsageError(
        f"step {wanted} depends on the answers to the steps before it, which {name} has no oracle to give: "
        f"run the task, then `mdap show RUN --step {wanted}`"
    )


def _of_chain(name: str, task: Chain[Any, Any], wanted: int) -> Preview:
    guarded, length = GuardedTask(name, task), task.length()
    state = guarded.first_state(ResumePoint(0, CHAIN_START))
    for number in range(wanted + 1):
        opened = None if length is not None and number >= length else guarded.opened(number, state)
        if opened is None:
            raise UsageError(f"there is no step {wanted}: {name} ends after {number} steps")
        state, _, step = opened
        if number == wanted:
            return Preview((_asked(name, None, number, step)[1],))
        answer = _oracle(name, wanted, guarded.oracle, number, state)
        state = guarded.advance(number, state, answer, guarded.spelled(number, answer))
    raise AssertionError


# -- processes -------------------------------------------------------------------------------------


class _Question:
    """A step that waits for its answer."""

    def __init__(self, asked: Asked, truth: Callable[[], Any]) -> None:
        self.asked = asked
        self.truth = truth
        self.answer: Any = None
        self.answered = anyio.Event()


class _Collector:
    """All steps of a process and its nested tasks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.questions: list[_Question] = []
        self.notes: dict[str, None] = {}
        self._known: dict[tuple[str | None, Identity], _Question] = {}
        self._counts: dict[str | None, int] = {}

    async def ask(self, part: str | None, step: Step[Any], truth: Callable[[], Any]) -> tuple[Asked, Any]:
        """Return the identity of *step*, and its answer once there is one."""
        if not isinstance(step, Step):
            raise not_a_step(step)
        race, asked = _asked(self.name, part, self._counts.get(part, 0), step)
        place = (part, (step.key or race.prompt_digest, race.prompt_digest))
        if place not in self._known:
            if len(self.questions) >= _MOST:
                self.notes[f"these are the first {_MOST:,} steps; the task asks more"] = None
                await anyio.sleep_forever()
            self._counts[part] = asked.step + 1
            self._known[place] = _Question(asked, truth)
            self.questions.append(self._known[place])
        question = self._known[place]
        await question.answered.wait()
        return question.asked, question.answer

    @property
    def open(self) -> list[_Question]:
        """The steps without an answer."""
        return [question for question in self.questions if not question.answered.is_set()]

    def find(self, number: int) -> Asked | None:
        """Return step *number* of the task itself."""
        own = (one.asked for one in self.questions if one.asked.part is None)
        return next((asked for asked in own if asked.step == number), None)


class _Asking:
    """An `mdap.Ask` that collects the steps. See there for each method."""

    run_id = _RUN
    open_steps = _OPEN_STEPS
    dry_run = True

    def __init__(self, collector: _Collector, task: Process[Any], part: str | None = None) -> None:
        self._collector = collector
        self._task = task
        self._part = part
        self._parts = Parts(_RUN if part is None else f"{_RUN}/{part}", task)

    async def __call__(self, step: Step[A]) -> A:
        """Return the oracle's answer to *step*."""
        return (await self.decision(step)).answer  # type: ignore[return-value] # the oracle always has one

    async def decision(self, step: Step[A]) -> Decision[A | None]:
        """Return the oracle's answer to *step* as a decision."""
        asked, answer = await self._collector.ask(
            self._part, step, lambda: self._task.canonical(self._task.oracle(step))
        )
        key = f"{_RUN}/{asked.step}"
        votes = {canonical(answer): VotingSettings().k}
        return Decision(step=asked.step, answer=answer, decided=True, votes=votes, key=key)

    async def map(self, steps: Iterable[Step[A]]) -> list[A]:
        """Return the oracle's answers to *steps*."""
        return await self._each(steps, self)

    async def decisions(self, steps: Iterable[Step[A]]) -> list[Decision[A | None]]:
        """Return the oracle's answers to *steps* as decisions."""
        return await self._each(steps, self.decision)

    async def _each(self, steps: Iterable[Step[A]], ask: Callable[[Step[A]], Awaitable[T]]) -> list[T]:
        async with gathered() as tasks:
            group = Group(tasks, self)
            # One more than the maximum shown, so that the output can say that there are more.
            found = [group.start(ask, step) for step in islice(steps, _MOST + 1)]
        return [pending.value for pending in found]

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Group]:
        """Open a group of concurrent requests."""
        async with gathered() as tasks:
            yield Group(tasks, self)

    async def solve(self, task: Task, key: str | None = None) -> Any:
        """Return the result of a nested *task* with the oracle's answers."""
        name = self._parts.of(task, key)[0].name.removeprefix(f"{_RUN}/")
        if isinstance(task, Process):
            return await task.solve(_Asking(self._collector, task, name))
        assert isinstance(task, Chain)
        guarded, length, number = GuardedTask(name, task), task.length(), 0
        state = guarded.first_state(ResumePoint(0, CHAIN_START))
        while length is None or number < length:
            opened = guarded.opened(number, state)
            if opened is None:
                break
            state, _, step = opened
            at = (number, state)
            _, answer = await self._collector.ask(name, step, lambda at=at: guarded.oracle(*at))  # type: ignore[misc]
            winner = guarded.spelled(number, answer)
            state, number = guarded.advance(number, state, answer, winner), number + 1
        return task.result(state)

    async def solve_all(self, tasks: Iterable[tuple[str, Task]], take: Callable[[str, Any], None]) -> None:
        """Give *take* the results of nested *tasks* with the oracle's answers."""
        async with gathered() as group:
            # Each has at least one step; one more than the maximum shown, so that the output can say so.
            found = [
                (f"{_RUN}/{key}", Group(group, self).start(self.solve, task, key))
                for key, task in islice(tasks, _MOST + 1)
            ]
        for name, pending in found:
            take(name, pending.value)

    async def once(self, function: Callable[[], Any], key: str) -> Any:
        """Refuse to call the function of `once` here."""
        sentence = f"what the task asks after ask.once({key!r}) is not shown: only a run calls that function"
        self._collector.notes[sentence] = None
        await anyio.sleep_forever()


async def _of_process(name: str, task: Process[Any], wanted: int | None) -> Preview:
    collector = _Collector(name)
    over = anyio.Event()
    failure: list[BaseException] = []

    async def perform() -> None:
        try:
            under_way: Any = task.solve(_Asking(collector, task))
            if not inspect.isawaitable(under_way):
                raise TypeError("it is not async: write `async def solve(self, ask)`")
            await under_way
        except RAISED as error:
            failure.append(first_of(error))
        over.set()

    async with gathered() as tasks:
        tasks.start_soon(perform)
        with anyio.move_on_after(_LONGEST):
            await _collected(collector, over, wanted)
        tasks.cancel_scope.cancel()
    found = None if wanted is None else collector.find(wanted)
    if failure and found is None:
        if isinstance(failure[0], MdapError):
            raise failure[0]
        raise PluginError(f"task {name}", "solving", failure[0]) from failure[0]
    notes = tuple(collector.notes)
    if wanted is None:
        return Preview(tuple(one.asked for one in collector.questions), notes)
    if found is None:
        own = sum(one.asked.part is None for one in collector.questions)
        why = f": {notes[0]}" if notes else ""
        raise UsageError(f"there is no step {wanted} among the {own} that {name} asks{why}")
    return Preview((found,))


async def _collected(collector: _Collector, over: anyio.Event, wanted: int | None) -> None:
    """Wait until a process has asked all that it can; answer it until step *wanted*."""
    while True:
        await _settled(collector, over)
        if over.is_set() or wanted is None or collector.find(wanted) is not None:
            return
        waiting = collector.open
        if not waiting:
            return
        for question in waiting:
            question.answer = _oracle(collector.name, wanted, question.truth)
            question.answered.set()


async def _settled(collector: _Collector, over: anyio.Event) -> None:
    """Wait until no further request comes: a process may read a file in another thread first."""
    began = time.monotonic()
    while not over.is_set():
        before = len(collector.open)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(_GRACE):
            await over.wait()
        waiting = len(collector.open)
        if waiting == before and (waiting or collector.notes or time.monotonic() - began > _PATIENCE):
            return
