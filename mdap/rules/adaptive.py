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
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from mdap.rules.limiter import Window

__all__ = ["Adaptive", "Attempt", "Change"]

_MINUTE: Final = 60.0
# One refusal rarely comes alone: those within this time belong to the same episode.
_EPISODE: Final = 15.0
# So many answers are refused whatever one does, unless more is known; a limit makes it several times as many.
_USUAL: Final = 0.005
_SUSPECT: Final = 0.05
_TIMES: Final = 4.0
# Page's CUSUM between the two: what comes whatever one does is taken for a limit once in 100 answers at most.
_SIGN: Final = math.log(100)
_WINDOW: Final = 500
_WINDOWS: Final = 4
# So many refusals in a row are a wall: nothing goes through.
_WALL: Final = 6
# The weight of the latest request in what is usual.
_MEMORY: Final = 0.05

_CUT: Final = 0.8
_GROWTH: Final = 0.05
# Headroom that was not used was not tested.
_USED: Final = 0.8
_PATIENT_EPISODES: Final = 16
_SMALL_ROUND: Final = 8
# Where less than a quarter is refused, so few in flight are hardly too many.
_FEW: Final = 4
_MANY_REFUSED: Final = 0.25
# A failure that is no refusal takes back so many successes: where more than a third fails, growth stops.
_TROUBLE: Final = 2

_FIRST_GAP: Final = 0.25
_LONGEST_GAP: Final = 5.0
_NO_GAP: Final = 0.01

_JUST_BELOW: Final = 0.97
_BEARABLE: Final = 0.01
_FADE: Final = 0.75
_PATIENT_MINUTES: Final = 8
_FIRST_STEP: Final = 0.03
_LONGEST_STEP: Final = 0.2
_DOUBT: Final = 600.0


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
        self._signs = _Signs()
        self._slots = _Slots(min(max(start, least), most), least, most)
        self._rate = _Rate()
        self._row = _Row()
        self._hold = _Hold()

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
        self._usual += _MEMORY * (self.in_flight - self._usual)
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
        sign = self._signs.refused()
        self._rate.bearable = max(_BEARABLE, 2 * self._signs.share)
        if not sign:
            return None
        if news:
            self._hold.start(now, self._row.length)
        return self._blame(attempt, load, now, now + max(_EPISODE, wait))

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
            by_rate = row >= _WALL or (fewer and now >= self._rate.doubted_until)
        if by_rate:
            return self._rate.cut(row, now, calm)
        return self._slots.cut(attempt.at, load, now, calm, unusual=rated)


class _Signs:
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


class _Row:
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


class _Hold:
    """When the next may be sent: after refusals a pause, then one by one, ever faster."""

    __slots__ = ("_gap", "_step", "until")

    def __init__(self) -> None:
        self.until = -math.inf
        self._gap = _FIRST_GAP
        self._step = 0.0

    def wait(self, until: float) -> None:
        self.until = max(self.until, until)

    def start(self, now: float, row: int) -> None:
        """Pause, twice as long with each refusal in a row."""
        self._step = min(_LONGEST_GAP, self._gap * 2.0 ** min(row - 1, 16))
        self.wait(now + self._step)

    def lift(self) -> None:
        self._step = 0.0

    def sent(self, now: float) -> None:
        self._step = self._step / 2 if self._step > _NO_GAP else 0.0
        self.wait(now + self._step)

    def answered(self, latency: float) -> None:
        """Pause no longer at first than the endpoint usually takes to answer."""
        self._gap += _MEMORY * (min(_FIRST_GAP, max(_NO_GAP, latency)) - self._gap)


class _Slots:
    """How many may be in flight."""

    def __init__(self, start: int, least: int, most: int) -> None:
        self.limit = start
        self._least, self._most = least, most
        self._starting = True
        self._ceiling: int | None = None
        self._probing = False
        self._patience = 1
        self._clean = self._peak = 0  # in this round
        self._share = 0.0  # of late refused
        self._reached = 0  # in flight at the last cut
        self._used = False
        self._cut_at = self._calm = self._changed_at = -math.inf

    def sent(self, in_flight: int) -> None:
        self._peak = max(self._peak, in_flight)

    def answered(self, *, refused: bool) -> None:
        self._share += _MEMORY * (refused - self._share)

    def troubled(self) -> None:
        self._clean = max(0, self._clean - _TROUBLE)

    def end_round(self) -> None:
        """Begin another round, without growth."""
        self._clean = self._peak = 0

    def contradicted(self, load: int, at: float, now: float) -> bool:
        """Return whether fewer in flight are refused than those that led to the last cut."""
        recent = self._cut_at <= at and now < self._cut_at + _MINUTE
        return recent and self._used and load < 0.9 * self._reached

    def grow(self, now: float) -> Change | None:
        """Count a success; raise the limit where a round is complete."""
        self._clean += 1
        at_ceiling = self._ceiling is not None and self.limit >= self._ceiling
        if self._clean < (max(self.limit, _SMALL_ROUND) if at_ceiling else self.limit):
            return None
        if self._peak < _USED * self.limit:
            return None
        if at_ceiling:
            if now < self._changed_at + self._patience * _EPISODE:
                return None
            self._ceiling, self._probing = None, True
        elif self._probing:
            self._probing, self._patience = False, 1
        reason = f"{self._clean} successes in a row"
        self.end_round()
        return self._set(self._next(), reason, now)

    def cut(self, at: float, load: int, now: float, calm: float, *, unusual: bool) -> Change | None:
        """Lower the limit, once an episode.

        Args:
            at: when the refused attempt was sent.
            load: how many were in flight with it.
            now: the moment.
            calm: when the episode ends.
            unusual: whether the load, rather than the limit, is what was too much.
        """
        if at < self._cut_at:
            return self._refine(now)
        if now < self._calm:
            return self._clamp(load, now)
        self._patience = min(_PATIENT_EPISODES, 2 * self._patience) if self._probing else 1
        self._starting = self._probing = False
        self._used = unusual or load >= _USED * self.limit
        self._reached = min(load, self.limit) if self._used else self.limit
        self._cut_at, self._calm = now, calm
        return self._lower(now)

    def _refine(self, now: float) -> Change | None:
        """Count another refusal of the volley that led to the last cut: one less was borne."""
        self._reached -= 1
        # In few steps, since each is recorded.
        return self._lower(now) if self._reached < self.limit else None

    def _clamp(self, load: int, now: float) -> Change | None:
        """Take back what the limit grew since the cut, where that is what was refused."""
        if load < 0.9 * self._reached:
            return None
        self._ceiling = max(self._floor(), min(self.limit, load) - 1)
        return self._set(min(self.limit, self._ceiling), f"refused with {load} in flight", now)

    def _lower(self, now: float) -> Change | None:
        floor = self._floor()
        self._ceiling = max(floor, self._reached - 1)
        limit = min(self.limit, max(floor, int(_CUT * self._reached)))
        return self._set(limit, f"refused with {self._reached} in flight", now)

    def _floor(self) -> int:
        return self._least if self._share > _MANY_REFUSED else min(_FEW, self.limit)

    def _next(self) -> int:
        if self._starting:
            return 2 * self.limit
        more = self.limit + max(1, int(_GROWTH * self.limit))
        return more if self._ceiling is None else min(more, self._ceiling)

    def _set(self, limit: int, reason: str, now: float) -> Change | None:
        before, self.limit = self.limit, min(max(limit, self._least), self._most)
        if self.limit == before:
            return None
        self._changed_at = now
        return Change("concurrency", before, self.limit, reason)


class _Rate:
    """How many may be sent in a minute."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self.bearable = _BEARABLE
        self.doubted_until = -math.inf
        self._gone = Window(_MINUTE)  # sent, and not refused so far
        self._gone_since = -math.inf
        self._learned_at = self._calm = self._period_from = -math.inf
        self._sent = self._refused = 0.0  # in this period, and fading from the one before
        self._share_before = 0.0  # refused, before the rate was learned
        self._proven = False
        self._vain = 0  # cuts of a rate that everything seemed to go through
        self._floor = self._trusted = 1.0
        self._ceiling: float | None = None
        self._patience = 1
        self._probes = 0

    def sent(self, now: float) -> None:
        if self.limit is None and now >= self._period_from + _MINUTE:
            self._start_period(now)
        self._sent += 1
        self._gone.add(1, now, now)
        if self._gone.total == 1:
            self._gone_since = now

    def refused(self, at: float, row: int, now: float) -> None:
        # While nothing goes through, refusals say nothing about how often it is refused otherwise.
        self._refused += row <= _WALL
        self._gone.add(-1, at, now)

    def cut(self, row: int, now: float, calm: float) -> Change | None:
        """Learn the rate, correct it in its first minute, and later lower it once an episode.

        Args:
            row: how many refusals there were in a row.
            now: the moment.
            calm: when the episode ends.
        """
        if self.limit is None or now < self._learned_at + _MINUTE or row == _WALL:
            return self._learn(row, now, calm)
        # While nothing goes through, another refusal does not tell how much would.
        if now < self._calm or row > _WALL or self._refused <= 1 + self.bearable * self._sent:
            return None
        self._calm = calm
        if self._futile(self.limit, now):
            self.doubted_until = now + _DOUBT
            return self._set(None, "refused no less often for it")
        self._patience = min(_PATIENT_MINUTES, 2 * self._patience) if 0 < self._probes <= 2 else 1
        self._floor = max(1.0, _CUT * self.limit)
        ceiling = min(self._seen(now), self.limit)
        return self._lower(min(0.95 * self.limit, _JUST_BELOW * ceiling), ceiling, now)

    def grow(self, now: float) -> Change | None:
        """Raise the rate where all of it was used for long enough with hardly a refusal."""
        if self.limit is None or now < self._period_from + self._period():
            return None
        if self._refused > self.bearable * self._sent:
            self._period_from = now
            self._sent, self._refused = _FADE * self._sent, _FADE * self._refused
            return None
        helped = self._helped()
        self._start_period(now)
        if self._seen(now) < _USED * self.limit:
            return None
        if self._ceiling is not None and self.limit < _JUST_BELOW * self._ceiling:
            limit = min((1 + _GROWTH) * self.limit, _JUST_BELOW * self._ceiling)
        else:
            limit = (1 + self._step()) * self.limit
        self._trusted = max(self._trusted, limit)
        if helped:
            self._proven, self._vain = True, 0
        return self._set(limit, "hardly a refusal")

    def _step(self) -> float:
        """Return by how much to go beyond the ceiling: more every time that it went well."""
        if self._ceiling is None:
            self._patience = 1
        self._ceiling = None
        self._probes += 1
        return min(_LONGEST_STEP, _FIRST_STEP * 2.0 ** max(0, self._probes - 2))

    def _learn(self, row: int, now: float, calm: float) -> Change | None:
        """Take what went through in the last minute for the rate."""
        seen = self._seen(now)
        limit = _JUST_BELOW * seen
        if self.limit is None:
            # Whatever the server counts over, no minute bears less than went through in this one.
            self._floor = max(1.0, 0.9 * self._gone.total)
            self._learned_at, self._calm = now, calm
            self._proven, self._vain = False, 0
            self._share_before = self._refused / max(1, self._sent)
        elif row < _WALL and seen > _USED * self.limit:
            # What goes through follows the rate: that it is refused all the same does not make it less.
            return None
        else:
            limit = min(limit, self.limit)
            self._floor = max(1.0, self.limit / 2) if row == _WALL else self._floor
        self._proven = self._proven or row >= _WALL
        change = self._lower(limit, seen, now)
        self._trusted = self.limit or 1.0
        # What is known only roughly is explored in larger steps.
        self._probes = 2
        return change

    def _futile(self, limit: float, now: float) -> bool:
        """Return whether requests are refused as often as before there was a rate, or at a fraction of it."""
        # While the server holds back more than the rate does, the rate is only too high.
        if self._seen(now) < _USED * limit:
            return limit <= self._trusted / 4
        self._vain += 1
        helped = self._proven or self._helped()
        return limit <= self._trusted / 3 or (self._vain > 1 and not helped)

    def _helped(self) -> bool:
        """Return whether less is refused than before there was a rate."""
        return self._refused < self._share_before / 2 * self._sent

    def _period(self) -> float:
        if self._ceiling is None or self.limit is None:
            return _MINUTE
        return _EPISODE if self.limit < _JUST_BELOW * self._ceiling else self._patience * _MINUTE

    def _start_period(self, now: float) -> None:
        self._period_from = now
        self._sent = self._refused = 0.0

    def _seen(self, now: float) -> float:
        """Return the requests per minute that went through lately."""
        seconds = min(_MINUTE, max(1.0, now - self._gone_since))
        return self._gone.since(seconds, now) * _MINUTE / seconds

    def _lower(self, limit: float, ceiling: float, now: float) -> Change | None:
        self._ceiling, self._probes = ceiling, 0
        self._start_period(now)
        limit = max(limit, self._floor)
        # In few steps, since each is recorded.
        if self.limit is not None and limit > self.limit * _JUST_BELOW:
            return None
        return self._set(limit, f"refused when {ceiling:.0f} a minute went through")

    def _set(self, limit: float | None, reason: str) -> Change | None:
        before, self.limit = self.limit, limit
        return None if limit == before else Change("requests_per_minute", before, limit, reason)
