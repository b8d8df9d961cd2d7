"""The common part of chains and processes: open steps, their samples, and decisions.

Everything here is synchronous: no await can come between a decision and its consequences.
"""

from typing import Final

from mdap.engine.answering import Answering
from mdap.engine.opening import Opening, OpeningStatus, written
from mdap.engine.prompts import unread
from mdap.engine.recording import RUNNING, undecided_sentence
from mdap.engine.scheduler import Came, Failed, Outcome
from mdap.errors import PluginError, UsageError
from mdap.records import AttemptFailed, Reply, RunEvent, RunStatus, SampleRequest, SampleTaken, Verdict
from mdap.rules.digests import sample_line
from mdap.rules.rungs import Rung

__all__ = ["Decider"]

_VOTE: Final = str(Verdict.VOTE)
_FLAG: Final = str(Verdict.FLAG)
_VOID: Final = str(Verdict.VOID)
_CANCELLED: Final = str(Verdict.CANCELLED)
_UNWANTED: Final = (OpeningStatus.VOID, OpeningStatus.IDLE)
_UNCERTAIN: Final = (OpeningStatus.VOID, OpeningStatus.TENTATIVE)


class Decider(Answering):
    """Ask for the samples of one run, and record them and all decisions; its policy says what follows."""

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
        data = {"step": step, "opening": place}
        self.journal.append(RunEvent(self.rules.run, "waiting", undecided_sentence(opening), data=data))

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
        self.journal.append(RunEvent(self.rules.run, "settled", reason, author, {"step": step}))
        return True

    # -- what to ask -------------------------------------------------------------------------------

    def wanted(self) -> list[tuple[Opening, SampleRequest]]:
        """Return the requests to send now; they count as in flight from here on."""
        if self._heeded < len(self._presence.absences):
            self._heed()
        asked: list[tuple[Opening, SampleRequest]] = []
        self._put(asked)
        while (opened := self.policy.opened_next()) is not None:
            self._stale.append(opened)
            self._put(asked)
        return asked

    def _put(self, asked: list[tuple[Opening, SampleRequest]]) -> None:
        """Add the requests of the openings that may want more to *asked*."""
        stale, self._stale = self._stale, []
        unsure = not self._presence.sure
        for place, opening in enumerate(stale):
            if unsure and self.held:
                self._stale = stale[place:]
                break
            if opening.status in _UNWANTED or opening.error is not None:
                continue
            for request in opening.race.wanted(self.rules.max_n, opening.opened.step - self.place):
                if self.rules.warm_cache and (request.shared or opening.race.k > 1):
                    request = request._replace(warm=True)
                asked.append((opening, request))
                ordinals = request.ordinals
                opening.flying[ordinals] = request
                self._fly(len(ordinals))

    @property
    def held(self) -> bool:
        """Whether to wait for what is under way: it may show that asking more is no use."""
        return self.in_flight > 0 and self._presence.holds(self.in_flight)

    # -- what comes --------------------------------------------------------------------------------

    def take(self, outcome: Outcome[Opening]) -> None:
        """Judge, record and count arrived samples, and act on them."""
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
        elif opening.status is not OpeningStatus.VOID:
            self._gave_up(outcome)
        if self._presence.strange and not self.in_flight:
            self._stop_as_stranger()

    def _failed(self, outcome: Failed[Opening]) -> None:
        self.progress.failed_attempts += 1
        self.journal.append(
            AttemptFailed(
                outcome.ticket.opened.run,
                outcome.ticket.opened.step,
                outcome.ticket.opened.opening,
                outcome.request.ordinals[0],
                outcome.attempt,
                outcome.error.kind,
                str(outcome.error)[:500],
                outcome.error.input_tokens,
                outcome.error.output_tokens,
                self._model(outcome.request),
                outcome.request.trace.began,
                outcome.ended,
            )
        )

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
                taken.append(self._count(opening, request, reply, (ordinal, failed)))
        finally:
            # Paid samples are on record before they have any effect.
            self.journal.append(*taken)
        if opening.error is not None and opening.status not in _UNCERTAIN:
            raise opening.error
        self.policy.came(taken, outcome.replies)
        if len(outcome.replies) < len(ordinals):
            race.give_back(ordinals[len(outcome.replies) :])
        if opening.status is OpeningStatus.VOID:
            return
        if race.tally.leader is not None:
            presence.voted.add(race.tier)
        elif presence.formless(race.tier):
            self._give_up_tier(race.tier)
        if race.tally.winner is None:
            self._stale.append(opening)
        elif opening.flying:
            self._cancel_surplus(opening)
        self.policy.counted(opening)

    def _count(
        self, opening: Opening, request: SampleRequest, reply: Reply, drawn: tuple[int, int]
    ) -> SampleTaken:
        """Judge and count a sample; return its record.

        Args:
            opening: the step it was drawn for.
            request: what was asked.
            reply: the reply as it came.
            drawn: ordinal, attempts that failed.
        """
        race, progress = opening.race, self.progress
        ordinal, failed = drawn
        try:
            judgement = race.judge(reply, request.view, ordinal)
        except PluginError as error:
            opening.error = error
            return written(opening, request, unread(reply, error), reply, (ordinal, failed, _CANCELLED, None))
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
        sample = written(opening, request, judgement, reply, (ordinal, failed, verdict, counted))
        if counted is not None:
            opening.lines.append((ordinal, sample_line(sample.digest_columns())))
        return sample

    # -- what a step pays --------------------------------------------------------------------------

    def rung(self, step: int) -> Rung | None:
        """Return the rung of *step* as things stand; None without `-k robust`."""
        return None if self.rules.account is None else self.rules.account.rung(step)

    def pay(self, opening: Opening, why: str) -> None:
        """Charge *opening* unless it is smooth, which raises the rungs of what is open behind it.

        What follows from it is recorded in the same commit, since nothing here waits.
        """
        account, rung = self.rules.account, opening.race.rung
        if account is not None and rung is not None and not opening.race.smooth:
            self.journal.append(*account.pay(opening.opened, opening.race.tier, rung, why))
            self.raise_rungs()

    def raise_rungs(self) -> None:
        """Go on at the present rungs with all that is open and has not paid."""
        for opening in self.policy.openings():
            rung = self.rung(opening.opened.step)
            live = opening.status is not OpeningStatus.VOID
            if live and rung is not None and not self.has_paid(opening):
                opening.race.go_on_at(rung)
                self._stale.append(opening)

    def has_paid(self, opening: Opening) -> bool:
        """Return whether the rung of *opening* is fixed, since it has paid."""
        account = self.rules.account
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
        self.journal.append(RunEvent(self.rules.run, "escalated", reason, data=data))
