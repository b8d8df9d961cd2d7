"""The parts of a head: its cases, the resources that it shares, and its pool of workers."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from mdap.cluster.channels import Channel
from mdap.engine.budget_guard import BudgetGuard
from mdap.engine.config import Progress
from mdap.errors import MdapError, StoppedError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader
from mdap.journal.runs import Runs
from mdap.journal.writer import Writer
from mdap.providers.gate import Gate
from mdap.records import Solution

__all__ = ["Case", "Pool", "Shared", "WorkersError"]


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
