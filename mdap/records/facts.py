"""The facts of a run: the rows of the log, one class per table, which names its columns.

Classes with one value per sample are named tuples: immutable, slotted and cheap to create.
"""

import math
import re
from operator import attrgetter
from typing import Any, Final, NamedTuple

from mdap.records.requests import Reply, answer_tokens

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """Return *text* with halves of surrogate pairs, which no database or endpoint can carry, as U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


class StepOpened(NamedTuple):
    """A step was opened on an input. `opening` counts the times this step was opened, from 0."""

    run: int
    step: int
    opening: int
    key: str
    input: str
    prompt_digest: str


class PromptSent(NamedTuple):
    """The prompt of an opened step in one of its views, from 0, if the run records prompts.

    `system` and `schema`, JSON text, are None where there is none. `max_tokens` is the maximum number of
    output tokens of a reply.
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

    def row(self) -> tuple[Any, ...]:
        """Return the columns of its row in *prompts*, with digests in place of texts."""
        return self[:_PROMPT_ROW]

    def texts(self) -> tuple[tuple[str | None, str | None], ...]:
        """Return each digest with its text."""
        digests = (self.system_digest, self.user_digest, self.schema_digest)
        return tuple(zip(digests, (self.system, self.user, self.schema), strict=True))


_PROMPT_ROW: Final = PromptSent._fields.index("system")


class SampleTaken(NamedTuple):
    """A sample arrived and got its verdict.

    `counted` is its place in the order of counting, from 1; None for one that was never counted.
    `tentative` says that the step's input is still a guess: the verdict holds only once a
    `StepResolved` confirms the input. `temperature` is None if mdap sent none. `began` is the time when its
    request left, in milliseconds of Unix time; it ended `latency` seconds later.

    This class alone names the columns of the table *samples*: `SAMPLE_COLUMNS`, `row` and `digest_columns`
    follow from it, and all SQL from those. A new column goes in front of `began`, is None by
    default, and needs a migration and a place in `without_later`. The digest chain covers the columns in
    front of `began`: equal samples have equal digests, whenever they were taken.
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
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    latency: float | None = None
    attempts: int = 1
    request_id: str | None = None
    finish_reason: str | None = None
    text_digest: str | None = None
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
    def place(self) -> tuple[int, int, int]:
        """Step, opening and ordinal."""
        return self.step, self.opening, self.ordinal

    @property
    def answer_tokens(self) -> int | None:
        """Tokens of the reply without its reasoning; None where unknown."""
        return answer_tokens(self.output_tokens, self.reasoning_tokens)

    def reply(self) -> Reply:
        """Return the reply that was judged."""
        finish = "stop" if self.finish_reason is None else self.finish_reason
        latency = math.nan if self.latency is None else self.latency
        said = Reply._make(_reply(self))
        return said._replace(text=self.text or "", finish_reason=finish, latency=latency)

    def entry(self) -> "SampleEntry":
        """Return it as `mdap.Log.samples` yields it."""
        return SampleEntry._make(_entry(self))

    def row(self) -> tuple[Any, ...]:
        """Return the columns of its row in *samples*, with digests in place of texts."""
        return self[:_ROW]

    def digest_columns(self) -> tuple[Any, ...]:
        """Return the columns that the digest chain covers, from *ordinal* on; see `without_later`."""
        return without_later(self[_ORDINAL:_CHAINED])


_reply: Final = attrgetter(*Reply._fields)
_place: Final = SampleTaken._fields.index
_ORDINAL: Final = _place("ordinal")
_SINCE: Final = _place("served_model")
_CHAINED: Final = _place("began")
_ROW: Final = _place("text")
_LATER: Final = _place("cache_write_tokens") - _SINCE
_NOTHING_LATER: Final = (None,) * _LATER
_TEXTS: Final = {"text_digest": "text", "reasoning_digest": "reasoning"}

SAMPLE_COLUMNS: Final = tuple(_TEXTS.get(name, name) for name in SampleTaken._fields[:_ROW])
"""The columns of the table *samples*, in their order."""

CHAINED_NUMBERS: Final = slice(_place("temperature") - _ORDINAL, 1 + _place("latency") - _ORDINAL)
"""Positions of the numbers in `SampleTaken.digest_columns`."""

CHAINED_AT_FIRST: Final = _SINCE - _ORDINAL
"""Number of digest columns in the first schema."""

CHAINED_COLUMNS: Final = SAMPLE_COLUMNS[:_CHAINED]
"""The columns that digests cover: all but the time, which the seal covers."""


def without_later(columns: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a sample's last *columns* as digests take them.

    It drops columns of later schemas if they and all columns after them are NULL, so digests of earlier logs
    stay the same.
    """
    if columns[-1] is not None:
        return columns
    columns = columns[:-1]
    return columns[:-_LATER] if columns[-_LATER:] == _NOTHING_LATER else columns


class SampleEntry(NamedTuple):
    """A sample, with its text; the columns are those of the table *samples*."""

    step: int
    opening: int
    ordinal: int
    verdict: str
    counted: int | None
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
    text: str | None
    served_model: str | None
    fingerprint: str | None
    reasoning_tokens: int | None
    reasoning: str | None
    began: int | None
    cache_write_tokens: int | None


_entry: Final = attrgetter(*SampleEntry._fields)


class StepResolved(NamedTuple):
    """An opening's input, so far a guess, turned out right (`confirmed`) or wrong."""

    run: int
    step: int
    opening: int
    confirmed: bool


CANDIDATE: Final = "candidate:"
"""Prefix for the key of a voted answer, where a person chooses one instead of giving JSON."""

NOTED: Final = "mdap"
"""The author of decisions without a vote: results of parts and of `once` calls, and copied decisions."""

PROPOSED: Final = "proposal"
"""The reason of a decision made by one vote, a proposal for later votes: see `mdap.Step`."""


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
    """A recorded fact of a run, and its position.

    Attributes:
        cursor: pass it as *after* to continue after this fact.
        fact: the recorded fact.
    """

    cursor: str
    fact: StepOpened | PromptSent | SampleTaken | AttemptFailed | Decided | RunEvent
