"""Races simulated by their law, many at a time, for tests and benchmarks of statistics."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdap.records import TallyShape

__all__ = ["races", "shapes_of", "spread_races"]


def races(rng: np.random.Generator, error_rates: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Race the right answer against one wrong one, step by step; return who lost and the votes each took."""
    lead = np.zeros(error_rates.size, dtype=int)
    votes = np.zeros(error_rates.size, dtype=int)
    racing = np.arange(error_rates.size)
    while racing.size:
        lead[racing] += np.where(rng.random(racing.size) < error_rates[racing], -1, 1)
        votes[racing] += 1
        racing = racing[np.abs(lead[racing]) < k]
    return lead < 0, votes


def shapes_of(votes: NDArray[Any], k: int) -> list[TallyShape]:
    """Return the tallies of races between two answers, from how many votes each took."""
    losers, counts = np.unique((votes - k) // 2, return_counts=True)
    return [
        TallyShape(int(lost) + k, int(lost), 2 * int(lost) + k, int(count))
        for lost, count in zip(losers, counts, strict=True)
    ]


def spread_races(
    rng: np.random.Generator, steps: int, rates: tuple[float, float], k: int
) -> tuple[int, list[TallyShape]]:
    """Race among five answers, where four wrong ones are equally likely, but for hard steps.

    A share ``rates[1]`` of the steps is hard: 80 % of the votes are for one and the same wrong answer.

    Returns:
        How many steps were decided wrongly, and the tallies.
    """
    found: Counter[tuple[int, int, int]] = Counter()
    errors = 0
    for _ in range(steps):
        hard = rng.random() < rates[1]
        votes = [0] * 5
        first = second = 0
        while first - second < k:
            wrong = rng.random() < (0.8 if hard else rates[0])
            votes[(1 if hard else int(rng.integers(1, 5))) if wrong else 0] += 1
            first, second = sorted(votes, reverse=True)[:2]
        errors += votes[0] != first
        found[first, second, sum(votes)] += 1
    return errors, [TallyShape(*shape, count) for shape, count in sorted(found.items())]
