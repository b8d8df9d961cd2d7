"""What a head is made of: cases, what it shares out, and where workers come from."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from mdap.cluster.channels import Channel
from mdap.engine.budget_guard import BudgetGuard
from mdap.engine.opening import Progress
from mdap.errors import MdapError, StoppedError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader
from mdap.journal.runs import Runs
from mdap.journal.writer import Writer
from mdap.providers.gate import Gate
from mdap.records import Solution

__all__ = ["Case", "Pool", "Shared", "WorkersError"]


class WorkersError(StoppedError):
    """Raised when there are no workers, and there will be none."""


class Pool(Protocol):
    """Where workers come from."""

    async def start(self, name: str) -> Channel:
        """Start a worker and return the channel to it.

        Raises:
            WorkersError: it cannot be started.
        """

    async def gone(self, channel: Channel) -> str:
        """Return how the worker at the other end of a closed channel ended, in a few words."""

    async def aclose(self) -> None:
        """End all workers, however they stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the head shares out.

    Attributes:
        writer: the journal.
        reader: of the same database.
        runs: where runs are begun and ended.
        claims: which runs this process has taken.
        budget: what may be spent.
        gates: where the requests to each model wait.
        named: the ids of the runs that are going on, by number.
        running: the numbers of the runs that changes of limits are recorded with.
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
    """One run that a worker is to drive.

    Attributes:
        name: its id.
        batch: the number of its batch.
        about: what else a worker must know to drive it.
        progress: counters of the batch.
        number: its number, once it has one.
        losses: workers that were lost while they had it.
        wanted: whether somebody waits for it.
        ended: set once it has a solution or an error.
    """

    name: str
    batch: int
    about: dict[str, Any]
    progress: Progress
    number: int | None = None
    losses: int = 0
    wanted: bool = True
    ended: anyio.Event = field(default_factory=anyio.Event)
    solution: Solution | None = None
    error: MdapError | None = None

    @property
    def is_known(self) -> bool:
        """Whether it may be on record already."""
        return self.number is not None or self.losses > 0

    def end(self, solution: Solution | None, error: MdapError | None = None) -> None:
        """Note how it ended."""
        self.solution, self.error = solution, error
        self.ended.set()
