"""What a step starts from and what it decides: balances, and a posting. All money is in cents."""

from dataclasses import dataclass
from typing import Final

__all__ = ["ACCOUNTS", "Answer", "State", "after", "in_cents", "written"]

ACCOUNTS: Final = ("cash", "bank", "receivables", "equipment", "loan", "sales", "rent", "wages", "supplies")
"""The accounts; a debit adds to a balance, a credit takes from it, and so all balances add up to nothing."""


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
    """Return a posting with the balances that rightly follow from it.

    Args:
        state: the balances before.
        debit: the account to debit.
        credit: the account to credit, another one.
        amount: cents.
    """
    before = state.balances
    return Answer(debit, credit, amount, before[debit] + amount, before[credit] - amount)


def written(cents: int) -> str:
    """Return an amount as people write it: ``-1204.50``."""
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def in_cents(text: str) -> int:
    """Return an amount that `written` wrote, or any other of the same form."""
    whole, _, cents = text.lstrip("-").partition(".")
    amount = 100 * int(whole) + int(cents)
    return -amount if text.startswith("-") else amount
