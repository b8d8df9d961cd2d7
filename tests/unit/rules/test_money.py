"""Prices and budgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.money import Hold, Wallet, cost_of
from mdap.settings import Budget, Price

amounts = st.floats(0, 1)


def test_cached_tokens_have_their_own_price() -> None:
    """A million of each: fresh prompt, cached prompt, reply."""
    price = Price(input=2.0, output=8.0, cached_input=0.5)

    assert cost_of(price, 2_000_000, 1_000_000, 1_000_000) == pytest.approx(2.0 + 0.5 + 8.0)
    assert cost_of(Price(input=2.0, output=8.0), 2_000_000, 0, 1_000_000) == pytest.approx(4.0)


@given(st.lists(st.tuples(amounts, amounts), max_size=60), st.floats(0.1, 5))
def test_what_is_held_and_spent_never_exceeds_the_budget(
    requests: list[tuple[float, float]], usd: float
) -> None:
    """As long as no request costs more than was held for it, however they overlap."""
    wallet = Wallet(Budget(usd=usd))
    held: list[tuple[Hold, float]] = []
    for likely, share in requests:
        hold = wallet.hold(likely, 0)
        if hold is not None:
            held.append((hold, likely * share))
        elif held:
            wallet.settle(held[0][0], held[0][1], 0)
            del held[0]
        assert wallet.usd + sum(hold.usd for hold, _ in held) <= usd + 1e-9


def test_a_failed_request_gives_its_hold_back() -> None:
    """What was set aside and not spent can be spent by the next."""
    wallet = Wallet(Budget(tokens=100))
    hold = wallet.hold(0, 80)
    assert hold is not None
    assert wallet.hold(0, 80) is None
    wallet.settle(hold, 0, 0)

    assert wallet.hold(0, 80) is not None


def test_waiting_helps_only_while_something_is_held() -> None:
    """Else a request that does not fit never will."""
    wallet = Wallet(Budget(tokens=100))
    hold = wallet.hold(0, 80)
    assert hold is not None
    assert wallet.hold(0, 80) is None
    counts = [wallet.holds]
    wallet.settle(hold, 0, 80)
    counts.append(wallet.holds)
    assert counts == [1, 0]


def test_what_is_spent_is_said_in_words() -> None:
    """The sentence that a stopped run gives as its reason."""
    assert Wallet(Budget(usd=1.5), usd=1.5).spent == "the budget of 1.5 USD is spent"
    assert Wallet(Budget(tokens=2000), tokens=2001).spent == "the budget of 2,000 tokens is used up"
    assert Wallet(Budget(usd=1.5), usd=1.4).spent is None
    assert Wallet(Budget(), usd=10**9).spent is None
