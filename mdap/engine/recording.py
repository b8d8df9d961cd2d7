"""The recorder of chains and processes: opened, decided and resolved steps."""

from dataclasses import dataclass, field
from typing import Any, Final

from mdap.engine.account import Account
from mdap.engine.opening import Opening, Progress
from mdap.engine.pilot import Pilot
from mdap.engine.voting import Race
from mdap.errors import MdapError
from mdap.protocols import Journal
from mdap.records import (
    NOTED,
    Decided,
    RecordedOpening,
    RunEvent,
    RunStatus,
    StepOpened,
    StepResolved,
    StopCause,
)
from mdap.rules.canonical import canonical
from mdap.rules.digests import chain_digest, sample_line
from mdap.rules.drift import Drift
from mdap.rules.presence import Absence, Presence, refused_sentence
from mdap.rules.schedule import SampleSchedule, schedule_of
from mdap.settings import OnDead, Speculation, VotingSettings

__all__ = ["RUNNING", "Recorder", "RunConfig", "undecided_cause", "undecided_sentence"]

# Looked up once: a member of an enumeration takes longer to find than all else that is done with it.
RUNNING: Final = RunStatus.RUNNING


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The configuration of a run, besides its task.

    Attributes:
        run: the run's number in the database.
        run_id: the run's name.
        voting: how steps are decided.
        speculation: how far a chain works ahead.
        max_n: maximum replies of one request.
        models: by member, whom to name for samples that never came back.
        schedule: who is asked for which sample; None for one model.
        pilot: how far the pilot is that the run is, or is nested in; None if it is none.
        open_steps: how many steps of a process may be open at once.
        account: the error budget of `-k robust`; None for one k throughout.
        effects: whether what is decided may bring anything about outside.
        drift: notices that the run does otherwise than its calibration did; None for nothing to compare.
        presence: which models have answered, in this run and all that belong to it.
        on_dead: what to do when one of several models is gone.
        absences: who was left out in earlier sessions.
        record_prompts: whether the text of every prompt is recorded.
        patient: whether an undecided step waits for a person, instead of ending.
        warm_cache: whether one request goes ahead of others that begin with the same text.
    """

    run: int
    voting: VotingSettings
    speculation: Speculation = field(default_factory=Speculation)
    max_n: int = 1
    models: tuple[str, ...] = ("",)
    schedule: SampleSchedule | None = None
    pilot: Pilot | None = None
    open_steps: int = 128
    run_id: str = ""
    account: Account | None = None
    drift: Drift | None = None
    effects: bool = True
    presence: Presence = field(default_factory=Presence)
    on_dead: OnDead = OnDead.STOP
    absences: tuple[Absence, ...] = ()
    record_prompts: bool = False
    patient: bool = False
    warm_cache: bool = False


class Recorder:
    """Record the steps of one run.

    Args:
        rules: run number, voting settings.
        journal: where every fact goes.
        progress: counters to keep.

    Attributes:
        status: running, until it is finished, undecided, stopped or failed.
        reason: why it is not running and not finished.
        stop_cause: the same as one word.
        error: the error that ended it; None for none.
        digest: head of the digest chain over the decisions.
        progress: the counters.
        rules: the configuration of the run.
        schedule: who is asked for which sample.
        journal: where every fact goes.
        place: how many steps are decided.
    """

    def __init__(self, rules: RunConfig, journal: Journal, progress: Progress) -> None:
        self.status: RunStatus = RUNNING
        self.reason: str | None = None
        self.stop_cause: StopCause | None = None
        self.error: MdapError | None = None
        self.digest = ""
        self.progress = progress
        self.rules = rules
        self.schedule = rules.schedule or schedule_of(rules.voting)
        self.journal = journal
        self.place = 0

    def add_counts(self, votes: int, red_flags: int) -> None:
        """Add to the counters of votes and red flags."""
        self.progress.votes += votes
        self.progress.red_flags += red_flags

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
        if self.rules.drift is not None and race.tier == 0:
            for kind, sentence in self.rules.drift.hear(against, votes, race.counted - votes):
                self.journal.append(RunEvent(self.rules.run, "warning", sentence, data={"drift": kind}))

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

    def open_afresh(self, opened: StepOpened, state: Any, race: Race, *, tentative: bool = False) -> Opening:
        """Record that a step is opened; return its opening."""
        self.journal.append(opened)
        if self.rules.record_prompts:
            self.journal.append(*race.sent(opened))
        return Opening(opened, state, race, tentative=tentative)

    def reopened(
        self, recorded: RecordedOpening, state: Any, race: Race, *, tentative: bool = False
    ) -> Opening:
        """Return a recorded opening, its samples counted again."""
        opening = Opening(recorded.opened, state, race, tentative=tentative)
        race.refold(recorded.samples, recorded.tier, recorded.refusals)
        paid = None if self.rules.account is None else self.rules.account.paid(opening.opened, race.tier)
        if paid is not None:
            race.go_on_at(paid)
        opening.lines = [
            (taken.ordinal, sample_line(taken.digest_columns()))
            for taken in recorded.samples
            if taken.counted
        ]
        votes = sum(race.tally.votes.values())
        self.add_counts(votes, race.counted - votes)
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
