"""The `ask` object of a process, through which its function gets decisions."""

import inspect
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeVar

import anyio

from mdap.engine.ordered import OrderedPolicy
from mdap.engine.process import ProcessPolicy, Question, identify
from mdap.engine.recording import undecided_cause
from mdap.errors import FailedError, MdapError, PluginError, StoppedError, UndecidedError
from mdap.groups import Group, cancelled_itself, first_of, gathered, of_its_own
from mdap.protocols import Journal
from mdap.records import Identity, Recorded, RunStatus, Solution, TallyShape
from mdap.rules.canonical import canonical
from mdap.rules.certificate import confident, shape_of
from mdap.rules.digests import identify_named
from mdap.rules.parts import Part, Parts, RecordedPart, part_ended, used_already
from mdap.rules.reading import typed_answer
from mdap.rules.redflags import clean
from mdap.tasks import Decision, Process, RedFlag, Step, Task

A = TypeVar("A")
T = TypeVar("T")


class SolvePart(Protocol):
    """Run a nested task."""

    async def __call__(
        self, task: Task, name: str, share: Fraction | None, /, *, independent: bool = False
    ) -> Solution:
        """Return the solution of a nested task, whose run has the id *name*.

        Args:
            share: what it may spend of the process's error budget; None for a budget of its own, if any.
            independent: whether its result stays in its own run.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessContext:
    """The context in which a process runs.

    Attributes:
        recall: finds a recorded decision by the number of its step.
        dry_run: whether outside effects are forbidden.
        recorded: finds the run of a nested task that an earlier session began under a name; None where there
            was no earlier session.
        begun: tells whether an earlier session began a nested task under a name; None where there was none.
        withhold: called with its key before anything is done `once`, which it may keep from being done; None
            to do it.
    """

    run_id: str
    journal: Journal
    recall: Callable[[int], Awaitable[Recorded]]
    solve: SolvePart
    open_steps: int
    dry_run: bool = False
    begun: Callable[[str, Task], Awaitable[bool]] | None = None
    recorded: Callable[[str, Task], Awaitable[RecordedPart]] | None = None
    withhold: Callable[[str], Awaitable[None]] | None = None


class Asking:
    """The `mdap.Ask` of one run. See there for what each method does."""

    def __init__(self, task: Process[Any], policy: ProcessPolicy, around: ProcessContext) -> None:
        self.run_id = around.run_id
        self.open_steps = around.open_steps
        self.dry_run = around.dry_run
        self._policy = policy
        self._around = around
        self._parts = Parts(around.run_id, task)
        self._room = anyio.Semaphore(around.open_steps)
        # Only one of two askers may run the same nested task, or compute the same result.
        self._under_way: dict[tuple[str, str], anyio.Lock] = {}

    async def __call__(self, step: Step[A]) -> A:
        """Return the winning answer of *step*."""
        found = await self._asked(step)
        if isinstance(found, Question):
            if found.undecided is not None:
                raise UndecidedError(found.undecided, stop_cause=undecided_cause(found.opening))
            answer: A = found.answer
            return answer
        recalled: A = self._read_back(found, await self._recorded(found), step)
        return recalled

    async def decision(self, step: Step[A]) -> Decision[A | None]:
        """Return the vote on *step*."""
        [decision] = await self.decisions([step])
        return decision

    async def decisions(self, steps: Iterable[Step[A]]) -> list[Decision[A | None]]:
        """Return the votes on *steps*, all asked concurrently."""
        found = await self._each(steps, self._decided)
        return confident([decision for decision, _ in found], [shape for _, shape in found])

    async def _decided(self, step: Step[A]) -> tuple[Decision[A | None], TallyShape | None]:
        """Return the decision of *step* and its tally; None if no vote decided."""
        found = await self._asked(step)
        if isinstance(found, Question):
            race, reason = found.opening.race, found.undecided
            number, votes = found.opening.opened.step, dict(race.tally.votes)
            answer, winner, author = found.answer, race.winner, None
        else:
            recorded = await self._recorded(found)
            answer, reason = self._read_back(found, recorded, step), None
            number, votes = found, json.loads(recorded.tally)
            winner, author = None if recorded.author else recorded.winner, recorded.author
        decision: Decision[A | None] = Decision(
            step=number,
            answer=answer,
            decided=reason is None,
            votes=votes,
            key=f"{self.run_id}/{number}",
            reason=reason,
            author=author,
        )
        return decision, None if winner is None else shape_of(winner, votes)

    async def _asked(self, step: Step[A]) -> Question | int:
        """Return the question for *step* once it is over, or its number if it was decided before."""
        race = self._policy.race(step)
        identity = identify(step, race)
        number = self._policy.decided(identity)
        if number is not None:
            return number
        async with self._room:
            # Another asker may have opened the same step while this one waited for room.
            number = self._policy.decided(identity)
            if number is not None:
                return number
            if not self._policy.admits(identity):
                await anyio.sleep_forever()  # until the pilot has finished the steps it opened
            question = self._policy.open(identity, step, race)
            try:
                if not question.over:
                    await question.ended.wait()
            finally:
                self._policy.leave(question)
        # What a person said is read back as in any later session.
        return question.opening.opened.step if question.settled else question

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Let the policy know that this asker waits for something else than a decision, and may ask soon."""
        self._policy.busy += 1
        try:
            yield
        finally:
            self._policy.busy -= 1
            self._policy.decider.news()

    async def _recorded(self, number: int) -> Recorded:
        with self._busy():
            # It may have been decided a moment ago.
            await self._around.journal.flush()
            return await self._around.recall(number)

    def _read_back(self, number: int, recorded: Recorded, step: Step[A]) -> A:
        """Return the recorded answer of *step*."""
        race = self._policy.race(step)
        if recorded.text is None:
            alike = [race.prompts[view].parse(text) for text, view in recorded.votes]
            answer: A = typed_answer(step, recorded.winner, alike)
            return answer
        read = race.prompts[recorded.view or 0].parse
        try:
            answer = read(clean(recorded.text, race.max_tokens))
            spelled = canonical(answer)
        except RedFlag as flag:
            spelled = f"red flag: {flag.reason}"
        if spelled != recorded.winner:
            changed = ValueError("the parser now says otherwise; start a new run, or restore the old parser")
            raise PluginError(self._policy.name, f"reading the recorded step {number} again", changed)
        return answer

    async def map(self, steps: Iterable[Step[A]]) -> list[A]:
        """Return the winning answers of *steps*, all asked concurrently."""
        return await self._each(steps, self)

    async def _each(self, steps: Iterable[Step[A]], asked: Callable[[Step[A]], Awaitable[T]]) -> list[T]:
        answers: list[Any] = []

        async def put(place: int, step: Step[A], room: anyio.Semaphore) -> None:
            try:
                answers[place] = await asked(step)
            finally:
                room.release()

        # As many tasks as there can be open steps: a million steps must not be a million tasks.
        room = anyio.Semaphore(self.open_steps)
        async with gathered() as group:
            for place, step in enumerate(steps):
                await room.acquire()
                answers.append(None)  # filled in before anybody looks
                group.start_soon(put, place, step, room)
        return answers

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Group]:
        """Open a group of concurrent questions."""
        async with gathered() as tasks:
            yield Group(tasks, self)

    async def solve(self, task: Task, key: str | None = None) -> Any:
        """Return the result of *task*, run as a part of this process."""
        part = await self._part(task, key)
        name = part.name
        ended: Solution | None = None

        async def run() -> tuple[str, str]:
            nonlocal ended
            share = await self._share(part.identity, part.about)
            ended = solution = await self._solved(task, name, share)
            return canonical(solution.result), f"run {name}, digest {solution.digest}"

        result = await self._noted(part.identity, part.about, run)
        if isinstance(self._policy, OrderedPolicy):
            await self._settle_loan(part, task, ended)
        return result

    async def _solved(
        self, task: Task, name: str, share: Fraction | None, *, independent: bool = False
    ) -> Solution:
        """Return the solution of a nested task once it is finished."""
        with self._busy():
            solution = await self._around.solve(task, name, share, independent=independent)
        if solution.status is RunStatus.STOPPED:
            stopped = StoppedError(part_ended(name, solution.reason), solution)
            stopped.__cause__ = solution.error
            self._policy.end(RunStatus.STOPPED, stopped)
            await anyio.sleep_forever()  # until the whole run is cancelled
        if solution.status is not RunStatus.FINISHED:
            error = UndecidedError if solution.status is RunStatus.UNDECIDED else FailedError
            raise error(part_ended(name, solution.reason), solution) from solution.error
        return solution

    async def solve_all(self, tasks: Iterable[tuple[str, Task]], take: Callable[[str, Any], None]) -> None:
        """Solve nested *tasks*, each as a run of its own; give their results to *take* in order."""
        room, ready = anyio.Semaphore(self.open_steps), dict[int, tuple[str, Any]]()
        taken = 0

        async def solve(place: int, key: str, task: Task) -> None:
            nonlocal taken
            ready[place] = await self._part_result(key, task)
            while taken in ready:
                take(*ready.pop(taken))
                taken += 1
                room.release()

        async with gathered() as group:
            for place, (key, task) in enumerate(tasks):
                await room.acquire()
                group.start_soon(solve, place, key, task)

    async def _part_result(self, key: str, task: Task) -> tuple[str, Any]:
        """Return the id of the run of a nested task, and its result."""
        recorded, name = self._around.recorded, self._parts.named(key, task)
        if recorded is not None:
            with self._busy():
                found = await recorded(name, task)
            name = found.name
            if found.finished:
                return name, found.result
        return name, json.loads(canonical((await self._solved(task, name, None, independent=True)).result))

    async def _settle_loan(self, part: Part, task: Task, ended: Solution | None) -> None:
        """Take back what a nested run did not spend, also where an earlier session was cut before it did."""
        assert isinstance(self._policy, OrderedPolicy)
        share = self._policy.outstanding(part.identity)
        if ended is None and share is not None:
            with self._busy():
                ended = await self._around.solve(task, part.name, share)
        again = self._policy.outstanding(part.identity)
        if ended is not None and ended.guarantee is not None and again is not None:
            self._policy.repay(part.identity, ended.guarantee.spent)

    async def _share(self, identity: Identity, about: Any) -> Fraction | None:
        """Return what a nested run may spend of the error budget, once it is its turn."""
        if not isinstance(self._policy, OrderedPolicy):
            return None
        loan = self._policy.borrow(identity, about)
        try:
            if loan.share is None:
                await loan.granted.wait()
        except BaseException:
            self._policy.withdraw(identity)
            raise
        return loan.share

    async def _part(self, task: Task, key: str | None) -> Part:
        """Return what a nested task is known by, as earlier sessions knew it."""
        part, former = self._parts.of(task, key)
        knows, begun = self._policy.knows, self._around.begun
        if key and self._policy.known_by(part.identity[0]) - {part.identity, former.identity}:
            raise used_already(key)
        if begun is None or knows(part.identity):
            return part
        with self._busy():
            if not await begun(former.name, task):
                return part
        return former if knows(former.identity) else part._replace(name=former.name)

    async def once(self, function: Callable[[], Any], key: str) -> Any:
        """Return what *function* returned the first time it was called under *key*."""
        if not (callable(function) and isinstance(key, str)):
            raise TypeError("ask.once takes a function and a key, which is a str")
        identity = identify_named("once", key)

        async def call() -> tuple[str, str]:
            with self._busy():
                if self._around.withhold is not None:
                    await self._around.withhold(key)
                # Whatever it does outside may rest on what was decided before.
                await self._around.journal.flush()
                result = function()
                return canonical(await result if inspect.isawaitable(result) else result), "once"

        return await self._noted(identity, key, call)

    async def _noted(
        self, identity: tuple[str, str], about: Any, make: Callable[[], Awaitable[tuple[str, str]]]
    ) -> Any:
        async with self._under_way.setdefault(identity, anyio.Lock()):
            number = self._policy.decided(identity)
            if number is None:
                result, reason = await make()
                self._policy.note(identity, about, result, reason)
            with self._busy():
                # Results are durable before they are returned.
                await self._around.journal.flush()
                return json.loads(result if number is None else (await self._around.recall(number)).winner)


async def answer_process(task: Process[Any], policy: ProcessPolicy, around: ProcessContext) -> None:
    """Run the author's function to its end, and report that to *policy*; raise nothing."""
    try:
        under_way: Any = task.solve(Asking(task, policy, around))
        if not inspect.isawaitable(under_way):
            raise TypeError("it is not async: write `async def solve(self, ask)`")
        policy.finish(json.loads(canonical(await under_way)))
    except BaseException as raised:
        error = first_of(raised)
        if not of_its_own(error):
            if anyio.current_effective_deadline() != -math.inf:  # by no scope, so by code that it called
                policy.end(RunStatus.FAILED, PluginError(policy.name, "solving", cancelled_itself()))
            raise
        if isinstance(error, UndecidedError):
            policy.end(RunStatus.UNDECIDED, error)
        elif isinstance(error, StoppedError):
            policy.end(RunStatus.STOPPED, error)
        else:
            own = error if isinstance(error, MdapError) else PluginError(policy.name, "solving", error)
            policy.end(RunStatus.FAILED, own)
