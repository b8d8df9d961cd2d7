"""The values that flow through the house: what is asked, what comes back, what is recorded.

Those that exist once per sample are named tuples: immutable, slotted, and cheap to make.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final, Generic, NamedTuple, Protocol

from typing_extensions import TypeVar  # `default` is part of typing from Python 3.13

__all__ = [
    "CANDIDATE",
    "CHAINED_COLUMNS",
    "EVENTS",
    "METERED",
    "NOTED",
    "PROPOSED",
    "SAMPLE_COLUMNS",
    "SURE",
    "AttemptFailed",
    "Calibration",
    "Certificate",
    "Decided",
    "Event",
    "Fact",
    "Guarantee",
    "Identity",
    "Interval",
    "Outcome",
    "ProbeTotals",
    "ProcessPoint",
    "Projection",
    "PromptSent",
    "Quantiles",
    "Recorded",
    "RecordedOpening",
    "Refusal",
    "Reply",
    "ResumePoint",
    "RunEvent",
    "RunStatus",
    "SampleRequest",
    "SampleTaken",
    "Solution",
    "StepOpened",
    "StepResolved",
    "StopCause",
    "Subject",
    "TallyShape",
    "Totals",
    "Trace",
    "Usage",
    "Verdict",
    "encodable",
    "record_of",
    "without_later",
]

record_of: Final = tuple.__new__
"""Makes a named tuple of all its columns: its constructor takes as long again to look at its arguments."""


SURE: Final = 0.65
"""How likely it must be that some steps are harder than others for mdap to say so.

Where errors are independent, it is that likely in one of a hundred runs.
"""

_SHOWN: Final = 200
_NEGLIGIBLE: Final = 1e-4
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """Return *text* with halves of surrogate pairs, which no database or endpoint can carry, as U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


class Verdict(StrEnum):
    """What became of a sample."""

    VOTE = "vote"
    FLAG = "flag"
    CANCELLED = "cancelled"
    VOID = "void"


class RunStatus(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    UNDECIDED = "undecided"
    STOPPED = "stopped"
    FAILED = "failed"


class StopCause(StrEnum):
    """Why a run ended without a result.

    Attributes:
        BUDGET: its budget in USD or tokens is spent.
        DEADLINE: the seconds that it may take are over.
        QUOTA: the account has no quota left at a provider.
        PROVIDER: an endpoint does not answer, denies access, or refuses how it is asked.
        REFUSED: the models will not answer a prompt.
        FORM: not one of a model's first replies kept to the form.
        SAMPLES: a step found no winner within its allowed samples.
        INTERRUPTED: it was cancelled, or Ctrl-C was pressed.
        ERROR: the code of the task, of a provider or of `on_event` failed.
        OVERRIDE: it takes over from a run of which a person decided a step, and waits to be resumed.
    """

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
        SOLVED: the task says that it is.
        UNSOLVED: the task says that it is not.
        DOUBTFUL: the task does not say, and steps are undecided or P(no errors) is below 0.5.
    """

    SOLVED = "solved"
    UNSOLVED = "not solved"
    DOUBTFUL = "doubtful"


class Subject(Protocol):
    """What a step is really about, for providers that simulate a model; it is never sent anywhere."""

    def truth(self) -> Any:
        """Return the right answer; raise NotImplementedError where the task has no oracle."""

    def mistakes(self, truth: Any) -> list[Any]:
        """Return plausible wrong answers, at least one."""

    def render(self, answer: Any) -> str:
        """Return a reply as a model would write it to give *answer*."""


class Trace:
    """Where whoever sends a request notes that it has been sent; until then it costs nothing.

    Attributes:
        sent: whether an attempt has left for the endpoint.
        began: when the latest attempt left, in milliseconds of Unix time; None where nobody noted it.
        withdrawn: whether nobody wants it any more: its cancellation is on its way, and nothing may be sent.
    """

    __slots__ = ("began", "sent", "withdrawn")

    def __init__(self) -> None:
        self.sent = False
        self.began: int | None = None
        self.withdrawn = False


class SampleRequest(NamedTuple):
    """One request for one or more independent samples of one prompt.

    Attributes:
        system: the system message; empty for none.
        user: the user message.
        prompt_digest: digest of both messages in hexadecimal; equal prompts have equal digests.
        key: what the step is known by in its run: in a chain, its number.
        ordinals: which samples of the step these are, counted from 0; one reply is wanted for each.
        temperature: sampling temperature; of the first sample, where the model does not heed it; None where
            none is sent.
        max_tokens: output tokens after which the endpoint shall cut the reply.
        schema: JSON schema of the answer, or None.
        priority: smaller goes first where requests wait for a slot.
        subject: what the step is about, for simulation.
        member: which model of an ensemble is asked, from 0.
        view: which presentation of the step the prompt is, from 0.
        trace: noted in by whoever sends the request.
        step_digest: digest over all presentations of the step, in hexadecimal.
        shared: characters of *user*, from its beginning, that prompts of further steps repeat.
        warm: whether further requests will repeat a part of the prompt, and may wait for this one.
    """

    system: str
    user: str
    prompt_digest: str
    key: str
    ordinals: tuple[int, ...]
    temperature: float | None
    max_tokens: int
    schema: dict[str, Any] | None = None
    priority: int = 0
    subject: Subject | None = None
    member: int = 0
    view: int = 0
    trace: Trace = Trace()  # shared by all requests that nobody traces
    step_digest: str = ""
    shared: int = 0
    warm: bool = False

    @property
    def n(self) -> int:
        """How many independent replies are wanted."""
        return len(self.ordinals)


class Reply(NamedTuple):
    """What a model answered to one sample.

    Attributes:
        text: the reply, as it came.
        model: who answered, as ``provider/model``.
        finish_reason: the endpoint's word for why the reply ended: ``stop``, ``length``, ...
        input_tokens: tokens of the prompt billed to this sample; None where unknown.
        output_tokens: tokens of the reply; None where unknown.
        cached_tokens: the part of *input_tokens* read from the provider's cache; None where unknown.
        latency: seconds from the request to the reply, waiting for a slot not included.
        request_id: the endpoint's id of the request, for support.
        attempts: attempts it took where it comes from, for replies that are recorded already.
        reasoning: what the model thought before it answered: recorded, never parsed; None for nothing.
        reasoning_tokens: the part of *output_tokens* spent on reasoning; None where unknown.
        served_model: the model that the endpoint says it served; None where it says nothing.
        fingerprint: the endpoint's word for the state of its system; None where it says nothing.
        cache_write_tokens: the part of *input_tokens* written to the provider's cache; None where unknown.
    """

    text: str
    model: str
    finish_reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    latency: float = 0.0
    request_id: str | None = None
    attempts: int = 1
    reasoning: str | None = None
    reasoning_tokens: int | None = None
    served_model: str | None = None
    fingerprint: str | None = None
    cache_write_tokens: int | None = None

    @property
    def answer_tokens(self) -> int | None:
        """Tokens of the reply without its reasoning; None where unknown."""
        thought = self.reasoning_tokens
        return self.output_tokens if thought is None else _answer_tokens(self.output_tokens, thought)


def _answer_tokens(output: int | None, reasoning: int | None) -> int | None:
    return output if output is None or reasoning is None else max(output - reasoning, 0)


class StepOpened(NamedTuple):
    """A step was opened on an input. `opening` counts the times this step was opened, from 0."""

    run: int
    step: int
    opening: int
    key: str
    input: str
    prompt_digest: str


class PromptSent(NamedTuple):
    """An opened step asks this in one of its views, from 0, where the run records its prompts.

    `system` and `schema`, JSON text, are None where there is none. `max_tokens` are the output tokens that a
    reply may have.
    """

    run: int
    step: int
    opening: int
    view: int
    system_digest: str | None
    user_digest: str
    schema_digest: str | None
    max_tokens: int
    system: str | None
    user: str
    schema: str | None


class SampleTaken(NamedTuple):
    """A sample came back and was judged.

    `counted` is its place in the order of counting, from 1; None for one that was never counted.
    `tentative` says that the step's input is still a guess: the verdict holds only once a
    `StepResolved` confirms the input. `temperature` is None where none was sent. `began` is when its request
    left, in milliseconds of Unix time; it ended `latency` seconds later.

    This class is where a column of the table *samples* is named: `SAMPLE_COLUMNS`, `row` and
    `digest_columns` follow from it, and all SQL from those. A new column goes in front of `text`, is None by
    default, and needs a migration. The digest chain covers the columns in front of `began`: equal samples
    have equal digests, whenever they were taken.
    """

    run: int
    step: int
    opening: int
    counted: int | None
    ordinal: int
    verdict: str
    answer_key: str | None
    flag_reason: str | None
    model: str
    view: int
    temperature: float | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    latency: float | None
    attempts: int
    request_id: str | None
    finish_reason: str | None
    text_digest: str | None
    served_model: str | None = None
    fingerprint: str | None = None
    reasoning_tokens: int | None = None
    reasoning_digest: str | None = None
    cache_write_tokens: int | None = None
    began: int | None = None
    text: str | None = None
    reasoning: str | None = None
    tentative: bool = False

    @property
    def answer_tokens(self) -> int | None:
        """Tokens of the reply without its reasoning; None where unknown."""
        return _answer_tokens(self.output_tokens, self.reasoning_tokens)

    def reply(self) -> Reply:
        """Return the reply that was judged."""
        return Reply(
            text=self.text or "",
            model=self.model,
            finish_reason="stop" if self.finish_reason is None else self.finish_reason,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_tokens=self.cached_tokens,
            latency=math.nan if self.latency is None else self.latency,
            request_id=self.request_id,
            attempts=self.attempts,
            reasoning=self.reasoning,
            reasoning_tokens=self.reasoning_tokens,
            served_model=self.served_model,
            fingerprint=self.fingerprint,
            cache_write_tokens=self.cache_write_tokens,
        )

    def row(self) -> tuple[Any, ...]:
        """Return the columns of its row in *samples*; a digest stands for a text."""
        return self[:_ROW]

    def digest_columns(self) -> tuple[Any, ...]:
        """Return what the digest chain covers: the columns from *ordinal* on, see `without_later`."""
        if self.cache_write_tokens is not None:
            return self[_ORDINAL:_CHAINED]
        return self[_ORDINAL : _SINCE if self[_SINCE:_WRITTEN] == _NOTHING_LATER else _WRITTEN]


_ORDINAL: Final = SampleTaken._fields.index("ordinal")
_ROW: Final = SampleTaken._fields.index("text")
_SINCE: Final = SampleTaken._fields.index("served_model")
_WRITTEN: Final = SampleTaken._fields.index("cache_write_tokens")
_CHAINED: Final = SampleTaken._fields.index("began")
_LATER: Final = _WRITTEN - _SINCE
_NOTHING_LATER: Final = (None,) * _LATER
_TEXTS: Final = {"text_digest": "text", "reasoning_digest": "reasoning"}

SAMPLE_COLUMNS: Final = tuple(_TEXTS.get(name, name) for name in SampleTaken._fields[:_ROW])
"""The columns of the table *samples*, in their order."""

CHAINED_COLUMNS: Final = SAMPLE_COLUMNS[:_CHAINED]
"""Those that digests cover: all but the time, which the seal covers by itself."""


def without_later(columns: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a sample's last *columns* as digests take them.

    Columns that came with a later schema are left out if they and all behind them are NULL, so that the
    digests of earlier logs stay as they are.
    """
    if columns[-1] is not None:
        return columns
    columns = columns[:-1]
    return columns[:-_LATER] if columns[-_LATER:] == _NOTHING_LATER else columns


class StepResolved(NamedTuple):
    """An opening's input, so far a guess, turned out right (`confirmed`) or wrong."""

    run: int
    step: int
    opening: int
    confirmed: bool


CANDIDATE: Final = "candidate:"
"""What stands before the key of an answer that was voted for, where a person gives no JSON."""

NOTED: Final = "mdap"
"""The author of what was not voted on: results of parts, of code that runs once, and what was taken over."""

PROPOSED: Final = "proposal"
"""The reason of a decision that the first vote made, since others vote on it: see `mdap.Step`."""


class Decided(NamedTuple):
    """A step was decided.

    `place` counts the run's decisions from 0. `tally` is a JSON object of each candidate's canonical JSON
    and its votes; `votes` are the winner's. `digest` is the head of the run's digest chain with this
    decision in it. `author` and `reason` are those of a person who settled the step, None for a vote, whose
    reason may be `PROPOSED`.
    """

    run: int
    place: int
    step: int
    opening: int
    winner: str
    tally: str
    votes: int
    margin: int
    author: str | None
    reason: str | None
    digest: str


class AttemptFailed(NamedTuple):
    """An attempt at some samples failed in transport: neither a vote nor a red flag.

    The tokens are those that the endpoint billed for an answer of *model* that cannot be read. It began and
    ended at these milliseconds of Unix time; None where they are not recorded.
    """

    run: int
    step: int
    opening: int
    ordinal: int
    attempt: int
    kind: str
    message: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    began: int | None = None
    ended: int | None = None


class RunEvent(NamedTuple):
    """Something happened to a run as a whole: started, resumed, stopped, finished, ..."""

    run: int
    kind: str
    reason: str | None = None
    author: str | None = None
    data: dict[str, Any] | None = None


Fact = StepOpened | PromptSent | SampleTaken | StepResolved | Decided | AttemptFailed | RunEvent


class Event(NamedTuple):
    """A recorded fact of a run, and where to go on after it.

    Attributes:
        cursor: what to pass as *after* to go on behind this fact.
        fact: what was recorded.
    """

    cursor: str
    fact: StepOpened | PromptSent | SampleTaken | AttemptFailed | Decided | RunEvent


EVENTS: Final = {
    "started": (
        "the run began",
        "`limits`, `budget`, `prices` and `folder` of the session; `overrides` and `step` where it overrides "
        "another",
    ),
    "resumed": ("a later session took the run up", "as for `started`"),
    "finished": (
        "the task is done",
        "`result`; `outcome`, `solved`, `unsolved` or null where the task does not say; `seconds` of the "
        "session; `in_flight`; `undecided`, steps of a process without a winner",
    ),
    "undecided": (
        "a step has no winner within its allowed samples",
        "`stop_cause`, a word of `mdap.StopCause`; `seconds`, `in_flight`",
    ),
    "stopped": (
        "the session ended before the task; it can be resumed",
        "as for `undecided`; `traceback` where code of your own failed",
    ),
    "failed": ("the run cannot go on", "as for `stopped`"),
    "attempt_failed": (
        "an attempt at a sample failed in transport",
        "`ordinal`, `attempt`, and `kind`, a stable word such as `timeout`, `rate_limit` or `http_500`; "
        "`began` and `ended`, milliseconds of Unix time; "
        "`model`, `input_tokens` and `output_tokens` where the endpoint billed an answer that cannot be read",
    ),
    "refused": (
        "a model will not answer a step's prompt, and is not asked it again; `reason` is the endpoint's",
        "`step`, `opening`, `tier`, `member`, `view`, `views` and `model`",
    ),
    "left_out": (
        "a model, or a whole tier, is not asked any more",
        "`member` or `tier`, the other one null, and `model`",
    ),
    "escalated": (
        "a step went to the next models",
        "`step`, `opening`, and `tier`, from 1, to which it went",
    ),
    "waiting": (
        "a step that voting left undecided waits for a person, in a session with `--wait-for-person`",
        "`step`, `opening`",
    ),
    "settled": ("a person settled a step, whom `author` names", "`step`"),
    "effect": ("the effects of a decision were brought about", "`step`"),
    "margin": (
        "`-k auto` chose the margin",
        "`from`, the first step; `k`; `target`; and `source`, the run that it rests on",
    ),
    "paid": (
        "with `-k robust`: a step was not smooth and was charged to the error budget",
        "`why`: `contested`, `undecided`, `abandoned`, `lent` (a nested run its share), `returned` (what it "
        "did not spend), `inherited` (of an overridden run); `step`; `price`, an exact fraction; `payments`, "
        "by how many their count rises; of a step also `opening`, `tier`, `m` and `lead`; of what is "
        "returned `before`, the first step that counts on it",
    ),
    "baseline": (
        "what the run is compared with as it goes on",
        "`source`, `against`, `votes`, `flags`, `samples`",
    ),
    "limits": (
        "a limit of an endpoint was told or discovered; a concurrency below one is a pause between requests",
        "`model`, `what` (`concurrency`, `requests_per_minute` or `tokens_per_minute`), `limit_before`, "
        "`limit_after`, `reason`",
    ),
    "probe": (
        "an endpoint was asked what it takes, before anything else; `reason` says what it does not",
        "`model`, `options` (as of `-M`), `repeats`, `n`, `usage`, `request_id`, `failure`, null where it "
        "could not be found out; with the first run of a session also `requests`, `samples`, "
        "`failed_attempts`, `input_tokens`, `output_tokens`, `cached_tokens`, `cache_write_tokens`",
    ),
    "warning": ("what a reader of the result should know", "`drift`, the kind of drift, or null"),
    "sealed": (
        "a session ended in order",
        "`decisions`, `digest`, `events`, `rest`, `times` where any are recorded, and `seal`, which covers "
        "all before it; of a run with parts also `parts` and `until`, the event up to which their seals are "
        "covered",
    ),
    "signed": ("somebody signed the last seal", "`seal`, and `signature` as `ssh-keygen` writes it"),
}
"""The kinds of events of a run, each with what happened and what the event's data hold."""


class Refusal(NamedTuple):
    """A model will not answer a step's prompt in some view; `reason` is the endpoint's sentence."""

    member: int
    view: int
    model: str
    reason: str


METERED: Final = frozenset(
    {
        "requests",
        "samples",
        "failed_attempts",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "cache_write_tokens",
    }
)
"""What an event says of requests that were sent; whatever event it is, its tokens are in the totals."""


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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that providers reported: of all samples, of the probe, and of answers that cannot be read.

    Attributes:
        input_tokens: tokens of the prompts.
        output_tokens: tokens of the replies.
    """

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Return both together."""
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True, slots=True)
class ProbeTotals:
    """What finding out about the endpoints took.

    Attributes:
        samples: replies.
        failed_attempts: requests that were refused, or failed otherwise.
        usage: tokens.
    """

    samples: int = 0
    failed_attempts: int = 0
    usage: Usage = field(default_factory=Usage)

    def __add__(self, other: "ProbeTotals") -> "ProbeTotals":
        """Return both together."""
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
    """What a run's rows add up to.

    Attributes:
        steps: decided steps.
        votes: samples that voted.
        red_flags: samples discarded before they could vote.
        void: samples taken on an input that turned out wrong.
        cancelled: samples given up because their step was decided without them.
        failed_attempts: attempts that failed in transport.
        usage: tokens, those of the probe included.
        probe: what finding out about the endpoints took.
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
        """All samples with a row, whatever became of them."""
        return self.votes + self.red_flags + self.void + self.cancelled


class TallyShape(NamedTuple):
    """Steps whose votes fell alike, whatever the answers were.

    Attributes:
        votes: votes for the winner, or for the answer that is known to be right.
        runner_up: votes for the best other answer.
        total: all votes.
        steps: how many steps have this tally.
        known: whether the answer with *votes* is known to be right, rather than voted.
    """

    votes: int
    runner_up: int
    total: int
    steps: int
    known: bool = False

    @property
    def margin(self) -> int:
        """How far the winner leads."""
        return self.votes - self.runner_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How sure one can be of a run's decisions, going by how their votes agreed.

    It assumes that the samples of a step err independently, that wrong ones all say the same (the worst
    case), and that on a hard step a majority is as likely wrong as right.

    Attributes:
        p_zero_errors: chance that every decision is right, if each step is right with a chance above *floor*.
        expected_errors: how many decisions are wrong on average.
        error_rate: chance that a vote is wrong, 1 - p, over all steps.
        error_rate_low: that chance is above this with 97.5 %.
        error_rate_high: that chance is below this with 97.5 %.
        p_hard: chance that some steps are harder than others.
        hard_share: share of hard steps that is to be expected.
        dispersion: variance of the votes for runners-up, over what it would be if all steps were alike:
            about 1 if errors are independent; None where it cannot be told.
        floor: the least chance that a valid sample is right, on every step, that *p_zero_errors* assumes;
            above 1/2 where a harder step would look like the others.
        warnings: what a reader should know, a sentence each.
        voters: where several models were asked, the votes of each; empty for one.
    """

    p_zero_errors: float
    expected_errors: float
    error_rate: float
    error_rate_low: float
    error_rate_high: float
    p_hard: float
    hard_share: float
    dispersion: float | None
    floor: float = 0.5
    warnings: tuple[str, ...] = ()
    voters: Mapping[str, int] = field(default_factory=dict)

    @property
    def condition(self) -> str:
        """What must hold for *p_zero_errors*, as a clause."""
        if self.floor <= 0.5:
            return "if every step is right more often than wrong"
        return f"if every step is right in at least {self.floor:.2f} of its valid samples"

    @property
    def errors_if_any(self) -> float | None:
        """How many decisions are wrong on average in a run that has an error; None if errors are negligible.

        Errors come together: where some steps are hard, several are. So this is 1 or more.
        """
        share = 1 - self.p_zero_errors
        return None if share < _NEGLIGIBLE else max(self.expected_errors / share, 1.0)


class Interval(NamedTuple):
    """An estimate, with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Quantiles(NamedTuple):
    """Mean, median and 95th percentile."""

    mean: float
    median: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a run will take, by a calibration; each with a 95 % interval.

    Attributes:
        k: the margin.
        p_zero_errors: chance of a run without one wrong decision, at the bound on the error rate.
        samples: samples; those on a guess that turns out wrong come on top.
        cost_usd: their price in USD; None where no price is known.
        seconds: how long it takes under the limits given.
    """

    k: int
    p_zero_errors: float
    samples: Interval
    cost_usd: Interval | None
    seconds: Interval


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Calibration:
    """What samples of random steps say of a model at a task.

    Attributes:
        run_id: the calibration's id in the database.
        task: the task's name.
        models: the models that were asked.
        status: finished, or stopped before it had all samples.
        reason: one sentence on why it stopped; None if it did not.
        truth: ``oracle``: the task knows the right answers; ``consensus``: the winners of races by a lead of
            *consensus_k* stand for them.
        consensus_k: that lead; None for ``oracle``.
        source: where the steps come from: ``sample_state`` of the task, its ``oracle``, ``run ID``, or
            ``pilot ID``.
        steps: steps that were sampled, and whose right answer is known or agreed on.
        undecided: steps on which no answer was agreed.
        samples: samples taken.
        votes: valid samples in the steps that count.
        wrong: wrong ones among them.
        red_flags: discarded samples by reason.
        failed_attempts: attempts that failed in transport.
        error_rate: share of wrong votes, 1 - p.
        error_bound: what it is below with 95 %; k is chosen by this.
        bias_bound: by how much agreement on wrong answers may make the error rate look smaller; 0 with an
            oracle. It is already within the interval and the bound.
        valid_rate: share of samples that are not red-flagged, v.
        input_tokens: tokens of a prompt.
        output_tokens: tokens of a reply.
        latency: seconds a reply takes.
        collisions: steps whose first two votes agree on a wrong answer.
        collisions_expected: how many there are at most if errors are independent.
        duplicates: share of samples whose text repeats an earlier one of the same step.
        p_hard: chance that some steps are harder than others.
        hard_share: share of hard steps that is to be expected.
        target: the wanted chance of a run without one wrong decision.
        length: steps of the task; None where unknown.
        projection: what a run will take at the smallest k that reaches the target; None where none does, or
            the length is unknown.
        cost_usd: what the calibration itself cost; None where no price is known.
        seconds: how long it took.
        findings: what is to be known of all this, in words, a sentence each.
    """

    run_id: str
    task: str
    models: tuple[str, ...]
    truth: str
    consensus_k: int | None
    source: str
    steps: int
    undecided: int
    samples: int
    votes: int
    wrong: int
    red_flags: dict[str, int]
    error_rate: Interval
    error_bound: float
    bias_bound: float
    valid_rate: Interval
    collisions: int
    collisions_expected: float
    duplicates: float
    p_hard: float
    hard_share: float
    target: float
    status: RunStatus = RunStatus.FINISHED
    reason: str | None = None
    failed_attempts: int = 0
    input_tokens: Quantiles | None = None
    output_tokens: Quantiles | None = None
    latency: Quantiles | None = None
    length: int | None = None
    projection: Projection | None = None
    cost_usd: float | None = None
    seconds: float = 0.0
    findings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return _told(
            self,
            run_id=self.run_id,
            task=self.task,
            models=self.models,
            status=str(self.status),
            reason=self.reason,
            samples=self.samples,
            error_rate=round(self.error_rate.value, 6),
            error_bound=round(self.error_bound, 6),
            valid_rate=round(self.valid_rate.value, 6),
            k=self.k,
            target=self.target,
            cost_usd=self.cost_usd,
        )

    @property
    def uneven(self) -> bool:
        """Whether some steps are harder than others, as far as can be told."""
        return self.p_hard > SURE

    @property
    def k(self) -> int | None:
        """The smallest margin that reaches the target at the bound on the error rate; None if none does."""
        return None if self.projection is None else self.projection.k

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap calibrate --json`` prints for each model."""
        plain = {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return {**plain, "k": self.k}


def _told(value: Any, **shown: Any) -> str:
    """Return the *repr* of a large value: what a reader looks for, on one line; None is left out."""
    parts = []
    for name, item in shown.items():
        text = repr(item)
        if item is not None:
            parts.append(f"{name}={text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'}")
    return f"{type(value).__name__}({', '.join(parts)})"


def _plain(value: Any) -> Any:
    if isinstance(value, Projection):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Interval | Quantiles):
        return value._asdict()
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What a run of `-k robust` may say of itself.

    Attributes:
        floor: the least chance that a valid sample is right that was assumed of every step.
        target: chance that no voted decision is wrong, if that holds.
        contested: steps whose votes were contested.
        undecided: steps that votes did not decide, or that nobody waited for any more.
        spent: what those steps have spent of the error budget, which is 1 - *target*.
        bound: the chance is at most this that a run has a wrong decision and yet spends so little, however
            hard its steps are, if the floor holds.
    """

    floor: float
    target: float
    contested: int
    undecided: int
    spent: Fraction
    bound: Fraction

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**asdict(self), "spent": float(self.spent), "bound": float(self.bound)}

    def sentence(self, steps: int) -> str:
        """Return what may be said of a run of so many *steps*: a joint statement, not how sure one is."""
        noun, were = "step" if steps == 1 else "steps", "was" if self.contested == 1 else "were"
        others = f", and {self.undecided:,} not decided by votes" if self.undecided else ""
        percent = math.ceil(self.bound * 1000) / 10  # upwards, since it bounds
        return (
            f"{self.contested:,} of {steps:,} {noun} {were} contested{others}. If the model is right in at "
            f"least {self.floor:g} of its valid samples on every step, a run with a wrong decision shows so "
            f"few contested steps in at most {percent:.1f} % of cases, however hard the steps are."
        )


R_co = TypeVar("R_co", covariant=True, default=Any)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Solution(Generic[R_co]):
    """What a run came to.

    Attributes:
        run_id: the run's id in the database.
        task: the task's name.
        status: finished, undecided, stopped or failed.
        result: what the task returned, as a value of the type that it declares in ``Process[R]`` or for
            `Chain.result` if that comes back from its JSON, else as its JSON value; None unless finished.
        reason: one sentence on why the run did not finish; None if it did.
        totals: steps, votes, red flags, tokens.
        k: the margin every decision had to reach; with `-k robust`, m of the first step.
        cost_usd: price of all samples in USD; None where no price is known.
        seconds: time spent running, over all resumes.
        certificate: how sure one can be of the decisions; None where nothing can be said.
        digest: head of the digest chain over the decisions, in hexadecimal.
        warnings: what a reader of the result should know, a sentence each.
        guarantee: what `-k robust` says of the run; None for another k.
        seal: digest over all that the log holds of the run, as of the end of its last session; None if no
            session ended in order.
        undecided: steps of a finished process that were asked for and found no winner.
        stop_cause: the same as one word; None if it did finish, or where nobody recorded it.
        traceback: where code of the task or of a provider failed, as Python prints it; None if none did.
        error: the error that ended the run, with its cause; None for a run that was read from the log.
        outcome: whether the result of a finished run is good; None where neither the task nor the votes say.
        saved_usd: USD that prompts shared by several samples or read from a cache saved; None where no price
            is known.
    """

    run_id: str
    task: str
    status: RunStatus
    result: R_co
    reason: str | None
    totals: Totals
    k: int
    cost_usd: float | None
    seconds: float
    certificate: Certificate | None
    digest: str | None
    warnings: tuple[str, ...] = ()
    seal: str | None = None
    guarantee: Guarantee | None = None
    undecided: int = 0
    stop_cause: StopCause | None = None
    traceback: str | None = None
    error: Exception | None = field(default=None, compare=False, repr=False)
    outcome: Outcome | None = None
    saved_usd: float | None = None
    _json: Any = field(default=None, compare=False)  # the result as it is on record

    def __repr__(self) -> str:
        return _told(
            self,
            run_id=self.run_id,
            task=self.task,
            status=str(self.status),
            outcome=self.outcome and str(self.outcome),
            result=self.result,
            reason=self.reason,
            steps=self.steps,
            samples=self.totals.samples,
            k=self.k,
            p_zero_errors=self.p_zero_errors and round(self.p_zero_errors, 6),
            cost_usd=self.cost_usd,
        )

    @property
    def mostly_undecided(self) -> bool:
        """Whether a finished run decided fewer steps than it left undecided."""
        return self.status is RunStatus.FINISHED and self.undecided > self.totals.steps

    @property
    def p_zero_errors(self) -> float | None:
        """Estimated chance that every decision is right; None where nothing can be said."""
        return None if self.certificate is None else self.certificate.p_zero_errors

    @property
    def steps(self) -> int:
        """Decided steps."""
        return self.totals.steps

    @property
    def usage(self) -> Usage:
        """Tokens of all samples, and of what was billed beside them."""
        return self.totals.usage

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap run --json`` prints."""
        return {
            "run_id": self.run_id,
            "task": self.task,
            "status": str(self.status),
            "outcome": None if self.outcome is None else str(self.outcome),
            "result": self.result if self._json is None else self._json,
            "reason": self.reason,
            "stop_cause": self.stop_cause,
            "steps": self.totals.steps,
            "undecided": self.undecided,
            "votes": self.totals.votes,
            "samples": self.totals.samples,
            "red_flags": self.totals.red_flags,
            "void": self.totals.void,
            "cancelled": self.totals.cancelled,
            "failed_attempts": self.totals.failed_attempts,
            "probe": self.totals.probe.to_dict(),
            "k": self.k,
            "usage": {
                "input_tokens": self.totals.usage.input_tokens,
                "output_tokens": self.totals.usage.output_tokens,
            },
            "cost_usd": self.cost_usd,
            "saved_usd": self.saved_usd,
            "seconds": round(self.seconds, 3),
            "p_zero_errors": self.p_zero_errors,
            "guarantee": None if self.guarantee is None else self.guarantee.to_dict(),
            "certificate": None if self.certificate is None else asdict(self.certificate),
            "digest": self.digest,
            "seal": self.seal,
            "warnings": list(self.warnings),
            "traceback": self.traceback,
        }
