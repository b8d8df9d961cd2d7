"""Theory of race lengths: the lead of two candidates is a random walk that ends at +k or -k."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["likely_error_rate", "lost_votes", "race_lengths"]


def race_lengths(error_rate: float, k: int, most: int) -> list[float]:
    """Return the chance that a race between two candidates is decided by exactly 0, 1, ... *most* votes.

    Args:
        error_rate: chance that a valid sample is wrong, from 0 to 1.
        k: the margin, at least 1.
        most: the largest number of votes of interest.
    """
    ends = [0.0] * (most + 1)
    if most >= k:
        ends[k::2] = lost_votes(error_rate, k, (most - k) // 2).tolist()
    return ends


def lost_votes(error_rate: Any, k: int, most: int) -> "NDArray[Any]":
    """Return the chance that a race has exactly 0, 1, ... *most* votes against its winner.

    At p = 1/2 it is a random walk to one of two ends, k places away (Feller, volume 1, XIV.5). Each way that
    ends with l votes against the winner has the chance ``(e (1 - e))^l ((1 - e)^k + e^k)`` at any p.

    Args:
        error_rate: chance that a valid sample is wrong; a column for a row of chances each.
        k: the margin, at least 1.
        most: the largest number of votes against the winner.
    """
    import numpy as np

    lost = np.arange(most + 1)
    angle = np.arange(1, 2 * k, 2)[:, None] * np.pi / (2 * k)
    even = (np.cos(angle) ** (k + 2 * lost - 1) * np.sin(angle) * np.sin(k * angle)).sum(axis=0) / k
    right = 1 - error_rate
    law: NDArray[Any] = np.maximum(even, 0) * (4 * error_rate * right) ** lost * 2.0 ** (k - 1)
    law *= right**k + error_rate**k
    return law


def likely_error_rate(races: Mapping[tuple[int, int], int]) -> float:
    """Return the error rate under which races between two candidates were most likely to go as they did.

    Votes against the winners are not simply wrong ones: some winners are wrong. A race of margin k with a
    votes against its winner has the likelihood ``(e (1 - e))^a ((1 - e)^k + e^k)``.

    Args:
        races: how many races there were, by margin and votes against the winner.

    Returns:
        The rate, from 0 to one half: above that, the same races look like others below it.
    """

    def log_likelihood(rate: float) -> float:
        inner = math.log(rate * (1 - rate))
        return sum(
            count * (against * inner + math.log((1 - rate) ** k + rate**k))
            for (k, against), count in races.items()
        )

    if not any(against for _, against in races):
        return 0.0
    low, high = 1e-9, 0.5
    while high - low > 1e-9:
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if log_likelihood(left) < log_likelihood(right):
            low = left
        else:
            high = right
    return (low + high) / 2
