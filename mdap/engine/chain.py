"""A chain being decided: a window of open steps over the run of all steps.

The head of the window is the first undecided step; its input is certain. Behind it, as far as
speculation goes, stand steps opened on the leading candidate of the step before (or on the task's own
guess). All of them are voted on at once, each by its own race on its own input. When the head is
decided, its decision is recorded; if the step behind it was opened on the winner, it becomes the
head with all the samples it has, else it and everything behind it are void. So a decision never rests
on a guess, and only *when* its samples are asked depends on speculation.

Everything here is synchronous: no await can come between a decision and its consequences.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from mdap.engine.authored import Authored, Subject
from mdap.engine.opening import Opening, Progress, lost, storable, written
from mdap.engine.recorded import Leftovers
from mdap.engine.scheduler import Came, Failed, GaveUp, Outcome
from mdap.engine.voting import Race, unread
from mdap.errors import MdapError, PluginError, RejectedError, UsageError
from mdap.protocols import Journal
from mdap.records import (
    AttemptFailed,
    Decided,
    Reply,
    ResumePoint,
    RunEvent,
    RunStatus,
    SampleRequest,
    StepOpened,
    StepResolved,
    Trace,
    Verdict,
)
from mdap.rules.canonical import canonical
from mdap.rules.casting import Casting
from mdap.rules.digests import chain_digest, sample_line
from mdap.settings import Speculate, Speculation, VotingSettings
from mdap.tasks import Chain

__all__ = ["ChainRace", "Rules"]

_VOTE: Final = str(Verdict.VOTE)
_FLAG: Final = str(Verdict.FLAG)
_VOID: Final = str(Verdict.VOID)
_CANCELLED: Final = str(Verdict.CANCELLED)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a chain race is told besides its task.

    Attributes:
        run: the run's number in the database.
        voting: how steps are decided.
        speculation: how far to work ahead.
        max_n: the most replies that one request may ask for.
        models: by member, whom to name for samples that never came back.
        casting: who is asked for which sample; None for one model.
        votes_wanted: end after the step with which so many votes are decided in this session; None for no
            such end.
    """

    run: int
    voting: VotingSettings
    speculation: Speculation = field(default_factory=Speculation)
    max_n: int = 1
    models: tuple[str, ...] = ("",)
    casting: Casting | None = None
    votes_wanted: int | None = None


class ChainRace:
    """Decide the steps of a chain, from where its rows end.

    Args:
        name: the task's name, for errors.
        task: the chain.
        rules: run number, voting settings, speculation.
        journal: where every fact goes.
        progress: counters to keep.

    Attributes:
        status: running, until it is finished, undecided, stopped or failed.
        reason: why it is not running and not finished.
        state: the input of the first undecided step; the last state once finished.
        digest: head of the digest chain over the decisions.
    """

    def __init__(
        self, name: str, task: Chain[Any, Any], rules: Rules, journal: Journal, progress: Progress
    ) -> None:
        self.status = RunStatus.RUNNING
        self.reason: str | None = None
        self.state: Any = None
        self.digest = ""
        self.progress = progress
        self._task = Authored(name, task)
        self._rules = rules
        self._casting = rules.casting or Casting(
            temperatures=rules.voting.temperatures, samples_per_tier=rules.voting.samples_allowed
        )
        self._guessing = rules.speculation.mode is Speculate.GUESS
        self._journal = journal
        self._window: deque[Opening] = deque()
        self._leftovers = Leftovers()
        self._place = 0
        self._votes_decided = 0
        self._length = self._task.length()
        # Openings that may want more samples, and those that are void with requests still under way.
        self._stale: list[Opening] = []
        self._abandoned: list[Opening] = []
        self._dropped: list[Trace] = []
        progress.length = self._length

    def begin(self, point: ResumePoint) -> None:
        """Open the first undecided step, with the samples that its rows already have.

        Raises:
            PluginError: the task's code raised, or reads its own record otherwise than when it wrote it.
        """
        self._place = self.progress.steps = point.decisions
        self.digest = point.digest
        self._leftovers = Leftovers(point.openings)
        self._enter(point.step + 1, self._task.first_state(point))
        self._end_if_enough()
        self._go_on()

    # -- what to ask -------------------------------------------------------------------------------

    def wanted(self) -> list[tuple[Opening, SampleRequest]]:
        """Return the requests to send now; they count as in flight from here on."""
        asked: list[tuple[Opening, SampleRequest]] = []
        for opening in self._stale:
            if opening.void or opening.error is not None:
                continue
            distance = opening.opened.step - self._place
            for request in opening.race.wanted(self._rules.max_n, distance):
                asked.append((opening, request))
                opening.flying[request.ordinals] = request
                self.progress.in_flight += len(request.ordinals)
        self._stale.clear()
        return asked

    def dropped(self) -> list[Trace]:
        """Return the traces of requests to cancel now; nothing may be told of them afterwards."""
        dropped, self._dropped = self._dropped, []
        return dropped

    # -- what comes --------------------------------------------------------------------------------

    def take(self, outcome: Outcome[Opening]) -> None:
        """Judge, record and count what came, and draw every consequence."""
        opening, request = outcome.ticket, outcome.request
        if request.ordinals not in opening.flying:
            return  # dropped while its outcome was on the way here
        if isinstance(outcome, Failed):
            self._failed(outcome)
            return
        del opening.flying[request.ordinals]
        self.progress.in_flight -= len(request.ordinals)
        if isinstance(outcome, Came):
            self._came(outcome)
        elif not opening.void:
            self._gave_up(outcome)

    def _failed(self, outcome: Failed[Opening]) -> None:
        self.progress.failed_attempts += 1
        self._journal.append(
            AttemptFailed(
                *outcome.ticket.opened[:3],
                outcome.request.ordinals[0],
                outcome.attempt,
                outcome.error.kind,
                str(outcome.error)[:500],
            )
        )

    def _came(self, outcome: Came[Opening]) -> None:
        opening, request = outcome.ticket, outcome.request
        for ordinal, reply in zip(request.ordinals, outcome.replies, strict=False):
            self._count(opening, request, storable(reply), (ordinal, outcome.attempts))
        if opening.error is not None and not opening.tentative and not opening.void:
            raise opening.error
        if len(outcome.replies) < len(request.ordinals):
            opening.race.give_back(request.ordinals[len(outcome.replies) :])
        if opening.void:
            return
        self._stale.append(opening)
        if opening.flying and opening.race.winner is not None:
            self._cancel_surplus(opening)
        if self._contradicted(opening):
            self._void_after(opening)
        self._go_on()

    def _count(self, opening: Opening, request: SampleRequest, reply: Reply, drawn: tuple[int, int]) -> None:
        race = opening.race
        try:
            judgement = race.judge(reply, request.view)
        except PluginError as error:
            # What was paid for is on record before the error goes anywhere.
            sample = written(opening, request, unread(reply, error), reply, (*drawn, _CANCELLED, None))
            self._journal.append(sample)
            opening.error = error
            return
        counted = None
        if opening.void:
            self.progress.void += 1
            verdict = _VOID
        elif race.winner is not None:
            verdict = _CANCELLED
        else:
            counted = race.count(judgement)
            verdict = _VOTE if judgement.flag_reason is None else _FLAG
            self._tell(1, verdict)
        sample = written(opening, request, judgement, reply, (*drawn, verdict, counted))
        if counted is not None:
            opening.lines.append((drawn[0], sample.line))
        self._journal.append(sample)

    def _tell(self, samples: int, verdict: str) -> None:
        if verdict is _VOTE:
            self.progress.votes += samples
        else:
            self.progress.red_flags += samples

    def _gave_up(self, outcome: GaveUp[Opening]) -> None:
        if outcome.ticket.tentative and isinstance(outcome.error, RejectedError | PluginError):
            # The prompt may be nonsense because its input is: that only matters if it is confirmed.
            outcome.ticket.error = outcome.error
        else:
            self._stop(outcome.error)

    def _stop(self, error: MdapError) -> None:
        if self.status is not RunStatus.RUNNING:
            return
        failed = isinstance(error, RejectedError | PluginError)
        self.status = RunStatus.FAILED if failed else RunStatus.STOPPED
        self.reason = str(error)

    # -- deciding ----------------------------------------------------------------------------------

    def _go_on(self) -> None:
        self._settle_head()
        if self.status is RunStatus.RUNNING and self._rules.speculation.depth:
            self._speculate()

    def _settle_head(self) -> None:
        while self.status is RunStatus.RUNNING:
            head = self._window[0]
            if head.error is not None:
                self._stop(head.error)
            elif head.race.winner is not None:
                self._decide(head, head.race.winner)
            elif head.race.exhausted and head.race.escalate():
                self._escalated(head)
            elif head.race.exhausted:
                self.status = RunStatus.UNDECIDED
                self.reason = (
                    f"step {head.opened.step} has no winner after {head.race.counted} samples: "
                    f"its best answer leads by {head.race.tally.lead}, and k is {self._rules.voting.k}"
                )
            else:
                return

    def _escalated(self, head: Opening) -> None:
        self._stale.append(head)
        reason = f"step {head.opened.step} undecided after {head.race.counted} samples"
        data = {"step": head.opened.step, "opening": head.opened.opening, "tier": head.race.tier}
        self._journal.append(RunEvent(self._rules.run, "escalated", reason, data=data))

    def settle_by_hand(self, number: int, answer: str, author: str, reason: str) -> None:
        """Record a person's answer to the step that voting left undecided.

        Args:
            number: the step.
            answer: the answer as JSON.
            author: who decides.
            reason: why so.

        Raises:
            UsageError: that step is not the undecided one, or the answer is none that it could have.
        """
        head = self._window[0] if self._window else None
        if head is None or head.opened.step != number or self.status is not RunStatus.UNDECIDED:
            raise UsageError(f"step {number} is not one that voting left undecided")
        value = self._task.checked_answer(head.race.step, answer)
        spelled = self._task.spelled(number, value)
        self._void_after(head)
        self._record(head, spelled, author, reason)

    def _decide(self, head: Opening, winner: str) -> None:
        self._record(head, winner)
        number = head.opened.step
        for opened in self._leftovers.drop(number):
            self._resolve(opened, confirmed=False)
        if head.basis != winner:
            self._void_after(head)
        self._window.popleft()
        if self._window:
            self._confirm(self._window[0])
        else:
            self._enter(number + 1, self._task.advance(number, head.state, head.race.answers[winner]))
        self._end_if_enough()

    def _end_if_enough(self) -> None:
        if self._rules.votes_wanted is not None and self._votes_decided >= self._rules.votes_wanted:
            self._finish()

    def _record(
        self, head: Opening, winner: str, author: str | None = None, reason: str | None = None
    ) -> None:
        tally = head.race.tally
        votes = tally.votes.get(winner, 0)
        others = max((count for answer, count in tally.votes.items() if answer != winner), default=0)
        run, step, opening = head.opened[:3]
        draft = Decided(
            run,
            self._place,
            step,
            opening,
            winner,
            f"{{{canonical(winner)}:{votes}}}" if len(tally.votes) == 1 and votes else canonical(tally.votes),
            votes,
            votes - others,
            author,
            reason,
            "",
        )
        head.lines.sort()
        self.digest = chain_digest(self.digest, head.opened, [line for _, line in head.lines], draft)
        self._journal.append(draft._replace(digest=self.digest))
        self._place += 1
        self.progress.steps += 1
        self.progress.against += sum(tally.votes.values()) - votes
        self._votes_decided += sum(tally.votes.values())

    def _confirm(self, opening: Opening) -> None:
        opening.tentative = False
        self.state = opening.state
        self._resolve(opening.opened, confirmed=True)

    def _resolve(self, opened: StepOpened, *, confirmed: bool) -> None:
        self._journal.append(StepResolved(opened.run, opened.step, opened.opening, confirmed))

    def _enter(self, number: int, state: Any) -> None:
        """Make step *number*, whose input *state* is certain, the head; or finish."""
        self.state = state
        over = self._length is not None and number >= self._length
        if over or not self._open(number, state, tentative=False):
            self._finish()

    def _finish(self) -> None:
        self.status = RunStatus.FINISHED
        while self._window:
            self._abandon(self._window.pop())
        for opened in self._leftovers.drop_all():
            self._resolve(opened, confirmed=False)
        # What is still under way was sent and will be paid for, though nobody waits for it any more.
        for opening in self._abandoned:
            self._give_up_flying(opening, _VOID)

    # -- opening and voiding -----------------------------------------------------------------------

    def _open(self, number: int, state: Any, *, tentative: bool) -> bool:
        """Open step *number* on *state* at the end of the window; return False if the task ends there."""
        step = self._task.step(number, state)
        if step is None:
            return False
        subject = Subject(self._task.task, state)
        race = Race(self._task.name, number, step, self._rules.voting, subject, self._casting)
        spelled = self._task.spelled(number, state)
        opening = self._reopen(number, spelled, state, race, tentative=tentative)
        if opening is None:
            place = self._leftovers.next_opening(number)
            opened = StepOpened(self._rules.run, number, place, str(number), spelled, race.prompt_digest)
            self._journal.append(opened)
            opening = Opening(opened, state, race, tentative=tentative)
        self._window.append(opening)
        self._stale.append(opening)
        return True

    def _reopen(
        self, number: int, spelled: str, state: Any, race: Race, *, tentative: bool
    ) -> Opening | None:
        """Go on with a recorded opening of this very step, if there is one."""
        recorded = self._leftovers.take(number, spelled, race.prompt_digest)
        if recorded is None:
            if not tentative and self._leftovers.certain(number) is not None:
                changed = ValueError("its input or prompt is no longer what was recorded; start a new run")
                self._task.fail(f"opening step {number} again", changed)
            return None
        opening = Opening(recorded.opened, state, race, tentative=tentative)
        race.refold(recorded.samples)
        opening.lines = [
            (taken.ordinal, sample_line(taken[4:19])) for taken in recorded.samples if taken.counted
        ]
        votes = sum(race.tally.votes.values())
        self._tell(votes, _VOTE)
        self._tell(race.counted - votes, _FLAG)
        if recorded.tentative and not tentative:
            self._confirm(opening)
        return opening

    def _speculate(self) -> None:
        while len(self._window) <= self._rules.speculation.depth:
            last = self._window[-1]
            number = last.opened.step
            if self._length is not None and number + 1 >= self._length:
                return
            try:
                basis, answer = self._best(last)
                if basis is None:
                    return
                state = self._task.advance(number, last.state, answer)
                if not self._open(number + 1, state, tentative=True):
                    return
            except PluginError:
                # The task need not cope with a wrong answer; if it is the right one, it is asked again.
                return
            last.basis = basis

    def _best(self, opening: Opening) -> tuple[str | None, Any]:
        """Return the answer on which to open the next step, in canonical JSON and as it is."""
        tally, answers = opening.race.tally, opening.race.answers
        # The task's guess is better than a single vote: only a decision outweighs it.
        if self._guessing and tally.winner is None:
            answer = self._task.guess(opening.opened.step, opening.state)
            if answer is not None:
                return self._task.spelled(opening.opened.step, answer), answer
        return tally.leader, None if tally.leader is None else answers[tally.leader]

    def _contradicted(self, opening: Opening) -> bool:
        """Return whether the steps behind *opening* stand on an answer that is not ahead (any more)."""
        tally = opening.race.tally
        ahead = tally.winner if self._guessing else tally.leader
        return opening.basis is not None and ahead not in (None, opening.basis)

    def _void_after(self, opening: Opening) -> None:
        """Void every step behind *opening*."""
        while self._window[-1] is not opening:
            self._abandon(self._window.pop())
        opening.basis = None

    def _abandon(self, opening: Opening) -> None:
        opening.void = True
        votes = sum(opening.race.tally.votes.values())
        self._tell(-votes, _VOTE)
        self._tell(votes - opening.race.counted, _FLAG)
        self.progress.void += opening.race.counted
        if opening.tentative:
            self._resolve(opening.opened, confirmed=False)
        self._withdraw_unsent(opening)
        self._abandoned = [other for other in self._abandoned if other.flying]
        if opening.flying:
            self._abandoned.append(opening)

    def withdraw_unsent(self) -> None:
        """Drop every request that has not been sent, since the run is over."""
        for opening in (*self._window, *self._abandoned):
            self._withdraw_unsent(opening)

    # -- requests under way that are of no use any more --------------------------------------------

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
        opening.race.in_flight -= len(request.ordinals)
        self.progress.in_flight -= len(request.ordinals)
        self._dropped.append(request.trace)
