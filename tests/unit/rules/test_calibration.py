"""What samples of random steps say: p and v apart, intervals that cover, agreement with its bias."""

import math

import numpy as np
import pytest

from mdap.rules.calibration import (
    Drawn,
    Poll,
    VoteCounts,
    consensus_rate,
    estimated_samples,
    estimated_seconds,
    measure,
    rate_behind,
    scaled,
)
from mdap.rules.certificate import jeffreys
from mdap.rules.scaling import expected_samples
from mdap.settings import Limits
from tests.laws import races


def _poll(answers: str, truth: str | None = "r") -> Poll:
    """A step whose samples say *answers*, where ``!`` is a red flag."""
    return Poll(
        truth,
        tuple(
            Drawn(None, "bad", 10, 5, 1.0, answer)
            if answer == "!"
            else Drawn(answer, None, 10, 5, 1.0, answer)
            for answer in answers
        ),
    )


def test_p_is_among_the_valid_and_v_among_all() -> None:
    found = measure([_poll("rr!w"), _poll("rrrr"), _poll("!!rr")])
    assert (found.steps, found.samples, found.votes, found.wrong) == (3, 12, 9, 1)
    assert found.error_rate.value == 1 / 9
    assert found.valid_rate.value == 9 / 12
    assert found.flags == {"bad": 3}


def test_collisions_are_first_two_votes_that_agree_on_a_wrong_answer() -> None:
    found = measure([_poll("ww"), _poll("!w!w"), _poll("wx"), _poll("rr"), _poll("w")])
    assert (found.collisions, found.pairs) == (2, 4)
    assert found.collisions_expected == pytest.approx(4 * found.error_rate.value**2)


def test_steps_without_agreement_do_not_count() -> None:
    found = measure([_poll("rrrrrrrr"), _poll("rwrw", truth=None)], consensus=8)
    assert (found.steps, found.undecided, found.votes, found.samples) == (1, 1, 8, 12)


def test_repeated_texts_are_counted() -> None:
    assert measure([_poll("rrrw"), _poll("r")]).duplicates == pytest.approx(2 / 3)


def test_hard_steps_widen_the_interval() -> None:
    even = measure([_poll("rrrw")] * 20 + [_poll("rrrr")] * 180)
    clumped = measure([_poll("wwww")] * 5 + [_poll("rrrr")] * 195)
    assert even.wrong == clumped.wrong == 20
    assert not even.uneven
    assert clumped.uneven
    assert clumped.clumping > 3
    assert clumped.error_rate.high > even.error_rate.high
    assert clumped.error_bound > even.error_bound
    assert clumped.collide
    assert not even.collide


@pytest.mark.parametrize(("p", "n"), [(0.6, 100), (0.8, 400), (0.95, 1000), (0.99, 4000), (0.998, 10_000)])
@pytest.mark.parametrize("v", [1.0, 0.8])
def test_the_interval_covers_and_red_flags_do_not_bias_p(p: float, n: int, v: float) -> None:
    rng = np.random.default_rng(int(1000 * p) + int(10 * v))
    trials = 2000
    valid = rng.binomial(n, v, trials)
    wrong = rng.binomial(valid, 1 - p)
    found = [jeffreys(int(w), int(m)) for w, m in zip(wrong, valid, strict=True)]
    covered = np.mean([one.low <= 1 - p <= one.high for one in found])
    assert 0.93 < covered < 0.975
    bias = np.mean([one.value for one in found]) - (1 - p)
    assert abs(bias) < 4 * math.sqrt(p * (1 - p) / (n * v) / trials)


def test_an_interval_of_nothing_is_everything() -> None:
    assert jeffreys(0, 0) == (0.5, 0.0, 1.0)
    assert jeffreys(0, 10).low == 0.0
    assert jeffreys(10, 10).high == 1.0


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.35, 0.45])
def test_agreement_hides_what_it_is_said_to_hide(rate: float) -> None:
    """The share of votes against winners is the law's, and its inverse gives the rate back."""
    rng = np.random.default_rng(1)
    _, votes = races(rng, np.full(100_000, rate), 8)
    against = ((votes - 8) // 2).sum() / votes.sum()
    assert against == pytest.approx(consensus_rate(rate, 8), rel=0.03)
    assert rate_behind(consensus_rate(rate, 8), 8) == pytest.approx(rate, abs=1e-6)
    assert 0 <= rate - consensus_rate(rate, 8) < 1 / 16
    assert rate_behind(0.48, 8) == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.42])
def test_the_bias_of_agreement_is_within_its_bound(rate: float) -> None:
    rng = np.random.default_rng(2)
    polls = []
    for _ in range(300):
        answers, lead = "", 0
        while abs(lead) < 8:
            wrong = rng.random() < rate
            answers += "w" if wrong else "r"
            lead += -1 if wrong else 1
        polls.append(_poll(answers, "w" if lead < 0 else "r"))
    found = measure(polls, consensus=8)
    assert rate - found.error_rate.value < found.bias_bound + 3 * math.sqrt(rate / found.votes)
    assert found.error_rate.low < rate < found.error_rate.high
    assert rate < found.error_bound


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.25])
def test_projected_samples_hold_for_real_runs(rate: float) -> None:
    """Calibrations of 400 samples, each followed by a run of 300 steps, whose errors all say the same."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(100):
        flags = int(rng.binomial(400, 0.05))
        wrong = int(rng.binomial(400 - flags, rate))
        estimate = estimated_samples(300, 4, VoteCounts(wrong, 400 - flags, flags))
        _, votes = races(rng, np.full(300, rate), 4)
        samples = int(votes.sum() + rng.negative_binomial(votes.sum(), 0.95))
        held += estimate.low <= samples <= estimate.high
        assert estimate.high < 2 * expected_samples(rate, 4, 0.95) * 300
    assert held >= 90


def test_cost_adds_what_is_not_known_of_its_price() -> None:
    samples = estimated_samples(100, 3, VoteCounts(10, 400, 0))
    cost = scaled(samples, 0.01, 0.05)
    assert cost.value == pytest.approx(samples.value * 0.01)
    assert cost.low < samples.low * 0.01 < samples.high * 0.01 < cost.high


def test_time_is_that_of_the_narrowest_pass() -> None:
    samples = estimated_samples(100, 3, VoteCounts(4, 400, 0))
    free = estimated_seconds(100, 3, samples, Limits(concurrency=1000), 500, [1.0])
    assert free.value == pytest.approx(100)
    assert free.low <= free.value <= free.high
    slow = estimated_seconds(100, 3, samples, Limits(requests_per_minute=60), 500, [1.0])
    assert slow.value == pytest.approx(samples.value)
    heavy = estimated_seconds(100, 3, samples, Limits(tokens_per_minute=6000), 500, [1.0])
    assert heavy.value == pytest.approx(5 * samples.value)
    one = estimated_seconds(100, 3, samples, Limits(concurrency=1), 500, [2.0])
    assert one.value == pytest.approx(2 * samples.value)
