"""The error budget of a run with `-k robust`, in exact fractions: each step's rung, and what is spent."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from mdap.records import Guarantee
from mdap.rules.rungs import Ladder, Rung, exact
from mdap.settings import Robust, VotingSettings

__all__ = ["Ledger", "Payments", "guarantee_of", "ledger_after"]


class Ledger:
    """Keep the error budget of one run, in the order of its steps.

    Each step pays the price of its rung unless it is smooth. No price is above half of what is left, so the
    run never spends more than its budget, and expects no more wrong decisions than it has spent.

    Args:
        terms: floor, target, what becomes of contested steps, and the length of the run if it is known.

    Attributes:
        spent: what has been paid.
        payments: how many payments that was.
    """

    __slots__ = ("_length", "budget", "ladder", "payments", "spent")

    def __init__(self, terms: Robust) -> None:
        self.budget = 1 - exact(terms.target)
        self.ladder = Ladder(exact(terms.floor), self.budget, votes_decide=terms.contested == "decide")
        self._length = terms.length
        self.spent = Fraction(0)
        self.payments = 0

    def limit(self, done: int) -> Fraction:
        """Return the most that the next step may have to pay.

        Where the length is known, what is left shall last for as many contested steps to come as those so
        far foretell, and two more. Where it is not, the limits of 1, 2, ... payments add up to the budget.

        Args:
            done: the steps before it.
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

    def pay(self, price: Fraction) -> None:
        """Pay for a step that is not smooth, or for a whole nested run."""
        self.spent += price
        self.payments += 1

    def give_back(self, unspent: Fraction, *, all_of_it: bool) -> None:
        """Take back what a nested run did not spend.

        Args:
            unspent: how much.
            all_of_it: whether it spent nothing; then it counts as no payment.
        """
        self.spent -= unspent
        self.payments -= all_of_it

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
        ledger.spent += Fraction(data["price"])
        ledger.payments += data["payments"]
    return ledger


class Payments(NamedTuple):
    """The payments from error budgets in a run with `-k robust`.

    Attributes:
        own: those of the run.
        parts: the number of its independent parts with steps of their own.
        of_parts: their payments, each with the number of the part.
    """

    own: Sequence[Mapping[str, Any]]
    parts: int = 0
    of_parts: Sequence[tuple[int, Mapping[str, Any]]] = ()


def guarantee_of(voting: VotingSettings, payments: Payments) -> Guarantee | None:
    """Return what can be said of a run with these payments; None if it was not by `-k robust`."""
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
