"""The part of a run in which chains, processes and calibrations differ."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdap.engine.guarded import not_undecided
from mdap.engine.recording import Opening
from mdap.records import RunEvent, SampleTaken

if TYPE_CHECKING:
    from mdap.engine.decider import Decider


@dataclass(frozen=True, slots=True)
class Effect:
    """An external effect of a decision, and what to record afterwards."""

    perform: Callable[[], Awaitable[None]]
    done: RunEvent


class Policy(ABC):
    """Say which steps are open, and what follows from their votes.

    Attributes:
        decider: asks for the samples of the open steps, and records them and all that is decided.
    """

    decider: "Decider"

    @abstractmethod
    def openings(self) -> Iterable[Opening]:
        """Return every opening that is not over."""

    @abstractmethod
    def counted(self, opening: Opening) -> None:
        """Act on counted samples of *opening*."""

    def came(self, taken: Sequence[SampleTaken]) -> None:  # noqa: B027 - only a calibration looks at them
        """Look at recorded samples, before `counted` acts on them."""

    def opened_next(self) -> Opening | None:
        """Open one more step, where it is the policy that opens steps; None for no further one now."""
        return None

    def effects(self) -> list[Effect]:
        """Return the external effects of decisions in order, each to be carried out once it is durable."""
        return []

    @property
    def stalled(self) -> bool:
        """Whether decided steps wait for one that nobody has asked for again; see `pass_over`."""
        return False

    def pass_over(self) -> None:
        """Let the waiting steps continue without the step they wait for."""
        assert not self.stalled

    def settle_by_hand(self, number: int, answer: str, author: str, reason: str) -> None:
        """Record a person's answer to a step that voting left undecided; a step that waits goes on from it.

        Args:
            number: the step.
            answer: the answer as JSON, or ``candidate:`` and the key of an answer that was voted for.
            author: who decides.
            reason: why so.

        Raises:
            UsageError: that step is not undecided, or the answer is none that it could have.
            PluginError: the task's own code fails on that answer.
        """
        raise not_undecided(number)

    def stop_waiting(self, number: int) -> None:
        """End the wait of a step for a person: it stays undecided."""
        assert number not in self.decider.waits
