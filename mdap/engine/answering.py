"""Requests in flight, and the fate of unanswered ones: their step's, or the run's."""

from collections.abc import Callable, Collection
from typing import Final

from mdap.engine.budget_guard import BUDGET
from mdap.engine.opening import Opening, OpeningStatus, Progress, lost
from mdap.engine.policy import Policy
from mdap.engine.recording import RUNNING, Recorder, RunConfig
from mdap.engine.scheduler import GaveUp
from mdap.errors import (
    FORBIDDEN,
    PARKED,
    MdapError,
    PluginError,
    ProviderError,
    RejectedError,
    UnavailableError,
)
from mdap.protocols import Journal
from mdap.records import Refusal, RunEvent, RunStatus, SampleRequest, StopCause, Trace, Verdict
from mdap.rules.presence import Absence
from mdap.rules.redflags import clean_text
from mdap.settings import OnDead

__all__ = ["Answering"]

_LONGEST_REASON: Final = 500
_CANCELLED: Final = str(Verdict.CANCELLED)
_VOID: Final = str(Verdict.VOID)
_STRANGE: Final = "refused"
_FORMLESS: Final = "form"
_CAUSES: Final = {
    BUDGET: StopCause.BUDGET,
    PARKED: StopCause.BATCH,
    "quota": StopCause.QUOTA,
    _STRANGE: StopCause.REFUSED,
    _FORMLESS: StopCause.FORM,
}


class Answering(Recorder):
    """Keep the requests in flight of one run, and continue without models that do not answer.

    Attributes:
        policy: which steps are open, and what follows from their votes.
        in_flight: samples requested and not yet received.
        news: called when there is more to ask for than what came gave rise to.
        waits: the numbers of the steps that voting left undecided and that wait for a person.
    """

    def __init__(self, rules: RunConfig, journal: Journal, progress: Progress, policy: Policy) -> None:
        super().__init__(rules, journal, progress)
        self.policy = policy
        self.in_flight = 0
        self.news: Callable[[], None] = lambda: None
        self.waits: set[int] = set()
        self._presence = rules.presence
        for absence in rules.absences:
            self.schedule.leave_out(absence.member, absence.tier)
        self._heeded = 0
        # Openings that may want more samples.
        self._stale: list[Opening] = []
        self._dropped: list[Trace] = []

    def ask_more(self, opening: Opening) -> None:
        """Ask for what *opening* still needs, the next time that requests are sent."""
        self._stale.append(opening)

    # -- who does not answer -----------------------------------------------------------------------

    def _gave_up(self, outcome: GaveUp[Opening]) -> None:
        opening, request, error = outcome.ticket, outcome.request, outcome.error
        if self._is_refusal(request.member, error):
            self._refused(opening, request, error)
        elif request.member in self.schedule.gone or self._can_do_without(request.member, error):
            self._asked_in_vain(opening, request)
            if request.member not in self.schedule.gone:
                self._presence.absences.append(Absence(request.member, None, str(error)))
                self._heed()
        elif opening.status is OpeningStatus.TENTATIVE and isinstance(error, PluginError):
            # The prompt may be nonsense because its input is: that only matters if it is confirmed.
            opening.error = error
        else:
            self.stop(error)

    def _is_refusal(self, member: int, error: MdapError) -> bool:
        """Return whether *error* is about the prompt.

        A denial, and a refusal of one of the request's options, is about every prompt unless the member has
        answered others.
        """
        if isinstance(error, RejectedError):
            return not error.about_options or member in self._presence.answered
        denied = isinstance(error, UnavailableError) and error.kind == FORBIDDEN
        return denied and member in self._presence.answered

    def _refused(self, opening: Opening, request: SampleRequest, error: MdapError) -> None:
        """Stop asking the member for this step; the others take its samples."""
        race, turn = opening.race, (request.member, request.view)
        self._asked_in_vain(opening, request)
        if turn not in race.refused:
            reason = clean_text(str(error)[:_LONGEST_REASON])
            refusal = Refusal(*turn, self._model(request), reason)
            race.refuse(refusal)
            self.journal.append(_refused_event(opening, refusal))
            self.withdraw(opening, {turn[0]}, turn[1])
        last = race.closed and race.tier + 1 >= self.schedule.tier_count
        if last and not (self._presence.answered and isinstance(error, RejectedError)):
            self._presence.refused.add(race.prompt_digest)
        self.policy.counted(opening)

    def _asked_in_vain(self, opening: Opening, request: SampleRequest) -> None:
        opening.race.give_back(request.ordinals)
        self._stale.append(opening)

    def _stop_as_stranger(self) -> None:
        """Stop, since prompt after prompt is refused and none answered."""
        refusals = (opening.race.refusal for opening in self.policy.openings())
        last = next((refusal for refusal in refusals if refusal is not None), None)
        about = "" if last is None else f", the last one by {last.model}: {last.reason}"
        self.stop(
            UnavailableError(
                f"{len(self._presence.refused)} prompts in a row were refused and none answered{about}",
                kind=_STRANGE,
            )
        )

    def _can_do_without(self, member: int, error: MdapError) -> bool:
        """Return whether the run may go on without a *member* that is gone."""
        gone = isinstance(error, ProviderError) and error.kind not in (BUDGET, PARKED)
        others = set(range(len(self.rules.models))) - self.schedule.gone - {member}
        return gone and self.rules.on_dead is OnDead.CONTINUE and bool(others)

    def _give_up_tier(self, tier: int) -> None:
        """Go on with the next tier, since this one cannot keep to the form; stop if there is none."""
        models = " + ".join(
            dict.fromkeys(self.rules.models[member] for member in self.schedule.tier_members(tier))
        )
        sentence = self._presence.formless_sentence(tier, models)
        if tier + 1 >= self.schedule.tier_count:
            self.stop(UnavailableError(sentence, kind=_FORMLESS))
        elif tier not in self.schedule.over:
            self._presence.absences.append(Absence(None, tier, sentence))
            self._heed()

    def _heed(self) -> None:
        """Leave out the models that this run, or a run that belongs to it, found gone."""
        new, self._heeded = self._presence.absences[self._heeded :], len(self._presence.absences)
        for member, tier, reason in new:
            if member in self.schedule.gone or tier in self.schedule.over:
                continue  # since an earlier session
            self.schedule.leave_out(member, tier)
            tier_members = [member] if member is not None else self.schedule.tier_members(tier or 0)
            model = " + ".join(dict.fromkeys(self.rules.models[one] for one in tier_members))
            data = {"member": member, "tier": tier, "model": model}
            run = self.rules.run
            self.journal.append(RunEvent(run, "left_out", reason, data=data))
            told = (
                f"{model} was left out after {self.place:,} decisions, and had no vote from there: {reason}"
            )
            self.journal.append(RunEvent(run, "warning", told))
        for opening in list(self.policy.openings()):
            if opening.status is not OpeningStatus.VOID:
                out = set(range(len(self.rules.models))) if opening.race.closed else self.schedule.gone
                self.withdraw(opening, out)
                self._stale.append(opening)
                self.policy.counted(opening)

    def stop(self, error: MdapError) -> None:
        """End the run because of *error*; a run that is over keeps its end."""
        if self.status is not RUNNING:
            return
        self.status = (
            RunStatus.FAILED if isinstance(error, PluginError | RejectedError) else RunStatus.STOPPED
        )
        self.reason, self.error = str(error), error
        if isinstance(error, ProviderError):
            self.stop_cause = _CAUSES.get(error.kind, StopCause.PROVIDER)
        else:
            self.stop_cause = StopCause.ERROR

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

    def give_up_void(self) -> None:
        """Record what was sent on an input that turned out wrong, and never came back: it may be billed."""
        for opening in self.policy.openings():
            if opening.status is OpeningStatus.VOID:
                self._give_up_flying(opening, _VOID)

    def withdraw(
        self, opening: Opening, members: Collection[int] | None = None, view: int | None = None
    ) -> None:
        """Drop what has not been sent: it costs nothing. What has been sent is paid for, and will come.

        Args:
            opening: whose requests.
            members: only what asks one of these; None for all.
            view: only what shows this view; None for all.
        """
        for request in list(opening.flying.values()):
            asked = members is None or request.member in members
            if asked and view in (None, request.view) and not request.trace.sent:
                self._drop(opening, request)

    def _cancel_surplus(self, opening: Opening) -> None:
        """Give up what a decided race has still under way, which only hedging can leave it."""
        self.withdraw(opening)
        self._give_up_flying(opening, _CANCELLED)

    def _give_up_flying(self, opening: Opening, verdict: str) -> None:
        for request in list(opening.flying.values()):
            self._drop(opening, request)
            for ordinal in request.ordinals:
                self.journal.append(lost(opening, request, ordinal, verdict, self._model(request)))

    def _model(self, request: SampleRequest) -> str:
        return self.rules.models[request.member % len(self.rules.models)]

    def _drop(self, opening: Opening, request: SampleRequest) -> None:
        del opening.flying[request.ordinals]
        # Whoever asks for this step again draws the same samples: none may be missing from the record.
        opening.race.give_back(request.ordinals)
        self._fly(-len(request.ordinals))
        request.trace.withdrawn = True
        self._dropped.append(request.trace)


def _refused_event(opening: Opening, refusal: Refusal) -> RunEvent:
    opened, race = opening.opened, opening.race
    place = {"step": opened.step, "opening": opened.opening, "tier": race.tier, "views": len(race.prompts)}
    who = {"member": refusal.member, "view": refusal.view, "model": refusal.model}
    return RunEvent(opened.run, "refused", refusal.reason, data={**place, **who})
