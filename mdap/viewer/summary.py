"""Count the rows of a run range by range, so that every read is short."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import Row
from time import monotonic
from typing import Any, Final, NamedTuple

from mdap.audit.statistics import Use
from mdap.journal.reader import Reader
from mdap.records import TallyShape

_BINS: Final = 256
_DOUBTS: Final = 12
_SUMMED: Final = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "seconds")


@dataclass(slots=True)
class ModelUse(Use):
    """The samples of one model, with the sum of the latencies of those that are *timed*."""

    seconds: float = 0.0
    timed: int = 0


@dataclass(slots=True)
class Bin:
    """A stretch of a run: consecutive decisions, and the samples of the steps with the same numbers.

    Attributes:
        votes: votes in the races.
        against: votes against the winners.
        first: when the first request was sent, in milliseconds of Unix time; None if not recorded.
        last: when the last one ended.
    """

    decisions: int = 0
    divided: int = 0
    votes: int = 0
    against: int = 0
    models: dict[str, ModelUse] = field(default_factory=dict)
    first: float | None = None
    last: float | None = None

    def add(self, other: "Bin") -> None:
        """Add what *other* counts."""
        for name in ("decisions", "divided", "votes", "against"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for model, use in other.models.items():
            self.models.setdefault(model, ModelUse()).add(use)
        self.span(other.first, other.last)

    def span(self, first: float | None, last: float | None) -> None:
        """Extend the time span to cover *first* to *last*."""
        if first is not None and last is not None:
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)


class DividedDecision(NamedTuple):
    """A divided decision, with the votes of the runner-up (*rival*), or one by a person (*author*)."""

    run: int
    place: int
    step: int
    votes: int
    rival: int
    total: int
    author: str | None
    winner: str


@dataclass(slots=True)
class Summary:
    """The totals of a run, as counted so far.

    Attributes:
        reached: the place and step at which the count has arrived.
        width: decisions per bin.
        races: the number of voted decisions by total votes, winner's votes and margin.
        noted: results without a vote, of nested tasks and `once` calls.
        latencies: samples by latency in milliseconds, to two digits.
        doubts: the most doubtful decisions, most doubtful first.
        mixed: whether it includes other runs, and so has no start and end.
    """

    run: int
    reached: int = 0
    width: int = 1
    bins: list[Bin] = field(default_factory=list)
    races: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    settled: int = 0
    noted: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)
    doubts: list[DividedDecision] = field(default_factory=list)
    mixed: bool = False

    @property
    def decisions(self) -> int:
        """Decisions, by vote, by a person, or without either."""
        return self.races.total() + self.settled + self.noted

    @property
    def votes(self) -> int:
        """Votes cast in decided races."""
        return sum(total * count for (total, *_), count in self.races.items())

    @property
    def votes_per_step(self) -> float | None:
        """The mean of the votes cast in a decided race; None without any."""
        return self.votes / self.races.total() if self.races else None

    @property
    def against(self) -> int:
        """The votes against winners."""
        return sum((total - votes) * count for (total, votes, _), count in self.races.items())

    @property
    def divided(self) -> int:
        """Races with a vote against the winner."""
        return sum(count for (total, votes, _), count in self.races.items() if total > votes)

    @property
    def samples(self) -> int:
        """Samples with a row."""
        return self.verdicts.total()

    @property
    def models(self) -> dict[str, ModelUse]:
        """The samples of each model, in total."""
        whole = Bin()
        for one in self.bins:
            whole.add(one)
        return dict(sorted(whole.models.items()))

    def shapes(self) -> list[TallyShape]:
        """Return the tallies of decided races, as the certificate needs them."""
        return [
            TallyShape(votes, votes - margin, total, count)
            for (total, votes, margin), count in self.races.items()
        ]

    @property
    def margins(self) -> tuple[int, int] | None:
        """The smallest and the largest margin with which a race was decided; None without any."""
        found = [margin for (_, _, margin) in self.races]
        return (min(found), max(found)) if found else None

    def lengths(self) -> Counter[int]:
        """Return the number of races by their number of votes."""
        found: Counter[int] = Counter()
        for (total, *_), count in self.races.items():
            found[total] += count
        return found

    async def count(self, source: Reader, end: int, seconds: float = math.inf) -> bool:
        """Continue the count up to *end*, for about *seconds* seconds; return whether it is there."""
        if not self.reached:
            while end > self.width * _BINS:
                self.width *= 2
        deadline = monotonic() + seconds
        while self.reached < end and monotonic() < deadline:
            stop = min((self.reached // self.width + 1) * self.width, end)
            self._bin(self.reached).add(await self._fold(source, [self.run], self.reached, stop))
            self.reached = stop
        return self.reached >= end

    async def add_runs(self, source: Reader, runs: Sequence[int], start: int, stop: int) -> None:
        """Count the steps of other runs from *start* to before *stop*, in one query."""
        self._bin(0).add(await self._fold(source, runs, start, stop))
        self.mixed = True

    async def _fold(self, source: Reader, runs: Sequence[int], start: int, stop: int) -> Bin:
        part, wanted = Bin(), json.dumps(runs)
        # Read all rows first: a cancelled request must not leave half a range counted.
        decisions = await source.rows("fold_decisions", wanted, start, stop)
        samples = await source.rows("fold_samples", wanted, start, stop)
        doubts = await source.rows("fold_doubtful", wanted, start, stop, _DOUBTS)
        for row in decisions:
            self._decisions(row, part)
        for row in samples:
            self._samples(row, part)
        self.doubts = sorted([*self.doubts, *map(DividedDecision._make, doubts)], key=_certainty)[:_DOUBTS]
        return part

    def _bin(self, start: int) -> Bin:
        index = start // self.width
        if index >= _BINS:
            for left, right in zip(self.bins[::2], self.bins[1::2], strict=False):
                left.add(right)
            del self.bins[1::2]
            self.width *= 2
            index //= 2
        while index >= len(self.bins):
            self.bins.append(Bin())
        return self.bins[index]

    def _decisions(self, row: Row, part: Bin) -> None:
        count = row["decisions"]
        part.decisions += count
        if row["settled"]:
            self.settled += count
            return
        total, votes = row["total"], row["votes"]
        if not total:
            self.noted += count
            return
        self.races[total, votes, row["margin"]] += count
        part.votes += total * count
        part.against += (total - votes) * count
        part.divided += count if total > votes else 0

    def _samples(self, row: Row, part: Bin) -> None:
        count, verdict = row["samples"], row["verdict"]
        self.verdicts[verdict] += count
        if verdict == "flag":
            self.flags[row["flag_reason"] or "no reason"] += count
        timed = row["milliseconds"] is not None
        if timed:
            self.latencies[row["milliseconds"]] += count
        use = ModelUse(
            samples=count,
            votes=count if verdict == "vote" else 0,
            red_flags=count if verdict == "flag" else 0,
            timed=count if timed else 0,
            **{name: row[name] for name in _SUMMED},
        )
        part.models.setdefault(row["model"], ModelUse()).add(use)
        part.span(row["first"], row["last"])


def _certainty(doubt: DividedDecision) -> tuple[Any, ...]:
    return (doubt.author is None, -doubt.rival, doubt.run, doubt.place)
