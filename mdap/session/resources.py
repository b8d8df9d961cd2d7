"""The resources that all runs of a session share, and how to open them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup

from mdap.engine.budget_guard import BudgetGuard
from mdap.journal.claims import Claims
from mdap.journal.jobs import JobLog
from mdap.journal.reader import Reader, open_log
from mdap.journal.runs import Runs, RunStart
from mdap.journal.writer import Writer, open_journal
from mdap.observe import Watch
from mdap.records import Totals
from mdap.session.endpoints import EndpointProbe, LimitChangeRecorder
from mdap.session.lanes import SessionLane, check_lane
from mdap.session.models import Models, SessionSetup
from mdap.session.replay import as_recorded
from mdap.settings import Lane
from mdap.tracing import Tracing, tracing

if TYPE_CHECKING:
    from mdap.session.dealing import Dealer

_LEAST_OPEN: Final = 64


@dataclass(slots=True, kw_only=True)
class SessionResources:
    """The resources that all runs of a session share.

    Attributes:
        group: the task group for work until the session closes.
        named: the ids of running runs, by number.
        known_spending: runs whose earlier samples the budget already counts.
        unfindable: classes with an earlier warning that `mdap resume` cannot find them.
        worker: the name of this worker; None for the head or a single process.
        dealer: deals the cases of batches to workers; None for this process.
    """

    setup: SessionSetup
    group: TaskGroup
    models: Models
    budget_guard: BudgetGuard
    writer: Writer
    reader: Reader
    runs: Runs
    claims: Claims
    named: dict[int, str]
    tracing: Tracing | None = None
    known_spending: set[int] = field(default_factory=set)
    unfindable: set[type] = field(default_factory=set)
    worker: str | None = None
    dealer: "Dealer | None" = None
    limit_changes: LimitChangeRecorder = field(init=False)
    endpoint_probe: EndpointProbe = field(init=False)
    lane: SessionLane = field(init=False)

    def __post_init__(self) -> None:
        models, writer, setup = self.models, self.writer, self.setup
        # A worker's head watches the limits, and has probed the endpoints.
        alone = self.worker is None
        watched = (models.names, models.gates) if alone else ((), ())
        self.limit_changes = LimitChangeRecorder(*watched, writer)
        ask = alone and setup.limits.probe
        self.endpoint_probe = EndpointProbe(models, self.budget_guard, writer, ask=ask)
        log = JobLog(writer, self.reader, self.claims)
        self.lane = SessionLane(models, log, setup)

    @property
    def place(self) -> Path:
        """The name for turns at runs: the database, with the worker's name in a worker."""
        path = self.writer.path
        return path if self.worker is None else path.with_name(f"{path.name} at {self.worker}")

    @property
    def breadth(self) -> int:
        """Number of concurrent runs of a batch, or steps of a process, that keeps all slots busy."""
        return self.lane.width if self.lane.batched else max(_LEAST_OPEN, 2 * self.models.most)

    @property
    def runs_at_once(self) -> int:
        """Number of concurrent runs that keeps all slots of this process, or of its workers, busy."""
        return self.breadth * (1 if self.dealer is None else self.dealer.workers)

    async def charge_earlier(self, start: RunStart, name: str) -> None:
        """Charge what a run or a batch, with its parts and its pilot, has spent in earlier sessions, once."""
        if not self.budget_guard.limited:
            return
        await self._charge(start.number, start.totals, start.cost)
        pilot = None if start.row is None else await self.reader.run(pilot_name(name))
        if pilot is not None and pilot.kind == "pilot":
            totals = await self.reader.totals(pilot.number)
            await self._charge(pilot.number, totals, await self.reader.cost(pilot.number))

    async def _charge(self, run: int, totals: Totals, cost: float | None) -> None:
        if run not in self.known_spending:
            self.known_spending.add(run)
            self.budget_guard.spent_before(
                cost or 0.0, totals.usage.input_tokens + totals.usage.output_tokens
            )
            for name, output_tokens in await self.reader.rows("some_replies", run):
                if name in self.models.names:
                    self.budget_guard.learn(self.models.names.index(name), output_tokens)

    def about(self) -> dict[str, Any]:
        """Return the recorded data of a session that begins or resumes a run."""
        return {
            "limits": self.setup.limits.model_dump(),
            "budget": self.setup.budget.model_dump(),
            "prices": self.models.known_prices(),
            "folder": _here(),
            **self.lane.about(),
            **({} if self.worker is None else {"worker": self.worker}),
        }


def pilot_name(run_id: str) -> str:
    """Return the name of the pilot of a run."""
    return f"{run_id}-pilot"


def _here() -> str | None:
    """Return the folder for relative names in a task's parameters."""
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return None


@asynccontextmanager
async def open_resources(setup: SessionSetup) -> AsyncIterator[SessionResources]:
    """Open the models and the database of a session."""
    path, named = setup.path, dict[int, str]()
    watch = Watch(named, configured=setup.log)
    async with _loaded(setup) as models:
        with closing(Claims(path)) as claims:
            async with (
                open_journal(path, watch, watch.every) as writer,
                open_log(path) as reader,
                open_log(path) as other,  # so that the seal of a long run does not block readers
                anyio.create_task_group() as group,
            ):
                resources = SessionResources(
                    setup=setup,
                    group=group,
                    models=models,
                    budget_guard=BudgetGuard(setup.budget, models.prices, batched=setup.lane is Lane.BATCH),
                    writer=writer,
                    reader=reader,
                    runs=Runs(writer, other, claims),
                    claims=claims,
                    named=named,
                    tracing=tracing(setup.tracer_provider),
                )
                for place, gate in enumerate(models.gates):
                    group.start_soon(gate.serve)
                    group.start_soon(resources.limit_changes.follow, place)
                await resources.lane.open(group)
                yield resources
                group.cancel_scope.cancel()


@asynccontextmanager
async def _loaded(setup: SessionSetup) -> AsyncIterator[Models]:
    names, escalate_to = await as_recorded(setup.models, setup.escalate_to, setup.options, setup.path)
    models = Models.load(replace(setup, models=names, escalate_to=escalate_to))
    try:
        models.check_budget(setup.budget)
        check_lane(models, setup.lane)
        yield models
    finally:
        with anyio.CancelScope(shield=True):
            await models.provider.aclose()
