"""The record of a run: its openings, each a step opened on one input, their samples, and decisions."""

from enum import Enum, auto
from math import isfinite
from typing import Any, Final

from mdap.engine.config import RunConfig
from mdap.engine.prompts import Judgement
from mdap.engine.voting import Race
from mdap.errors import MdapError
from mdap.protocols import Journal
from mdap.records import (
    NOTED,
    Decided,
    RecordedOpening,
    Reply,
    RunEvent,
    RunStatus,
    SampleRequest,
    SampleTaken,
    StepOpened,
    StepResolved,
    StopCause,
)
from mdap.rules.canonical import canonical
from mdap.rules.digests import chain_digest, sample_line, text_digest
from mdap.rules.presence import refused_sentence
from mdap.rules.redflags import clean, clean_label

# Looked up once: a member of an enumeration takes longer to find than all else that is done with it.
RUNNING: Final = RunStatus.RUNNING

# Maximum characters of a model's reasoning that the record keeps.
_REASONING_TOKENS: Final = 16_384


Drawn = tuple[int, int, str, int | None]
"""A sample's ordinal, its failed attempts, its verdict, and its place in the order of counting."""


class OpeningStatus(Enum):
    """Whether an opening matters: its input is a guess, or certain; nobody waits for it; or it is over.

    It is over once it is decided, or void: its input turned out wrong, or does not matter any more. Of one
    that is idle, nothing more is asked until somebody waits for it again.
    """

    TENTATIVE = auto()
    CERTAIN = auto()
    IDLE = auto()
    DECIDED = auto()
    VOID = auto()

    @property
    def over(self) -> bool:
        """Whether nothing that still comes can matter."""
        return self in (OpeningStatus.DECIDED, OpeningStatus.VOID)


class Opening:
    """One step opened on one input, *place* times before.

    Attributes:
        opened: its record.
        status: whether it matters.
        error: why it cannot be sampled; only matters once its input is certain.
        basis: the answer on which the next step is open, in canonical JSON; None if none is.
        flying: requests in flight, by their ordinals.
        lines: ordinal and recorded columns of each counted sample, for the digest chain.
    """

    __slots__ = ("basis", "error", "flying", "lines", "opened", "race", "state", "status")

    def __init__(self, race: Race, place: int, spelled: str, state: Any, *, tentative: bool = False) -> None:
        run = race.config.run
        self.opened = StepOpened(run, race.number, place, race.key, spelled, race.prompt_digest)
        self.state = state
        self.race = race
        self.status = OpeningStatus.TENTATIVE if tentative else OpeningStatus.CERTAIN
        self.error: MdapError | None = None
        self.basis: str | None = None
        self.flying: dict[tuple[int, ...], SampleRequest] = {}
        self.lines: list[tuple[int, str]] = []

    def taken(self, request: SampleRequest, judgement: Judgement, reply: Reply, drawn: Drawn) -> SampleTaken:
        """Return the record of a sample."""
        ordinal, failed, verdict, counted = drawn
        reasoning = clean(reply.reasoning, _REASONING_TOKENS) if reply.reasoning else None
        # Called by itself, since a class that is called with keywords takes three times as long.
        return SampleTaken.__new__(
            SampleTaken,
            run=self.opened.run,
            step=self.opened.step,
            opening=self.opened.opening,
            counted=counted,
            ordinal=ordinal,
            verdict=verdict,
            answer_key=judgement.answer_key,
            flag_reason=judgement.flag_reason,
            model=judgement.model,
            view=request.view,
            temperature=self.race.schedule.temperature(ordinal, request.member),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            cached_tokens=reply.cached_tokens,
            latency=_seconds(reply.latency) if reply.latency else 0.0,
            attempts=failed + reply.attempts,
            request_id=_label(reply.request_id),
            finish_reason=judgement.finish_reason,
            text_digest=judgement.text_digest,
            served_model=_label(reply.served_model),
            fingerprint=_label(reply.fingerprint),
            reasoning_tokens=reply.reasoning_tokens,
            reasoning_digest=None if reasoning is None else text_digest(reasoning),
            cache_write_tokens=reply.cache_write_tokens,
            began=request.trace.began,
            text=judgement.text,
            reasoning=reasoning,
            tentative=self.status is OpeningStatus.TENTATIVE,
        )

    def lost(self, request: SampleRequest, ordinal: int, verdict: str, model: str) -> SampleTaken:
        """Return the record of a sample that was abandoned before its reply arrived."""
        return SampleTaken(
            self.opened.run,
            self.opened.step,
            self.opened.opening,
            counted=None,
            ordinal=ordinal,
            verdict=verdict,
            answer_key=None,
            flag_reason=None,
            model=model,
            view=request.view,
            temperature=self.race.schedule.temperature(ordinal, request.member),
            began=request.trace.began,
        )


def _label(text: str | None) -> str | None:
    return None if text is None else clean_label(text)


def _seconds(latency: float) -> float | None:
    seconds = float(latency)
    return round(seconds, 6) if isfinite(seconds) else None


class Recorder:
    """Record the steps of one run.

    Attributes:
        status: running, until it is finished, undecided, stopped or failed.
        reason: why it is not running and not finished.
        stop_cause: the same as one word.
        error: the error that ended it; None for none.
        digest: head of the digest chain over the decisions.
        place: how many steps are decided.
    """

    def __init__(self, config: RunConfig, journal: Journal) -> None:
        self.status: RunStatus = RUNNING
        self.reason: str | None = None
        self.stop_cause: StopCause | None = None
        self.error: MdapError | None = None
        self.digest = ""
        self.progress = config.progress
        self.config = config
        self.schedule = config.schedule
        self.journal = journal
        self.place = 0

    def record_event(
        self, kind: str, reason: str, data: dict[str, Any] | None = None, author: str | None = None
    ) -> None:
        """Record an event of the run."""
        self.journal.append(RunEvent(self.config.run, kind, reason, author, data))

    def record(
        self, opening: Opening, winner: str, author: str | None = None, reason: str | None = None
    ) -> None:
        """Record that *opening* is decided."""
        tally = opening.race.tally.votes
        votes, total = tally.get(winner, 0), sum(tally.values())
        if votes == total > 0:
            others, spelled = 0, f"{{{canonical(winner)}:{votes}}}"
        else:
            others = max((count for answer, count in tally.items() if answer != winner), default=0)
            spelled = canonical(tally)
        opening.lines.sort()
        lines = [line for _, line in opening.lines]
        self._append_decision(opening.opened, lines, winner, (spelled, votes, votes - others, author, reason))
        self._watch(opening.race, total - votes, total)

    def _watch(self, race: Race, against: int, votes: int) -> None:
        """Record whether the run drifts."""
        if self.config.drift is not None and race.tier == 0:
            for kind, sentence in self.config.drift.hear(against, votes, race.counted - votes):
                self.record_event("warning", sentence, {"drift": kind})

    def note(self, opened: StepOpened, result: str, reason: str) -> None:
        """Record a *result* that was not voted on, and as *reason* where it comes from."""
        self._append_decision(opened, [], result, ("{}", 0, 0, NOTED, reason))

    def _append_decision(
        self,
        opened: StepOpened,
        lines: list[str],
        winner: str,
        how: tuple[str, int, int, str | None, str | None],
    ) -> None:
        draft = Decided(opened.run, self.place, opened.step, opened.opening, winner, *how, digest="")
        self.digest = chain_digest(self.digest, opened, lines, draft)
        self.journal.append(draft._replace(digest=self.digest))
        self.place += 1
        self.progress.steps += 1

    def resolve(self, opened: StepOpened, *, confirmed: bool) -> None:
        """Record whether a step that was opened on a guess stands on the right input."""
        self.journal.append(StepResolved(opened.run, opened.step, opened.opening, confirmed))

    # -- opening -----------------------------------------------------------------------------------

    def open_afresh(
        self, race: Race, spelled: str, state: Any, place: int = 0, *, tentative: bool = False
    ) -> Opening:
        """Record that a step is opened; return its opening."""
        opening = Opening(race, place, spelled, state, tentative=tentative)
        # A schema that cannot be written down fails here, and must leave no opening to go on with.
        sent = race.sent(opening.opened) if self.config.record_prompts else ()
        self.journal.append(opening.opened, *sent)
        return opening

    def reopened(
        self, recorded: RecordedOpening, state: Any, race: Race, *, tentative: bool = False
    ) -> Opening:
        """Return a recorded opening, its samples counted again."""
        opened = recorded.opened
        opening = Opening(race, opened.opening, opened.input, state, tentative=tentative)
        race.refold(recorded.samples, recorded.tier, recorded.refusals)
        paid = None if self.config.account is None else self.config.account.paid(opening.opened, race.tier)
        if paid is not None:
            race.go_on_at(paid)
        opening.lines = [
            (taken.ordinal, sample_line(taken.digest_columns()))
            for taken in recorded.samples
            if taken.counted
        ]
        return opening


def undecided_cause(opening: Opening) -> StopCause:
    """Return why *opening* has no winner, as one word."""
    race = opening.race
    return StopCause.REFUSED if race.closed and race.refusal is not None else StopCause.SAMPLES


def undecided_sentence(opening: Opening) -> str:
    """Return why *opening* has no winner."""
    race = opening.race
    if race.closed and race.refusal is not None:
        return refused_sentence(opening.opened.step, race.refusal.model, race.refusal.reason)
    return race.tally.no_winner(opening.opened.step, race.counted)
