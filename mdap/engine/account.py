"""The error budget of a run under way with `-k robust`: which rung a step gets, and what has been paid."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Final

from mdap.records import RunEvent, StepOpened
from mdap.rules.ledger import Ledger
from mdap.rules.rungs import Rung
from mdap.settings import Robust

CONTESTED: Final = "contested"
UNDECIDED: Final = "undecided"
ABANDONED: Final = "abandoned"
"""Why a step pays: it is contested, found no winner, or was abandoned."""


class Account:
    """Charge each tier of a run's steps that are not smooth once, and record the payment.

    *paid* is what earlier sessions recorded, see `mdap.records.EVENTS`; *lent* is what each nested run was
    charged and has not returned, by the step as which it was asked for.
    """

    def __init__(self, run: int, ledger: Ledger, paid: Iterable[Mapping[str, Any]] = ()) -> None:
        self._run = run
        self._ledger = ledger
        self._paid: dict[tuple[int, int, int], Rung] = {}
        self.lent: dict[int, Fraction] = {}
        for data in paid:
            self._post(data)

    def _post(self, data: Mapping[str, Any]) -> None:
        ledger, price = self._ledger, Fraction(data["price"])
        ledger.pay(price, data["payments"])
        if "m" in data:
            rung = Rung(data["m"], data["lead"], ledger.ladder.first.dissent, price)
            self._paid[data["step"], data["opening"], data["tier"]] = rung
        elif data["why"] == "lent":
            self.lent[data["step"]] = price
        elif data["why"] == "returned":
            del self.lent[data["step"]]

    def rung(self, step: int) -> Rung:
        """Return the rung of *step* if every open step before it turns out smooth."""
        return self._ledger.rung(step)

    def paid(self, opened: StepOpened, tier: int) -> Rung | None:
        """Return the rung at which a tier of a step has paid; None if it has not."""
        return self._paid.get((opened.step, opened.opening, tier))

    def pay(self, opened: StepOpened, tier: int, rung: Rung, why: str) -> list[RunEvent]:
        """Charge a tier of a step that is not smooth, unless it has paid; return what to record.

        *why* is `CONTESTED`, `UNDECIDED` or `ABANDONED`.
        """
        if self.paid(opened, tier) is not None:
            return []
        about = {"opening": opened.opening, "tier": tier, "m": rung.margin, "lead": rung.lead}
        return self._record(why, opened.step, rung.price, 1, about)

    def lend(self, step: int) -> list[RunEvent]:
        """Charge the nested run that was asked for as *step* its whole share, unless it has been.

        The share is a whole number of 10^-12, so that one minus it can be written down as a target.
        """
        if step in self.lent:
            return []
        return self._record("lent", step, Fraction(int(self._ledger.limit(step) * 10**12), 10**12), 1, {})

    def returned(self, step: int, before: int, unspent: Fraction, *, all_of_it: bool) -> list[RunEvent]:
        """Take back what a nested run, asked for as *step*, did not spend; return what to record.

        The steps from *before* on may count on it.
        """
        return self._record("returned", step, -unspent, -int(all_of_it), {"before": before})

    def _record(
        self, why: str, step: int, price: Fraction, payments: int, about: Mapping[str, Any]
    ) -> list[RunEvent]:
        data = {"why": why, "step": step, **about, "price": str(price), "payments": payments}
        self._post(data)
        return [RunEvent(self._run, "paid", f"step {step}: {why}", data=data)]


def account_of(run: int, terms: Robust | None, paid: Iterable[Mapping[str, Any]]) -> Account | None:
    """Return the error budget of a run, from what it has paid; None where it has none."""
    return None if terms is None else Account(run, Ledger(terms), paid)
