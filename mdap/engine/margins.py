"""The margin of a chain's next steps, chosen anew at the start of each block from what was decided before."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mdap.records import RunEvent
from mdap.rules.margins import block_start, keeps, next_margin

__all__ = ["AdaptiveMargin", "Standing", "margin_event"]


@dataclass(slots=True)
class Standing:
    """Where a run with adaptive margins stands: all of it follows from its rows.

    Attributes:
        start: first step of the block whose margin is known.
        k: that margin.
        margins: how many voted decisions had each margin.
        against: votes against winners so far, those of the calibration it began with included.
        votes: votes so far, likewise.
    """

    start: int
    k: int
    margins: dict[int, int] = field(default_factory=dict)
    against: int = 0
    votes: int = 0


class AdaptiveMargin:
    """Tell the margin of each step, as far as it is known yet.

    Args:
        run: the run's number, for events.
        target: wanted chance that no decision of the run is wrong.
        length: steps of the run.
        standing: where it stands.
    """

    def __init__(self, run: int, target: float, length: int, standing: Standing) -> None:
        self._run = run
        self._target = target
        self._length = length
        self._now = standing

    def at(self, step: int) -> int | None:
        """Return the margin of *step*; None as long as a block before it is not decided."""
        return self._now.k if block_start(step) <= self._now.start else None

    def hear(self, step: int, k: int | None, against: int, votes: int) -> list[RunEvent]:
        """Take in the decision of *step*, and return what is to be recorded.

        Args:
            step: the step.
            k: the margin by which it was voted; None if a person settled it.
            against: votes against its winner.
            votes: all its votes.
        """
        now = self._now
        if k is not None:
            now.margins[k] = now.margins.get(k, 0) + 1
        now.against += against
        now.votes += votes
        left = self._length - step - 1
        heard = now.against, now.votes
        if left <= 0:
            return [] if keeps(now.margins, heard, self._target) else [self._warning()]
        if block_start(step + 1) == block_start(step):
            return []
        chosen, bound = next_margin(now.margins, heard, left, self._target)
        now.start, now.k = step + 1, chosen
        return [margin_event(self._run, step + 1, chosen, {"error_rate_bound": bound})]

    def _warning(self) -> RunEvent:
        sentence = (
            f"the target of {self._target:g} cannot be promised: the votes leave room for a higher error "
            "rate than the margins of all steps are fit for"
        )
        return RunEvent(self._run, "warning", sentence)


def margin_event(run: int, step: int, k: int, data: Mapping[str, object]) -> RunEvent:
    """Return the record of a margin: it holds from *step* on."""
    return RunEvent(run, "margin", f"k = {k} from step {step} on", data={"from": step, "k": k, **data})
