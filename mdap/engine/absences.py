"""Continue a run without models that refuse a step, are gone, or do not keep to the form."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from mdap.engine.budget_guard import BUDGET
from mdap.engine.recording import Opening, OpeningStatus
from mdap.engine.scheduler import GaveUp
from mdap.errors import (
    FORBIDDEN,
    PARKED,
    MdapError,
    PluginError,
    ProviderError,
    RejectedError,
    UnavailableError,
    UsageError,
)
from mdap.records import Refusal, SampleRequest
from mdap.rules.presence import Absence
from mdap.rules.redflags import clean_text
from mdap.settings import OnDead

if TYPE_CHECKING:
    from mdap.engine.decider import Decider

STRANGE: Final = "refused"
FORMLESS: Final = "form"
"""The kinds of the errors that end a run in which no model answers, or keeps to the form."""

_LONGEST_REASON: Final = 500


class Absences:
    """The models that a run does without.

    *heeded* counts the absences of the run, and of those that belong to it, that are on its record.
    """

    def __init__(self, decider: "Decider") -> None:
        self._decider = decider
        self._models = decider.config.models
        self._schedule = decider.schedule
        self._presence = decider.config.presence
        for absence in decider.config.absences:
            self._schedule.leave_out(absence.member, absence.tier)
        self.heeded = 0

    def gave_up(self, outcome: GaveUp[Opening]) -> None:
        """Act on a request at which no further attempt is made."""
        opening, request, error = outcome.ticket, outcome.request, outcome.error
        if self._is_refusal(request.member, error):
            self._refused(opening, request, error)
        elif request.member in self._schedule.gone or self._can_do_without(request.member, error):
            self._asked_in_vain(opening, request)
            if request.member not in self._schedule.gone:
                self._presence.absences.append(Absence(request.member, None, str(error)))
                self.leave_out()
        elif opening.status is OpeningStatus.TENTATIVE and isinstance(error, PluginError | UsageError):
            # The prompt may be nonsense because its input is: that only matters if it is confirmed.
            opening.error = error
        else:
            self._decider.stop(error)

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
            refusal = Refusal(*turn, self._decider.model_of(request), reason)
            race.refuse(refusal)
            opened, views = opening.opened, len(race.prompts)
            place = {"step": opened.step, "opening": opened.opening, "tier": race.tier, "views": views}
            who = {"member": refusal.member, "view": refusal.view, "model": refusal.model}
            self._decider.record_event("refused", reason, {**place, **who})
            self._decider.withdraw(opening, {turn[0]}, turn[1])
        last = race.closed and race.tier + 1 >= self._schedule.tier_count
        if last and not (self._presence.answered and isinstance(error, RejectedError)):
            self._presence.refused.add(race.prompt_digest)
        self._decider.policy.counted(opening)

    def _asked_in_vain(self, opening: Opening, request: SampleRequest) -> None:
        opening.race.give_back(request.ordinals)
        self._decider.ask_more(opening)

    def stop_as_stranger(self) -> None:
        """Stop, since prompt after prompt is refused and none answered."""
        refusals = (opening.race.refusal for opening in self._decider.policy.openings())
        last = next((refusal for refusal in refusals if refusal is not None), None)
        about = "" if last is None else f", the last one by {last.model}: {last.reason}"
        count = len(self._presence.refused)
        sentence = f"{count} prompts in a row were refused and none answered{about}"
        self._decider.stop(UnavailableError(sentence, kind=STRANGE))

    def _can_do_without(self, member: int, error: MdapError) -> bool:
        """Return whether the run may go on without a *member* that is gone."""
        gone = isinstance(error, ProviderError) and error.kind not in (BUDGET, PARKED)
        others = set(range(len(self._models))) - self._schedule.gone - {member}
        return gone and self._decider.config.on_dead is OnDead.CONTINUE and bool(others)

    def give_up_tier(self, tier: int) -> None:
        """Go on with the next tier, since this one cannot keep to the form; stop if there is none."""
        sentence = self._presence.formless_sentence(tier, self._named(self._schedule.tier_members(tier)))
        if tier + 1 >= self._schedule.tier_count:
            self._decider.stop(UnavailableError(sentence, kind=FORMLESS))
        elif tier not in self._schedule.over:
            self._presence.absences.append(Absence(None, tier, sentence))
            self.leave_out()

    def leave_out(self) -> None:
        """Leave out the models that this run, or a run that belongs to it, found gone."""
        decider, schedule = self._decider, self._schedule
        new, self.heeded = self._presence.absences[self.heeded :], len(self._presence.absences)
        for member, tier, reason in new:
            if member in schedule.gone or tier in schedule.over:
                continue  # since an earlier session
            schedule.leave_out(member, tier)
            model = self._named(schedule.tier_members(tier or 0) if member is None else [member])
            left = f"{model} was left out after {decider.place:,} decisions, and had no vote from there"
            data = {"member": member, "tier": tier, "model": model}
            decider.record_event("left_out", reason, data)
            decider.record_event("warning", f"{left}: {reason}")
        for opening in list(decider.policy.openings()):
            if not opening.status.over:
                out = set(range(len(self._models))) if opening.race.closed else schedule.gone
                decider.withdraw(opening, out)
                decider.ask_more(opening)
                decider.policy.counted(opening)

    def _named(self, members: Iterable[int]) -> str:
        return " + ".join(dict.fromkeys(self._models[member] for member in members))
