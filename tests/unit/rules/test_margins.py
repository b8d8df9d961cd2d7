"""Adaptive margins: the bound that holds at all times, the budget, and what it saves."""

import math

import numpy as np
import pytest

from mdap.rules.certificate import error_upper_bound
from mdap.rules.margins import (
    FIRST_BLOCK,
    FIRST_MARGIN,
    block_start,
    keeps,
    next_margin,
    rate_bound,
    spent_by,
)
from mdap.rules.scaling import minimal_k, run_success
from tests.laws import races


def test_blocks_double() -> None:
    starts = sorted({block_start(step) for step in range(1000)})
    assert starts == [0, 10, 20, 40, 80, 160, 320, 640]
    assert all(block_start(start) == start for start in starts)
    assert all(block_start(start - 1) < start for start in starts[1:])


@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_the_bound_fails_at_any_time_no_more_often_than_it_may(rate: float) -> None:
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(400):
        wrong = np.cumsum(rng.random(3000) < rate)
        looks = [10, 30, 100, 200, 400, 700, 1000, 1500, 2000, 3000]
        failed += any(rate_bound(int(wrong[at - 1]), at, 0.1) < rate for at in looks)
    assert failed <= 400 * 0.1 + 3 * math.sqrt(400 * 0.1 * 0.9)


def test_the_bound_closes_in_and_is_never_below_what_is_seen() -> None:
    assert rate_bound(0, 0, 0.01) == 0.5
    assert rate_bound(6, 10, 0.01) == 0.5
    bounds = [rate_bound(votes // 20, votes, 0.005) for votes in (100, 1000, 10_000, 1_000_000)]
    assert bounds == sorted(bounds, reverse=True)
    assert all(bound > 0.05 for bound in bounds)
    assert bounds[-1] < 0.0515
    assert bounds[0] > error_upper_bound(5, 100, 0.995)


def test_what_is_spent_is_the_law() -> None:
    assert spent_by({3: 1000, 5: 10}, 0.05) == pytest.approx(
        1000 * (1 - run_success(0.05, 3, 1)) + 10 * (1 - run_success(0.05, 5, 1))
    )
    assert spent_by({3: 1000}, 0.0) == 0.0
    assert spent_by({2: 1}, 1e-200) == 0.0


def test_the_margin_keeps_the_budget_that_is_left() -> None:
    k, rate = next_margin({16: 10}, (10, 200), 1000, 0.95)
    assert spent_by({16: 10}, rate) + spent_by({k: 1000}, rate) <= 0.05 * 0.9
    assert spent_by({16: 10}, rate) + spent_by({k - 1: 1000}, rate) > 0.05 * 0.9
    assert keeps({16: 10, k: 1000}, (250, 5000), 0.95)


def test_a_broken_promise_is_told_and_the_margin_stays_careful() -> None:
    """A thousand steps at k = 2 have spent far more than the budget."""
    k, rate = next_margin({2: 1000}, (200, 2400), 1000, 0.95)
    assert rate > 0.083
    assert spent_by({k: 1000}, rate) <= 0.05 / 2
    assert not keeps({2: 1000, 16: 1000}, (1600, 20_000), 0.95)


def test_few_votes_do_not_send_the_margin_sky_high() -> None:
    assert next_margin({16: 10}, (100, 210), 1000, 0.95)[0] == 32
    assert next_margin({16: 10}, (100, 200), 1000, 0.95) == (32, 0.5)
    assert not keeps({16: 10}, (100, 200), 0.95)


def _auto(rng: np.random.Generator, rate: float, steps: int, target: float) -> tuple[bool, int]:
    """A pilot of 400 votes, and a run at the margin that it gives."""
    _, votes = races(rng, np.full(60, rate), 8)
    enough = int(np.searchsorted(np.cumsum(votes), 400)) + 1
    pilot = int(votes[:enough].sum())
    k = minimal_k(error_upper_bound(int(((votes[:enough] - 8) // 2).sum()), pilot), steps, target)
    wrong, votes = races(rng, np.full(steps, rate), k)
    return bool(wrong.any()), pilot + int(votes.sum())


def _adaptive(rng: np.random.Generator, rate: float, steps: int, target: float) -> tuple[bool, int]:
    step, k, failed = 0, FIRST_MARGIN, False
    margins: dict[int, int] = {}
    against = total = 0
    while step < steps:
        after = min(steps, FIRST_BLOCK if step == 0 else 2 * step)
        wrong, votes = races(rng, np.full(after - step, rate), k)
        failed |= bool(wrong.any())
        total += int(votes.sum())
        against += int(((votes - k) // 2).sum())
        margins[k] = margins.get(k, 0) + after - step
        step = after
        if step < steps:
            k, _ = next_margin(margins, (against, total), steps - step, target)
    assert keeps(margins, (against, total), target)
    return failed, total


@pytest.mark.parametrize(("rate", "steps", "target"), [(0.05, 1023, 0.95), (0.2, 500, 0.9)])
def test_the_target_is_kept_for_fewer_votes_than_a_pilot_needs(
    rate: float, steps: int, target: float
) -> None:
    rng = np.random.default_rng(7)
    trials = 150
    auto = [_auto(rng, rate, steps, target) for _ in range(trials)]
    adaptive = [_adaptive(rng, rate, steps, target) for _ in range(trials)]
    for runs in (auto, adaptive):
        failed = sum(failed for failed, _ in runs) / trials
        assert failed <= 1 - target + 3 * math.sqrt(target * (1 - target) / trials)
    assert sum(votes for _, votes in adaptive) < 0.99 * sum(votes for _, votes in auto)


def test_no_margin_is_so_narrow_that_nothing_more_is_learned() -> None:
    assert next_margin({16: 10, 2: 100_000}, (0, 200_160), 10, 0.9)[0] == 2
