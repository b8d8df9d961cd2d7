"""The head: it deals cases to workers, and it alone writes the log, admits requests and reserves money."""

import math
import platform
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup

from mdap._version import __version__
from mdap.cluster.cases import Case, Member, Pool, Shared, WorkersError
from mdap.cluster.channels import Closed
from mdap.cluster.frames import Message, solution_of
from mdap.cluster.remote import raised
from mdap.engine.config import Progress
from mdap.errors import DatabaseError, FailedError, MdapError, StoppedError
from mdap.groups import gathered
from mdap.records import RunEvent, Solution, StopCause

COUNTERS: Final = ("steps", "votes", "red_flags", "void", "failed_attempts", "in_flight")
"""The counters of a worker; see `mdap.engine.config.Progress`."""

LEASE = 15.0
"""Seconds without a message after which the head gives up a worker."""

_LOSSES: Final = 3  # after which the head gives up a case
_START: Final = 120.0  # seconds
_LOOKS: Final = 15  # per lease
_BEATS: Final = 30  # per lease
_PATIENCE: Final = 30.0
PYTHON: Final = ".".join(platform.python_version_tuple()[:2])


class Head:
    """Deal cases to workers and serve their calls.

    Args:
        in_hand: the maximum number of cases in a worker's hands.
        welcome: the first message to each worker.

    Attributes:
        refused: the number of facts refused because the head had given up their worker.
        lost: the number of lost workers.
    """

    def __init__(self, shared: Shared, pool: Pool, count: int, in_hand: int, welcome: dict[str, Any]) -> None:
        self.refused = self.lost = 0
        self._shared, self._pool, self._count = shared, pool, count
        self._in_hand, self._welcome = in_hand, welcome
        self._workers: list[Member] = []
        self._pending: deque[Case] = deque()
        self._progress: dict[int, Progress] = {}
        self._started = 0
        self._fruitless = 0  # workers lost since a step was decided
        self._joined = False  # whether a worker ever has
        self._unready = 0  # workers lost since the last one joined
        self._untold: list[str] = []  # losses of which no batch knows
        self._failure: WorkersError | None = None
        self._group: TaskGroup

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve workers within the block and end them after it."""
        try:
            async with gathered() as self._group:
                for _ in range(self._count):
                    self._group.start_soon(self._serve)
                self._group.start_soon(self._watch)
                self._group.start_soon(self._watch_pool)
                try:
                    yield self
                finally:
                    await self._interrupt()
                    self._group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._pool.aclose()

    async def _interrupt(self) -> None:
        """Fail the pending cases, and have workers record that theirs were interrupted."""
        self._fail(WorkersError("the session was closed: solve the batch again to resume"), at_once=True)
        with anyio.move_on_after(_PATIENCE, shield=True):
            for worker in self._workers:
                for case in list(worker.cases.values()):
                    worker.link.send("cancel", case.name)
            for worker in self._workers:
                for case in list(worker.cases.values()):
                    await case.ended.wait()

    # -- cases -------------------------------------------------------------------------------------

    async def solve(self, case: Case) -> Solution:
        """Have a worker drive *case*, and return its solution.

        Raises:
            WorkersError: there are no workers.
            FailedError: several workers were lost while they worked on it.
            MdapError: the worker's error.
        """
        self._progress[case.batch] = case.progress
        while self._untold:
            self._record(RunEvent(case.batch, "warning", self._untold.pop()))
        self._pending.append(case)
        self._deal()
        try:
            await case.ended.wait()
        except BaseException:
            await self._withdraw(case)
            raise
        finally:
            if case.adrift and case.number is not None:
                await self._record_end(case.number, case.error)
        if case.error is not None:
            raise case.error
        assert case.solution is not None
        return case.solution

    async def _withdraw(self, case: Case) -> None:
        """Wait until the worker that has *case* has recorded that it was interrupted."""
        case.wanted = False
        if case in self._pending:
            self._pending.remove(case)
        for worker in self._workers:
            if worker.cases.get(case.name) is case:
                worker.link.send("cancel", case.name)
                with anyio.move_on_after(_PATIENCE, shield=True):
                    await case.ended.wait()

    def _deal(self) -> None:
        """Give each pending case to the worker with the fewest cases, up to its share."""
        if self._failure is not None:
            while self._pending:
                self._pending.popleft().end(None, self._failure)
        outstanding = len(self._pending) + sum(len(worker.cases) for worker in self._workers)
        most = min(self._in_hand, math.ceil(outstanding / self._count))
        while self._pending:
            case = self._pending[0]
            worker = min(
                (worker for worker in self._workers if worker.ready and not worker.fenced),
                key=lambda worker: (any(map(_suspect, worker.cases.values())), len(worker.cases)),
                default=None,
            )
            if worker is None or not _has_room(worker, case, most):
                return
            self._pending.popleft()
            worker.cases[case.name] = case
            case.adrift = False
            if case.number is not None:
                self._on_claim(worker, case.number, case.name)
            known = case.number is not None or case.losses > 0
            worker.link.send("case", case.name, case.batch, {**case.about, "known": known})

    def _end(self, worker: Member, name: str, solution: Solution | None, error: MdapError | None) -> None:
        case = worker.cases.pop(name, None)
        if case is not None:
            self._fruitless = 0
            case.end(solution, error)
            self._deal()

    # -- workers -----------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Start a worker and serve it until it ends."""
        self._started += 1
        name = f"worker {self._started}"
        try:
            channel = await self._pool.start(name)
        except WorkersError as error:
            self._fail(error)
            return
        worker = Member(name, channel, self._shared)
        self._workers.append(worker)
        worker.link.send("welcome", {**self._welcome, "name": name, "beat": LEASE / _BEATS})
        async with anyio.create_task_group() as group:
            group.start_soon(worker.link.serve)
            with suppress(Closed):
                while True:
                    for message in await channel.receive():
                        self._take(worker, message, group)
            why = await self._pool.gone(channel)
            if not worker.fenced:
                await self._lose(worker, why)
            self._workers.remove(worker)
            group.cancel_scope.cancel()

    async def _watch(self) -> None:
        """Give up workers that no longer send messages."""
        looked = time.monotonic()
        while True:
            await anyio.sleep(LEASE / _LOOKS)
            before, looked = looked, time.monotonic()
            for worker in list(self._workers):
                if looked - before > 2 * LEASE / _LOOKS:  # the head was delayed and has unread messages
                    worker.heard = looked
                silence = looked - worker.heard
                if not worker.fenced and silence > (LEASE if worker.ready else _START):
                    await self._lose(worker, f"it sent no message for {silence:.0f} seconds")

    async def _watch_pool(self) -> None:
        """Give up all workers if the pool fails."""
        try:
            await self._pool.watch()
        except WorkersError as error:
            self._fail(error, at_once=True)
            for worker in list(self._workers):
                if not worker.fenced:
                    await self._lose(worker, str(error))

    def _fail(self, error: WorkersError, *, at_once: bool = False) -> None:
        """Stop all cases with *error* if no worker is left, or *at_once*."""
        if at_once or all(worker.fenced for worker in self._workers):
            self._failure = self._failure or error
            self._deal()

    async def _lose(self, worker: Member, why: str) -> None:
        """Take everything from a worker and deal its cases again."""
        cases = worker.fence()
        self._discount(worker)
        sentence = f"{worker.name} was lost ({why})"
        self.lost += 1
        self._fruitless += 1
        with suppress(DatabaseError):  # every case raises it
            await self._shared.writer.flush()  # a case that is dealt again begins where its rows end
        for case in cases:
            case.losses += 1
            case.adrift = True
        batches = {case.batch for case in cases or self._outstanding()}
        if not batches:
            self._untold.append(sentence)
        for batch in batches:
            count = sum(case.batch == batch and case.losses < _LOSSES for case in cases)
            again = f"; mdap deals {count:,} {'case' if count == 1 else 'cases'} that it had in hand again"
            self._record(RunEvent(batch, "warning", sentence + (again if count else "")))
        for case in reversed(cases):
            if case.losses >= _LOSSES:
                told = f"{case.losses} workers were lost while they worked on {case.name}"
                case.end(None, FailedError(f"{told}; the last one: {sentence}"))
            elif case.wanted:
                self._pending.appendleft(case)
            else:
                case.end(None, StoppedError(sentence))
        self._unready += not worker.ready
        alone = all(other.fenced for other in self._workers)
        if not worker.ready and (self._unready > _LOSSES or (alone and not self._joined)):
            self._fail(WorkersError(f"{worker.name} did not start: {why}"))
        elif self._fruitless > _LOSSES * self._count:
            self._fail(WorkersError(f"too many workers were lost; the last one: {sentence}"))
        elif self._failure is None:
            self._group.start_soon(self._serve)
        self._deal()

    def _discount(self, worker: Member) -> None:
        """Take a lost worker out of the progress of its batches."""
        for batch, counts in worker.counts.items():
            self._progress[batch].in_flight -= counts[-1]
            self._progress[batch].workers.pop(worker.name, None)

    async def _record_end(self, number: int, error: MdapError | None) -> None:
        """Record how a run ended whose worker was lost; without an *error* it was interrupted."""
        kind = "failed" if isinstance(error, FailedError) else "stopped"
        cause = StopCause.INTERRUPTED if error is None else StopCause.ERROR
        told = str(error or "interrupted")
        with suppress(DatabaseError):
            ended = RunEvent(number, kind, told, data={"stop_cause": str(cause)})
            await self._shared.runs.end(ended, record=False)

    def _outstanding(self) -> list[Case]:
        """Return the cases that are not over."""
        return [*self._pending, *(case for worker in self._workers for case in worker.cases.values())]

    def _record(self, event: RunEvent) -> None:
        if self._shared.writer.usable:
            self._shared.writer.append(event)

    def _acquit(self, cases: set[Case]) -> None:
        """Forget the losses of *cases*, in which a step was decided since: workers do not die of them."""
        if cases:
            self._fruitless = 0
        alone = any(map(_suspect, cases))
        for case in cases:
            case.losses = 0
        if alone:
            self._deal()

    # -- messages ----------------------------------------------------------------------------------

    def _take(self, worker: Member, message: Message, group: TaskGroup) -> None:
        """Handle a message of a worker, or refuse it if the head gave up the worker."""
        kind, *rest = message
        worker.heard = time.monotonic()
        if worker.fenced:
            if kind == "call" and rest[1] == "facts":
                self.refused += len(rest[3])
            worker.link.send("fenced")
        elif kind == "call":
            number, name, *arguments = rest
            group.start_soon(self._answer, worker, number, worker.call(name, *arguments))
            if self.lost and name == "facts":
                self._acquit(worker.advanced)
        elif kind in ("want", "left", "limits"):
            getattr(worker.lessor, kind)(*rest)
        elif kind in ("drop", "spent"):
            getattr(worker, kind)(*rest)
        else:
            getattr(self, f"_on_{kind}")(worker, *rest)

    def _on_join(self, worker: Member, version: str, python: str) -> None:
        own = (__version__, PYTHON)
        if (version, python) != own:
            differs = f"mdap {version} on Python {python}, not mdap {own[0]} on Python {own[1]}"
            told = f"{worker.name} has {differs}: install the same versions everywhere"
            self._fail(WorkersError(told), at_once=True)
        worker.ready = self._joined = True
        self._unready = 0
        self._deal()

    def _on_unable(self, worker: Member, sentence: str) -> None:
        self._fail(WorkersError(f"{worker.name}: {sentence}"), at_once=True)

    def _on_beat(self, worker: Member, counted: list[tuple[int, list[int]]]) -> None:
        for batch, counts in counted:
            before = worker.counts.get(batch, [0] * len(COUNTERS))
            worker.counts[batch] = counts
            progress = self._progress[batch]
            own = progress.workers.setdefault(worker.name, Progress())
            for name, was, now in zip(COUNTERS, before, counts, strict=True):
                setattr(progress, name, getattr(progress, name) + now - was)
                setattr(own, name, now)

    def _on_claim(self, worker: Member, number: int, name: str) -> None:
        try:
            worker.claim(number, name)
        except MdapError as error:
            worker.barred.add(number)
            for case in list(worker.cases.values()):
                if name == case.name or name.startswith(f"{case.name}/"):
                    worker.link.send("cancel", case.name)
                    self._end(worker, case.name, None, error)

    def _on_ended(self, worker: Member, name: str, told: dict[str, Any]) -> None:
        self._end(worker, name, solution_of(told), None)

    def _on_failed(self, worker: Member, name: str, kind: str, sentence: str) -> None:
        error = raised(kind, sentence)
        closed = self._failure is not None and isinstance(error, StoppedError)
        self._end(worker, name, None, self._failure if closed else error)

    async def _answer(self, worker: Member, number: int, answer: Awaitable[Any]) -> None:
        try:
            worker.link.send("answer", number, "returned", await answer)
        except MdapError as error:
            worker.link.send("answer", number, "raised", type(error).__name__, str(error))


def _suspect(case: Case) -> bool:
    """Return whether mdap gives *case* up if another worker is lost."""
    return case.losses >= _LOSSES - 1


def _has_room(worker: Member, case: Case, most: int) -> bool:
    if _suspect(case):
        return not worker.cases
    return len(worker.cases) < most and not any(map(_suspect, worker.cases.values()))
