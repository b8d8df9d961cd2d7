"""Count a run and its parts incrementally."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from sqlite3 import Row
from time import monotonic
from typing import Final, TypeVar

import anyio

from mdap.journal.reader import Reader
from mdap.records import Outcome
from mdap.viewer.about import About
from mdap.viewer.summary import Summary

T = TypeVar("T")
Sums = tuple[int, float | None, Outcome | None]
"""Votes, cost in USD, and the outcome."""

_KEPT: Final = 200
_SUMS_KEPT: Final = 10_000
_PARTS: Final = 5_000
_WARNINGS: Final = 20

SHORT: Final = 4_096
"""Steps to count in one query."""


class Count:
    """The summary of a run and its ended parts, and the run's current speed."""

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
        self._at = 0  # where the count of a long part goes on
        self.escalated = False
        self.warnings: dict[str, None] = {}

    @property
    def parts(self) -> int:
        """The number of counted parts."""
        return len(self._counted)

    def with_parts(self, run: About) -> About:
        """Return *run* with the warnings of its counted parts, and escalated if one of them is."""
        warnings = tuple(dict.fromkeys((*run.warnings, *self.warnings)))
        return replace(run, escalated=run.escalated or self.escalated, warnings=warnings)

    def pace(self, run: About) -> float | None:
        """Return the steps decided per second since this run was first seen."""
        began, decided = self._since
        passed = monotonic() - began
        return (run.decided - decided) / passed if run.running and passed > 0.5 else None

    async def go_on(self, source: Reader, run: About, seconds: float = math.inf) -> None:
        """Continue the count for about *seconds* seconds; restart it if the run changed its status.

        While a run continues, void samples arrive late, for steps already counted.
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
        while True:
            if not self._ahead:
                self._ahead.extend(await source.rows("view_ended_parts", run.number, self._event, _PARTS))
            if not self._ahead:
                return True
            if monotonic() >= deadline:
                return False
            await self._count_next(source)

    async def _count_next(self, source: Reader) -> None:
        """Count the next parts that together have few steps, or further steps of a long one."""
        taken = few_steps(self._ahead, lambda row: row["end"])
        fresh = {row["run"] for row in taken} - self._counted
        if fresh:
            await self.summary.add_runs(source, sorted(fresh), self._at, self._at + SHORT)
            self._at += SHORT
            if self._at < taken[0]["end"]:
                return
        self._at = 0
        for row in taken:
            self._ahead.popleft()
            self._event = row["event"]
            self._counted.add(row["run"])
            self.escalated = self.escalated or bool(row["escalated"])
            if row["warning"] is not None and len(self.warnings) < _WARNINGS:
                self.warnings[row["warning"]] = None


class RunCounts:
    """The counts of recently viewed runs, and the sums of many ended ones."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, Count] = OrderedDict()
        self._known: OrderedDict[int, tuple[int, Sums]] = OrderedDict()

    def of(self, run: About) -> Count:
        """Return the count of *run*."""
        count = self._counts.pop(run.number, None) or Count(run)
        _keep(self._counts, run.number, count, _KEPT)
        return count

    def known(self, run: int, turn: int) -> Sums | None:
        """Return the noted sums of this run, unless it changed since."""
        noted = self._known.get(run)
        return noted[1] if noted is not None and noted[0] == turn else None

    def note(self, run: int, turn: int, sums: Sums) -> None:
        """Keep the votes, the cost and the outcome of an ended run."""
        _keep(self._known, run, (turn, sums), _SUMS_KEPT)


def few_steps(runs: Iterable[T], length: Callable[[T], int]) -> list[T]:
    """Return the first of *runs* that together have few steps, given the *length* of each; at least one."""
    taken: list[T] = []
    steps = 0
    for run in runs:
        steps += length(run) + 1
        if taken and steps > SHORT:
            break
        taken.append(run)
    return taken


def _keep(kept: OrderedDict[int, T], number: int, value: T, most: int) -> None:
    kept[number] = value
    while len(kept) > most:
        kept.popitem(last=False)
