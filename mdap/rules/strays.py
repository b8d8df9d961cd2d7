"""Tell stray 429s from a real limit by their frequency."""

import math
from collections import deque
from typing import Final

__all__ = ["Strays"]

_RARE, _MOST, _SUSPECT = 0.005, 0.15, 0.05
_SIGN: Final = 4.5  # one false alarm in thousands of answers
_TRIED, _WINDOW, _WINDOWS = 200, 400, 4  # answers


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

        Args:
            refused: whether it was a refusal.
            learn: whether it may tell what is usual: not if it was asked before the limit was lowered.
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
