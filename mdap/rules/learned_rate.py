"""How many requests an endpoint bears in a minute, learned from its refusals."""

import math
from typing import Final

from mdap.rules.limiter import Window
from mdap.rules.refusals import CUT, EPISODE, GROWTH, MINUTE, USED, WALL, Change

__all__ = ["LearnedRate"]

_JUST_BELOW: Final = 0.97
_BEARABLE: Final = 0.01
_FADE: Final = 0.75
_PATIENT_MINUTES: Final = 8
_FIRST_STEP: Final = 0.03
_LONGEST_STEP: Final = 0.2
_DOUBT: Final = 600.0
# A rate that was lowered so far, and is refused as often by so many refusals, is not what they are about.
_FAR_BELOW: Final = 0.75
_EVIDENCE: Final = 5


class LearnedRate:
    """How many may be sent in a minute."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self.doubted_until = -math.inf
        self._gone = Window(MINUTE)  # sent, and not refused so far
        self._gone_since = -math.inf
        self._learned_at = self._calm = self._period_from = -math.inf
        self._sent = self._refused = 0.0  # in this period, and fading from the one before
        self._share_before = 0.0  # refused, before the rate was learned
        self._proven = False
        self._vain = 0  # cuts of a rate that everything seemed to go through
        self._floor = self._trusted = 1.0
        self._share_there = 0.0  # refused, at the first cut of the trusted rate
        self._ceiling: float | None = None
        self._patience = 1
        self._probes = 0

    def sent(self, now: float) -> None:
        """Count a request as sent."""
        if self.limit is None and now >= self._period_from + MINUTE:
            self._start_period(now)
        self._sent += 1
        self._gone.add(1, now, now)
        if self._gone.total == 1:
            self._gone_since = now

    def refused(self, at: float, row: int, now: float) -> None:
        """Count a refusal of what was sent at the moment *at*, the last of so many in a row."""
        # While nothing goes through, refusals say nothing about how often it is refused otherwise.
        self._refused += row <= WALL
        self._gone.add(-1, at, now)

    def cut(self, row: int, now: float, calm: float) -> Change | None:
        """Learn the rate, correct it in its first minute, and later lower it once an episode.

        Args:
            row: how many refusals there were in a row.
            now: the moment.
            calm: when the episode ends.
        """
        if self.limit is None or now < self._learned_at + MINUTE or row == WALL:
            return self._learn(row, now, calm)
        # While nothing goes through, another refusal does not tell how much would.
        if now < self._calm or row > WALL or self._refused <= 1 + _BEARABLE * self._sent:
            return None
        self._calm = calm
        if self._futile(self.limit, now):
            self.doubted_until = now + _DOUBT
            return self._set(None, "refused no less often for it")
        self._share_there = self._share_there or self._refused / self._sent
        self._patience = min(_PATIENT_MINUTES, 2 * self._patience) if 0 < self._probes <= 2 else 1
        self._floor = max(1.0, CUT * self.limit)
        ceiling = min(self._seen(now), self.limit)
        return self._lower(min(0.95 * self.limit, _JUST_BELOW * ceiling), ceiling, now)

    def grow(self, now: float) -> Change | None:
        """Raise the rate where all of it was used for long enough with hardly a refusal."""
        if self.limit is None or now < self._period_from + self._period():
            return None
        if self._refused > _BEARABLE * self._sent:
            self._period_from = now
            self._sent, self._refused = _FADE * self._sent, _FADE * self._refused
            return None
        self._start_period(now)
        if self._seen(now) < USED * self.limit:
            return None
        if self._ceiling is not None and self.limit < _JUST_BELOW * self._ceiling:
            limit = min((1 + GROWTH) * self.limit, _JUST_BELOW * self._ceiling)
        else:
            limit = (1 + self._step()) * self.limit
        if limit > self._trusted:
            self._trusted, self._share_there = limit, 0.0
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
            self._share_there = 0.0
        elif row < WALL and seen > USED * self.limit:
            # What goes through follows the rate: that it is refused all the same does not make it less.
            return None
        else:
            limit = min(limit, self.limit)
            self._floor = max(1.0, self.limit / 2) if row == WALL else self._floor
        self._proven = self._proven or row >= WALL
        change = self._lower(limit, seen, now)
        self._trusted = self.limit or 1.0
        # What is known only roughly is explored in larger steps.
        self._probes = 2
        return change

    def _futile(self, limit: float, now: float) -> bool:
        """Return whether requests are refused as often as before there was a rate, or at a fraction of it."""
        # While the server holds back more than the rate does, the rate is only too high.
        if self._seen(now) < USED * limit:
            return limit <= self._trusted / 4
        if limit <= _FAR_BELOW * self._trusted and self._refused >= _EVIDENCE:
            return self._refused >= self._share_there / 2 * self._sent
        self._vain += 1
        rarer = self._proven or self._refused < self._share_before / 2 * self._sent
        return self._vain > 1 and not rarer

    def _period(self) -> float:
        if self._ceiling is None or self.limit is None:
            return MINUTE
        return EPISODE if self.limit < _JUST_BELOW * self._ceiling else self._patience * MINUTE

    def _start_period(self, now: float) -> None:
        self._period_from = now
        self._sent = self._refused = 0.0

    def _seen(self, now: float) -> float:
        """Return the requests per minute that went through lately."""
        seconds = min(MINUTE, max(1.0, now - self._gone_since))
        return self._gone.since(seconds, now) * MINUTE / seconds

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
