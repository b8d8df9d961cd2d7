"""The prompts, and the parser of their replies."""

import re
from typing import Final

from mdap import RedFlag
from mdap_ledger.book import ACCOUNTS, Answer, State, written

SYSTEM: Final = f"""\
You keep a ledger by double entry. The accounts are {", ".join(ACCOUNTS)}.
A posting debits one account and credits another one with the same amount. A debit adds the amount to the
account's balance, a credit takes it away; balances may be negative. What a business owns or spends is
debited, what it owes or earns is credited: cash is the till, bank the account at the bank, receivables what
customers owe, loan what is owed to the bank (a negative balance), sales what was earned (negative), and
rent, wages and supplies what was spent.

You are given all balances and one entry of the daybook. Say which posting it makes. Where it names no
amount, take it from the balances: half an odd number of cents is rounded down, and where there is nothing to
take, the amount is 0.00. Then work out the two new balances.

Reason in a few short sentences. Then end your reply with these two lines and nothing after them, all amounts
with two decimals and no other signs than digits, point and minus:
posting = debit ACCOUNT, credit ACCOUNT, AMOUNT
balances = BALANCE OF THE DEBITED ACCOUNT, BALANCE OF THE CREDITED ACCOUNT"""

_MONEY: Final = r"-?[0-9]{1,13}\.[0-9]{2}"
_POSTING: Final = re.compile(rf"posting = debit ([a-z]+), credit ([a-z]+), ({_MONEY})")
_BALANCES: Final = re.compile(rf"balances = ({_MONEY}), ({_MONEY})")


def user(state: State, entry: str, *, turned: bool = False) -> str:
    """Return the user message; if *turned*, the entry comes first, and the last account before the others."""
    # In an order of their own: balances that come back from the database are sorted by name.
    accounts = tuple(reversed(ACCOUNTS)) if turned else ACCOUNTS
    balances = "\n".join(f"{name}: {written(state.balances[name])}" for name in accounts)
    parts = [f"Balances:\n{balances}", f"Entry:\n{entry}"]
    return "\n\n".join(reversed(parts) if turned else parts)


def reply(answer: Answer) -> str:
    """Return a reply as a model would write it to give *answer*."""
    amount = written(answer.amount)
    return (
        f"The entry moves {amount} from {answer.credit} to {answer.debit}.\n"
        f"posting = debit {answer.debit}, credit {answer.credit}, {amount}\n"
        f"balances = {written(answer.debit_after)}, {written(answer.credit_after)}"
    )


def read(text: str) -> Answer:
    """Read the last two lines of a reply.

    Whether the posting is right, and whether the balances follow from it, is not asked: that is what the
    vote is about.

    Raises:
        RedFlag: they are not exactly as asked for, or name no account, or one twice.
    """
    *_, first, last = ["", "", *text.rstrip("\n").rsplit("\n", 2)]
    posting, balances = _POSTING.fullmatch(first), _BALANCES.fullmatch(last)
    if posting is None:
        raise RedFlag("malformed posting")
    if balances is None:
        raise RedFlag("malformed balances")
    debit, credit = posting[1], posting[2]
    if debit not in ACCOUNTS or credit not in ACCOUNTS or debit == credit:
        raise RedFlag("no such accounts")
    amount, debit_after, credit_after = (
        int(money.replace(".", "")) for money in (posting[3], balances[1], balances[2])
    )
    return Answer(debit, credit, amount, debit_after, credit_after)
