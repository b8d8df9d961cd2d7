"""Check the error budget of a run: each step's rung and price must follow from the steps before it."""

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mdap.audit.findings import Findings, Kind
from mdap.errors import DatabaseError, UsageError
from mdap.journal.statements import query
from mdap.rules.ledger import Ledger
from mdap.rules.rungs import Rung, exact
from mdap.settings import Robust, VotingSettings

Charge = tuple[int, int, int]
"""Step, opening and tier of a race that was not smooth."""


@dataclass(frozen=True, slots=True)
class Charges:
    """The payments of a run out of its error budget, in the order of its steps.

    *spent* is the amount paid before each payment, and in total; *payments* is the number of payments.
    """

    terms: Robust
    paid: Sequence[Mapping[str, Any]]
    spent: Sequence[Fraction] = field(repr=False)
    payments: Sequence[int] = field(repr=False)

    @property
    def undecided(self) -> set[Charge]:
        """The races that have paid since they found no winner."""
        paid = (data for data in self.paid if "m" in data and data["why"] != "abandoned")
        return {(data["step"], data["opening"], data["tier"]) for data in paid}

    def given_up(self, step: int) -> bool:
        """Return whether a step paid because nothing waited for it any more, or never paid."""
        whys = {data["why"] for data in self.paid if data["step"] == step}
        return whys <= {"abandoned"}

    def ledger(self, step: int, tier: int = 0) -> Ledger:
        """Return the budget before a tier of a step."""
        count = bisect_left(self.paid, (step, 1, tier), key=_place)
        ledger = Ledger(self.terms)
        ledger.spent, ledger.payments = self.spent[count], self.payments[count]
        return ledger

    def rung(self, step: int, tier: int = 0) -> Rung:
        """Return the rung at which a tier of a step was decided."""
        try:
            return self.ledger(step, tier).rung(step)
        except UsageError:
            raise DatabaseError(f"what was paid before step {step} is more than mdap ever spends") from None


def _place(data: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return a payment's position in step order; a refund comes before the next step."""
    if data["why"] == "returned":
        return data["before"], 0, 0
    return data["step"], 1, data.get("tier", 0)


def charges_of(connection: sqlite3.Connection, number: int, voting: VotingSettings) -> Charges | None:
    """Return the payments of a run, None without an error budget; raise DatabaseError for a changed event."""
    if voting.robust is None:
        return None
    spent, payments = [Fraction(0)], [0]
    try:
        paid = sorted(_paid(connection, number), key=_place)
        for data in paid:
            spent.append(spent[-1] + Fraction(data["price"]))
            payments.append(payments[-1] + int(data["payments"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DatabaseError(f"an event of run {number} is not as mdap wrote it: restore a copy") from None
    return Charges(voting.robust, paid, spent, payments)


def check_budget(
    connection: sqlite3.Connection, number: int, charges: Charges, found: Sequence[Charge], findings: Findings
) -> None:
    """Compare the recorded payments with those of the races *found* not to be smooth."""
    paid = {}
    for data in charges.paid:
        said = (data["price"], data["payments"], data.get("m"), data.get("lead"))
        try:
            expected = _expected(connection, number, charges, data)
            if "m" in data:
                paid[data["step"], data["opening"], data["tier"]] = data["why"]
        except KeyError:
            findings.add(Kind.EVENT, "data of an event paid", "what it is of", dict(data), (data["step"],))
            continue
        findings.compare(Kind.EVENT, f"price of what is {data['why']}", expected, said, (data["step"],))
    for step, opening, _ in sorted(set(found) - set(paid)):
        what = "payment of a step that is not smooth"
        findings.add(Kind.EVENT, what, "an event paid", None, (step, opening))
    for charge in sorted(set(paid) - set(found)):
        step, opening, _ = charge
        if paid[charge] != "abandoned" or not query(connection, "counted_vote", number, step).fetchone():
            findings.add(Kind.EVENT, "payment", "none: the step is smooth", paid[charge], (step, opening))
    if charges.spent[-1] > 1 - exact(charges.terms.target):
        findings.add(Kind.EVENT, "spent", f"at most 1 - {charges.terms.target}", charges.spent[-1])


def _expected(
    connection: sqlite3.Connection, number: int, charges: Charges, data: Mapping[str, Any]
) -> tuple[str, int, int | None, int | None]:
    """Return what a payment should be: its price, its number of payments, m and K.

    Only a step's own payment has m and K; those for a nested or an overridden run do not.
    """
    why, step = data["why"], data["step"]
    if why == "inherited":
        source = query(connection, "source", number).fetchone()
        spent, payments = _total(connection, *source) if source else (Fraction(0), 0)
        return str(spent), payments, None, None
    if why == "lent":
        limit = charges.ledger(step).limit(step)
        # The engine lends a whole number of 10^-12.
        return str(Fraction(int(limit * 10**12), 10**12)), 1, None, None
    if why == "returned":
        row: Any = query(connection, "part_of_step", number, step).fetchone() or (None, None)
        part, settings = row
        robust = None if part is None else VotingSettings.recorded(json.loads(settings)).robust
        if robust is None:
            return "0", 0, None, None
        share = 1 - exact(robust.target)
        spent, _ = _total(connection, part)
        # A nested run that spent nothing does not count as a payment.
        return str(spent - share), -int(not spent), None, None
    rung = charges.rung(step, data["tier"])
    return str(rung.price), 1, rung.margin, rung.lead


def _total(connection: sqlite3.Connection, number: int) -> tuple[Fraction, int]:
    paid = list(_paid(connection, number))
    spent = sum((Fraction(data["price"]) for data in paid), Fraction(0))
    return spent, sum(data["payments"] for data in paid)


def _paid(connection: sqlite3.Connection, number: int) -> Iterator[dict[str, Any]]:
    return (json.loads(data) for (data,) in query(connection, "paid", number))
