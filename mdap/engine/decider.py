"""The common part of chains and processes: requests in flight, samples that come, and decisions.

Everything here is synchronous: no await can come between a decision and its consequences.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

from mdap.engine.absences import FORMLESS, STRANGE, Absences
from mdap.engine.budget_guard import BUDGET, LATE
from mdap.engine.config import RunConfig
from mdap.engine.policy import Policy
from mdap.engine.prompts import unread
from mdap.engine.recording import RUNNING, Opening, OpeningStatus, Recorder, undecided_sentence
from mdap.engine.scheduler import Came, Failed, Outcome
from mdap.errors import PARKED, MdapError, PluginError, ProviderError, RejectedError, UsageError
from mdap.protocols import Journal
from mdap.records import (
    AttemptFailed,
    Reply,
    RunStatus,
    SampleRequest,
    SampleTaken,
    StopCause,
    Trace,
    Verdict,
)
from mdap.rules.digests import sample_line
from mdap.rules.rungs import Rung

_VOTE: Final = str(Verdict.VOTE)
_FLAG: Final = str(Verdict.FLAG)
_VOID: Final = str(Verdict.VOID)
_CANCELLED: Final = str(Verdict.CANCELLED)
_UNWANTED: Final = (OpeningStatus.VOID, OpeningStatus.DECIDED, OpeningStatus.IDLE)
_UNCERTAIN: Final = (OpeningStatus.VOID, OpeningStatus.TENTATIVE)
_CAUSES: Final = {
    BUDGET: StopCause.BUDGET,
    LATE: StopCause.DEADLINE,
    PARKED: StopCause.BATCH,
    "quota": StopCause.QUOTA,
    STRANGE: StopCause.REFUSED,
    FORMLESS: StopCause.FORM,
}


class Decider(Recorder):
    """Ask for the samples of one run, and record them and all decisions; its policy says what follows.

    Attributes:
        in_flight: samples requested and not yet received.
        news: called when there is more to ask for than what came gave rise to.
        waits: the numbers of the steps that voting left undecided and that wait for a person.
    """

    def __init__(self, config: RunConfig, journal: Journal, policy: Policy) -> None:
        super().__init__(config, journal)
        self.policy = policy
        self.in_flight = 0
        self.news: Callable[[], None] = lambda: None
        self.waits: set[int] = set()
        self._presence = config.presence
        self._absences = Absences(self)
        # Openings that may want more samples.
        self._stale: deque[Opening] = deque()
        # Openings that are over with requests still under way.
        self._left: list[Opening] = []
        self._dropped: list[Trace] = []

    def ask_more(self, opening: Opening) -> None:
        """Ask for what *opening* still needs, the next time that requests are sent."""
        self._stale.append(opening)

    def stop(self, error: MdapError) -> None:
        """End the run because of *error*; a run that is over keeps its end."""
        if self.status is not RUNNING:
            return
        failed = isinstance(error, PluginError | RejectedError | UsageError)
        self.status = RunStatus.FAILED if failed else RunStatus.STOPPED
        self.reason, self.error = str(error), error
        if isinstance(error, ProviderError):
            self.stop_cause = _CAUSES.get(error.kind, StopCause.PROVIDER)
        else:
            self.stop_cause = StopCause.ERROR

    def halt(self, error: PluginError) -> None:
        """Stop the run, resumably, since code that runs beside it failed."""
        if self.status is RUNNING:
            self.stop(error)
            self.status = RunStatus.STOPPED
            self.news()

    # -- who waits for a person --------------------------------------------------------------------

    def await_person(self, opening: Opening) -> None:
        """Record that *opening*, which voting left undecided, waits for a person."""
        step, place = opening.opened.step, opening.opened.opening
        self.waits.add(step)
        self.record_event("waiting", undecided_sentence(opening), {"step": step, "opening": place})

    def rule(self, number: int, answer: str, author: str, reason: str) -> None:
        """Settle a step of the run that is under way, and let the run go on; see `Policy`."""
        try:
            self.policy.settle_by_hand(number, answer, author, reason)
        except PluginError as error:
            if number in self.waits:  # nothing is recorded, and somebody's slip must not end the run
                raise UsageError(f"{answer} cannot be checked: {error}") from error
            self.stop(error)
        self.news()

    def ruled(self, opening: Opening, spelled: str, author: str, reason: str) -> bool:
        """Record a person's decision of *opening*; return whether the run waited for it."""
        step = opening.opened.step
        self.record(opening, spelled, author, reason)
        if step not in self.waits:
            return False
        self.waits.remove(step)
        self.record_event("settled", reason, {"step": step}, author)
        return True

    # -- what to ask -------------------------------------------------------------------------------

    def wanted(self) -> list[tuple[Opening, SampleRequest]]:
        """Return the requests to send now; they count as in flight from here on."""
        if self._absences.heeded < len(self._presence.absences):
            self._absences.leave_out()
        asked: list[tuple[Opening, SampleRequest]] = []
        while (opening := self._next()) is not None:
            if opening.status in _UNWANTED or opening.error is not None:
                continue
            for request in opening.race.wanted(self.config.max_n, opening.opened.step - self.place):
                if self.config.warm_cache and (request.shared or opening.race.k > 1):
                    request = request._replace(warm=True)
                asked.append((opening, request))
                ordinals = request.ordinals
                opening.flying[ordinals] = request
                self._fly(len(ordinals))
        return asked

    def _next(self) -> Opening | None:
        """Return the next opening that may want more samples; None if there is none, or not now."""
        if not self._stale:
            return self.policy.opened_next()
        return self._stale.popleft() if self._presence.sure or not self.held else None

    @property
    def held(self) -> bool:
        """Whether to wait for what is under way: it may show that asking more is no use."""
        return self.in_flight > 0 and self._presence.holds(self.in_flight)

    # -- what comes --------------------------------------------------------------------------------

    def take(self, outcome: Outcome[Opening]) -> None:
        """Judge, record and count arrived samples, and act on them."""
        opening, ordinals = outcome.ticket, outcome.request.ordinals
        if isinstance(outcome, Failed):
            self._failed(outcome)
            return
        if ordinals not in opening.flying:
            return  # dropped while its outcome was on the way here
        del opening.flying[ordinals]
        self._fly(-len(ordinals))
        if isinstance(outcome, Came):
            self._came(outcome)
        elif not opening.status.over:
            self._absences.gave_up(outcome)
        if self._presence.strange and not self.in_flight:
            self._absences.stop_as_stranger()

    def _failed(self, outcome: Failed[Opening]) -> None:
        self.progress.failed_attempts += 1
        opened, request, error = outcome.ticket.opened, outcome.request, outcome.error
        failed = AttemptFailed(
            opened.run,
            opened.step,
            opened.opening,
            request.ordinals[0],
            outcome.attempt,
            error.kind,
            str(error)[:500],
            error.input_tokens,
            error.output_tokens,
            self.model_of(request),
            request.trace.began,
            outcome.ended,
        )
        self.journal.append(failed)
        if outcome.ticket.status.over:
            self.withdraw(outcome.ticket)  # another attempt would be of no use

    def _came(self, outcome: Came[Opening]) -> None:
        opening, request, failed = outcome.ticket, outcome.request, outcome.attempts - 1
        race, ordinals = opening.race, request.ordinals
        presence = self._presence
        presence.answered.add(request.member)
        if presence.refused:
            presence.refused.clear()
        taken: list[SampleTaken] = []
        try:
            for ordinal, reply in zip(ordinals, outcome.replies, strict=False):
                taken.append(self._count(opening, request, reply, ordinal, failed))
        finally:
            # Paid samples are on record before they have any effect.
            self.journal.append(*taken)
        if opening.error is not None and opening.status not in _UNCERTAIN:
            raise opening.error
        self.policy.came(taken)
        if len(outcome.replies) < len(ordinals):
            race.give_back(ordinals[len(outcome.replies) :])
        if opening.status.over:
            return
        if race.tally.leader is not None:
            presence.voted.add(race.tier)
        elif presence.formless(race.tier):
            self._absences.give_up_tier(race.tier)
        if race.tally.winner is None:
            self._stale.append(opening)
        elif opening.flying:  # which only hedging can leave
            self.withdraw(opening)
        self.policy.counted(opening)

    def _count(
        self, opening: Opening, request: SampleRequest, reply: Reply, ordinal: int, failed: int
    ) -> SampleTaken:
        """Judge and count sample *ordinal*, after *failed* failed attempts; return its record."""
        race, progress = opening.race, self.progress
        try:
            judgement = race.judge(reply, request.view, ordinal)
        except PluginError as error:
            if race.tally.winner is None:
                opening.error = error
            return opening.taken(request, unread(reply, error), reply, (ordinal, failed, _CANCELLED, None))
        counted = None
        if opening.status is OpeningStatus.VOID:
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
                self._presence.flag(race.tier, judgement.flag_reason or "", judgement.text)
        sample = opening.taken(request, judgement, reply, (ordinal, failed, verdict, counted))
        if counted is not None:
            opening.lines.append((ordinal, sample_line(sample.digest_columns())))
        return sample

    # -- what a step pays --------------------------------------------------------------------------

    def rung(self, step: int) -> Rung | None:
        """Return the rung of *step* as things stand; None without `-k robust`."""
        return None if self.config.account is None else self.config.account.rung(step)

    def pay(self, opening: Opening, why: str) -> None:
        """Charge *opening* unless it is smooth, which raises the rungs of what is open behind it.

        What follows from it is recorded in the same commit, since nothing here waits.
        """
        account, rung = self.config.account, opening.race.rung
        if account is not None and rung is not None and not opening.race.smooth:
            self.journal.append(*account.pay(opening.opened, opening.race.tier, rung, why))
            self.raise_rungs()

    def raise_rungs(self) -> None:
        """Go on at the present rungs with all that is open and has not paid."""
        for opening in self.policy.openings():
            rung = self.rung(opening.opened.step)
            if rung is not None and not self.has_paid(opening):
                opening.race.go_on_at(rung)
                self._stale.append(opening)

    def has_paid(self, opening: Opening) -> bool:
        """Return whether the rung of *opening* is fixed, since it has paid."""
        account = self.config.account
        return account is None or account.paid(opening.opened, opening.race.tier) is not None

    def escalated(self, opening: Opening) -> None:
        """Record that the next tier goes on with *opening*, and ask it."""
        self._stale.append(opening)
        rung = self.rung(opening.opened.step)
        if rung is not None:
            opening.race.go_on_at(rung)
        reason = f"step {opening.opened.step} undecided after {opening.race.counted} samples"
        if opening.race.refusal is not None:
            reason = f"{reason}, and refused by {opening.race.refusal.model}"
        data = {"step": opening.opened.step, "opening": opening.opened.opening, "tier": opening.race.tier}
        self.record_event("escalated", reason, data)

    def _fly(self, samples: int) -> None:
        self.in_flight += samples
        self.progress.in_flight += samples

    def dropped(self) -> list[Trace]:
        """Return the traces of requests to cancel now; nothing may be told of them afterwards."""
        dropped, self._dropped = self._dropped, []
        return dropped

    # -- requests under way that are of no use any more --------------------------------------------

    def withdraw_unsent(self) -> None:
        """Drop every request that has not been sent, since the run is over."""
        for opening in self.policy.openings():
            self.withdraw(opening)

    def record(
        self, opening: Opening, winner: str, author: str | None = None, reason: str | None = None
    ) -> None:
        """Record that *opening* is decided, and ask nothing more for it."""
        super().record(opening, winner, author, reason)
        self.leave(opening, OpeningStatus.DECIDED)

    def leave(self, opening: Opening, status: OpeningStatus) -> None:
        """Ask nothing more for *opening*, which is over; what has been sent still comes, and is recorded."""
        opening.status = status
        if opening.flying:
            self.withdraw(opening)
            self._left = [*(other for other in self._left if other.flying), opening]

    def give_up_left(self) -> None:
        """Record what was sent for openings that are over, and never came back: it may be billed."""
        for opening in self._left:
            verdict = _VOID if opening.status is OpeningStatus.VOID else _CANCELLED
            for request in list(opening.flying.values()):
                self._drop(opening, request)
                for ordinal in request.ordinals:
                    self.journal.append(opening.lost(request, ordinal, verdict, self.model_of(request)))

    def withdraw(
        self, opening: Opening, members: Collection[int] | None = None, view: int | None = None
    ) -> None:
        """Drop what has not been sent: it costs nothing. What has been sent is paid for, and will come.

        With *members* or a *view*, drop only what asks one of these members, or shows this view.
        """
        for request in list(opening.flying.values()):
            asked = members is None or request.member in members
            if asked and view in (None, request.view) and not request.trace.sent:
                self._drop(opening, request)

    def model_of(self, request: SampleRequest) -> str:
        """Return the name of the model that *request* asks."""
        return self.config.models[request.member % len(self.config.models)]

    def _drop(self, opening: Opening, request: SampleRequest) -> None:
        del opening.flying[request.ordinals]
        # A later request for this step draws the same samples, so the record must not lack any.
        opening.race.give_back(request.ordinals)
        self._fly(-len(request.ordinals))
        request.trace.withdrawn = True
        self._dropped.append(request.trace)
