"""Many tasks at once: they share a session's models, limits, budget and database."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from mdap.errors import DatabaseError, MdapError, StoppedError, reraise, traceback_of
from mdap.plugins import task_name
from mdap.records import Outcome, RunEvent, RunStatus, Solution, StopCause, Totals
from mdap.rules.outcomes import recorded
from mdap.session.arguments import checked_task
from mdap.session.identity import RunSpec, as_begun, batch_columns, check_same
from mdap.session.results import with_typed_result
from mdap.session.running import SessionResources, begin_or_find, run_task
from mdap.tasks import Task

__all__ = ["Batch", "Case"]

Case = Task | MdapError
"""What a batch solves: a task, or the error that says why there is none."""


@dataclass(slots=True)
class _Counts:
    """How the cases of a batch ended, and how many came to each outcome."""

    cases: int = 0
    finished: int = 0
    stopped: int = 0
    mostly_undecided: int = 0
    stop_cause: StopCause | None = None
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    def add(self, solution: Solution) -> None:
        self.cases += 1
        self.finished += solution.status is RunStatus.FINISHED
        self.stopped += solution.status is RunStatus.STOPPED
        self.mostly_undecided += solution.mostly_undecided
        if solution.status is RunStatus.STOPPED and self.stop_cause is None:
            self.stop_cause = solution.stop_cause
        if solution.outcome is not None:
            self.outcomes[solution.outcome] += 1

    def result(self) -> dict[str, Any]:
        rest = {"mostly_undecided": self.mostly_undecided}
        rest |= {outcome.name.lower(): self.outcomes[outcome] for outcome in Outcome}
        counts = {"cases": self.cases, "finished": self.finished}
        return counts | {name: count for name, count in rest.items() if count}

    def outcome(self) -> str | None:
        """Return the batch's outcome as it is recorded: that of all cases, or of one that is not solved."""
        if self.outcomes[Outcome.UNSOLVED]:
            return recorded(False)
        return recorded(True) if 0 < self.cases == self.outcomes[Outcome.SOLVED] else None


class Batch(AsyncIterator[Solution]):
    """The solutions of many tasks, as an async iterator.

    Tasks are taken from their source only as fast as their solutions are taken from here, so that neither
    is ever held in memory as a whole. One that fails or is undecided does not keep others from being
    solved; once one is stopped, by a budget or for want of a provider, no more are begun.

    Args:
        resources: what the session's runs share.
        begin: has a function called in a task of the session, where the runs are driven.
        cases: the tasks.
        spec: the batch's name and how steps are decided.
        in_order: whether solutions come in the order of the tasks, or as they are there.
    """

    def __init__(
        self,
        resources: SessionResources,
        begin: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        cases: Iterable[Case],
        spec: RunSpec,
        *,
        in_order: bool = True,
    ) -> None:
        self.run_id = spec.name
        self._resources = resources
        self._begin = begin
        self._cases: Iterator[Case] = iter(cases)
        self._spec = spec
        self._in_order = in_order
        self._room = anyio.Semaphore(resources.breadth)
        self._ready: dict[int, Solution] = {}
        self._next = 0
        self._begun = False
        self._over = False
        self._failure: BaseException | None = None
        self._number = 0
        self._news = anyio.Event()
        self._scope = anyio.CancelScope()
        self.counts = _Counts()

    def __repr__(self) -> str:
        state = "over" if self._over else "under way" if self._begun else "not begun"
        return f"<mdap.Batch {self.run_id}, {state}, {self.counts.cases} cases so far>"

    async def __anext__(self) -> Solution:
        if not self._begun:
            self._begin(self._produce)
            self._begun = True
        while True:
            place = self._next if self._in_order else next(iter(self._ready), -1)
            if place in self._ready:
                self._next += 1
                self._room.release()
                return self._ready.pop(place)
            if self._over:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()

    async def aclose(self) -> None:
        """Stop every run of the batch, resumably."""
        self._scope.cancel()
        while self._begun and not self._over:
            self._news = anyio.Event()
            await self._news.wait()

    async def _produce(self) -> None:
        try:
            with self._scope:
                await self._all()
        except anyio.get_cancelled_exc_class():
            self._failure = StoppedError(
                f"batch {self.run_id}: the session was closed; solve it again to resume"
            )
            raise
        except Exception as error:
            self._failure = error
        finally:
            with anyio.CancelScope(shield=True), suppress(DatabaseError):
                await self._resources.writer.flush()
            self._resources.named.pop(self._number, None)
            self._over = True
            self._news.set()

    async def _all(self) -> None:
        number = await self._open()
        self._number, self._resources.named[number] = number, self.run_id
        stopped = True
        try:
            async with anyio.create_task_group() as runs:
                for place, case in enumerate(self._cases):
                    await self._room.acquire()
                    if self.counts.stopped:
                        break
                    runs.start_soon(self._one, number, place, case)
            stopped = bool(self.counts.stopped)
        except BaseExceptionGroup as raised:
            reraise(raised.exceptions[0])
        finally:
            # Unless every case was looked at, the batch can be taken up again.
            kind = "stopped" if stopped else "finished"
            data: dict[str, Any] = {"result": self.counts.result(), "outcome": self.counts.outcome()}
            if stopped:
                data["stop_cause"] = str(self.counts.stop_cause or StopCause.INTERRUPTED)
            if self._resources.writer.usable:
                self._resources.writer.append(RunEvent(number, kind, data=data))
                # Whether this could be written, the next flush tells.
                with suppress(DatabaseError):
                    await self._resources.sealer.seal(number)

    async def _open(self) -> int:
        """Return the number of the batch's own row."""
        row = await self._resources.reader.run(self.run_id)
        self._spec = replace(self._spec, voting=as_begun(self._spec.voting, row))
        columns = batch_columns(self._spec, self._resources.models.about)
        if row is None:
            number, row = await begin_or_find(self._resources, columns)
        if row is not None:
            check_same(row, columns)
            number = row.number
            self._spec.progress.add(await self._resources.reader.totals(number))
            tiers = await self._resources.reader.tiers_with_votes(number, self._spec.voting.samples_allowed)
            self._spec.presence.voted.update(tiers)
        self._resources.writer.append(
            RunEvent(number, "started" if row is None else "resumed", data=self._resources.about())
        )
        await self._resources.endpoint_probe.pass_on(number)  # a case that must not begin is told so as well
        return number

    async def _one(self, batch: int, place: int, case: Case) -> None:
        name = f"{self.run_id}/{place}"
        try:
            if isinstance(case, MdapError):
                raise case
            task = checked_task(case)
            row = await self._resources.reader.run(name)
            spec = replace(self._spec, name=name, row=row, parent=batch)
            solution = with_typed_result(task, await run_task(self._resources, task, spec))
        except DatabaseError:
            raise
        except MdapError as error:
            solution = _not_run(name, case, error, self._spec.voting.k)
        self.counts.add(solution)
        self._ready[place] = solution
        self._news.set()


def _not_run(name: str, case: Case, error: MdapError, k: int) -> Solution:
    return Solution(
        run_id=name,
        task=task_name(case) if isinstance(case, Task) else "-",
        status=RunStatus.FAILED,
        result=None,
        reason=str(error),
        stop_cause=StopCause.ERROR,
        traceback=traceback_of(error),
        error=error,
        totals=Totals(),
        k=k,
        cost_usd=None,
        seconds=0.0,
        certificate=None,
        digest=None,
    )
