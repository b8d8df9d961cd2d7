"""The resources that all runs of a session share, and how to open them."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup

from mdap.engine.budget_guard import BudgetGuard
from mdap.journal.claims import Claims
from mdap.journal.jobs import JobLog
from mdap.journal.reader import Reader, open_log
from mdap.journal.runs import LocalRuns, Runs, RunStart
from mdap.journal.writer import Writer, open_journal
from mdap.observe import Watch
from mdap.session.endpoint_probe import EndpointProbe
from mdap.session.lanes import SessionLane, check_lane
from mdap.session.limit_changes import LimitChangeRecorder
from mdap.session.models import Models, Roster
from mdap.session.replay import as_recorded
from mdap.settings import Budget, Cluster, Lane, Limits, OnDead, Price, Speculate, Speculation, Waves
from mdap.tracing import Tracing, tracing

if TYPE_CHECKING:
    from mdap.session.dealing import Dealer

__all__ = ["SessionResources", "SessionSetup", "open_resources"]

_VOTE_DEPTH: Final = 16
_LEAST_OPEN: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSetup:
    """The arguments of a `mdap.Session`, documented there."""

    path: Path
    roster: Roster
    options: Mapping[str, Any]
    limits: Limits
    budget: Budget
    prices: Mapping[str, Price]
    speculate: Speculate
    on_dead: OnDead
    log: bool
    tracer_provider: Any
    cluster: Cluster | None = None
    lane: Lane = Lane.REQUESTS
    waves: Waves = field(default_factory=Waves)


@dataclass(slots=True, kw_only=True)
class SessionResources:
    """The resources that all runs of a session share.

    Attributes:
        group: the task group for work until the session closes.
        models: the models to ask.
        budget_guard: reserves and counts money and tokens.
        writer: appends facts to the log.
        reader: reads the log.
        runs: begins and ends runs.
        claims: the claims of this process.
        limits: concurrency, rates, deadlines and attempts.
        budget: the spending limits.
        speculate: how far ahead mdap samples chains.
        on_dead: whether to stop or continue when one of several models fails for good.
        limit_changes: records changes of limits.
        endpoint_probe: probes the endpoints.
        lane: sends samples one by one or in jobs of a batch API.
        named: the ids of running runs, by number.
        tracing: creates spans of runs; None for no tracing.
        unfindable: classes with an earlier warning that `mdap resume` cannot find them.
        known_spending: runs whose earlier samples the budget already counts.
        worker: the name of this worker; None for the head or a single process.
        dealer: deals the cases of batches to workers; None for this process.
    """

    group: TaskGroup
    models: Models
    budget_guard: BudgetGuard
    writer: Writer
    reader: Reader
    runs: Runs
    claims: Claims
    limits: Limits
    budget: Budget
    speculate: Speculate
    on_dead: OnDead
    limit_changes: LimitChangeRecorder
    endpoint_probe: EndpointProbe
    lane: SessionLane
    named: dict[int, str]
    tracing: Tracing | None = None
    known_spending: set[int] = field(default_factory=set)
    unfindable: set[type] = field(default_factory=set)
    worker: str | None = None
    dealer: "Dealer | None" = None

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

    def speculation(self) -> Speculation:
        """Return how far ahead to sample a chain."""
        if self.lane.batched:
            return self.lane.speculation(self.speculate)
        if self.models.provider.nonblocking or self.speculate is Speculate.OFF:
            return Speculation()
        if self.speculate is Speculate.GUESS:
            return Speculation(mode=Speculate.GUESS, depth=self.models.most)
        return Speculation(mode=Speculate.VOTE, depth=_VOTE_DEPTH)

    def charge_earlier(self, start: RunStart) -> None:
        """Charge a run's spending in earlier sessions to the budget, once."""
        if self.budget_guard.limited and start.number not in self.known_spending:
            self.known_spending.add(start.number)
            usage = start.totals.usage
            self.budget_guard.spent_before(start.cost or 0.0, usage.input_tokens + usage.output_tokens)

    def about(self) -> dict[str, Any]:
        """Return the recorded data of a session that begins or resumes a run."""
        return {
            "limits": self.limits.model_dump(),
            "budget": self.budget.model_dump(),
            "prices": self.models.known_prices(),
            "folder": _here(),
            **self.lane.about(),
            **({} if self.worker is None else {"worker": self.worker}),
        }


def _here() -> str | None:
    """Return the folder for relative names in a task's parameters."""
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return None


@asynccontextmanager
async def open_resources(setup: SessionSetup) -> AsyncIterator[SessionResources]:
    """Open the models and the database of a session.

    Raises:
        UsageError: a model is not available.
        DatabaseError: the file is not an mdap database, or cannot be written.
    """
    roster, path, limits = setup.roster, setup.path, setup.limits
    known = await as_recorded(roster.models, roster.escalate_to, setup.options, path)
    roster = roster._replace(models=known[0], escalate_to=known[1])
    models = Models.load(roster, setup.options, limits, setup.prices, path)
    models.check_budget(setup.budget)
    check_lane(models, setup.lane)
    claims, named = Claims(path), dict[int, str]()
    watch = Watch(named, configured=setup.log)
    try:
        async with (
            open_journal(path, watch, watch.every) as writer,
            open_log(path) as reader,
            open_log(path) as other,  # so that the seal of a long run does not block readers
            anyio.create_task_group() as group,
        ):
            limit_changes = LimitChangeRecorder(models.names, models.gates, writer)
            for place, gate in enumerate(models.gates):
                group.start_soon(gate.serve)
                group.start_soon(limit_changes.follow, place)
            budget_guard = BudgetGuard(setup.budget, models.prices, batched=setup.lane is Lane.BATCH)
            lane = SessionLane(models, JobLog(writer, reader, claims), setup.lane, setup.waves)
            await lane.open(group)
            yield SessionResources(
                group=group,
                models=models,
                budget_guard=budget_guard,
                writer=writer,
                reader=reader,
                runs=LocalRuns(writer, other, claims),
                claims=claims,
                limits=limits,
                budget=setup.budget,
                speculate=setup.speculate,
                on_dead=setup.on_dead,
                limit_changes=limit_changes,
                endpoint_probe=EndpointProbe(models, budget_guard, writer, ask=limits.probe),
                lane=lane,
                named=named,
                tracing=tracing(setup.tracer_provider),
            )
            group.cancel_scope.cancel()
    finally:
        claims.close()
        with anyio.CancelScope(shield=True):
            await models.provider.aclose()
