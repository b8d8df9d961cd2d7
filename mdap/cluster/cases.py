"""The parts of a head: its cases, the resources that it shares, its pool of workers, and each worker."""

import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from mdap.cluster.channels import Channel, Closed, Link
from mdap.cluster.frames import facts_of
from mdap.cluster.gates import Lessor
from mdap.engine.budget_guard import BudgetGuard
from mdap.engine.config import Progress
from mdap.errors import DatabaseError, MdapError, StoppedError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader
from mdap.journal.runs import RunRecord, Runs, RunStart
from mdap.journal.writer import Writer
from mdap.providers.gate import Gate
from mdap.records import Decided, RunEvent, Solution
from mdap.rules.money import Hold


class WorkersError(StoppedError):
    """Raised when there are no workers and none can start."""


class Pool(Protocol):
    """A pool that starts workers."""

    async def start(self, name: str) -> Channel:
        """Start a worker and return the channel to it; raise WorkersError if it cannot be started."""

    async def watch(self) -> None:
        """Wait until the pool can bear no more workers, and raise WorkersError then."""

    async def gone(self, channel: Channel) -> str:
        """Return a short text on how the worker of a closed channel ended."""

    async def aclose(self) -> None:
        """End all workers in whatever state they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The resources that the head shares with workers.

    Attributes:
        named: the ids of running runs, by number.
        running: the numbers of the runs that record changes of limits.
    """

    writer: Writer
    reader: Reader
    runs: Runs
    claims: Claims
    budget: BudgetGuard
    gates: tuple[Gate, ...]
    named: dict[int, str]
    running: set[int]


@dataclass(eq=False, slots=True)
class Case:
    """One run for a worker to drive.

    Attributes:
        batch: the number of its batch.
        losses: the number of workers lost while they had it, since a step of it was decided.
        wanted: whether a caller still waits for it.
        adrift: whether its worker was lost, and no other one has it.
        ended: set once it has a solution or an error.
    """

    name: str
    batch: int
    about: dict[str, Any]
    progress: Progress
    number: int | None = None
    losses: int = 0
    wanted: bool = True
    adrift: bool = False
    ended: anyio.Event = field(default_factory=anyio.Event)
    solution: Solution | None = None
    error: MdapError | None = None

    def end(self, solution: Solution | None, error: MdapError | None = None) -> None:
        """Set its solution or error."""
        self.solution, self.error = solution, error
        self.ended.set()


class Member:
    """One worker: this object is its fencing token.

    Attributes:
        fenced: whether the head gave it up and refuses its messages.
        barred: the numbers of runs that another process has claimed.
        counts: its counters, by batch.
        advanced: its cases in which its last facts decide a step.
    """

    def __init__(self, name: str, channel: Channel, shared: Shared) -> None:
        self.name = name
        self.link = Link(channel)
        self.ready = self.fenced = False
        self.heard = time.monotonic()
        self.cases: dict[str, Case] = {}
        self.barred: set[int] = set()
        self.counts: dict[int, list[int]] = {}
        self.advanced: set[Case] = set()
        self.lessor = Lessor(shared.gates, lambda place, number: self.link.send("grant", place, number))
        self._shared = shared
        self._runs: dict[int, str] = {}
        self._holds: dict[int, Hold | None] = {}  # None while it waits for the reservation
        self._batches = 0

    def fence(self) -> list[Case]:
        """Revoke its leases and its claims on runs, charge what it had reserved, and return its cases."""
        self.fenced = True
        self.lessor.drop()
        for hold in self._holds.values():
            if hold is not None:  # its request may have left: the endpoint may bill it
                self._shared.budget.spend(hold, hold.usd, hold.tokens)
        self._holds.clear()
        for number in list(self._runs):
            self.drop(number)
        cases = list(self.cases.values())
        self.cases.clear()
        return cases

    # -- claims ------------------------------------------------------------------------------------

    def claim(self, number: int, name: str) -> None:
        """Claim a run for it; raise MdapError if another process has claimed the run."""
        if number not in self._runs:
            self._shared.claims.take(number, name)
            self._runs[number] = self._shared.named[number] = name
            self._shared.running.add(number)
        if name in self.cases:
            self.cases[name].number = number

    def drop(self, number: int) -> None:
        """Release a run that it has claimed."""
        if self._runs.pop(number, None) is not None:
            self._shared.claims.drop(number)
            self._shared.named.pop(number, None)
            self._shared.running.discard(number)

    # -- calls that are answered -------------------------------------------------------------------

    def call(self, name: str, *arguments: Any) -> Awaitable[Any]:
        """Return the answer to its call; facts and wanted reservations are noted before this returns."""
        answer: Awaitable[Any] = getattr(self, f"_on_{name}")(*arguments)
        return answer

    def _on_facts(self, number: int, values: list[Any]) -> Awaitable[None]:
        """Append a batch of facts to the next commit; return a function that waits for room for more."""
        if number != self._batches:
            raise Closed(f"batch {number} of its facts came in place of {self._batches}")
        self._batches += 1
        facts = facts_of(values)
        with suppress(DatabaseError):  # raised again while it waits
            self._shared.writer.append(*(fact for fact in facts if fact.run not in self.barred))
        found = map(self._case_of, {fact.run for fact in facts if isinstance(fact, Decided)})
        self.advanced = {case for case in found if case is not None}
        return self._shared.writer.wait_for_room()

    def _case_of(self, run: int) -> Case | None:
        """Return its case that the run numbered *run* belongs to."""
        name = self._runs.get(run, "")
        while name and name not in self.cases:
            name = name.rpartition("/")[0]
        return self.cases.get(name)

    def _on_flush(self) -> Awaitable[None]:
        return self._shared.writer.flush()

    async def _on_begin(self, columns: dict[str, Any]) -> int:
        number = await self._shared.writer.begin_run(columns)
        if not self.fenced:
            self.claim(number, columns["run_id"])
        return number

    async def _on_take_up(
        self, columns: dict[str, Any], known: bool, process: bool, effects: bool
    ) -> RunStart:
        for number, name in list(self._runs.items()):
            if name == columns["run_id"]:
                self.drop(number)  # claim it in the same read
        start = await self._shared.runs.begin(columns, known=known, process=process, effects=effects)
        if start.record is None:
            self._shared.claims.drop(start.number)
            if not self.fenced:
                self.claim(start.number, columns["run_id"])
        return start

    async def _on_end(self, values: list[Any], record: bool) -> RunRecord | None:
        [ended] = facts_of(values)
        assert isinstance(ended, RunEvent)
        return await self._shared.runs.end(ended, record=record)

    async def _on_rows(self, name: str, values: Sequence[Any]) -> tuple[list[str], list[Any]]:
        rows = await self._shared.reader.rows(name, *values)
        return rows[0].keys() if rows else [], [tuple(row) for row in rows]

    def _on_hold(self, number: int, usd: float, tokens: float) -> Awaitable[None]:
        # Noted before the next message, which may say that no caller waits for it any more.
        self._holds[number] = None
        return self._reserve(number, usd, tokens)

    async def _reserve(self, number: int, usd: float, tokens: float) -> None:
        try:
            hold = await self._shared.budget.reserve(usd, tokens)
        except BaseException:
            self._holds.pop(number, None)
            raise
        if number in self._holds:
            self._holds[number] = hold
        else:  # no caller waits for it any more
            self._shared.budget.spend(hold, 0.0, 0.0)

    def spent(self, number: int, usd: float, tokens: float) -> None:
        """Replace a reservation by the actual cost."""
        hold = self._holds.pop(number, None)
        if hold is not None:
            self._shared.budget.spend(hold, usd, tokens)
