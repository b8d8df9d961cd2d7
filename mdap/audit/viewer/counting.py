"""The summaries of runs, counted on by whoever looks at them, and kept."""

from collections import OrderedDict
from time import monotonic
from typing import Final

import anyio

from mdap.audit.about import About
from mdap.audit.source import Source
from mdap.audit.summary import Summary

__all__ = ["Count", "Counts"]

_KEPT: Final = 200


class Count:
    """The summary of a run, and how fast the run goes on.

    Attributes:
        summary: what is counted.
        whole: whether that is all there is.
    """

    def __init__(self, run: About) -> None:
        self.summary = Summary(run.number)
        self.whole = False
        self._turn = run.turn
        self._lock = anyio.Lock()
        self._since = (monotonic(), run.decided)

    def pace(self, run: About) -> float | None:
        """Return how many steps a second were decided since this run was first looked at."""
        began, decided = self._since
        passed = monotonic() - began
        return (run.decided - decided) / passed if run.running and passed > 0.5 else None

    async def go_on(self, source: Source, run: About, seconds: float) -> None:
        """Count on for about so many seconds; a run that took a turn is counted anew.

        While a run goes on, samples that turn out void come late, for steps that were counted before.
        """
        if self._lock.locked():
            return
        async with self._lock:
            if self._turn != run.turn:
                self._turn = run.turn
                self.summary = Summary(run.number)
            self.whole = self.summary.reached >= run.end or await self.summary.count(source, run.end, seconds)


class Counts:
    """The summaries of the runs that were looked at last."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, Count] = OrderedDict()

    def of(self, run: About) -> Count:
        """Return the count of *run*."""
        count = self._counts.pop(run.number, None) or Count(run)
        self._counts[run.number] = count
        while len(self._counts) > _KEPT:
            self._counts.popitem(last=False)
        return count
