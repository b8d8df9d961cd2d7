"""Margins that follow the evidence: a total error budget, spent by a rule that is proved to keep it.

The proof is in `docs/explanation/calibration-and-certificate.md`. In short: with a target T, the budget is
1 - T. A tenth of it pays for a bound on the error rate that holds at all times at once; the rest pays for
the decisions, each of which is wrong with the chance that `mdap.rules.scaling` gives.
"""

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["FIRST_BLOCK", "FIRST_MARGIN", "block_start", "keeps", "next_margin", "rate_bound", "spent_by"]

FIRST_BLOCK: Final = 10
"""Steps before the margin is chosen anew; each block ends at twice the step of the one before it."""

FIRST_MARGIN: Final = 16
"""The margin of the first block, where nothing is known yet."""

_FOR_BOUND: Final = 0.1
# At a margin of 1 no vote can be against a winner, and nothing more would be learned.
_NARROWEST: Final = 2


def block_start(step: int) -> int:
    """Return the first step of the block in which *step* is: 0, 10, 20, 40, 80, ..."""
    if step < FIRST_BLOCK:
        return 0
    return FIRST_BLOCK << ((step // FIRST_BLOCK).bit_length() - 1)


def rate_bound(against: int, votes: int, alpha: float, margins: Mapping[int, int] | None = None) -> float:
    """Return what the error rate is below, with all such bounds of a run at once holding but for *alpha*.

    A tally of w votes over r has the chance (1-e)^w e^r + e^w (1-e)^r, whichever answer is right. Its mean
    over Jeffreys' prior, over the same at the true e, multiplied over all steps, is a martingale that starts
    at 1, so it ever reaches 1/alpha with a chance of *alpha* at most (Ville). The bound is the largest e at
    which it has not; 1/2 where none below that is ruled out.

    Args:
        against: votes against winners so far, and wrong votes of a calibration before.
        votes: votes so far, likewise.
        alpha: chance that the bound ever fails.
        margins: how many of the decisions had each margin; None if all votes are from a calibration.
    """
    from scipy.special import betaln

    mixture = float(betaln(against + 0.5, votes - against + 0.5)) - math.log(math.pi) + math.log(alpha)
    counts = (margins or {}).items()

    def ruled_out(rate: float) -> bool:
        log_odds = math.log(rate) - math.log1p(-rate)
        either = sum(count * math.log1p(math.exp(k * log_odds)) for k, count in counts)
        return mixture >= against * math.log(rate) + (votes - against) * math.log1p(-rate) + either

    if against * 2 >= votes or not ruled_out(0.5):
        return 0.5
    low, high = against / votes, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if middle > 0 and ruled_out(middle) else (middle, high)
    return high


def spent_by(margins: Mapping[int, int], rate: float) -> float:
    """Return the expected wrong decisions at an error rate, given how many decisions had each margin."""
    return sum(count * _wrong(rate, k) for k, count in margins.items())


def next_margin(
    margins: Mapping[int, int], heard: tuple[int, int], steps_left: int, target: float
) -> tuple[int, float]:
    """Return the margin for the steps to come, and the bound on the error rate by which it was chosen.

    It is the smallest with which the steps to come, at that bound, use up no more than what the decisions so
    far leave of the budget; at least 2, and at most twice the widest margin before, since a bound from few
    votes is often far too high, and what it would cost now can be made up for later.

    Args:
        margins: how many decisions so far had each margin.
        heard: votes against winners, and votes, so far.
        steps_left: steps to come.
        target: wanted chance that no decision of the run is wrong.
    """
    budget = 1 - target
    rate = rate_bound(*heard, budget * _FOR_BOUND, margins)
    left = budget * (1 - _FOR_BOUND) - spent_by(margins, rate)
    each = (left if left > 0 else budget / 2) / max(steps_left, 1)
    widest = 2 * max(FIRST_MARGIN // 2, *margins, 1) if margins else 4 * FIRST_MARGIN
    k = _NARROWEST
    while _wrong(rate, k) > each and k < widest:
        k += 1
    return k, rate


def keeps(margins: Mapping[int, int], heard: tuple[int, int], target: float) -> bool:
    """Return whether a run that is over has kept its target: it spent no more than its budget.

    Args:
        margins: how many decisions had each margin.
        heard: votes against winners, and votes.
        target: wanted chance that no decision is wrong.
    """
    budget = 1 - target
    rate = rate_bound(*heard, budget * _FOR_BOUND, margins)
    return rate < 0.5 and spent_by(margins, rate) <= budget * (1 - _FOR_BOUND)


def _wrong(rate: float, k: int) -> float:
    """Return the chance that a decision is wrong, without the loss of digits of 1 minus it being right."""
    if rate <= 0:
        return 0.0
    odds = k * (math.log(rate) - math.log1p(-rate))
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
