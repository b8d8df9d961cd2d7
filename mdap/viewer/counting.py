"""Counting a run and its parts, a little at a time."""

from collections import OrderedDict, deque
from dataclasses import replace
from sqlite3 import Row
from time import monotonic
from typing import Final, TypeVar

import anyio

from mdap.journal.reader import Reader
from mdap.records import Outcome
from mdap.viewer.about import About
from mdap.viewer.summary import Summary

__all__ = ["Count", "RunCounts"]

T = TypeVar("T")
Sums = tuple[int, float | None, Outcome | None]
"""Votes, cost in USD, and the outcome."""

_KEPT: Final = 200
_SUMS_KEPT: Final = 10_000
_PARTS: Final = 5_000
_SHORT: Final = 4_096  # steps that are counted in one go
_WARNINGS: Final = 20
_FOREVER: Final = float("inf")


class Count:
    """The summary of a run and of its parts that have ended, and how fast the run goes on.

    Args:
        run: the run as it was when it was first looked at.

    Attributes:
        summary: what is counted.
        whole: whether that is all there is.
        escalated: whether a step of a counted part went to another tier of models.
        warnings: what counted parts were warned of, in order, as keys.
    """

    def __init__(self, run: About) -> None:
        self._lock = anyio.Lock()
        self._since = (monotonic(), run.decided)
        self._begin(run)

    def _begin(self, run: About) -> None:
        self.summary = Summary(run.number)
        self.whole = False
        self._turn = run.turn
        self._counted: set[int] = set()
        self._event = 0
        self._ahead: deque[Row] = deque()
        self._part: Summary | None = None
        self.escalated = False
        self.warnings: dict[str, None] = {}

    @property
    def parts(self) -> int:
        """How many parts are counted."""
        return len(self._counted)

    def told(self, run: About) -> About:
        """Return *run* with what its counted parts have to say of it."""
        warnings = tuple(dict.fromkeys((*run.warnings, *self.warnings)))
        return replace(run, escalated=run.escalated or self.escalated, warnings=warnings)

    def pace(self, run: About) -> float | None:
        """Return how many steps a second were decided since this run was first looked at."""
        began, decided = self._since
        passed = monotonic() - began
        return (run.decided - decided) / passed if run.running and passed > 0.5 else None

    async def go_on(self, source: Reader, run: About, seconds: float = _FOREVER) -> None:
        """Count on for about so many seconds; a run that took a turn is counted anew.

        While a run goes on, samples that turn out void come late, for steps that were counted before.
        """
        if self._lock.locked():
            return
        async with self._lock:
            if self._turn != run.turn:
                self._begin(run)
            deadline = monotonic() + seconds
            own = self.summary.reached >= run.end or await self.summary.count(source, run.end, seconds)
            self.whole = own and (not run.children or await self._go_on_with_parts(source, run, deadline))

    async def _go_on_with_parts(self, source: Reader, run: About, deadline: float) -> bool:
        if not self._ahead:
            self._ahead.extend(await source.rows("view_ended_parts", run.number, self._event, _PARTS))
        while self._ahead:
            if monotonic() >= deadline:
                return False
            if self._ahead[0]["end"] > _SHORT:
                if not await self._go_on_with_long(source, deadline - monotonic()):
                    return False
            else:
                await self._count_short(source)
            if not self._ahead:
                self._ahead.extend(await source.rows("view_ended_parts", run.number, self._event, _PARTS))
        return True

    async def _count_short(self, source: Reader) -> None:
        """Count as many of the next parts as have few steps together."""
        steps = 0
        taken: list[Row] = []
        for row in self._ahead:
            steps += row["end"] + 1
            if taken and steps > _SHORT:
                break
            taken.append(row)
        fresh = {row["run"] for row in taken} - self._counted
        if fresh:
            await self.summary.add_runs(source, sorted(fresh))
        for row in taken:
            self._done(row)

    async def _go_on_with_long(self, source: Reader, seconds: float) -> bool:
        row = self._ahead[0]
        if row["run"] not in self._counted:
            if self._part is None:
                self._part = Summary(row["run"])
            if not await self._part.count(source, row["end"], seconds):
                return False
            self.summary.absorb(self._part)
            self._part = None
        self._done(row)
        return True

    def _done(self, row: Row) -> None:
        self._ahead.popleft()
        self._event = row["event"]
        self._counted.add(row["run"])
        self.escalated = self.escalated or bool(row["escalated"])
        if row["warning"] is not None and len(self.warnings) < _WARNINGS:
            self.warnings[row["warning"]] = None


class RunCounts:
    """The counts of the runs that were looked at last, and the sums of many more that have ended."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, Count] = OrderedDict()
        self._known: OrderedDict[int, tuple[int, Sums]] = OrderedDict()

    def of(self, run: About) -> Count:
        """Return the count of *run*."""
        count = self._counts.pop(run.number, None) or Count(run)
        _keep(self._counts, run.number, count, _KEPT)
        return count

    def known(self, run: int, turn: int) -> Sums | None:
        """Return what `note` was told of the run with this number, unless it took a turn since."""
        noted = self._known.get(run)
        return noted[1] if noted is not None and noted[0] == turn else None

    def note(self, run: int, turn: int, sums: Sums) -> None:
        """Keep the votes, the cost and the outcome of a run that has ended."""
        _keep(self._known, run, (turn, sums), _SUMS_KEPT)


def _keep(kept: OrderedDict[int, T], number: int, value: T, most: int) -> None:
    kept[number] = value
    while len(kept) > most:
        kept.popitem(last=False)
