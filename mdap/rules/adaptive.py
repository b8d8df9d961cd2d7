"""How much an endpoint bears, learned from its refusals: requests at once, and requests per minute.

A server that says nothing but 429 may count what is in flight, or what came within some window of time.
What is in flight is cut first. If requests are refused that are far fewer than those which led to the cut,
or many in a row that were sent one by one, then fewer at once do not help: what went through in the last
minute is taken for the server's rate.

A refusal alone proves nothing, since shared servers refuse now and then whatever one does. How often they
do is learned too, as the least that was refused for a while, and only clearly more than that is a sign of a
limit. Both limits grow again while all goes well, quickly as far as where the last refusals came, and beyond
that only after a patience that doubles with every attempt that fails.

All moments are seconds of one monotonic clock, brought by the caller.
"""

import math
from dataclasses import dataclass

from mdap.rules.learned_rate import LearnedRate
from mdap.rules.refusals import EPISODE, MEMORY, WALL, Change, Hold, Row, Signs
from mdap.rules.slots import Slots

__all__ = ["Adaptive", "Attempt"]


@dataclass(eq=False, slots=True)
class Attempt:
    """A request that was sent and has not ended.

    Attributes:
        at: when it was sent.
        number: its place in the order of sending, from 1.
        in_flight: how many were in flight then, this one included.
        open: whether it has not ended.
    """

    at: float
    number: int
    in_flight: int
    open: bool = True


class Adaptive:
    """Limit what is in flight, learn a rate, and hold everything back for a moment after refusals.

    Every attempt begins with `begin` and ends with exactly one of `succeeded`, `limited`, `troubled` and
    `dropped`. The rate is not enforced here: where it changes, the caller hands it to its `Pace`.

    Args:
        start: requests in flight to start with.
        least: the fewest ever allowed in flight.
        most: the most ever allowed in flight; equal to *least* for a number that is not to be adapted.

    Attributes:
        in_flight: attempts that have not ended.
    """

    def __init__(self, start: int = 8, least: int = 1, most: int = 1000) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"the bounds of what may be in flight must be 1 <= {least} <= {most}")
        self.in_flight = 0
        self._usual = 0.0
        self._signs = Signs()
        self._slots = Slots(min(max(start, least), most), least, most)
        self._rate = LearnedRate()
        self._row = Row()
        self._hold = Hold()

    @property
    def limit(self) -> int:
        """How many may be in flight."""
        return self._slots.limit

    @property
    def rate(self) -> float | None:
        """The requests per minute that were learned; None while there is no sign of a limit."""
        return self._rate.limit

    def ready_at(self, now: float) -> float:
        """Return when the next attempt may begin; infinity while no slot is free."""
        return max(now, self._hold.until) if self.in_flight < self._slots.limit else math.inf

    def begin(self, now: float) -> Attempt:
        """Count an attempt as sent."""
        self.in_flight += 1
        self._usual += MEMORY * (self.in_flight - self._usual)
        self._hold.sent(now)
        self._slots.sent(self.in_flight)
        self._rate.sent(now)
        return Attempt(now, self._row.sent(), self.in_flight)

    def succeeded(self, attempt: Attempt, now: float, *, retried: bool = False) -> Change | None:
        """Count a reply.

        Args:
            attempt: what ended.
            now: the moment.
            retried: whether an earlier attempt at the same samples had failed: it then says nothing of
                how much more the endpoint would bear.

        Returns:
            What was changed, if anything.
        """
        if not self._close(attempt):
            return None
        self._signs.answered()
        self._slots.answered(refused=False)
        self._hold.answered(now - attempt.at)
        if self._row.accepted(attempt.number):
            self._hold.lift()
        if retried:
            return None
        return self._slots.grow(now) or self._rate.grow(now)

    def limited(self, attempt: Attempt, now: float, retry_after: float | None = None) -> Change | None:
        """Count a refusal for coming too fast or with too many others.

        Args:
            attempt: what ended.
            now: the moment.
            retry_after: seconds the endpoint asks to wait; None where it does not say.

        Returns:
            What was changed, if anything.
        """
        # Those sent a moment later may have overtaken it.
        load = max(attempt.in_flight, self.in_flight)
        if not self._close(attempt):
            return None
        wait = retry_after or 0.0
        self._hold.wait(now + wait)
        news = self._row.refused(attempt.number)
        self._rate.refused(attempt.at, self._row.length, now)
        self._slots.answered(refused=True)
        if not self._signs.refused():
            return None
        if news:
            self._hold.start(now, self._row.length)
        return self._blame(attempt, load, now, now + max(EPISODE, wait))

    def troubled(self, attempt: Attempt, now: float, retry_after: float | None = None) -> None:
        """Count a failure that is no refusal: it holds growth back, and cuts nothing.

        Args:
            attempt: what ended.
            now: the moment.
            retry_after: seconds the endpoint asks to wait; None where it does not say.
        """
        if self._close(attempt):
            self._slots.troubled()
            self._hold.wait(now + (retry_after or 0.0))

    def dropped(self, attempt: Attempt) -> None:
        """Count an attempt that was given up: it says nothing of the endpoint."""
        self._close(attempt)

    def _close(self, attempt: Attempt) -> bool:
        """Close an attempt; return whether it was open."""
        was_open = attempt.open
        attempt.open = False
        self.in_flight -= was_open
        return was_open

    def _blame(self, attempt: Attempt, load: int, now: float, calm: float) -> Change | None:
        """Lower the limit that is to blame."""
        self._slots.end_round()
        row, rated = self._row.length, self._rate.limit is not None
        if rated:
            # Where a rate holds back more than the slots do, only an unusual number in flight is to blame.
            by_rate = load < 1.05 * self._usual + 1
        else:
            fewer = (row > 1 and load == 1) or self._slots.contradicted(load, attempt.at, now)
            by_rate = row >= WALL or (fewer and now >= self._rate.doubted_until)
        if by_rate:
            return self._rate.cut(row, now, calm)
        return self._slots.cut(attempt.at, load, now, calm, unusual=rated)
