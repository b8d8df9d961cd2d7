"""The ledger: a chain whose steps read free text and the balances that the steps before have left."""

from pathlib import Path

import pytest

import mdap
from mdap.testing import check_task
from mdap_ledger import Answer, Ledger
from mdap_ledger.book import after
from mdap_ledger.words import read


@pytest.mark.parametrize("task", [Ledger(made_up=60, views=2), Ledger(made_up=40, seed=5)], ids=repr)
def test_it_keeps_what_the_engine_relies_on(task: Ledger) -> None:
    """The conformance kit finds nothing."""
    assert check_task(task).skipped == ()


def test_every_posting_keeps_the_balance() -> None:
    """Debits and credits cancel, whatever is posted; so all balances add up to nothing at the end."""
    task = Ledger(made_up=300)
    state = task.start()
    for _ in range(300):
        state = task.advance(state, task.oracle(state))
    assert sum(state.balances.values()) == 0
    assert task.result(state)["solved"] is True


def test_an_entry_may_hang_on_the_balances() -> None:
    """So a wrong balance makes later postings wrong, too: it is a chain."""
    task = Ledger(made_up=300, seed=1)
    state = task.start()
    hanging = 0
    for _ in range(300):
        truth = task.oracle(state)
        richer = type(state)(state.posted, {name: cents + 2_000 for name, cents in state.balances.items()})
        hanging += truth.amount != task.oracle(richer).amount
        state = task.advance(state, truth)
    assert hanging > 20


def test_votes_outweigh_wrong_samples(tmp_path: Path) -> None:
    """One sample in five is wrong, and every balance is right."""
    task = Ledger(made_up=150, views=2)
    solution = mdap.solve_sync(task, k=8, db=tmp_path / "a.db", options={"error_rate": 0.2, "seed": 1})
    assert solution.result["solved"] is True
    assert solution.totals.votes > 150 * 8


def test_a_daybook_of_ones_own_has_no_oracle(tmp_path: Path) -> None:
    """The simulated model says in a sentence why it cannot read it."""
    task = Ledger(entries=("Sold a lamp for 20.00, paid in cash",))
    assert (task.length(), "Sold a lamp" in task.step(task.start()).user) == (1, True)
    with pytest.raises(mdap.FailedError, match="give a --model"):
        mdap.solve_sync(task, db=tmp_path / "a.db")


GOOD = "Cash comes in.\nposting = debit cash, credit sales, 20.00\nbalances = 20.00, -20.00"


def test_a_reply_is_read_to_the_cent() -> None:
    """The last two lines count, and say everything."""
    assert read(GOOD) == Answer("cash", "sales", 2000, 2000, -2000)
    assert read(GOOD) == after(Ledger().start(), "cash", "sales", 2000)
    assert read(GOOD.replace("-20.00", "-0.05") + "\n").credit_after == -5


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + "\nThat is all.",
        GOOD.replace("20.00,", "20,"),
        GOOD.replace("sales", "cash"),
        GOOD.replace("sales", "fame"),
        GOOD.replace("-20.00", "$20.00"),
        GOOD.replace("posting", "Posting"),
        GOOD.replace("20.00", "99999999999999.00"),
    ],
)
def test_any_other_form_is_a_red_flag(text: str) -> None:
    """Nothing is repaired."""
    with pytest.raises(mdap.RedFlag):
        read(text)
