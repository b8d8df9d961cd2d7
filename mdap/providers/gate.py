"""The queue of one endpoint: requests of all runs wait for a slot, the rate limit, or the end of a pause."""

import heapq
import itertools
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

import anyio
from asyncio_throttle.throttler import Throttler

from mdap.rules.concurrency import ConcurrencyLimit
from mdap.rules.headers import Told
from mdap.rules.limiter import Attempt, Change, Pace, Reservation

FIXED: Final = 64
"""Concurrent requests to a provider in this process, which has no limit to discover."""

MOST: Final = 256
"""Maximum concurrent requests to an endpoint whose limit is unknown."""

# Smaller changes of a limit that is being discovered are not worth an event.
_NOTABLE: Final = 1.25
_TOLD: Final = "told in the headers of the endpoint"
# The database with its log and its lock, the logs, pipes, the event loop, name look-ups, what a task opens.
_RESERVE: Final = 64
_FILES: Final = "the process may open no more files: raise the limit with ulimit -n"


class Turn:
    """One request's slot at the endpoint, with its reservation and its end.

    It holds a slot from when it is entered until it is left. Exactly one of `succeeded`, `refused`,
    `timed_out` and `troubled` counts; an end that none of them tells says nothing of the endpoint. If it has
    to wait, *granted* is called when it may go.
    """

    __slots__ = ("_gate", "attempt", "gone", "granted", "likely", "priority", "reservation")

    def __init__(self, gate: "Gate", priority: int, likely: Callable[[], int]) -> None:
        self._gate = gate
        self.priority = priority
        self.likely = likely
        self.granted: Callable[[], None] | None = None
        self.reservation: Reservation | None = None
        self.attempt: Attempt | None = None
        self.gone = False

    async def __aenter__(self) -> Self:
        self._gate.queue(self)
        if self.attempt is None:
            news = anyio.Event()
            self.granted = news.set
            try:
                await news.wait()
            except BaseException:
                self.end(held=False)
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end(held=True)

    def end(self, *, held: bool) -> None:
        """Give the turn back; *held* tells whether the request was sent."""
        self.gone = True
        self._gate.leave(self, held=held)

    def succeeded(self, tokens: int | None, longest: int = 0) -> None:
        """Tell that a reply came, and the tokens that the request took; None where nobody knows.

        *longest* are the output tokens of its longest reply, as far as they are known.
        """
        assert self.attempt is not None
        self.took(tokens)
        self._gate.note(self._gate.concurrency.succeeded(self.attempt, time.monotonic(), longest))

    def refused(self, retry_after: float | None) -> None:
        """Tell that the endpoint refused the request for coming too fast; it took nothing."""
        assert self.attempt is not None
        self.took(0)
        self._gate.note(self._gate.concurrency.limited(self.attempt, time.monotonic(), retry_after or 0.0))

    def timed_out(self) -> None:
        """Tell that no reply came in time, though the endpoint may still work on it."""
        assert self.attempt is not None
        self._gate.note(self._gate.concurrency.timed_out(self.attempt, time.monotonic()))

    def troubled(self, retry_after: float | None = None) -> None:
        """Tell of any other failure: a reset, a server's error."""
        assert self.attempt is not None
        self._gate.concurrency.troubled(self.attempt, time.monotonic(), retry_after or 0.0)

    def took(self, tokens: int | None) -> None:
        """Count what the request really took; a second call changes nothing."""
        if self.reservation is not None:
            self._gate.pace.settle(self.reservation, tokens, time.monotonic())


class Gate:
    """Admit requests to a bounded number of slots, smallest priority first, no faster than the rates.

    One dispatcher serves all waiters: waiters of asyncio-throttle poll, and only a dispatcher that sees the
    whole queue can serve the most urgent request first. `Pace` decides when it goes, by requests and tokens
    together; a plain throttle behind it enforces requests per minute.

    Args:
        concurrency: slots; None to discover how many the endpoint allows.
        requests_per_minute: admissions in any minute; None to learn the limit from the endpoint's headers.
        tokens_per_minute: tokens of the requests admitted in any minute; None as above.
        fits: slots that the process has files for; None for any number.
    """

    def __init__(
        self,
        concurrency: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        fits: int | None = None,
    ) -> None:
        wanted = concurrency or MOST
        self.most = min(wanted, fits or wanted)
        self.concurrency = ConcurrencyLimit(self.most, given=concurrency is not None)
        self.pace = Pace(requests_per_minute, tokens_per_minute)
        self._given = requests_per_minute, tokens_per_minute
        self._known = self._given
        self._told: Told | None = None
        self._throttle: Any = None  # asyncio-throttle has no annotations
        self._permit = False
        self._queue: list[tuple[int, int, Turn]] = []
        self._order = itertools.count()
        self._news = anyio.Event()
        self._changes: dict[str, tuple[Change, Change]] = {}
        self._changed = anyio.Event()
        self._rule()
        if concurrency and self.most < concurrency:
            self.note(Change("concurrency", concurrency, self.most, _FILES))

    async def serve(self) -> None:
        """Admit waiters that the rates or a pause hold back, for as long as this runs."""
        while True:
            head, now = self._head(), time.monotonic()
            ready = math.inf if head is None else self._ready_at(head, now)
            if ready > now:
                await self._nap(None if ready == math.inf else ready - now)
            elif self._throttle is not None and not self._permit:
                await self._throttle.acquire()
                self._permit = True
            elif self._admit():
                self._permit = False

    async def _nap(self, seconds: float | None) -> None:
        """Wait for news, or for so long."""
        self._news = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._news.wait()

    def slot(self, priority: int, likely: Callable[[], int] = lambda: 0) -> Turn:
        """Return a turn; to enter it waits for a free slot and for the rates to allow it.

        *likely* returns the tokens that the request will likely take, as of when it is asked.
        """
        return Turn(self, priority, likely)

    def queue(self, turn: Turn) -> None:
        """Admit *turn* when it may go, and tell it by its news if that is not now."""
        heapq.heappush(self._queue, (turn.priority, next(self._order), turn))
        self._look()

    def leave(self, turn: Turn, *, held: bool) -> None:
        """Take back what *turn* was let go with, if anything."""
        if turn.attempt is not None and turn.reservation is not None:
            self.concurrency.close(turn.attempt)
            if held:  # and not settled: nobody knows what it took
                turn.took(None)
            else:  # cancelled on the way here: it took nothing
                self.pace.refund(turn.reservation, time.monotonic())
        self._look()

    def _look(self) -> None:
        """Admit whom nothing holds back, and leave to the dispatcher whom only time does."""
        while self._throttle is None and self._admit():
            pass
        head = self._head()
        # Releasing a slot serves the waiters for one.
        if head is not None and self._ready_at(head, time.monotonic()) != math.inf:
            self._news.set()

    def _head(self) -> Turn | None:
        """Return the first waiter that is still there."""
        while self._queue and self._queue[0][2].gone:
            heapq.heappop(self._queue)
        return self._queue[0][2] if self._queue else None

    def _ready_at(self, head: Turn, now: float) -> float:
        slot = self.concurrency.ready_at(now)
        return slot if slot == math.inf else max(slot, self.pace.ready_at(head.likely(), now))

    def _admit(self) -> bool:
        """Admit the first waiter if it may go; return whether it was."""
        head, now = self._head(), time.monotonic()
        if head is None or self.concurrency.ready_at(now) > now:
            return False
        head.reservation = self.pace.reserve(head.likely(), now)
        if head.reservation is None:
            return False
        heapq.heappop(self._queue)
        head.attempt = self.concurrency.begin(now)
        if head.granted is not None:
            head.granted()
        return True

    def learn(self, told: Told) -> None:
        """Take the limits that the endpoint's headers tell for those that nobody gave."""
        if told is self._told:  # most responses tell nothing new, and each comes here
            return
        self._told = told
        news = told.requests_per_minute, told.tokens_per_minute
        before, given = self._known, self._given
        self._known = given[0] or news[0] or before[0], given[1] or news[1] or before[1]
        if self._known != before:
            self._rule()
            self.note(Change("requests_per_minute", before[0], self._known[0], _TOLD))
            self.note(Change("tokens_per_minute", before[1], self._known[1], _TOLD))

    def _rule(self) -> None:
        """Pace by the known limits."""
        known, tokens = self._known
        self.pace.set_limits(known, tokens, time.monotonic())
        if known is None:
            self._throttle = None
        elif self._throttle is None:
            self._throttle = Throttler(known, 60.0)
        else:
            self._throttle.rate_limit = known

    def note(self, change: Change | None) -> None:
        """Remember a *change* of a limit, if there is one."""
        if change is None:
            return
        first, _ = self._changes.get(change.what, (change, change))
        self._changes[change.what] = first, change
        if _notable(first, change):
            self._changed.set()

    async def changed(self) -> None:
        """Wait until `changes` has something to tell."""
        if not any(_notable(*pair) for pair in self._changes.values()):
            self._changed = anyio.Event()
            await self._changed.wait()

    def changes(self) -> list[Change]:
        """Return what changed since the last call: of each limit at most one change, from first to last.

        A discovered limit that has changed by less than a quarter is told once it has changed by more.
        """
        found = {what: pair for what, pair in self._changes.items() if _notable(*pair)}
        self._changes = {what: pair for what, pair in self._changes.items() if what not in found}
        return [
            last
            if first is last
            else last._replace(
                limit_before=first.limit_before, reason=f"{first.reason}; in the end {last.reason}"
            )
            for first, last in found.values()
        ]


def _notable(first: Change, last: Change) -> bool:
    before, after = first.limit_before, last.limit_after
    if last.what != "concurrency" or before is None or after is None:
        return before != after
    return not 1 / _NOTABLE < after / before < _NOTABLE


def connections_within(wanted: int) -> int:
    """Return how many of *wanted* connections can be open together, at least 1.

    Where the soft limit of open files is too low for all of them, it is raised as far as the hard limit
    allows. A system that has no such limit, such as Windows, allows all of them.
    """
    try:
        import resource
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVE
    with suppress(OSError):
        needed += len(os.listdir("/dev/fd"))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    if hard == resource.RLIM_INFINITY or hard > soft:
        target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):  # macOS refuses more than it ever opens, whatever the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    return max(1, min(wanted, wanted + soft - needed))
