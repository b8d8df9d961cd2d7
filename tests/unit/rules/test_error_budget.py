"""The error budget of `-k robust`: never overspent, whatever happens; and what a run may say at its end."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.ledger import Ledger
from mdap.rules.rungs import exact
from mdap.settings import Robust
from tests.robust import run

terms = st.builds(
    Robust,
    length=st.none() | st.integers(1, 3000),
    floor=st.sampled_from([0.6, 0.7, 0.85]),
    target=st.sampled_from([0.5, 0.9, 0.95, 0.999]),
)


@given(terms, st.lists(st.booleans(), max_size=150))
def test_no_outcome_of_the_steps_overspends_the_budget(terms: Robust, contested: list[bool]) -> None:
    """Spent stays within 1 - T, every price is at most half of what is left, and what is bounded holds."""
    ledger, length = Ledger(terms), terms.length
    for step, pays in enumerate(contested[:length]):
        rung = ledger.rung(step)
        left = ledger.budget - ledger.spent
        assert 2 * rung.price <= left or length is None
        assert ledger.rung(step + 1).price <= left
        if pays:
            before = ledger.bound
            ledger.pay(rung.price)
            assert ledger.spent <= before
            assert ledger.spent < ledger.bound <= ledger.budget
            assert ledger.rung(step).margin >= rung.margin
    assert ledger.spent <= ledger.budget == 1 - exact(terms.target)


def test_a_step_ahead_is_sampled_at_the_rung_that_holds_if_all_before_it_are_smooth() -> None:
    """The forecast falls as smooth steps follow, so rungs may, too; a payment raises all of them."""
    ledger = Ledger(Robust(length=1000))
    ledger.pay(ledger.rung(10).price)
    margins = [ledger.rung(step).margin for step in range(11, 1000)]
    assert margins == sorted(margins, reverse=True)
    assert margins[0] > margins[-1] == 5
    ledger.pay(ledger.rung(11).price)
    assert all(ledger.rung(step).margin >= margins[step - 11] for step in range(12, 1000))


def test_two_contested_steps_in_ten_thousand() -> None:
    """What the summary says of such a run: at most 4.1 % of cases."""
    ledger = Ledger(Robust(length=10_000))
    assert ledger.bound == Fraction(1, 40)
    for step in (5000, 9990):
        ledger.pay(ledger.rung(step).price)
    assert 0.036 < float(ledger.bound) < 0.042


def test_what_a_nested_run_did_not_spend_is_there_again() -> None:
    """It is charged its whole share, and counts as no payment if it spends nothing."""
    ledger = Ledger(Robust())
    share = ledger.limit(0)
    ledger.pay(share)
    assert ledger.limit(1) == Fraction(1, 20) / 6
    ledger.pay(-share, -1)
    assert (ledger.spent, ledger.payments, ledger.limit(1)) == (Fraction(0), 0, share)
    ledger.pay(share)
    ledger.pay(-share / 4, 0)
    assert (ledger.spent, ledger.limit(2)) == (share * 3 / 4, Fraction(1, 20) / 6)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("mixture", ["floor", "few at the floor", "until contested"])
def test_wrong_runs_are_no_more_than_promised(mixture: str, length: bool) -> None:
    """Steps at the floor, few of them, or an adversary: wrong runs at most 1 - T, in the long run.

    `benchmarks/robust.py` does the same at length.
    """
    chance = random.Random(f"{mixture} {length}")
    runs, steps, wrong, excess = 100, 60, 0, 0.0
    terms = Robust(floor=0.7, target=0.8, length=steps if length else None)
    for _ in range(runs):

        def right(step: int, contested: int) -> float:
            if mixture == "until contested":
                return 0.7 if contested == 0 else 0.999
            return 0.7 if mixture == "floor" or step >= steps - 5 else 0.99

        outcome = run(terms, [right] * steps, chance)
        wrong += outcome.wrong > 0
        excess += outcome.wrong - float(outcome.spent)
    error = (0.2 * 0.8 / runs) ** 0.5
    assert wrong / runs <= 0.2 + 3 * error
    assert excess / runs <= 3 * error
