"""The verdicts of samples, and the statuses, outcomes and totals of runs."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """The verdict on a sample."""

    VOTE = "vote"
    FLAG = "flag"
    CANCELLED = "cancelled"
    VOID = "void"


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    UNDECIDED = "undecided"
    STOPPED = "stopped"
    FAILED = "failed"


class StopCause(StrEnum):
    """The cause of a run's end without a result.

    Attributes:
        BATCH: its samples wait in jobs of a batch API, and the run must not wait for them.
        BUDGET: the run spent its budget in USD or tokens.
        DEADLINE: the run reached its deadline.
        QUOTA: the account has no quota left at a provider.
        PROVIDER: an endpoint does not respond, denies access or rejects the form of requests.
        REFUSED: all models refused a prompt.
        FORM: all of a model's first replies were red-flagged.
        SAMPLES: a step found no winner within its allowed samples.
        INTERRUPTED: a cancellation or Ctrl-C interrupted it.
        ERROR: the code of the task, of a provider or of `on_event` failed.
        OVERRIDE: it replaces a run in which a person overrode a step; resume it.
    """

    BATCH = "batch"
    BUDGET = "budget"
    DEADLINE = "deadline"
    QUOTA = "quota"
    PROVIDER = "provider"
    REFUSED = "refused"
    FORM = "form"
    SAMPLES = "samples"
    INTERRUPTED = "interrupted"
    ERROR = "error"
    OVERRIDE = "override"


class Outcome(StrEnum):
    """Whether a finished run's result is good.

    Attributes:
        SOLVED: the task accepts it.
        UNSOLVED: the task rejects it.
        DOUBTFUL: the task gives no verdict, and steps are undecided or P(no errors) is below 0.5.
    """

    SOLVED = "solved"
    UNSOLVED = "not solved"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that providers reported, for samples, the probe and unreadable replies.

    Attributes:
        input_tokens: tokens of the prompts.
        output_tokens: tokens of the replies.
    """

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum of both."""
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True, slots=True)
class ProbeTotals:
    """The usage of probing the endpoints.

    Attributes:
        samples: the number of replies.
        failed_attempts: failed requests.
        usage: tokens.
    """

    samples: int = 0
    failed_attempts: int = 0
    usage: Usage = field(default_factory=Usage)

    def __add__(self, other: "ProbeTotals") -> "ProbeTotals":
        """Return the sum of both."""
        return ProbeTotals(
            self.samples + other.samples,
            self.failed_attempts + other.failed_attempts,
            self.usage + other.usage,
        )

    def to_dict(self) -> dict[str, int]:
        """Return the figures as JSON values."""
        return {"samples": self.samples, "failed_attempts": self.failed_attempts, **asdict(self.usage)}


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of a run.

    Attributes:
        steps: decided steps.
        votes: valid samples.
        red_flags: samples discarded before they could vote.
        void: samples taken on an input that turned out wrong.
        cancelled: samples that their step was decided without.
        failed_attempts: attempts that failed in transport.
        usage: tokens, those of the probe included.
        probe: the usage of probing the endpoints.
    """

    steps: int = 0
    votes: int = 0
    red_flags: int = 0
    void: int = 0
    cancelled: int = 0
    failed_attempts: int = 0
    usage: Usage = field(default_factory=Usage)
    probe: ProbeTotals = field(default_factory=ProbeTotals)

    @property
    def samples(self) -> int:
        """All samples with a row, valid or not."""
        return self.votes + self.red_flags + self.void + self.cancelled


class TallyShape(NamedTuple):
    """Steps with the same tally, whatever the answers were.

    Attributes:
        votes: votes for the winner, or for the answer known to be right.
        runner_up: votes for the best other answer.
        total: all votes.
        steps: the number of steps with this tally.
        known: whether the answer with *votes* is known to be right rather than voted.
    """

    votes: int
    runner_up: int
    total: int
    steps: int
    known: bool = False

    @property
    def margin(self) -> int:
        """The winner's lead."""
        return self.votes - self.runner_up
