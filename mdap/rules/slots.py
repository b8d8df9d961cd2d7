"""How many requests an endpoint bears at once, learned from its refusals."""

import math
from typing import Final

from mdap.rules.refusals import CUT, EPISODE, GROWTH, MEMORY, MINUTE, USED, Change

__all__ = ["Slots"]

_PATIENT_EPISODES: Final = 16
_SMALL_ROUND: Final = 8
# Where less than a quarter is refused, so few in flight are hardly too many.
_FEW: Final = 4
_MANY_REFUSED: Final = 0.25
# A failure that is no refusal takes back so many successes: where more than a third fails, growth stops.
_TROUBLE: Final = 2


class Slots:
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
        """Count a request as sent, with so many in flight then."""
        self._peak = max(self._peak, in_flight)

    def answered(self, *, refused: bool) -> None:
        """Count an answer, which may be a refusal."""
        self._share += MEMORY * (refused - self._share)

    def troubled(self) -> None:
        """Count a failure that is no refusal."""
        self._clean = max(0, self._clean - _TROUBLE)

    def end_round(self) -> None:
        """Begin another round, without growth."""
        self._clean = self._peak = 0

    def contradicted(self, load: int, at: float, now: float) -> bool:
        """Return whether fewer in flight are refused than those that led to the last cut."""
        recent = self._cut_at <= at and now < self._cut_at + MINUTE
        return recent and self._used and load < 0.9 * self._reached

    def grow(self, now: float) -> Change | None:
        """Count a success; raise the limit where a round is complete."""
        self._clean += 1
        at_ceiling = self._ceiling is not None and self.limit >= self._ceiling
        if self._clean < (max(self.limit, _SMALL_ROUND) if at_ceiling else self.limit):
            return None
        if self._peak < USED * self.limit:
            return None
        if at_ceiling:
            if now < self._changed_at + self._patience * EPISODE:
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
        self._used = unusual or load >= USED * self.limit
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
        limit = min(self.limit, max(floor, int(CUT * self._reached)))
        return self._set(limit, f"refused with {self._reached} in flight", now)

    def _floor(self) -> int:
        return self._least if self._share > _MANY_REFUSED else min(_FEW, self.limit)

    def _next(self) -> int:
        if self._starting:
            return 2 * self.limit
        more = self.limit + max(1, int(GROWTH * self.limit))
        return more if self._ceiling is None else min(more, self._ceiling)

    def _set(self, limit: int, reason: str, now: float) -> Change | None:
        before, self.limit = self.limit, min(max(limit, self._least), self._most)
        if self.limit == before:
            return None
        self._changed_at = now
        return Change("concurrency", before, self.limit, reason)
