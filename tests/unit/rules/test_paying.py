"""What a run costs by each way of paying for its prompts."""

import random

import pytest

from mdap.rules.planning import Sample, expected_requests, ways
from mdap.rules.scaling import plan
from mdap.settings import Price


def usd(price: Price, sample: Sample) -> dict[str, float]:
    """Return the price of a thousand steps by way, where no sample is ever wrong or flagged and k is 3."""
    return {one.way: one.usd for one in ways(plan(100, 0.0, k=3), sample, price)}


def test_each_prompt_is_paid_as_often_as_its_way_says() -> None:
    """A million prompt tokens a thousand steps, at one USD: three, two or one; read at a tenth."""
    price = Price(input=1.0, output=5.0, cached_input=0.1)
    assert usd(price, Sample(1_000, 0)) == pytest.approx(
        {
            "ordinary": 3.0,
            "cache": 1.2,
            "n": 2.0,
            "n, cache": 1.1,
            "n, one temperature": 1.0,
            "n, one temperature, cache": 1.0,
        }
    )


def test_steps_that_begin_alike_write_that_once() -> None:
    """900 of 1,000 tokens, five steps of three samples: written once at 1.25, read 14 times."""
    price = Price(input=1.0, output=5.0, cached_input=0.1, cache_write=1.25)
    found = usd(price, Sample(1_000, 10, 900, 5))
    replies = 3 * 10 * 5 / 1_000
    assert found["cache"] == pytest.approx(0.9 * (1.25 + 14 * 0.1) / 5 + 3 * 0.1 + replies)
    assert found["n, cache"] == pytest.approx(0.9 * (1.25 + 9 * 0.1) / 5 + 2 * 0.1 + replies)


def test_without_a_price_of_the_cache_nothing_is_said_of_it() -> None:
    """And batch APIs take half of everything."""
    found = ways(plan(100, 0.01, k=3), Sample(1_000, 10), Price(input=1.0, output=5.0))
    assert [one.way for one in found] == ["ordinary", "n", "n, one temperature"]
    assert [one.batch_usd / one.usd for one in found] == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(("k", "error_rate", "valid_rate"), [(1, 0.1, 0.8), (3, 0.02, 1.0), (4, 0.3, 0.9)])
def test_requests_are_those_of_a_race_in_waves(k: int, error_rate: float, valid_rate: float) -> None:
    """The mean of 20,000 races, each of whose waves asks for as many samples as the leader lacks votes."""
    rng, count, requests = random.Random(7), 20_000, 0
    for _ in range(count):
        lead = 0
        while abs(lead) < k:
            requests += 1
            for _ in range(k - abs(lead)):
                if rng.random() < valid_rate:
                    lead += 1 if rng.random() >= error_rate else -1
    assert expected_requests(k, error_rate, valid_rate, 1) == pytest.approx(requests / count, rel=0.02)
    extra = 0 if k == 1 else 1
    assert expected_requests(k, error_rate, valid_rate) == pytest.approx(
        expected_requests(k, error_rate, valid_rate, 1) + extra
    )
