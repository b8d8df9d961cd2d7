"""Resume points of runs: the recorded facts of undecided steps."""

from dataclasses import dataclass
from typing import NamedTuple

from mdap.records.facts import SampleTaken, StepOpened


class Refusal(NamedTuple):
    """A model refuses a step's prompt in some view; `reason` is the endpoint's sentence."""

    member: int
    view: int
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordedOpening:
    """An opened, undecided step with its samples.

    `tentative` says that its input was still a guess when its samples were recorded. `void` says that the
    guess was wrong, so that only its number matters. `tier` is its current tier.
    """

    opened: StepOpened
    samples: list[SampleTaken]
    tentative: bool
    void: bool = False
    tier: int = 0
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The point at which a chain resumes: its last decided step, -1 for none, and the openings after it.

    Attributes:
        decisions: the number of decisions of the run.
        digest: the head of their digest chain.
        input: that step's input, in canonical JSON; None for none.
        winner: that step's winner, in canonical JSON; None for none.
    """

    decisions: int
    digest: str
    step: int = -1
    input: str | None = None
    winner: str | None = None
    openings: tuple[RecordedOpening, ...] = ()


# The identity of a step of a process: its key and the digest of its prompt.
Identity = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ProcessPoint:
    """The point at which a process resumes: decisions, the head of their digest chain, and undecided steps.

    *known* are the decided steps by their identity, and *next_step* is the first unused number.
    """

    decisions: int
    digest: str
    next_step: int
    known: dict[Identity, int]
    openings: tuple[RecordedOpening, ...]


class Recorded(NamedTuple):
    """A recorded decision with a reply that voted for it.

    `winner` is the answer's canonical JSON, `tally` a JSON object of each candidate's votes; `text` and
    `view` are of the first vote for the winner, None if there is none (a person settled it, or it had no
    vote). Then `votes` are the texts and views of some votes for other answers. `author` is the person who
    decided it, None for a vote.
    """

    winner: str
    tally: str
    text: str | None
    view: int | None
    votes: tuple[tuple[str, int], ...] = ()
    author: str | None = None
