"""The rungs of `-k robust`: how clear a step's vote must be, and what the step pays when it is not smooth.

The proof that each price covers its step is in `docs/explanation/guarantee.md`.
"""

from bisect import bisect_left
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple

from mdap.errors import UsageError

FLOORS: Final = tuple(Fraction(twentieth, 20) for twentieth in range(8, 20))
"""The floors for which `advantage` is proved; a floor between two of them rounds down."""

MOST_MARGIN: Final = 64
"""The greatest margin for which `advantage` is proved."""

_MOST_DISSENT: Final = 6


class Rung(NamedTuple):
    """How a step is decided, and its price.

    Attributes:
        margin: m; a step is smooth when its leader has ``m + 3a`` votes over *a* others.
        lead: K; by how much the winner of a contested step leads the runner-up; 0 where votes never decide
            a contested step.
        dissent: D; with so many votes against its leader, a step is contested.
        price: what a step pays that is not smooth.
    """

    margin: int
    lead: int
    dissent: int
    price: Fraction


def exact(value: float) -> Fraction:
    """Return the decimal number that a person wrote, exactly: 0.95 is 19/20."""
    return Fraction(repr(value))


@lru_cache(maxsize=4096)
def paths(margin: int, dissent: int) -> tuple[int, ...]:
    """Return in how many orders one of two answers wins smoothly over 0, 1, ..., ``dissent - 1`` votes."""
    won = []
    before = [1] + [0] * (margin + 3 * dissent)
    for against in range(dissent):
        here, reached = [], 0
        for votes in range(margin + 3 * against):
            reached += before[votes]
            here.append(reached)
        won.append(reached)
        before = here + [0] * (margin + 3 * dissent)
    return tuple(won)


@lru_cache(maxsize=4096)
def advantage(floor: Fraction, margin: int, dissent: int) -> Fraction:
    """Return c: a step that is right with *floor* or more is c times as often not smooth as smoothly wrong.

    It is the ratio at *floor*, rounded down to hundredths, for a margin of at least *dissent*.
    `tests/unit/rules/test_rungs.py` proves that no greater chance has a smaller ratio, for each of `FLOORS`.
    """
    right = max(shipped for shipped in FLOORS if shipped <= floor)
    smoothly_wrong = _smooth(1 - right, margin, dissent)
    not_smooth = 1 - smoothly_wrong - _smooth(right, margin, dissent)
    return Fraction(int(not_smooth / smoothly_wrong * 100), 100)


def _smooth(chance: Fraction, margin: int, dissent: int) -> Fraction:
    """Return how likely a step is smooth with an answer that each vote has with *chance*."""
    return sum(
        (
            ways * chance ** (margin + 3 * against) * (1 - chance) ** against
            for against, ways in enumerate(paths(margin, dissent))
        ),
        Fraction(0),
    )


class Ladder:
    """The rungs of a run that may spend *budget*, from the one that it begins with.

    Raises:
        UsageError: the floor is below those that are proved, or too low for votes to decide contested steps,
            or no rung is cheap enough.
    """

    def __init__(self, floor: Fraction, budget: Fraction, *, votes_decide: bool) -> None:
        if not FLOORS[0] <= floor < 1:
            raise UsageError(f"--floor must be from {float(FLOORS[0]):g} to below 1, not {float(floor):g}")
        if votes_decide and floor <= Fraction(1, 2):
            raise UsageError(
                f"at a floor of {float(floor):g} votes cannot decide a contested step: use --contested stop, "
                "or a floor above 0.5"
            )
        self._floor = floor
        self._budget = budget
        self._odds = floor / (1 - floor) if votes_decide else None
        self._rungs: list[Rung] = []
        margin, rung = 2, self._rung(2, 2)
        while rung.price > budget / 2:
            margin += 1
            rung = self._rung(margin, min(margin, _MOST_DISSENT))
        self._rungs.append(rung)

    @property
    def first(self) -> Rung:
        """The rung of the first step; its dissent is that of all."""
        return self._rungs[0]

    @property
    def samples_allowed(self) -> int | None:
        """Samples after which a contested step is left undecided; None where votes do not decide it.

        So many suffice but for one in ten thousand of them, at the floor and at any rung that a run is likely
        to come to.
        """
        if self._odds is None:
            return None
        drift = 2 * self._floor - 1
        return ceil(2 * self.cheapest(self._budget / 500).lead / drift + 20 / drift**2)

    def cheapest(self, limit: Fraction) -> Rung:
        """Return the lowest rung whose price is at most *limit*.

        Raises:
            UsageError: no rung that is proved is so cheap.
        """
        rungs = self._rungs
        while rungs[-1].price > limit:
            rungs.append(self._rung(rungs[-1].margin + 1, rungs[0].dissent))
        return rungs[bisect_left(rungs, -limit, key=lambda rung: -rung.price)]

    def _rung(self, margin: int, dissent: int) -> Rung:
        if margin > MOST_MARGIN:
            raise UsageError(
                f"no margin up to {MOST_MARGIN} is proved to keep so high a target: lower --target"
            )
        share = 1 / advantage(self._floor, margin, dissent)
        if self._odds is None:
            return Rung(margin, 0, dissent, share)
        # So wide a lead that no order of arrival can end a race earlier than another.
        lead = margin + 3 * (dissent - 1)
        if self._rungs:
            lead = max(lead, self._rungs[-1].lead)
        while 1 / (1 + self._odds**lead) > share / 4:
            lead += 1
        return Rung(margin, lead, dissent, share + 1 / (1 + self._odds**lead))
