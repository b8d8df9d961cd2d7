"""How many votes a race takes, by the theory: the lead of two candidates is a walk that ends at +k or -k."""

import math
from collections.abc import Mapping

__all__ = ["likely_error_rate", "race_lengths"]


def race_lengths(error_rate: float, k: int, most: int) -> list[float]:
    """Return the chance that a race between two candidates is decided by exactly 0, 1, ... *most* votes.

    Args:
        error_rate: chance that a valid sample is wrong, from 0 to 1.
        k: the margin, at least 1.
        most: the largest number of votes of interest.
    """
    ends = [0.0] * (most + 1)
    leads = {0: 1.0}
    for votes in range(1, most + 1):
        moved: dict[int, float] = {}
        for lead, chance in leads.items():
            moved[lead + 1] = moved.get(lead + 1, 0.0) + chance * (1 - error_rate)
            moved[lead - 1] = moved.get(lead - 1, 0.0) + chance * error_rate
        ends[votes] = moved.pop(k, 0.0) + moved.pop(-k, 0.0)
        leads = moved
    return ends


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
