"""Estimate a run of `-k robust` in the worst case: all wrong votes of a step agree."""

from functools import lru_cache
from typing import NamedTuple

from mdap.rules.ledger import Ledger
from mdap.rules.rungs import Rung
from mdap.settings import Robust

__all__ = ["Law", "RobustEstimate", "estimate", "law"]


class Law(NamedTuple):
    """How a step ends at a rung, if each vote is right with probability p.

    Attributes:
        wrong: chance that it is smooth and wrong.
        contested: chance that it is not smooth.
        lost: chance that it is wrong if it is contested, and votes decide it.
        votes: mean number of votes.
    """

    wrong: float
    contested: float
    lost: float
    votes: float


class RobustEstimate(NamedTuple):
    """The estimate of a run.

    Attributes:
        m: the margin of the first step.
        dissent: D; so many votes against its leader make a step contested.
        lead: K of the first step: by how much a contested one must be decided; 0 where votes do not.
        covered: how many contested steps the budget covers at that rung; with more of them, m rises.
        contested: how many contested steps to expect.
        votes_per_step: mean number of votes of a step, at the rung that so many contested steps lead to.
    """

    m: int
    dissent: int
    lead: int
    covered: int
    contested: float
    votes_per_step: float


def estimate(terms: Robust, steps: int, error_rate: float) -> RobustEstimate:
    """Estimate a run whose steps are all equally hard.

    Args:
        terms: floor, target, and what becomes of contested steps.
        steps: number of steps.
        error_rate: chance that a valid sample is wrong, 1 - p.
    """
    ledger = Ledger(terms)
    first = ledger.ladder.first
    contested = steps * law(first, 1 - error_rate).contested
    usual = first if contested < 1 else ledger.ladder.cheapest(ledger.budget / int(2 + contested))
    at = law(usual, 1 - error_rate)
    return RobustEstimate(
        m=first.margin,
        dissent=first.dissent,
        lead=first.lead,
        covered=int(ledger.budget / first.price),
        contested=steps * at.contested,
        votes_per_step=at.votes,
    )


def law(rung: Rung, p: float) -> Law:
    """Return how a step ends: vote by vote until it is contested, and by the gambler's ruin from there."""
    # Without the price, which takes long to hash and does not matter.
    return _law(rung.margin, rung.lead, rung.dissent, p)


@lru_cache(maxsize=100_000)
def _law(margin: int, lead: int, dissent: int, p: float) -> Law:
    wrong = contested = lost = votes = 0.0
    layer = {(0, 0): 1.0}
    while layer:
        after: dict[tuple[int, int], float] = {}
        for (right, other), weight in layer.items():
            votes += weight
            for state, chance in (((right + 1, other), p), ((right, other + 1), 1 - p)):
                most, against = max(state), min(state)
                if against >= dissent:
                    loses, further = _ruin(state[0] - state[1], lead, p)
                    contested += weight * chance
                    lost += weight * chance * loses
                    votes += weight * chance * further
                elif most >= margin + 3 * against:
                    wrong += weight * chance * (state[1] > state[0])
                else:
                    after[state] = after.get(state, 0.0) + weight * chance
        layer = after
    return Law(wrong, contested, lost / contested if contested else 0.0, votes)


def _ruin(lead: int, k: int, p: float) -> tuple[float, float]:
    """Return the probability that a race of two at *lead* ends at *-k*, and its mean number of votes."""
    if k == 0 or p in (0, 1):
        return 0.0, float(max(k - lead, 0))
    odds = (1 - p) / p
    if odds == 1:
        return (k - lead) / (2 * k), float(k * k - lead * lead)
    if odds > 1:  # mirrored, since the powers would overflow
        lost, votes = _ruin(-lead, k, 1 - p)
        return 1 - lost, votes
    won = (1 - odds ** (lead + k)) / (1 - odds ** (2 * k))
    return 1 - won, (k * (2 * won - 1) - lead) / (2 * p - 1)
