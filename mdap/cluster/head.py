"""The head: it deals cases to workers, and it alone writes the log, admits requests and reserves money."""

import math
import platform
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup

from mdap._version import __version__
from mdap.cluster.cases import Case, Pool, Shared, WorkersError
from mdap.cluster.channels import Channel, Closed, Link
from mdap.cluster.frames import Message, facts_of, solution_of
from mdap.cluster.gates import Lessor
from mdap.cluster.remote import raised
from mdap.engine.opening import Progress
from mdap.errors import DatabaseError, FailedError, MdapError, StoppedError
from mdap.journal.runs import RunRecord, RunStart
from mdap.providers.gate import Gate
from mdap.records import RunEvent, Solution, StopCause
from mdap.rules.money import Hold

__all__ = ["COUNTERS", "LEASE", "PYTHON", "Head"]

COUNTERS: Final = ("steps", "votes", "red_flags", "void", "failed_attempts", "in_flight")
"""The counters of a worker; see `mdap.engine.opening.Progress`."""

LEASE = 15.0
"""Seconds without a message after which the head gives up a worker."""

_LOSSES: Final = 3  # after which the head gives up a case
_START: Final = 120.0  # seconds
_LOOKS: Final = 15  # per lease
_BEATS: Final = 30  # per lease
_PATIENCE: Final = 30.0
_CALLS: Final = {
    **{"begin": "begin", "hold": "hold"},
    **{"take_up": "take_up", "end": "end_run", "rows": "rows"},  # of a worker on another machine
}
PYTHON: Final = ".".join(platform.python_version_tuple()[:2])


class _Worker:
    """One worker, as the head knows it: this object is its fencing token.

    Attributes:
        ready: whether it has joined.
        fenced: whether the head gave it up and refuses its messages.
        heard: when its last message arrived.
        cases: its current cases, by name.
        runs: the runs that it has claimed, by number.
        barred: the numbers of runs that another process has claimed.
        holds: money reserved for it; None while it waits for a reservation.
        batches: the number of batches of facts that it sent.
        counts: its counters, by batch.
    """

    def __init__(self, name: str, channel: Channel, gates: tuple[Gate, ...]) -> None:
        self.name = name
        self.link = Link(channel)
        self.ready = self.fenced = False
        self.heard = time.monotonic()
        self.cases: dict[str, Case] = {}
        self.runs: dict[int, str] = {}
        self.barred: set[int] = set()
        self.holds: dict[int, Hold | None] = {}
        self.batches = 0
        self.counts: dict[int, list[int]] = {}
        self.lessor = Lessor(gates, lambda place, number: self.link.send("grant", place, number))


class Head:
    """Deal cases to workers and serve their calls.

    Args:
        shared: the resources that workers share.
        pool: starts the workers.
        count: the number of workers.
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
        self._workers: list[_Worker] = []
        self._pending: deque[Case] = deque()
        self._progress: dict[int, Progress] = {}
        self._started = 0
        self._fruitless = 0  # workers lost since a case ended
        self._failure: WorkersError | None = None
        self._group: TaskGroup

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve workers within the block and end them after it."""
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as self._group:
                for _ in range(self._count):
                    self._group.start_soon(self._serve)
                self._group.start_soon(self._watch)
                # Raised after the group has closed, which would wrap it.
                try:
                    yield self
                except BaseException as error:
                    failure = error
                await self._interrupt()
                self._group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._pool.aclose()
        if failure is not None:
            raise failure

    async def _interrupt(self) -> None:
        """Have workers record that their cases were interrupted."""
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
            FailedError: it took down several workers.
            MdapError: the worker's error.
        """
        self._progress[case.batch] = case.progress
        self._pending.append(case)
        self._deal()
        try:
            await case.ended.wait()
        except BaseException:
            await self._withdraw(case)
            raise
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
            if case.number is not None:
                self._on_claim(worker, case.number, case.name)
            worker.link.send("case", case.name, case.batch, {**case.about, "known": case.is_known})

    def _end(self, worker: _Worker, name: str, solution: Solution | None, error: MdapError | None) -> None:
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
        worker = _Worker(name, channel, self._shared.gates)
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
                if (
                    looked - before > 2 * LEASE / _LOOKS
                ):  # the head itself was delayed and has unread messages
                    worker.heard = looked
                silence = looked - worker.heard
                if not worker.fenced and silence > (LEASE if worker.ready else _START):
                    await self._lose(worker, f"it sent no message for {silence:.0f} seconds")

    def _fail(self, error: WorkersError, *, at_once: bool = False) -> None:
        """Note that no more workers can start; the others continue unless *at once* ends them all."""
        if at_once or all(worker.fenced for worker in self._workers):
            self._failure = self._failure or error
            self._deal()

    async def _lose(self, worker: _Worker, why: str) -> None:
        """Take everything from a worker and deal its cases again."""
        cases = self._fence(worker)
        sentence = f"{worker.name} was lost ({why})"
        self.lost += 1
        self._fruitless += 1
        with suppress(DatabaseError):  # every case raises it
            await self._shared.writer.flush()  # a case that is dealt again begins where its rows end
        for case in cases:
            case.losses += 1
        for batch in {case.batch for case in cases}:
            count = sum(case.batch == batch and case.losses < _LOSSES for case in cases)
            again = f"; mdap deals {count:,} {'case' if count == 1 else 'cases'} that it had in hand again"
            self._record(RunEvent(batch, "warning", sentence + (again if count else "")))
        for case in reversed(cases):
            if case.losses >= _LOSSES:
                await self._give_up(case, sentence)
            elif case.wanted:
                self._pending.appendleft(case)
            else:
                case.end(None, StoppedError(sentence))
        if not worker.ready:
            self._fail(WorkersError(f"{worker.name} did not start: {why}"))
        elif self._fruitless > _LOSSES * self._count:
            self._fail(WorkersError(f"too many workers were lost; the last one: {sentence}"))
        elif self._failure is None:
            self._group.start_soon(self._serve)
        self._deal()

    def _fence(self, worker: _Worker) -> list[Case]:
        """Revoke all rights of a worker and return its cases."""
        worker.fenced = True
        worker.lessor.drop()
        for hold in worker.holds.values():
            if hold is not None:  # the endpoint may bill it
                self._shared.budget.spend(hold, hold.usd, hold.tokens)
        worker.holds.clear()
        for number in list(worker.runs):
            self._release(worker, number)
        for batch, counts in worker.counts.items():
            self._progress[batch].in_flight -= counts[-1]
            self._progress[batch].workers.pop(worker.name, None)
        cases = list(worker.cases.values())
        worker.cases.clear()
        return cases

    async def _give_up(self, case: Case, sentence: str) -> None:
        """End a case that took down several workers."""
        told = f"{case.losses} workers were lost while they worked on it; the last one: {sentence}"
        if case.number is not None:
            ended = RunEvent(case.number, "failed", told, data={"stop_cause": str(StopCause.ERROR)})
            with suppress(DatabaseError):
                await self._shared.runs.end(ended, record=False)
        case.end(None, FailedError(told))

    def _record(self, event: RunEvent) -> None:
        if self._shared.writer.usable:
            self._shared.writer.append(event)

    # -- messages ----------------------------------------------------------------------------------

    def _take(self, worker: _Worker, message: Message, group: TaskGroup) -> None:
        """Handle a message of a worker, or refuse it if the head gave up the worker."""
        kind, *rest = message
        worker.heard = time.monotonic()
        if worker.fenced:
            if kind == "call" and rest[1] == "facts":
                self.refused += len(rest[3])
            worker.link.send("fenced")
        elif kind == "call":
            self._called(worker, group, *rest)
        elif kind in ("want", "left", "limits"):
            getattr(worker.lessor, kind)(*rest)
        else:
            getattr(self, f"_on_{kind}")(worker, *rest)

    def _on_join(self, worker: _Worker, version: str, python: str) -> None:
        own = (__version__, PYTHON)
        if (version, python) != own:
            differs = f"mdap {version} on Python {python}, not mdap {own[0]} on Python {own[1]}"
            told = f"{worker.name} has {differs}: install the same versions everywhere"
            self._fail(WorkersError(told), at_once=True)
        worker.ready = True
        self._deal()

    def _on_unable(self, worker: _Worker, sentence: str) -> None:
        self._fail(WorkersError(f"{worker.name}: {sentence}"), at_once=True)

    def _on_beat(self, worker: _Worker, counted: list[tuple[int, list[int]]]) -> None:
        for batch, counts in counted:
            before = worker.counts.get(batch, [0] * len(COUNTERS))
            worker.counts[batch] = counts
            progress = self._progress[batch]
            own = progress.workers.setdefault(worker.name, Progress())
            for name, was, now in zip(COUNTERS, before, counts, strict=True):
                setattr(progress, name, getattr(progress, name) + now - was)
                setattr(own, name, now)

    def _on_claim(self, worker: _Worker, number: int, name: str) -> None:
        try:
            self._claim(worker, number, name)
        except MdapError as error:
            worker.barred.add(number)
            for case in list(worker.cases.values()):
                if name == case.name or name.startswith(f"{case.name}/"):
                    worker.link.send("cancel", case.name)
                    self._end(worker, case.name, None, error)

    def _on_drop(self, worker: _Worker, number: int) -> None:
        if number in worker.runs:
            self._release(worker, number)

    def _on_spent(self, worker: _Worker, number: int, usd: float, tokens: float) -> None:
        hold = worker.holds.pop(number, None)
        if hold is not None:
            self._shared.budget.spend(hold, usd, tokens)

    def _on_ended(self, worker: _Worker, name: str, told: dict[str, Any]) -> None:
        self._end(worker, name, solution_of(told), None)

    def _on_failed(self, worker: _Worker, name: str, kind: str, sentence: str) -> None:
        error = raised(kind, sentence)
        closed = self._failure is not None and isinstance(error, StoppedError)
        self._end(worker, name, None, self._failure if closed else error)

    def _claim(self, worker: _Worker, number: int, name: str) -> None:
        if number not in worker.runs:
            self._shared.claims.take(number, name)
            worker.runs[number] = self._shared.named[number] = name
            self._shared.running.add(number)
        if name in worker.cases:
            worker.cases[name].number = number

    def _release(self, worker: _Worker, number: int) -> None:
        del worker.runs[number]
        self._shared.claims.drop(number)
        self._shared.named.pop(number, None)
        self._shared.running.discard(number)

    # -- calls that are answered ---------------------------------------------------------------------

    def _called(self, worker: _Worker, group: TaskGroup, number: int, name: str, *rest: Any) -> None:
        answer: Awaitable[Any]
        if name == "facts":  # handle it before any later message
            answer = self._facts(worker, *rest)
        else:
            answer = getattr(self, f"_{_CALLS[name]}")(worker, *rest)
        group.start_soon(self._answer, worker, number, answer)

    async def _answer(self, worker: _Worker, number: int, answer: Awaitable[Any]) -> None:
        try:
            worker.link.send("answer", number, "returned", await answer)
        except MdapError as error:
            worker.link.send("answer", number, "raised", type(error).__name__, str(error))

    def _facts(self, worker: _Worker, number: int, values: list[Any]) -> Awaitable[None]:
        """Append a batch of facts to the next commit; return a function that waits until it is durable."""
        if number != worker.batches:
            raise Closed(f"batch {number} of its facts came in place of {worker.batches}")
        worker.batches += 1
        facts = facts_of(values)
        own = [fact for fact in facts if fact.run not in worker.barred] if worker.barred else facts
        self.refused += len(facts) - len(own)
        with suppress(DatabaseError):  # the flush raises it again
            self._shared.writer.append(*own)
        return self._shared.writer.flush()

    async def _begin(self, worker: _Worker, columns: dict[str, Any]) -> int:
        number = await self._shared.writer.begin_run(columns)
        if not worker.fenced:
            self._claim(worker, number, columns["run_id"])
        return number

    async def _take_up(self, worker: _Worker, columns: dict[str, Any], *how: bool) -> RunStart:
        for number, name in list(worker.runs.items()):
            if name == columns["run_id"]:
                self._release(worker, number)  # claim it in the same read
        known, process, effects = how
        start = await self._shared.runs.begin(columns, known=known, process=process, effects=effects)
        if start.record is None:
            self._shared.claims.drop(start.number)
            if not worker.fenced:
                self._claim(worker, start.number, columns["run_id"])
        return start

    async def _end_run(self, worker: _Worker, values: list[Any], record: bool) -> RunRecord | None:
        [ended] = facts_of(values)
        assert isinstance(ended, RunEvent)
        return await self._shared.runs.end(ended, record=record)

    async def _rows(self, worker: _Worker, name: str, values: Sequence[Any]) -> tuple[list[str], list[Any]]:
        rows = await self._shared.reader.rows(name, *values)
        return rows[0].keys() if rows else [], [tuple(row) for row in rows]

    async def _hold(self, worker: _Worker, number: int, usd: float, tokens: float) -> None:
        worker.holds[number] = None
        try:
            hold = await self._shared.budget.reserve(usd, tokens)
        except BaseException:
            worker.holds.pop(number, None)
            raise
        if number in worker.holds:
            worker.holds[number] = hold
        else:  # no caller waits for it any more
            self._shared.budget.spend(hold, 0.0, 0.0)


def _suspect(case: Case) -> bool:
    """Return whether *case* took down so many workers that mdap must stop retrying it."""
    return case.losses >= _LOSSES - 1


def _has_room(worker: _Worker, case: Case, most: int) -> bool:
    if _suspect(case):
        return not worker.cases
    return len(worker.cases) < most and not any(map(_suspect, worker.cases.values()))
