"""Prices and budgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.money import Hold, Tokens, Wallet, cost_of, saved_by_cache, saved_by_sharing
from mdap.settings import Budget, Price

amounts = st.floats(0, 1)


def test_cached_tokens_have_their_own_price() -> None:
    """A million of each: fresh prompt, cached prompt, reply."""
    price = Price(input=2.0, output=8.0, cached_input=0.5)

    assert cost_of(price, Tokens(2_000_000, 1_000_000, 1_000_000)) == pytest.approx(2.0 + 0.5 + 8.0)
    assert cost_of(Price(input=2.0, output=8.0), Tokens(2_000_000, 0, 1_000_000)) == pytest.approx(4.0)


def test_cache_writes_have_their_own_price_and_savings_count_them() -> None:
    """A million written at 2.5 and two million read at 0.2, of four at 2.0: saved is what is left."""
    price = Price(input=2.0, output=8.0, cached_input=0.2, cache_write=2.5)
    used = Tokens(4_000_000, 1_000_000, 2_000_000, 1_000_000)
    assert cost_of(price, used) == pytest.approx(2.0 + 0.4 + 2.5 + 8.0)
    assert saved_by_cache(price, used) == pytest.approx(2 * 1.8 - 0.5)


def test_prompts_that_other_samples_paid_for_count_at_the_mean_length() -> None:
    """Two prompts of a thousand tokens each were paid for, and four samples shared them."""
    used = Tokens(2_000, 60)
    assert saved_by_sharing(Price(input=2.0, output=8.0), used, 2, 4) == pytest.approx(4 * 1_000 * 2e-6)
    assert saved_by_sharing(Price(input=2.0, output=8.0), Tokens(0, 60), 0, 4) == 0


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
