"""Discover how many concurrent requests an endpoint can serve, from its latency and its refusals.

The limit grows while more requests bring more replies. *Queueing* ends that: by Little's law, a full server
answers N times the requests after N times the latency. The limit falls to what the server then works on,
``n * latency_before / latency``, plus headroom: the gradient of Netflix's concurrency-limits, measured
against the last smaller load instead of an idle server, so that a server that batches is used to the full.
*Refusals* end it too: more than usual of them take one request off the limit, or a twentieth; a higher
limit is then tried rarely. If as many are in flight at replies as at refusals, the endpoint limits a rate:
mdap then spaces requests evenly. A limit below one is a pause: 600 a minute at 50 ms are half a request.
Moments are seconds of one monotonic clock, brought by the caller.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from mdap.rules.limiter import Attempt, Change, Window

_RARE, _MOST, _SUSPECT = 0.005, 0.15, 0.05
_SIGN: Final = 4.5  # one false alarm in thousands of answers
_TRIED, _WINDOW, _WINDOWS = 200, 400, 4  # answers
_MINUTE: Final = 60.0
_HEADROOM, _QUEUEING = 1.2, 0.7  # latency that grows by more than this power of the load is queueing
_LONG, _QUEUEING_IF_LONG = 4.0, 0.3  # times the least latency: clients that share a queue each see part of it
_LOOK_EVERY, _FEWER = 8, 0.7  # rounds with a queue until fewer requests are tried
_BELOW, _GENTLE, _WAIT, _ANSWERS = 0.97, 0.05, 30.0, 250  # after refusals: how far below, how growth goes on
_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds


class Strays:
    """Page's CUSUM between the usual share of refusals and an excessive one; what is usual is learned.

    The least share of several windows is *suspected* to be usual, since a limit is not exceeded all the time.
    It is usual if it persists with fewer requests, which the caller is to try: a limit refuses none of those.

    Attributes:
        score: the evidence of a limit; the caller sets it to zero once it has heeded that.
        suspected: a share that may be usual; 0 for none.
        trying: whether fewer requests are being tried.
        usual: the share that is refused whatever is done.
    """

    def __init__(self) -> None:
        self.score, self.suspected, self.trying, self.usual = 0.0, 0.0, False, _RARE
        self._answers = self._refused = 0
        self._shares: deque[float] = deque(maxlen=_WINDOWS)

    def count(self, refused: bool, learn: bool) -> bool:
        """Count an answer; return whether it shows a limit.

        *learn* is False for requests sent before the limit was lowered: they do not show the usual rate.
        """
        excess = max(_SUSPECT, 2.5 * self.usual)
        up, down = math.log(excess / self.usual), math.log((1 - self.usual) / (1 - excess))
        self.score = min(_SIGN + up, max(0.0, self.score + (up if refused else -down)))
        self._answers, self._refused = self._answers + learn, self._refused + (refused and learn)
        if self._answers >= (_TRIED if self.trying or len(self._shares) < _WINDOWS else _WINDOW):
            self._learn(self._refused / self._answers)
            self._answers = self._refused = 0
        return refused and self.score >= _SIGN

    def try_fewer(self) -> None:
        """Begin to count what is refused of fewer requests."""
        self.trying, self._answers, self._refused = True, 0, 0

    def _learn(self, share: float) -> None:
        self._shares.append(share)
        least = min(self._shares)
        if self.trying:
            if share >= 0.65 * self.suspected:
                self.usual = min(_MOST, 1.25 * self.suspected)
            self.trying, self.suspected = False, 0.0
            self._shares.clear()
        elif len(self._shares) == _WINDOWS:
            self.suspected = least if least > 1.8 * self.usual else 0.0
            if 2.5 * least < self.usual:
                self.usual = max(_RARE, 1.25 * least)


class _Work:
    """The part of latency that grows with a reply's length, by least squares over recent replies."""

    _sums: Sequence[float] = (0.0,) * 5

    def of(self, tokens: float, seconds: float) -> float:
        """Learn from a reply, and return its work: 1 for one of mean length."""
        reply = 1.0, tokens, seconds, tokens * tokens, tokens * seconds
        n, x, y, xx, xy = self._sums = [0.995 * a + b for a, b in zip(self._sums, reply, strict=True)]
        spread = n * xx - x * x
        if spread < 1e-6 * n * xx or x * y <= 0:
            return 1.0
        share = min(1.0, max(0.0, (n * xy - x * y) / spread * x / y))
        return max(0.01, 1 + share * (tokens * n / x - 1))


class ConcurrencyLimit:
    """Limit the requests in flight to *most* or fewer; if the user has *given* it, only refusals lower it."""

    def __init__(self, most: int = 256, *, given: bool = False) -> None:
        self._most, self._given, self.limit = most, given, float(most if given else min(2, most))
        self.in_flight = self._row = self._queues = self._calm = 0
        self._began = self._least = math.inf
        self._until = self._cut = self._changed = self._since = -math.inf
        self._latency = self._pause = self._share = self._spent = self._done = 0.0
        self._mean = self._apart = 0.0  # requests in flight at a reply; share of refusals with no more
        self._replies = self._failures = self._load = self._peak = 0  # with _spent and _done, of this round
        self._step = 1.0
        self._ceiling: float | None = None  # where requests were refused
        self._smaller: tuple[float, float] | None = None  # a smaller load, and its latency
        self._served, self._work, self._strays = Window(_MINUTE), _Work(), Strays()

    def ready_at(self, now: float) -> float:
        """Return when the next attempt may begin; infinity while none may until another ends."""
        most = math.ceil(self.limit * (3 - 1.6 * self._burst)) if self._ceiling else max(1, int(self.limit))
        return max(now, self._until) if self.in_flight < min(most, self._most) else math.inf

    @property
    def _burst(self) -> float:
        """How much faster than the limit requests may follow each other."""
        return 1.25 - min(0.25, 0.75 * self._apart)

    def begin(self, now: float) -> Attempt:
        """Count an attempt as sent."""
        self.in_flight, self._began = self.in_flight + 1, min(self._began, now)
        self._pause = self._pause / 2 if self._pause > 0.01 else 0.0
        each = self._latency / self.limit / self._burst if self._ceiling else 0.0
        if each and now < self._until + each / 2:  # A pause held it back, as a full number does.
            self._peak = max(self._peak, int(self.limit))
        self._until = max(now + self._pause, max(self._until, now - each) + each)
        return Attempt(now, self.in_flight)

    def succeeded(self, attempt: Attempt, now: float, tokens: int = 0) -> Change | None:
        """Count a reply of *tokens* tokens; return the changed limit, if any."""
        if not self.close(attempt):
            return None
        seconds, work = now - attempt.at, self._work.of(tokens, now - attempt.at)
        self._latency += (seconds - self._latency) / (16 if self._latency else 1)
        self._served.add(round(1000 * seconds), now, now)
        self._mean += (attempt.in_flight - self._mean) / (32 if self._mean else 1)
        usual, _ = self._strays.usual, self._strays.count(False, attempt.at > self._cut)
        if self._strays.usual > usual:  # What was refused was no limit: discover it again.
            self._calm, self._ceiling, self._step, self._smaller = 0, None, 1.0, None
        self._calm, self._share = self._calm + 1, self._share * 15 / 16
        if attempt.at > self._cut:
            self._row, self._pause = 0, 0.0
        if attempt.at >= self._since or self._step == 1:
            self._replies, self._load = self._replies + 1, self._load + attempt.in_flight
            self._peak = max(self._peak, attempt.in_flight)
            self._spent, self._done = self._spent + seconds, self._done + work
        enough = max(4 if self._step == 1 else 8, int(self.limit))
        return self._end_round(now) if self._replies >= enough else None

    def limited(self, attempt: Attempt, now: float, retry_after: float = 0.0) -> Change | None:
        """Count a refusal for a rate or concurrency limit; return the changed limit, if any."""
        load = max(attempt.in_flight, self.in_flight)  # Those sent later may have overtaken it.
        if not self.troubled(attempt, now, retry_after):
            return None
        self._share, settled = self._share + (1 - self._share) / 16, now > self._began + _MINUTE
        volley = attempt.at <= self._cut
        sign = self._strays.count(True, not volley) or volley or (load == 1 and self._row > 0)
        if self._strays.suspected and not self._strays.trying:
            self._cut = now
            self._strays.try_fewer()
            return self._set(_FEWER * self.limit, now, "refusals persist: do they with fewer in flight")
        if not (sign if settled or self._ceiling else self._share > 0.2):  # What doubled is exceeded by far.
            return None
        self._strays.score = 0.0
        if not volley:
            self._apart += ((load <= self._mean + 0.25) - self._apart) / 8
            self._cut, self._row = now, self._row + 1
            first = min(_PAUSE, max(0.01, self._latency))
            self._pause = min(_LONGEST_PAUSE, first * 2 ** min(self._row - 1, 9))
            self._until = max(self._until, now + self._pause)
        served = self._served.since(_MINUTE, now) / 1000 / min(_MINUTE, max(1.0, now - self._began))
        if load == 1 and self._row > 2:  # Nothing goes through: no minute takes less than the last one did.
            limit = served or self.limit
        else:
            self._calm = max(-1000, self._calm - _ANSWERS)
            limit = self.limit - min(1.0, 0.05 * self.limit) * (1 if self._ceiling else 2)
            limit = min(limit, load - 1) if load > max(1, self._mean) else limit
            limit = max(limit, 0.9 * served / self._burst)
        self._ceiling, self._changed, self._step = min(limit, self.limit), now, _GENTLE
        return self._set(self._ceiling, now, f"refused with {load} in flight")

    def timed_out(self, attempt: Attempt, now: float) -> Change | None:
        """Count an attempt that timed out on the server; return the changed limit, if any."""
        alike = self._latency > (now - attempt.at) / 4 or not self._latency  # else only this one hung
        if not self.troubled(attempt, now) or self._given or attempt.at <= self._cut or not alike:
            return None
        self._cut, self._step = now, _GENTLE
        return self._set(max(min(1.0, self.limit), self.limit / 4), now, "no reply in time")

    def troubled(self, attempt: Attempt, now: float, retry_after: float = 0.0) -> bool:
        """Count any other failure: many hold growth back. Return whether the attempt was open."""
        self._until, self._failures = max(self._until, now + retry_after), self._failures + attempt.open
        return self.close(attempt)

    def close(self, attempt: Attempt) -> bool:
        """End an attempt that says nothing of the endpoint; return whether it was open."""
        was_open, attempt.open = attempt.open, False
        self.in_flight -= was_open
        return was_open

    def _end_round(self, now: float) -> Change | None:
        load, latency, limit = self._load / self._replies, self._spent / self._done, self.limit
        if 3 * self._failures > self._replies:
            return self._set(limit, now, "")
        if self._smaller is None or load < self._smaller[0] / 1.1:
            self._smaller = load, latency
        elif not self._given and self._queueing(load, latency, *self._smaller):
            self._step, self._queues = min(0.2, self._step), self._queues + 1
            limit = load * (_HEADROOM * self._smaller[1] / latency if self._queues % _LOOK_EVERY else _FEWER)
            limit = max(1.0, min(limit, self.limit) if self._ceiling else limit)
            return self._set(limit, now, f"latency grew as the load did, with {load:.0f} in flight")
        if self._peak >= 0.8 * int(limit):
            limit = self._grown(now)
        return self._set(limit, now, "neither a queue nor a refusal")

    def _queueing(self, load: float, latency: float, smaller: float, before: float) -> bool:
        """Return whether latency grew about as the load did, or else learn from it."""
        self._least, more = min(self._least, before, latency), load / smaller
        if more < 1.1:
            self._smaller = smaller, (before + latency) / 2
        if more < (3 if self._step == 1 else 1.1):
            return False
        if latency > before * more ** (_QUEUEING_IF_LONG if latency > _LONG * self._least else _QUEUEING):
            return True
        if more >= 1.5:
            self._smaller, self._step = (load, latency), min(1.0, 2 * self._step)
        return False

    def _grown(self, now: float) -> float:
        if self._strays.trying:
            return self.limit
        if self._ceiling is None:
            return max((1 + self._step) * self.limit, int(self.limit) + 1)
        if self.limit < _BELOW * self._ceiling:
            return min(1.1 * self.limit, _BELOW * self._ceiling)
        if self._calm < 0 or now < self._changed + _WAIT:
            return self.limit
        limit, self._step = (1 + self._step) * self.limit, min(1.0, 2 * self._step)
        self._ceiling, self._changed = limit / _BELOW, now
        return limit

    def _set(self, limit: float, now: float, reason: str) -> Change | None:
        """Set the limit and restart its measurements; return the change, or None if it stays the same."""
        before, self.limit = self.limit, min(float(self._most), max(limit, 0.001))
        self._since, self._replies, self._failures, self._load, self._peak = now, 0, 0, 0, 0
        self._spent = self._done = 0.0
        return None if self.limit == before else Change("concurrency", before, self.limit, reason)
