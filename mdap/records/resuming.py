"""Where a run left off: what the log holds of steps that are not decided."""

from dataclasses import dataclass
from typing import NamedTuple

from mdap.records.facts import SampleTaken, StepOpened

__all__ = ["Identity", "ProcessPoint", "Recorded", "RecordedOpening", "Refusal", "ResumePoint"]


class Refusal(NamedTuple):
    """A model will not answer a step's prompt in some view; `reason` is the endpoint's sentence."""

    member: int
    view: int
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordedOpening:
    """A step that was opened before and is not decided yet, with what was sampled for it.

    `tentative` says that its input was still a guess when its samples were recorded; `void` that the guess
    turned out wrong, so that only its number is of interest; `tier` to which tier it went.
    """

    opened: StepOpened
    samples: list[SampleTaken]
    tentative: bool
    void: bool = False
    tier: int = 0
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run's rows end.

    Attributes:
        decisions: how many decisions the run has.
        digest: the head of their digest chain.
        step: the number of the last decided step; -1 for none.
        input: that step's input, in canonical JSON; None for none.
        winner: that step's winner, in canonical JSON; None for none.
        openings: what was opened after it.
    """

    decisions: int
    digest: str
    step: int = -1
    input: str | None = None
    winner: str | None = None
    openings: tuple[RecordedOpening, ...] = ()


# What a step of a process is known by: its key and the digest of its prompt.
Identity = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ProcessPoint:
    """Where the rows of a process end.

    Attributes:
        decisions: how many decisions it has.
        digest: the head of their digest chain.
        next_step: the first number that no step has.
        known: the steps that are decided, by what they are known by.
        openings: the steps that are not.
    """

    decisions: int
    digest: str
    next_step: int
    known: dict[Identity, int]
    openings: tuple[RecordedOpening, ...]


class Recorded(NamedTuple):
    """A decision as it is recorded, with a reply that voted for it.

    `winner` is the answer's canonical JSON, `tally` a JSON object of each candidate's votes; `text` and
    `view` are of the first vote for the winner, None if there is none: settled by hand, or not voted on. Then
    `votes` are the texts and views of some votes for other answers. `author` is who decided it; None: a vote.
    """

    winner: str
    tally: str
    text: str | None
    view: int | None
    votes: tuple[tuple[str, int], ...] = ()
    author: str | None = None
