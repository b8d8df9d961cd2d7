"""The error budget of a run with `-k robust`, in exact fractions: each step's rung, payments, estimates."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from mdap.records import Guarantee
from mdap.rules.rungs import Ladder, Rung, exact
from mdap.settings import Robust, VotingSettings


class Ledger:
    """Keep the error budget of one run, in the order of its steps.

    Each step pays the price of its rung unless it is smooth. No price is above half of what is left, so the
    run never spends more than its budget, and expects no more wrong decisions than it has spent.
    """

    def __init__(self, terms: Robust) -> None:
        self.budget = 1 - exact(terms.target)
        self.ladder = Ladder(exact(terms.floor), self.budget, votes_decide=terms.contested == "decide")
        self._length = terms.length
        self.spent = Fraction(0)
        self.payments = 0

    def limit(self, done: int) -> Fraction:
        """Return the most that the next step, after *done* others, may have to pay.

        Where the length is known, what is left shall last for as many contested steps to come as those so
        far foretell, and two more. Where it is not, the limits of 1, 2, ... payments add up to the budget.
        """
        if self._length is None:
            return self.budget / ((self.payments + 1) * (self.payments + 2))
        to_come = Fraction(self.payments * max(self._length - done, 0), done) if done else 0
        return (self.budget - self.spent) / (2 + to_come)

    def rung(self, done: int) -> Rung:
        """Return the rung of the step that *done* steps come before.

        It only rises as payments are made. So a step may be sampled before those in front of it are decided,
        as if all of them were to turn out smooth, and go on at a higher rung if one does not.
        """
        return self.ladder.cheapest(self.limit(done)) if self.payments else self.ladder.first

    def pay(self, price: Fraction, payments: int = 1) -> None:
        """Pay for a step that is not smooth, or for a nested run.

        A *price* below 0 takes back what a nested run did not spend; *payments* is -1 where that is all of
        it.
        """
        self.spent += price
        self.payments += payments

    @property
    def bound(self) -> Fraction:
        """What this bounds: the chance of a wrong decision together with so little spent as now."""
        left = self.budget - self.spent
        further = left / 2 if self._length is not None else self.rung(0).price
        return min(self.spent + further, self.budget)


def ledger_after(terms: Robust, paid: Iterable[Mapping[str, Any]]) -> Ledger:
    """Return the error budget of a run after what it has *paid*; see `mdap.records.EVENTS`."""
    ledger = Ledger(terms)
    for data in paid:
        ledger.pay(Fraction(data["price"]), data["payments"])
    return ledger


class Payments(NamedTuple):
    """The payments from error budgets in a run with `-k robust`, and in its independent *parts*.

    Those *of_parts* come with the number of the part; only parts with steps of their own count.
    """

    own: Sequence[Mapping[str, Any]]
    parts: int = 0
    of_parts: Sequence[tuple[int, Mapping[str, Any]]] = ()


def guarantee_of(voting: VotingSettings, payments: Payments) -> Guarantee | None:
    """Return the guarantee of a run with these payments; None without `-k robust`.

    With independent parts, it covers their payments too, and bounds them by the whole budget.
    """
    terms, paid = voting.robust, payments.own
    if terms is None:
        return None
    ledger = ledger_after(terms, paid)
    everything = [*((0, data) for data in paid), *payments.of_parts]
    contested = {(run, data["step"]) for run, data in everything if data["why"] == "contested"}
    others = {(run, data["step"]) for run, data in everything if data["why"] in ("undecided", "abandoned")}
    if payments.parts:
        spent = sum((Fraction(data["price"]) for _, data in everything), Fraction(0))
        bound, parts = 1 - exact(terms.target), payments.parts
    else:
        spent, bound, parts = ledger.spent, ledger.bound, 0
    return Guarantee(
        floor=terms.floor,
        target=terms.target,
        contested=len(contested),
        undecided=len(others - contested),
        spent=spent,
        bound=bound,
        parts=parts,
    )


class Law(NamedTuple):
    """How a step ends at a rung, if each vote is right with probability p.

    It is smooth and *wrong*, or *contested*, with these chances; *lost* is the chance that it is wrong if
    it is contested, and votes decide it. *votes* is their mean number.
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
    """Estimate a run whose steps are all equally hard."""
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
