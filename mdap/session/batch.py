"""Batches: many concurrent tasks share a session's models, limits, budget and database."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio

from mdap.cluster.cases import WorkersError
from mdap.errors import DatabaseError, MdapError, StoppedError, traceback_of
from mdap.groups import gathered
from mdap.plugins import task_name
from mdap.records import Outcome, RunStatus, Solution, StopCause, Totals
from mdap.rules.certificate import recorded
from mdap.session.arguments import checked_task
from mdap.session.ending import Ending
from mdap.session.identity import RunSpec, as_begun, batch_columns, check_same
from mdap.session.resources import SessionResources
from mdap.session.results import with_typed_result
from mdap.session.running import run_task
from mdap.tasks import Task

Case = Task | MdapError
"""A case of a batch: a task, or the error that explains why there is none."""


@dataclass(slots=True)
class _Counts:
    """The ends of a batch's cases, and the number of cases with each outcome."""

    cases: int = 0
    finished: int = 0
    stopped: int = 0
    mostly_undecided: int = 0
    stop_cause: StopCause | None = None
    stop_reason: str | None = None
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    def add(self, solution: Solution) -> None:
        self.cases += 1
        self.finished += solution.status is RunStatus.FINISHED
        self.stopped += solution.status is RunStatus.STOPPED
        self.mostly_undecided += solution.mostly_undecided
        if solution.status is RunStatus.STOPPED and self.stop_cause is None:
            self.stop_cause, self.stop_reason = solution.stop_cause, solution.reason
        if solution.outcome is not None:
            self.outcomes[solution.outcome] += 1

    def result(self) -> dict[str, Any]:
        rest = {"mostly_undecided": self.mostly_undecided}
        rest |= {outcome.name.lower(): self.outcomes[outcome] for outcome in Outcome}
        counts = {"cases": self.cases, "finished": self.finished}
        return counts | {name: count for name, count in rest.items() if count}

    def outcome(self) -> str | None:
        """Return the batch's outcome for the record: that of all cases, or of one unsolved case."""
        if self.outcomes[Outcome.UNSOLVED]:
            return recorded(False)
        return recorded(True) if 0 < self.cases == self.outcomes[Outcome.SOLVED] else None


class Batch(AsyncIterator[Solution]):
    """The solutions of many tasks, as an async iterator.

    The batch reads tasks only as fast as its caller reads solutions, so that memory never holds all of
    either. A failed or undecided task does not affect the others. Once a task is stopped, by a budget or by a
    missing provider, the batch begins no more.

    Args:
        resources: the resources that all runs of the session share.
        begin: calls a function in a task of the session, which drives the runs.
        cases: the tasks.
        spec: the batch's name and voting settings.
        in_order: whether solutions come in the order of the tasks or as they finish.
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
        self._begin = begin
        self._resources = resources
        self._cases: Iterator[Case] = iter(cases)
        self._spec = spec
        self._in_order = in_order
        dealer = resources.dealer
        self._solve = partial(run_task, resources) if dealer is None else dealer.solve
        self._room = anyio.Semaphore(resources.runs_at_once)
        self._ready: dict[int, Solution] = {}
        self._next = 0
        self._begun = False
        self._over = False
        self._failure: BaseException | None = None
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
            self._over = True
            self._news.set()

    async def _all(self) -> None:
        resources, spec = self._resources, self._spec
        row = await resources.reader.run(self.run_id)
        spec = replace(spec, voting=as_begun(spec.voting, row), known=row is not None)
        columns = batch_columns(spec, resources.models.about)
        start = await resources.runs.begin(columns, known=spec.known)
        ended = Ending(resources, start, self.run_id)
        async with ended.recorded(record=False):
            if start.row is not None:
                check_same(start.row, columns)
            await resources.charge_earlier(start, self.run_id)
            spec.progress.add(start.totals)
            spec.presence.voted.update(start.tiers)
            ended.reason = None
            ended.begin()
            try:
                # Tell cases that must not begin, too.
                await resources.endpoint_probe.pass_on(start.number, start.options)
                async with gathered() as runs:
                    for place, case in enumerate(self._cases):
                        await self._room.acquire()
                        if self.counts.stopped:
                            break
                        own = replace(spec, name=f"{self.run_id}/{place}", parent=start.number)
                        runs.start_soon(self._one, own, place, case)
                # Unless all cases have ended, the batch can be resumed.
                if not self.counts.stopped:
                    ended.status, ended.cause = RunStatus.FINISHED, None
            finally:
                if ended.cause is not None and self.counts.stop_cause is not None:
                    ended.cause, ended.reason = self.counts.stop_cause, self.counts.stop_reason
                ended.data = {"result": self.counts.result(), "outcome": self.counts.outcome()}

    async def _one(self, spec: RunSpec, place: int, case: Case) -> None:
        try:
            if isinstance(case, MdapError):
                raise case
            task = checked_task(case)
            solution = with_typed_result(task, await self._solve(task, spec))
        except (DatabaseError, WorkersError):
            raise
        except MdapError as error:
            solution = _not_run(spec.name, case, error, spec.voting.k)
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
