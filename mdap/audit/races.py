"""Recount a race from its rows alone, by answer keys and order, without the task or its parser."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mdap.audit.findings import Findings, Kind
from mdap.audit.result import AuditResult
from mdap.audit.runs import Place, RunFacts
from mdap.records import NOTED, PROPOSED, Decided, SampleTaken
from mdap.rules.digests import answer_key
from mdap.rules.schedule import SampleSchedule
from mdap.rules.tally import RobustTally, Tally

__all__ = ["RaceChecker"]

_COUNTED = ("vote", "flag")
_NOT_COUNTED = ("cancelled", "void")


@dataclass(frozen=True, slots=True)
class RaceChecker:
    """Recount races and report violations of the rules.

    Attributes:
        facts: the run.
        schedule: the model for each sample.
        part: collects the findings.
    """

    facts: RunFacts
    schedule: SampleSchedule
    part: AuditResult

    @property
    def findings(self) -> Findings:
        """Collects violations of the rules."""
        return self.part.findings

    def tally(self, step: int, tier: int, *, proposed: bool = False) -> Tally:
        """Return an empty tally for a tier of a step."""
        if proposed or self.facts.charges is None:
            return Tally(1 if proposed else self.facts.k)
        return RobustTally(self.facts.charges.rung(step, tier))

    def decided(self, decision: Decided, samples: Sequence[SampleTaken]) -> int:
        """Recount a decided race; return the tier that decided it.

        Args:
            decision: the recorded decision.
            samples: all of the opening's rows, by ordinal.
        """
        place = (decision.step, decision.opening)
        proposed = decision.author is None and decision.reason == PROPOSED
        tally, tier = self._fold(samples, place, proposed=proposed)
        self._drawn(samples, place, complete=True)
        winner = answer_key(decision.winner)
        votes = tally.votes.get(winner, 0)
        others = max((count for key, count in tally.votes.items() if key != winner), default=0)
        said = (decision.votes, decision.margin)
        self._same(Kind.COUNT, "votes and margin", (votes, votes - others), said, place)
        self._same(Kind.COUNT, "tally", tally.votes, _keyed(decision.tally), place)
        if decision.author is None:
            self._same(Kind.COUNT, "winner", tally.winner, winner, place)
        elif decision.author == NOTED:
            self._same(Kind.COUNT, "samples of what was not voted on", 0, len(samples), place)
        # The samples of an overridden step are in the other run.
        voted_on = bool(samples) or (decision.author != NOTED and decision.step != self.facts.overridden)
        if decision.author not in (None, NOTED) and voted_on:
            self._undecided(tally, tier, samples, place)
        if voted_on and isinstance(tally, RobustTally) and not tally.smooth:
            self.part.charged.append((*place, tier))
        return tier

    def undecided(
        self, place: Place, samples: Sequence[SampleTaken], *, exhausted: bool = False, waits: bool = False
    ) -> int:
        """Recount an undecided race; return its current tier.

        Args:
            place: step and opening.
            samples: all of the opening's rows, by ordinal.
            exhausted: whether it must have used all of its samples.
            waits: whether it may have a winner whose decision waits for other steps.
        """
        tally, tier = self._fold(samples, place)
        self._drawn(samples, place, complete=exhausted)
        charges = self.facts.charges
        paid = charges is not None and (*place, tier) in charges.undecided
        if exhausted or paid:
            self._undecided(tally, tier, samples, place)
            if isinstance(tally, RobustTally):
                self.part.charged.append((*place, tier))
        elif not waits:
            self._same(Kind.COUNT, "winner of a race that goes on", None, tally.winner, place)
        return tier

    def void(self, samples: Sequence[SampleTaken]) -> None:
        """Check that an opening without a decision has no counted samples."""
        for sample in samples:
            if sample.counted is not None or sample.verdict not in _NOT_COUNTED:
                found = f"{sample.verdict}, counted {sample.counted}"
                self.findings.add(Kind.SAMPLE, "verdict on a guess", "void, not counted", found, _at(sample))

    def _undecided(self, tally: Tally, tier: int, samples: Sequence[SampleTaken], place: Place) -> None:
        self._same(Kind.COUNT, "winner of an undecided race", None, tally.winner, place)
        self._same(Kind.COUNT, "last tier asked", self.schedule.tier_count - 1, tier, place)
        if not tally.stuck:
            self._used_up("samples of the last tier", tier, samples, place)

    def is_exhausted(self, tally: Tally, tier: int, samples: Sequence[SampleTaken]) -> bool:
        """Return whether a race used all of its samples, or further samples cannot change it."""
        taken = sum(self.schedule.tier(sample.ordinal) == tier for sample in samples)
        return tier == self.schedule.tier_count - 1 and (
            tally.stuck or taken >= self.schedule.samples_per_tier
        )

    def _used_up(self, what: str, tier: int, samples: Sequence[SampleTaken], place: Place) -> None:
        """Check that a tier used all of its samples, unless none of its models was available any more."""
        if not self.facts.closed(place, tier):
            taken = sum(self.schedule.tier(sample.ordinal) == tier for sample in samples)
            self._same(Kind.COUNT, what, self.schedule.samples_per_tier, taken, place)

    def _fold(
        self, samples: Sequence[SampleTaken], place: Place, *, proposed: bool = False
    ) -> tuple[Tally, int]:
        """Return the tally of the tier that a race is in, and that tier."""
        counted = self._counted(samples)
        tally, tier = self.tally(place[0], 0, proposed=proposed), 0
        for sample in counted:
            while tier < self.schedule.tier(sample.ordinal):
                tally, tier = self._left(tally, tier, samples, place)
            if tally.winner is not None:
                self.findings.add(
                    Kind.COUNT, "sample counted after the decision", None, sample.ordinal, place
                )
                break
            if sample.answer_key is not None:
                tally.add(sample.answer_key)
        while tally.winner is None and tier < min(
            self.facts.escalated.get(place, 0), self.schedule.tier_count - 1
        ):
            tally, tier = self._left(tally, tier, samples, place)
        return tally, tier

    def _left(
        self, tally: Tally, tier: int, samples: Sequence[SampleTaken], place: Place
    ) -> tuple[Tally, int]:
        """Check that a race moved to the next tier in order; return that tier with an empty tally."""
        self._same(Kind.COUNT, "winner of a tier that was left", None, tally.winner, place)
        if not tally.stuck:
            self._used_up("samples of a tier that was left", tier, samples, place)
        if isinstance(tally, RobustTally):
            self.part.charged.append((*place, tier))
            return self.tally(place[0], tier + 1), tier + 1
        return Tally(tally.k), tier + 1

    def _counted(self, samples: Sequence[SampleTaken]) -> list[SampleTaken]:
        """Return the counted samples in the order of counting."""
        counted: list[SampleTaken] = []
        for sample in samples:
            if sample.counted is None:
                fits = sample.verdict in _NOT_COUNTED
            else:
                counted.append(sample)
                votes = sample.answer_key is not None and sample.flag_reason is None
                flag = sample.flag_reason is not None and sample.answer_key is None
                fits = sample.verdict in _COUNTED and (votes if sample.verdict == "vote" else flag)
            if not fits:
                found = f"{sample.verdict}, counted {sample.counted}"
                self.findings.add(Kind.SAMPLE, "verdict", "one that fits its columns", found, _at(sample))
        counted.sort(key=_place)
        if [sample.counted for sample in counted] != list(range(1, len(counted) + 1)):
            places = [sample.counted for sample in counted]
            expected = f"1 to {len(counted)}"
            self.findings.add(Kind.COUNT, "order of counting", expected, places, _opening(samples[0]))
        return counted

    def _drawn(self, samples: Sequence[SampleTaken], place: Place, *, complete: bool) -> None:
        """Check which samples exist, and the temperature of each."""
        # A hedge may withdraw a sample before it is sent; an interrupted run repeats lost samples.
        if complete and not self.facts.voting.hedge:
            self._without_gaps(samples, place)
        for sample in samples:
            if self.schedule.tier(sample.ordinal) >= self.schedule.tier_count:
                allowed = self.schedule.tier_count * self.schedule.samples_per_tier
                self.findings.add(Kind.SAMPLE, "samples allowed", allowed, sample.ordinal + 1, _at(sample))
                return
            # An endpoint may accept no temperature; the probe discovers this, the schedule does not know it.
            temperatures = self.schedule.possible_temperatures(sample.ordinal)
            if sample.temperature is not None and sample.temperature not in temperatures:
                member = self.schedule.tier_members(self.schedule.tier(sample.ordinal))[0]
                temperature = self.schedule.temperature(sample.ordinal, member)
                found = sample.temperature
                self.findings.add(Kind.SAMPLE, "temperature", temperature, found, _at(sample))

    def _without_gaps(self, samples: Sequence[SampleTaken], place: Place) -> None:
        """Check that samples are the first of their tier, unless no model was left for the others."""
        for tier, group in groupby(samples, lambda sample: self.schedule.tier(sample.ordinal)):
            ordinals = [sample.ordinal for sample in group]
            first = tier * self.schedule.samples_per_tier
            expected = list(range(first, first + len(ordinals)))
            if ordinals != expected and not self.facts.closed(place, tier):
                told = f"{first} to {expected[-1]}"
                self.findings.add(Kind.SAMPLE, "samples of the race", told, ordinals, place)

    def _same(self, kind: Kind, what: str, expected: object, found: object, place: tuple[int, ...]) -> None:
        if expected != found:
            self.findings.add(kind, what, expected, found, place)


def _opening(sample: SampleTaken) -> tuple[int, int]:
    return sample.step, sample.opening


def _place(sample: SampleTaken) -> int:
    return sample.counted or 0


def _at(sample: SampleTaken) -> tuple[int, int, int]:
    return sample.step, sample.opening, sample.ordinal


def _keyed(tally: str) -> dict[str, int] | str:
    """Return a recorded tally by answer key, or unchanged if it is invalid."""
    try:
        votes = json.loads(tally)
        return {answer_key(answer): count for answer, count in votes.items()}
    except (ValueError, AttributeError, RecursionError):
        return tally
