"""An opening: one step opened on one input, and the record of its samples."""

from dataclasses import dataclass, field
from enum import Enum, auto
from math import isfinite
from typing import Any, Final

from mdap.engine.prompts import Judgement
from mdap.engine.voting import Race
from mdap.errors import MdapError
from mdap.records import Reply, SampleRequest, SampleTaken, StepOpened, Totals
from mdap.rules.digests import text_digest
from mdap.rules.redflags import clean, clean_label

# Maximum characters of a model's reasoning that the record keeps.
_REASONING_TOKENS: Final = 16_384

__all__ = ["Opening", "OpeningStatus", "Progress", "lost", "written"]


class OpeningStatus(Enum):
    """Whether an opening matters: its input is a guess, or certain; nobody waits for it; or it is void.

    It is void once its input turned out wrong, or does not matter any more. Of one that is idle, nothing more
    is asked until somebody waits for it again.
    """

    TENTATIVE = auto()
    CERTAIN = auto()
    IDLE = auto()
    VOID = auto()


class Opening:
    """One step opened on one input.

    Attributes:
        opened: its record.
        state: the input.
        race: its votes.
        status: whether it matters.
        error: why it cannot be sampled; only matters once its input is certain.
        basis: the answer on which the next step is open, in canonical JSON; None if none is.
        flying: requests in flight, by their ordinals.
        lines: ordinal and recorded columns of each counted sample, for the digest chain.
    """

    __slots__ = ("basis", "error", "flying", "lines", "opened", "race", "state", "status")

    def __init__(self, opened: StepOpened, state: Any, race: Race, *, tentative: bool) -> None:
        self.opened = opened
        self.state = state
        self.race = race
        self.status = OpeningStatus.TENTATIVE if tentative else OpeningStatus.CERTAIN
        self.error: MdapError | None = None
        self.basis: str | None = None
        self.flying: dict[tuple[int, ...], SampleRequest] = {}
        self.lines: list[tuple[int, str]] = []


@dataclass(slots=True)
class Progress:
    """The progress of a run: counters for a display, cheap to read at any time.

    Earlier sessions of a resumed run count too.

    Attributes:
        steps: decided steps.
        votes: counted votes.
        red_flags: discarded samples.
        void: samples taken on an input that turned out wrong.
        failed_attempts: attempts that failed.
        in_flight: samples requested and not yet received.
        length: steps of the whole task; None where unknown.
        workers: counters of the workers that share the run, by name; empty if there are none.
    """

    steps: int = 0
    votes: int = 0
    red_flags: int = 0
    void: int = 0
    failed_attempts: int = 0
    in_flight: int = 0
    length: int | None = None
    workers: dict[str, "Progress"] = field(default_factory=dict)

    def add(self, totals: Totals) -> None:
        """Count what earlier sessions recorded."""
        self.steps += totals.steps
        self.votes += totals.votes
        self.red_flags += totals.red_flags
        self.void += totals.void
        self.failed_attempts += totals.failed_attempts


def written(
    opening: Opening,
    request: SampleRequest,
    judgement: Judgement,
    reply: Reply,
    drawn: tuple[int, int, str, int | None],
) -> SampleTaken:
    """Return the record of a sample.

    Args:
        opening: the step it was drawn for.
        request: what was asked.
        judgement: its verdict.
        reply: the reply as it came.
        drawn: ordinal, attempts that failed, verdict, place in the order of counting.
    """
    ordinal, failed, verdict, counted = drawn
    opened, reasoning = opening.opened, reply.reasoning
    seconds: float | None = float(reply.latency)
    if seconds:
        seconds = round(seconds, 6) if isfinite(seconds) else None
    kept = clean(reasoning, _REASONING_TOKENS) if reasoning else None
    # Called by itself, since a class that is called with keywords takes three times as long; once per sample.
    return SampleTaken.__new__(
        SampleTaken,
        run=opened.run,
        step=opened.step,
        opening=opened.opening,
        counted=counted,
        ordinal=ordinal,
        verdict=verdict,
        answer_key=judgement.answer_key,
        flag_reason=judgement.flag_reason,
        model=judgement.model,
        view=request.view,
        temperature=opening.race.schedule.temperature(ordinal, request.member),
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        cached_tokens=reply.cached_tokens,
        latency=seconds,
        attempts=failed + reply.attempts,
        request_id=_label(reply.request_id),
        finish_reason=judgement.finish_reason,
        text_digest=judgement.text_digest,
        served_model=_label(reply.served_model),
        fingerprint=_label(reply.fingerprint),
        reasoning_tokens=reply.reasoning_tokens,
        reasoning_digest=None if kept is None else text_digest(kept),
        cache_write_tokens=reply.cache_write_tokens,
        began=request.trace.began,
        text=judgement.text,
        reasoning=kept,
        tentative=opening.status is OpeningStatus.TENTATIVE,
    )


def _label(text: str | None) -> str | None:
    return None if text is None else clean_label(text)


def lost(opening: Opening, request: SampleRequest, ordinal: int, verdict: str, model: str) -> SampleTaken:
    """Return the record of a sample that was abandoned before its reply arrived."""
    opened = opening.opened
    return SampleTaken(
        opened.run,
        opened.step,
        opened.opening,
        counted=None,
        ordinal=ordinal,
        verdict=verdict,
        answer_key=None,
        flag_reason=None,
        model=model,
        view=request.view,
        temperature=opening.race.schedule.temperature(ordinal, request.member),
        input_tokens=None,
        output_tokens=None,
        cached_tokens=None,
        latency=None,
        attempts=1,
        request_id=None,
        finish_reason=None,
        text_digest=None,
        began=request.trace.began,
    )
