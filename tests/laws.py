"""Races simulated by their law, many at a time, for tests and benchmarks of statistics."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdap.records import TallyShape

__all__ = ["races", "shapes_of"]


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
