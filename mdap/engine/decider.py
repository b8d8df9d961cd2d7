"""What chains and processes have in common: open steps, what comes of their samples, and decisions.

Everything here is synchronous: no await can come between a decision and its consequences.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from mdap.engine.account import Account
from mdap.engine.opening import Opening, Progress, lost, written
from mdap.engine.scheduler import Came, Failed, GaveUp, Outcome
from mdap.engine.voting import Race, unread
from mdap.errors import MdapError, PluginError, RejectedError
from mdap.protocols import Journal
from mdap.records import (
    AttemptFailed,
    Decided,
    RecordedOpening,
    Reply,
    RunEvent,
    RunStatus,
    SampleRequest,
    SampleTaken,
    StepOpened,
    StepResolved,
    Trace,
    Verdict,
    record_of,
)
from mdap.rules.canonical import canonical
from mdap.rules.casting import Casting, casting_of
from mdap.rules.digests import chain_digest, sample_line
from mdap.rules.drift import Drift
from mdap.rules.rungs import Rung
from mdap.settings import Speculation, VotingSettings

__all__ = ["RUNNING", "Decider", "Effect", "Rules", "undecided_sentence"]

# Looked up once: a member of an enumeration takes longer to find than all else that is done with it.
RUNNING: Final = RunStatus.RUNNING
_VOTE: Final = str(Verdict.VOTE)
_FLAG: Final = str(Verdict.FLAG)
_VOID: Final = str(Verdict.VOID)
_CANCELLED: Final = str(Verdict.CANCELLED)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a run is decided by, besides its task.

    Attributes:
        run: the run's number in the database.
        run_id: the run's name.
        voting: how steps are decided.
        speculation: how far a chain works ahead.
        max_n: the most replies that one request may ask for.
        models: by member, whom to name for samples that never came back.
        casting: who is asked for which sample; None for one model.
        votes_wanted: end a chain after the step with which so many votes are decided in this session; None
            for no such end.
        open_steps: how many steps of a process may be open at once.
        account: the error budget of `-k robust`; None for one k throughout.
        drift: notices that the run does otherwise than its calibration did; None for nothing to compare.
    """

    run: int
    voting: VotingSettings
    speculation: Speculation = field(default_factory=Speculation)
    max_n: int = 1
    models: tuple[str, ...] = ("",)
    casting: Casting | None = None
    votes_wanted: int | None = None
    open_steps: int = 128
    run_id: str = ""
    account: Account | None = None
    drift: Drift | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to be brought about outside.

    Attributes:
        perform: does it.
        done: what to record afterwards.
    """

    perform: Callable[[], Awaitable[None]]
    done: RunEvent


class Decider(ABC):
    """Keep the open steps of one run: what they want sampled, what came, and what was decided.

    Args:
        rules: run number, voting settings.
        journal: where every fact goes.
        progress: counters to keep.

    Attributes:
        status: running, until it is finished, undecided, stopped or failed.
        reason: why it is not running and not finished.
        digest: head of the digest chain over the decisions.
        in_flight: samples asked for and not come back.
        news: called when there is more to ask for than what came gave rise to.
    """

    def __init__(self, rules: Rules, journal: Journal, progress: Progress) -> None:
        self.status: RunStatus = RUNNING
        self.reason: str | None = None
        self.digest = ""
        self.in_flight = 0
        self.progress = progress
        self.news: Callable[[], None] = _nothing
        self._rules = rules
        self._casting = rules.casting or casting_of(rules.voting)
        self._journal = journal
        self._place = 0
        self._votes_decided = 0
        # Openings that may want more samples.
        self._stale: list[Opening] = []
        self._dropped: list[Trace] = []

    # -- what a kind of task adds ------------------------------------------------------------------

    @abstractmethod
    def _openings(self) -> Iterable[Opening]:
        """Return every opening that may have requests under way."""

    @abstractmethod
    def _distance(self, opening: Opening) -> int:
        """Return how far *opening* is from mattering: the nearest has the first claim on slots."""

    @abstractmethod
    def _counted(self, opening: Opening) -> None:
        """Draw the consequences of samples of *opening* that were counted."""

    @property
    def stalled(self) -> bool:
        """Whether decided steps wait for one that nobody has asked for again; see `pass_over`."""
        return False

    def pass_over(self) -> None:
        """Let what waits go on without the step that it waits for."""
        assert not self.stalled

    # -- what to ask -------------------------------------------------------------------------------

    def wanted(self) -> list[tuple[Opening, SampleRequest]]:
        """Return the requests to send now; they count as in flight from here on."""
        asked: list[tuple[Opening, SampleRequest]] = []
        for opening in self._stale:
            if opening.void or opening.idle or opening.error is not None:
                continue
            for request in opening.race.wanted(self._rules.max_n, self._distance(opening)):
                asked.append((opening, request))
                ordinals = request.ordinals
                opening.flying[ordinals] = request
                self._fly(len(ordinals))
        self._stale.clear()
        return asked

    def _fly(self, samples: int) -> None:
        self.in_flight += samples
        self.progress.in_flight += samples

    def dropped(self) -> list[Trace]:
        """Return the traces of requests to cancel now; nothing may be told of them afterwards."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def effects(self) -> list[Effect]:
        """Return what decisions call for outside, in order, each to be done once they are durable."""
        return []

    # -- what comes --------------------------------------------------------------------------------

    def take(self, outcome: Outcome[Opening]) -> None:
        """Judge, record and count what came, and draw every consequence."""
        opening, ordinals = outcome.ticket, outcome.request.ordinals
        if ordinals not in opening.flying:
            return  # dropped while its outcome was on the way here
        if isinstance(outcome, Failed):
            self._failed(outcome)
            return
        del opening.flying[ordinals]
        self._fly(-len(ordinals))
        if isinstance(outcome, Came):
            self._came(outcome)
        elif not opening.void:
            self._gave_up(outcome)

    def _failed(self, outcome: Failed[Opening]) -> None:
        self.progress.failed_attempts += 1
        self._journal.append(
            AttemptFailed(
                outcome.ticket.opened.run,
                outcome.ticket.opened.step,
                outcome.ticket.opened.opening,
                outcome.request.ordinals[0],
                outcome.attempt,
                outcome.error.kind,
                str(outcome.error)[:500],
            )
        )

    def _came(self, outcome: Came[Opening]) -> None:
        opening, request, failed = outcome.ticket, outcome.request, outcome.attempts - 1
        race, ordinals, view = opening.race, request.ordinals, request.view
        taken: list[SampleTaken] = []
        try:
            for ordinal, reply in zip(ordinals, outcome.replies, strict=False):
                taken.append(self._count(opening, view, reply, (ordinal, failed)))
        finally:
            # What was paid for is on record before anything comes of it.
            self._journal.append(*taken)
        if opening.error is not None and not opening.tentative and not opening.void:
            raise opening.error
        if len(outcome.replies) < len(ordinals):
            race.give_back(ordinals[len(outcome.replies) :])
        if opening.void:
            return
        if race.tally.winner is None:
            self._stale.append(opening)
        elif opening.flying:
            self._cancel_surplus(opening)
        self._counted(opening)

    def _count(self, opening: Opening, view: int, reply: Reply, drawn: tuple[int, int]) -> SampleTaken:
        """Judge and count a sample; return its record.

        Args:
            opening: the step it was drawn for.
            view: which presentation of the step was asked.
            reply: the reply as it came.
            drawn: ordinal, attempts that failed.
        """
        race, progress = opening.race, self.progress
        ordinal, failed = drawn
        try:
            judgement = race.judge(reply, view, ordinal)
        except PluginError as error:
            opening.error = error
            return written(opening, view, unread(reply, error), reply, (ordinal, failed, _CANCELLED, None))
        counted = None
        if opening.void:
            verdict = _VOID
            progress.void += 1
        elif race.tally.winner is not None:
            verdict = _CANCELLED
        else:
            answer = judgement.answer
            counted = race.count(answer)
            if answer is not None:
                verdict = _VOTE
                progress.votes += 1
            else:
                verdict = _FLAG
                progress.red_flags += 1
        sample = written(opening, view, judgement, reply, (ordinal, failed, verdict, counted))
        if counted is not None:
            opening.lines.append((ordinal, sample_line(sample.digest_columns())))
        return sample

    def _tell(self, votes: int, red_flags: int) -> None:
        self.progress.votes += votes
        self.progress.red_flags += red_flags

    def _gave_up(self, outcome: GaveUp[Opening]) -> None:
        if outcome.ticket.tentative and isinstance(outcome.error, RejectedError | PluginError):
            # The prompt may be nonsense because its input is: that only matters if it is confirmed.
            outcome.ticket.error = outcome.error
        else:
            self._stop(outcome.error)

    def _stop(self, error: MdapError) -> None:
        if self.status is not RUNNING:
            return
        failed = isinstance(error, RejectedError | PluginError)
        self.status = RunStatus.FAILED if failed else RunStatus.STOPPED
        self.reason = str(error)

    # -- deciding ----------------------------------------------------------------------------------

    def _rung(self, step: int) -> Rung | None:
        """Return the rung of *step* as things stand; None without `-k robust`."""
        return None if self._rules.account is None else self._rules.account.rung(step)

    def _pay(self, opening: Opening, why: str) -> None:
        """Charge *opening* unless it is smooth, which raises the rungs of what is open behind it.

        What follows from it is recorded in the same commit, since nothing here waits.
        """
        account, rung = self._rules.account, opening.race.rung
        if account is not None and rung is not None and not opening.race.smooth:
            self._journal.append(*account.pay(opening.opened, opening.race.tier, rung, why))
            self._raise_rungs()

    def _raise_rungs(self) -> None:
        for opening in self._openings():
            rung = self._rung(opening.opened.step)
            if not opening.void and rung is not None and not self._is_settled(opening):
                opening.race.go_on_at(rung)
                self._stale.append(opening)

    def _is_settled(self, opening: Opening) -> bool:
        """Return whether the rung of *opening* is fixed, since it has paid."""
        account = self._rules.account
        return account is None or account.paid(opening.opened, opening.race.tier) is not None

    def _escalated(self, opening: Opening) -> None:
        self._stale.append(opening)
        rung = self._rung(opening.opened.step)
        if rung is not None:
            opening.race.go_on_at(rung)
        reason = f"step {opening.opened.step} undecided after {opening.race.counted} samples"
        data = {"step": opening.opened.step, "opening": opening.opened.opening, "tier": opening.race.tier}
        self._journal.append(RunEvent(self._rules.run, "escalated", reason, data=data))

    def _record(
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
        self.progress.against += total - votes
        self._votes_decided += total
        self._watch(opening.race, total - votes, total)

    def _watch(self, race: Race, against: int, votes: int) -> None:
        """Record whether the run drifts."""
        if self._rules.drift is not None and race.tier == 0:
            for kind, sentence in self._rules.drift.hear(against, votes, race.counted - votes):
                self._journal.append(RunEvent(self._rules.run, "warning", sentence, data={"drift": kind}))

    def _append_decision(
        self,
        opened: StepOpened,
        lines: list[str],
        winner: str,
        how: tuple[str, int, int, str | None, str | None],
    ) -> None:
        run, step, opening = opened.run, opened.step, opened.opening
        columns = (run, self._place, step, opening, winner, *how)
        self.digest = chain_digest(self.digest, opened, lines, columns)
        self._journal.append(record_of(Decided, (*columns, self.digest)))
        self._place += 1
        self.progress.steps += 1

    def _resolve(self, opened: StepOpened, *, confirmed: bool) -> None:
        self._journal.append(StepResolved(opened.run, opened.step, opened.opening, confirmed))

    # -- opening -----------------------------------------------------------------------------------

    def _open_afresh(self, opened: StepOpened, state: Any, race: Race, *, tentative: bool = False) -> Opening:
        self._journal.append(opened)
        return Opening(opened, state, race, tentative=tentative)

    def _refolded(
        self, recorded: RecordedOpening, state: Any, race: Race, *, tentative: bool = False
    ) -> Opening:
        """Return a recorded opening, its samples counted again."""
        opening = Opening(recorded.opened, state, race, tentative=tentative)
        race.refold(recorded.samples)
        paid = None if self._rules.account is None else self._rules.account.paid(opening.opened, race.tier)
        if paid is not None:
            race.go_on_at(paid)
        opening.lines = [
            (taken.ordinal, sample_line(taken.digest_columns()))
            for taken in recorded.samples
            if taken.counted
        ]
        votes = sum(race.tally.votes.values())
        self._tell(votes, race.counted - votes)
        return opening

    # -- requests under way that are of no use any more --------------------------------------------

    def withdraw_unsent(self) -> None:
        """Drop every request that has not been sent, since the run is over."""
        for opening in self._openings():
            self._withdraw_unsent(opening)

    def _withdraw_unsent(self, opening: Opening) -> None:
        """Drop what has not been sent: it costs nothing. What has been sent is paid for, and will come."""
        for request in [request for request in opening.flying.values() if not request.trace.sent]:
            self._drop(opening, request)

    def _cancel_surplus(self, opening: Opening) -> None:
        """Give up what a decided race has still under way, which only hedging can leave it."""
        self._withdraw_unsent(opening)
        self._give_up_flying(opening, _CANCELLED)

    def _give_up_flying(self, opening: Opening, verdict: str) -> None:
        for request in list(opening.flying.values()):
            self._drop(opening, request)
            for ordinal in request.ordinals:
                self._journal.append(lost(opening, request, ordinal, verdict, self._model(request)))

    def _model(self, request: SampleRequest) -> str:
        return self._rules.models[request.member % len(self._rules.models)]

    def _drop(self, opening: Opening, request: SampleRequest) -> None:
        del opening.flying[request.ordinals]
        # Whoever asks for this step again draws the same samples: none may be missing from the record.
        opening.race.give_back(request.ordinals)
        self._fly(-len(request.ordinals))
        self._dropped.append(request.trace)


def undecided_sentence(opening: Opening) -> str:
    """Return why *opening* has no winner."""
    race = opening.race
    return race.tally.no_winner(opening.opened.step, race.counted)


def _nothing() -> None:
    """Do nothing."""
