"""What an endpoint's refusals and answers say, whichever limit they are due to.

The moments, as everywhere about limits, are seconds of one monotonic clock, brought by the caller.
"""

import math
from collections import deque
from typing import Final, Literal, NamedTuple

__all__ = [
    "CUT",
    "EPISODE",
    "GROWTH",
    "MEMORY",
    "MINUTE",
    "USED",
    "WALL",
    "Change",
    "Hold",
    "Row",
    "Signs",
]

MINUTE: Final = 60.0

EPISODE: Final = 15.0
"""Seconds: one refusal rarely comes alone, and those within this time belong together."""

WALL: Final = 6
"""So many refusals in a row are a wall: nothing goes through."""

MEMORY: Final = 0.05
"""The weight of the latest request in what is usual."""

CUT: Final = 0.8
GROWTH: Final = 0.05

USED: Final = 0.8
"""Headroom that was not used to this part was not tested."""

# So many answers are refused whatever one does, unless more is known; a limit makes it several times as many.
_USUAL: Final = 0.005
_SUSPECT: Final = 0.05
_TIMES: Final = 4.0
# Page's CUSUM between the two: what comes whatever one does is taken for a sign of a limit in one of a
# hundred answers on average, or less often.
_SIGN: Final = math.log(100)
_WINDOW: Final = 500
_WINDOWS: Final = 4

_FIRST_GAP: Final = 0.25
_LONGEST_GAP: Final = 5.0
_NO_GAP: Final = 0.01


class Change(NamedTuple):
    """A limit was changed.

    Attributes:
        what: which: requests at once, or requests or tokens per minute.
        limit_before: its value before; None for none.
        limit_after: its value now; None for none.
        reason: why, in a few words.
    """

    what: Literal["concurrency", "requests_per_minute", "tokens_per_minute"]
    limit_before: float | None
    limit_after: float | None
    reason: str


class Signs:
    """Whether refusals are more than those that come whatever one does.

    Attributes:
        share: of answers that are refused whatever one does; 0 while that is not known.
    """

    __slots__ = ("_against", "_answers", "_closed", "_for", "_refused", "_score", "share")

    def __init__(self) -> None:
        self.share = 0.0
        self._score = 0.0
        self._answers = self._refused = 0
        self._closed: deque[float] = deque(maxlen=_WINDOWS)
        self._weigh()

    def _weigh(self) -> None:
        # A limit is not exceeded all the time, so that the least of several shares is rather too small.
        usual = min(0.5, max(_USUAL, 1.5 * self.share))
        suspect = min(0.9, max(_SUSPECT, _TIMES * usual))
        self._for = math.log(suspect / usual)
        self._against = math.log((1 - usual) / (1 - suspect))

    def answered(self) -> None:
        """Count an answer."""
        self._score = max(0.0, self._score - self._against)
        self._count()

    def refused(self) -> bool:
        """Count a refusal; return whether it is a sign of a limit."""
        self._refused += 1
        self._score = min(_SIGN + self._for, self._score + self._for)
        self._count()
        return self._score >= _SIGN

    def _count(self) -> None:
        self._answers += 1
        if self._answers == _WINDOW:
            self._closed.append(self._refused / _WINDOW)
            self._answers = self._refused = 0
            self.share = min(self._closed) if len(self._closed) == _WINDOWS else 0.0
            self._weigh()


class Row:
    """Refusals in a row: each of something sent after the one before was known, and nothing else through."""

    __slots__ = ("_known", "_refused", "_sent", "_start", "length")

    def __init__(self) -> None:
        self.length = 0
        self._sent = 0
        self._known = 0  # what had been sent when the last refusal that counts came in
        self._start = 0  # the same of the first of the row
        self._refused = 0  # of those sent after the start

    def sent(self) -> int:
        """Return the number of what is sent now."""
        self._sent += 1
        return self._sent

    def accepted(self, number: int) -> bool:
        """Count an answer; return whether it ends a row."""
        ends = self.length > 0 and number > self._start
        if ends:
            self.length = 0
        return ends

    def refused(self, number: int) -> bool:
        """Count a refusal; return whether it is news: sent after the last one was known."""
        self._refused += number > self._start
        if number <= self._known:
            return False
        # Refusals are quick, so what was sent before and has not been refused is through.
        through = number - self._start - self._refused
        if self.length == 0 or through > 1:
            self.length = 0
            self._start, self._refused = self._sent, 0
        self.length += 1
        self._known = self._sent
        return True


class Hold:
    """When the next may be sent: after refusals a pause, then one by one, ever faster."""

    __slots__ = ("_gap", "_step", "until")

    def __init__(self) -> None:
        self.until = -math.inf
        self._gap = _FIRST_GAP
        self._step = 0.0

    def wait(self, until: float) -> None:
        """Send nothing before that moment."""
        self.until = max(self.until, until)

    def start(self, now: float, row: int) -> None:
        """Pause, twice as long with each refusal in a row."""
        self._step = min(_LONGEST_GAP, self._gap * 2.0 ** min(row - 1, 16))
        self.wait(now + self._step)

    def lift(self) -> None:
        """Go back to sending without pauses."""
        self._step = 0.0

    def sent(self, now: float) -> None:
        """Count a request as sent: the pause before the next is half as long."""
        self._step = self._step / 2 if self._step > _NO_GAP else 0.0
        self.wait(now + self._step)

    def answered(self, latency: float) -> None:
        """Pause no longer at first than the endpoint usually takes to answer."""
        self._gap += MEMORY * (min(_FIRST_GAP, max(_NO_GAP, latency)) - self._gap)
