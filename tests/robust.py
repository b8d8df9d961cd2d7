"""Runs of `-k robust` without an engine: votes drawn, counted and paid for, one step after the other."""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from mdap.rules.ledger import Ledger
from mdap.rules.tally import RobustTally
from mdap.settings import Robust

__all__ = ["Outcome", "Right", "run"]

Right = Callable[[int, int], float]
"""The chance that a vote is right, by step and by how many steps paid before it."""


class Outcome(NamedTuple):
    """What a run came to."""

    wrong: int
    votes: int
    payments: int
    undecided: int
    spent: Fraction


def run(terms: Robust, steps: Sequence[Right], chance: random.Random) -> Outcome:
    """Decide *steps*, all wrong votes for one answer, by the rule as it stands."""
    ledger = Ledger(terms)
    wrong = votes = undecided = 0
    for step, right in enumerate(steps):
        tally = RobustTally(ledger.rung(step))
        p = right(step, ledger.payments)
        most = ledger.ladder.samples_allowed or 1000
        for _ in range(most):
            tally.add("right" if chance.random() < p else "wrong")
            votes += 1
            if tally.winner is not None or tally.stuck:
                break
        wrong += tally.winner == "wrong"
        undecided += tally.winner is None
        if not tally.smooth:
            ledger.pay(tally.rung.price)
    return Outcome(wrong, votes, ledger.payments, undecided, ledger.spent)
