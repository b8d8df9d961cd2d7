"""The balances before a step, its answer, and generated entries with known postings.

All money is in cents.
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import Final

ACCOUNTS: Final = ("cash", "bank", "receivables", "equipment", "loan", "sales", "rent", "wages", "supplies")
"""The accounts; a debit adds to a balance, a credit takes from it, and so all balances add up to nothing."""

_CUSTOMERS: Final = ("Ines Roth", "Okafor & Sons", "the bakery", "Lund GmbH", "M. Tanaka", "the school")
_THINGS: Final = ("paper and toner", "cleaning supplies", "screws and paint", "printer ink", "packing tape")
_MACHINES: Final = ("a second-hand lathe", "two laptops", "a delivery bike", "a coffee machine")

# Text, account to debit, account to credit, and cents from and to; where an entry names no amount, how much
# of a balance it is about.
_KINDS: Final = (
    ("Sold goods to {customer} for {amount}, paid in cash", "cash", "sales", (1_000, 90_000)),
    ("{customer} bought for {amount}; will pay later", "receivables", "sales", (5_000, 200_000)),
    ("Transfer from {customer} arrived: {amount} for an old invoice", "bank", "receivables", (1_000, 50_000)),
    ("Paid the rent, {amount}, by bank transfer", "rent", "bank", (40_000, 90_000)),
    ("Wages for the week, {amount} from the till", "wages", "cash", (20_000, 60_000)),
    ("Picked up {thing}: {amount}, cash", "supplies", "cash", (500, 9_000)),
    ("Bought {machine} for {amount} (bank card)", "equipment", "bank", (20_000, 300_000)),
    ("The bank lends us another {amount}; it is on the account already", "bank", "loan", (50_000, 500_000)),
    ("Returned {thing}, got {amount} back in cash", "cash", "supplies", (500, 4_000)),
    ("Took everything in the till to the bank", "bank", "cash", "all"),
    ("Half of what is in the till goes to the bank", "bank", "cash", "half"),
    ("Paid back half of what we still owe on the loan, from the bank account", "loan", "bank", "half"),
)

_REFERS_TO: Final = {"cash": "cash", "bank": "loan"}
"""By the account that is credited, whose balance an entry without an amount is about."""


@dataclass(frozen=True, slots=True)
class State:
    """The balances after so many entries.

    Attributes:
        posted: entries posted so far.
        balances: each account's balance in cents.
    """

    posted: int
    balances: dict[str, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """A posting, and the two balances that it leads to; a vote is for all of it.

    Attributes:
        debit: the account that is debited.
        credit: the account that is credited.
        amount: cents.
        debit_after: the balance of the debited account then.
        credit_after: the balance of the credited account then.
    """

    debit: str
    credit: str
    amount: int
    debit_after: int
    credit_after: int


def after(state: State, debit: str, credit: str, amount: int) -> Answer:
    """Return a posting with the balances that rightly follow from it."""
    before = state.balances
    return Answer(debit, credit, amount, before[debit] + amount, before[credit] - amount)


def written(cents: int) -> str:
    """Return an amount as people write it: ``-1204.50``."""
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry and what it means; its amount is in cents, or ``all`` or ``half`` of a balance."""

    text: str
    debit: str
    credit: str
    amount: int | str


@cache
def invented(count: int, seed: int) -> tuple[Entry, ...]:
    """Return *count* entries, always the same for a *seed*."""
    draw = random.Random(seed)
    return tuple(_entry(draw) for _ in range(count))


def _entry(draw: random.Random) -> Entry:
    text, debit, credit, amount = draw.choice(_KINDS)
    words = {
        "customer": draw.choice(_CUSTOMERS),
        "thing": draw.choice(_THINGS),
        "machine": draw.choice(_MACHINES),
    }
    if isinstance(amount, str):
        return Entry(text.format(**words), debit, credit, amount)
    cents = draw.randint(*amount)
    return Entry(text.format(amount=written(cents), **words), debit, credit, cents)


def amount_of(entry: Entry, state: State) -> int:
    """Return the amount of *entry* in *state*, in cents; half a balance is rounded down.

    Where there is nothing in the till, or nothing is owed, an entry about it moves nothing.
    """
    if isinstance(entry.amount, int):
        return entry.amount
    account = _REFERS_TO[entry.credit]
    balance = max(0, -state.balances[account] if account == "loan" else state.balances[account])
    return balance if entry.amount == "all" else balance // 2
