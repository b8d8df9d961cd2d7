"""Recount a race from its rows alone, by answer keys and order, without the task or its parser."""

import json
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from mdap.audit.findings import AuditResult, Kind
from mdap.audit.runs import Place, RunFacts
from mdap.records import NOTED, PROPOSED, Decided, SampleTaken, StepOpened
from mdap.rules.digests import answer_key, chain_digest, sample_line
from mdap.rules.tally import RobustTally, Tally

SOURCE: Final = re.compile(r"run (.*), digest (\w+)", re.DOTALL)
"""The reason of a result copied from another run: its id, and a digest of it."""

COPIED: Final = "a decision of another run"

_COUNTED: Final = ("vote", "flag")
_NOT_COUNTED: Final = ("cancelled", "void")


class RaceChecker:
    """Recount the races of a run, and add the results and violations of the rules to *part*."""

    def __init__(self, facts: RunFacts, part: AuditResult) -> None:
        self.facts = facts
        self.part = part
        self.findings = part.findings
        self.schedule = facts.schedule

    def tally(self, step: int, tier: int, *, proposed: bool = False) -> Tally:
        """Return an empty tally for a tier of a step."""
        if proposed or self.facts.charges is None:
            return Tally(1 if proposed else self.facts.k)
        return RobustTally(self.facts.charges.rung(step, tier))

    def decided(self, decision: Decided, samples: Sequence[SampleTaken]) -> None:
        """Recount a decided race, from all rows of its opening by ordinal, and add it to the results."""
        place = (decision.step, decision.opening)
        proposed = decision.author is None and decision.reason == PROPOSED
        tally, tier = self._fold(samples, place, proposed=proposed)
        self._drawn(samples, place, complete=True)
        winner = answer_key(decision.winner)
        votes = tally.votes.get(winner, 0)
        others = max((count for key, count in tally.votes.items() if key != winner), default=0)
        said, compare = (decision.votes, decision.margin), self.findings.compare
        compare(Kind.COUNT, "votes and margin", (votes, votes - others), said, place)
        compare(Kind.COUNT, "tally", tally.votes, _keyed(decision.tally), place)
        if decision.author is None:
            compare(Kind.COUNT, "winner", tally.winner, winner, place)
        elif decision.author == NOTED:
            compare(Kind.COUNT, "samples of what was not voted on", 0, len(samples), place)
        # The samples of an overridden step are in the other run.
        voted_on = bool(samples) or (decision.author != NOTED and decision.step != self.facts.overridden)
        if decision.author not in (None, NOTED):
            self.part.settled.append((decision.step, decision.author, decision.reason))
            if voted_on:
                self._undecided(tally, tier, samples, place)
        if voted_on and isinstance(tally, RobustTally) and not tally.smooth:
            self.part.charged.append((*place, tier))
        self._add(place, tier, samples)
        self.part.decisions += 1
        self.part.votes += sum(sample.counted is not None and sample.verdict == "vote" for sample in samples)

    def undecided(
        self, place: Place, samples: Sequence[SampleTaken], *, exhausted: bool = False, waits: bool = False
    ) -> None:
        """Recount an undecided race, and add it to the results.

        An *exhausted* race must have used all of its samples. One that *waits* may have a winner, whose
        decision waits for other steps.
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
            self.findings.compare(Kind.COUNT, "winner of a race that goes on", None, tally.winner, place)
        self._add(place, tier, samples)

    def _add(self, place: Place, tier: int, samples: Sequence[SampleTaken]) -> None:
        self.part.escalated += [(*place, passed) for passed in range(1, tier + 1)]
        self.part.samples += len(samples)

    def digest(
        self, before: str, opened: StepOpened, samples: Sequence[SampleTaken], decision: Decided
    ) -> None:
        """Compare the digest of a decision with that of its rows and of the decision *before*."""
        lines = [sample_line(sample.digest_columns()) for sample in samples if sample.counted is not None]
        digest, place = chain_digest(before, opened, lines, decision), (decision.step, decision.opening)
        self.findings.compare(Kind.CHAIN, "digest of the decision", digest, decision.digest, place)

    def void(self, samples: Sequence[SampleTaken]) -> None:
        """Check that an opening without a decision has no counted samples."""
        for sample in samples:
            if sample.counted is not None or sample.verdict not in _NOT_COUNTED:
                found = f"{sample.verdict}, counted {sample.counted}"
                self.findings.add(Kind.SAMPLE, "verdict on a guess", "void, not counted", found, sample.place)
        self.part.samples += len(samples)

    def _undecided(self, tally: Tally, tier: int, samples: Sequence[SampleTaken], place: Place) -> None:
        self.findings.compare(Kind.COUNT, "winner of an undecided race", None, tally.winner, place)
        self.findings.compare(Kind.COUNT, "last tier asked", self.schedule.tier_count - 1, tier, place)
        if not tally.stuck:
            self._used_up("samples of the last tier", tier, samples, place)

    def is_exhausted(self, tally: Tally, tier: int, samples: Sequence[SampleTaken]) -> bool:
        """Return whether a race used all of its samples, or further samples cannot change it."""
        allowed = self.schedule.samples_per_tier
        return tier == self.schedule.tier_count - 1 and (tally.stuck or self._taken(tier, samples) >= allowed)

    def _taken(self, tier: int, samples: Sequence[SampleTaken]) -> int:
        return sum(self.schedule.tier(sample.ordinal) == tier for sample in samples)

    def _used_up(self, what: str, tier: int, samples: Sequence[SampleTaken], place: Place) -> None:
        """Check that a tier used all of its samples, unless none of its models was available any more."""
        if not self.facts.closed(place, tier):
            taken = self._taken(tier, samples)
            self.findings.compare(Kind.COUNT, what, self.schedule.samples_per_tier, taken, place)

    def _fold(
        self, samples: Sequence[SampleTaken], place: Place, *, proposed: bool = False
    ) -> tuple[Tally, int]:
        """Return the tally of the tier that a race is in, and that tier."""
        tally, tier = self.tally(place[0], 0, proposed=proposed), 0
        for sample in self._counted(samples):
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
        self.findings.compare(Kind.COUNT, "winner of a tier that was left", None, tally.winner, place)
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
                self.findings.add(Kind.SAMPLE, "verdict", "one that fits its columns", found, sample.place)
        counted.sort(key=lambda sample: sample.counted or 0)
        places = [sample.counted for sample in counted]
        if places != list(range(1, len(counted) + 1)):
            place, expected = samples[0].place[:2], f"1 to {len(counted)}"
            self.findings.add(Kind.COUNT, "order of counting", expected, places, place)
        return counted

    def _drawn(self, samples: Sequence[SampleTaken], place: Place, *, complete: bool) -> None:
        """Check which samples exist, and the temperature of each."""
        # A hedge may withdraw a sample before it is sent; an interrupted run repeats lost samples.
        if complete and not self.facts.voting.hedge:
            self._without_gaps(samples, place)
        for sample in samples:
            if self.schedule.tier(sample.ordinal) >= self.schedule.tier_count:
                allowed = self.schedule.tier_count * self.schedule.samples_per_tier
                self.findings.add(Kind.SAMPLE, "samples allowed", allowed, sample.ordinal + 1, sample.place)
                return
            # An endpoint may accept no temperature; the probe discovers this, the schedule does not know it.
            temperatures = self.schedule.possible_temperatures(sample.ordinal)
            if sample.temperature is not None and sample.temperature not in temperatures:
                member = self.schedule.tier_members(self.schedule.tier(sample.ordinal))[0]
                temperature = self.schedule.temperature(sample.ordinal, member)
                found = sample.temperature
                self.findings.add(Kind.SAMPLE, "temperature", temperature, found, sample.place)

    def _without_gaps(self, samples: Sequence[SampleTaken], place: Place) -> None:
        """Check that samples are the first of their tier, unless no model was left for the others."""
        for tier, group in groupby(samples, lambda sample: self.schedule.tier(sample.ordinal)):
            ordinals = [sample.ordinal for sample in group]
            first = tier * self.schedule.samples_per_tier
            expected = list(range(first, first + len(ordinals)))
            if ordinals != expected and not self.facts.closed(place, tier):
                told = f"{first} to {expected[-1]}"
                self.findings.add(Kind.SAMPLE, "samples of the race", told, ordinals, place)


def _keyed(tally: str) -> dict[str, int] | str:
    """Return a recorded tally by answer key, or unchanged if it is invalid."""
    try:
        votes = json.loads(tally)
        return {answer_key(answer): count for answer, count in votes.items()}
    except (ValueError, AttributeError, RecursionError):
        return tally
