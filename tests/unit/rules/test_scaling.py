"""The scaling laws against the paper's table, a 60-digit reference, and their own properties."""

import dataclasses
import math
from decimal import ROUND_CEILING, Decimal, localcontext

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mdap.errors import UsageError
from mdap.rules.scaling import (
    Plan,
    expected_samples,
    expected_votes,
    minimal_k,
    plan,
    run_success,
)

MILLION = 2**20 - 1
MANY = 10**9

# The column k_min of the paper: t = 0.95, 20 disks.
PAPER = {
    "gpt-4.1-nano": (0.3571, 29),
    "gpt-4.1-mini, temperature 1.0": (0.0040, 4),
    "gpt-4.1-mini, temperature 0.1": (0.0022, 3),
    "o3-mini": (0.0018, 3),
    "haiku-4.5": (0.1839, 12),
    "gpt-oss-20B": (0.0358, 6),
    "qwen3": (0.2342, 15),
    "deepseek-v3.1": (0.0569, 6),
    "kimi-k2": (0.0393, 6),
}

rates = st.floats(1e-9, 1 - 1e-9)
better_than_chance = st.floats(1e-9, 0.49)
lengths = st.integers(1, MANY)
margins = st.integers(1, 60)
targets = st.floats(0.001, 0.999999)


def exact_success(error_rate: float, k: int, steps: int, steps_per_subtask: int = 1) -> Decimal:
    """Return the paper's formula as printed, in 60 digits."""
    with localcontext(prec=60):
        right = (1 - Decimal(error_rate)) ** steps_per_subtask
        odds = ((1 - right) / right) ** k
        return (-(1 + odds).ln() * steps / steps_per_subtask).exp()


def exact_k(error_rate: float, steps: int, target: float, steps_per_subtask: int) -> Decimal:
    """Return the paper's k_min before it is rounded up, in 60 digits."""
    with localcontext(prec=60):
        right = (1 - Decimal(error_rate)) ** steps_per_subtask
        allowed = (-Decimal(target).ln() * steps_per_subtask / steps).exp() - 1
        return allowed.ln() / ((1 - right) / right).ln()


# --- the paper's numbers


@pytest.mark.parametrize(("error_rate", "k"), PAPER.values(), ids=PAPER)
def test_minimal_k_reproduces_the_paper(error_rate: float, k: int) -> None:
    assert minimal_k(error_rate, MILLION, 0.95) == k


def test_the_model_that_is_always_wrong_has_no_k() -> None:
    """The row of llama-3.2-3B, which the paper leaves blank."""
    with pytest.raises(UsageError, match="no k helps"):
        minimal_k(1.0, MILLION, 0.95)


@pytest.mark.parametrize(("right", "k"), [(0.85, 10), (0.90, 8), (0.95, 6), (0.99, 4), (0.9978, 3)])
def test_minimal_k_agrees_with_the_survey_of_peers(right: float, k: int) -> None:
    assert minimal_k(1 - right, MILLION, 0.95) == k


@pytest.mark.parametrize(
    ("right", "k", "error"),
    [(0.7, 3, 7.3e-2), (0.8, 5, 9.8e-4), (0.9, 3, 1.4e-3), (0.9, 5, 1.7e-5), (0.95, 5, 4.0e-7)],
)
def test_step_success_is_the_law(right: float, k: int, error: float) -> None:
    assert 1 - run_success(1 - right, k, 1) == pytest.approx(error, rel=0.03)


@pytest.mark.parametrize(
    ("right", "k", "votes"), [(0.7, 3, 6.4), (0.8, 5, 8.3), (0.9, 3, 3.7), (0.95, 5, 5.6)]
)
def test_expected_votes_are_those_simulated(right: float, k: int, votes: float) -> None:
    assert expected_votes(1 - right, k) == pytest.approx(votes, abs=0.06)


# --- against the formula in many digits


@given(rates, margins)
@example(1e-9, 60)
@example(1 - 1e-9, 60)
@example(0.5, 7)
def test_step_success_is_stable(error_rate: float, k: int) -> None:
    assert run_success(error_rate, k, 1) == pytest.approx(float(exact_success(error_rate, k, 1)), rel=1e-12)


@given(st.floats(1e-9, 0.9), st.integers(1, 20), lengths, st.integers(1, 12))
@example(1e-9, 1, MANY, 1)
@example(1e-9, 2, MANY, 1)
@example(1e-5, 2, MANY, 1)
def test_run_success_is_stable(error_rate: float, k: int, steps: int, steps_per_subtask: int) -> None:
    assume(steps_per_subtask <= steps)
    exact = exact_success(error_rate, k, steps, steps_per_subtask)
    assume(exact > Decimal("1e-300"))
    # A chance of e^-y carries y times the relative error of its exponent.
    relative = 1e-13 * (10 + float(-exact.ln()))
    assert run_success(error_rate, k, steps, steps_per_subtask) == pytest.approx(
        float(exact), rel=relative, abs=0
    )


def test_failures_too_rare_for_a_double_near_one_still_add_up() -> None:
    """At e = 1e-9 and k = 2 a step fails with 1e-18, which 1 - P rounds away; 1e17 of them do not."""
    assert run_success(1e-9, 2, 10**17) == pytest.approx(math.exp(-0.1), rel=1e-6)


@given(better_than_chance, lengths, targets, st.integers(1, 5))
def test_minimal_k_is_the_closed_form(
    error_rate: float, steps: int, target: float, steps_per_subtask: int
) -> None:
    assume(steps_per_subtask <= steps and (1 - error_rate) ** steps_per_subtask > 0.501)
    exact = exact_k(error_rate, steps, target, steps_per_subtask)
    assume(abs(exact - round(exact)) > Decimal("1e-9"))
    expected = max(1, int(exact.to_integral_value(ROUND_CEILING)))
    assert minimal_k(error_rate, steps, target, steps_per_subtask) == expected


@given(rates, margins)
@example(0.5, 7)
@example(0.5 + 1e-12, 7)
def test_expected_votes_are_the_gamblers_ruin(error_rate: float, k: int) -> None:
    """The same number as a sum over where the race stands: the ruin's formula written as a ratio."""
    odds = min(error_rate, 1 - error_rate) / max(error_rate, 1 - error_rate)
    # (1 - x^k)(1 + x) / ((1 - x)(1 + x^k)), with the division by 1 - x carried out.
    ratio = math.fsum(odds**i for i in range(k)) * (1 + odds) / (1 + odds**k)
    assert expected_votes(error_rate, k) == pytest.approx(k * ratio, rel=1e-9)


# --- properties


@given(better_than_chance, lengths, targets, st.integers(1, 4))
@example(0.1, 1, 0.9, 1)
@example(0.25, 1, 0.75, 1)
@example(0.4999, MANY, 0.999999, 1)
def test_minimal_k_is_minimal(error_rate: float, steps: int, target: float, steps_per_subtask: int) -> None:
    assume(steps_per_subtask <= steps and (1 - error_rate) ** steps_per_subtask > 0.5001)
    k = minimal_k(error_rate, steps, target, steps_per_subtask)
    assert k >= 1
    assert run_success(error_rate, k, steps, steps_per_subtask) >= target
    assert k == 1 or run_success(error_rate, k - 1, steps, steps_per_subtask) < target


@given(st.floats(0.001, 0.49), st.integers(1, 12), lengths)
def test_a_target_that_a_margin_just_meets_takes_that_margin(error_rate: float, k: int, steps: int) -> None:
    """The closed form is an integer here, and its rounding must not cost a vote."""
    target = run_success(error_rate, k, steps)
    assume(0 < target < 1 and (k == 1 or run_success(error_rate, k - 1, steps) < target))
    assert minimal_k(error_rate, steps, target) == k


@pytest.mark.parametrize("target", [1 - 2**-53, 1 - 1e-15, 5e-324])
def test_targets_at_the_ends_of_a_double_are_met(target: float) -> None:
    k = minimal_k(0.3, MANY, target)
    assert run_success(0.3, k, MANY) >= target
    assert k == 1 or run_success(0.3, k - 1, MANY) < target


@pytest.mark.parametrize("gap", [2.0**-54, 2.0**-40, 1e-9])
def test_the_margin_is_exact_next_to_a_half(gap: float) -> None:
    """Where p and 1 - p nearly cancel, the closed form in 60 digits still holds to the last digits."""
    exact = exact_k(0.5 - gap, MILLION, 0.95, 1).to_integral_value(ROUND_CEILING)
    assert minimal_k(0.5 - gap, MILLION, 0.95) == pytest.approx(int(exact), rel=1e-13)


def test_an_error_rate_just_below_a_half_takes_a_huge_margin() -> None:
    k = minimal_k(0.5 - 2**-54, MILLION, 0.95)
    assert k > 10**15
    assert run_success(0.5 - 2**-54, k, MILLION) >= 0.95


@given(better_than_chance, margins, lengths)
def test_a_larger_margin_is_never_worse(error_rate: float, k: int, steps: int) -> None:
    assert run_success(error_rate, k + 1, steps) >= run_success(error_rate, k, steps) * (1 - 1e-12)


@given(rates, rates, margins, lengths)
def test_a_worse_model_is_never_better(one: float, other: float, k: int, steps: int) -> None:
    better, worse = sorted((one, other))
    assert run_success(better, k, steps) >= run_success(worse, k, steps) * (1 - 1e-6)


@given(better_than_chance, lengths, lengths, targets)
def test_a_longer_run_needs_no_smaller_margin(error_rate: float, one: int, other: int, target: float) -> None:
    shorter, longer = sorted((one, other))
    assert run_success(error_rate, 3, longer) <= run_success(error_rate, 3, shorter) * (1 + 1e-12)
    assert minimal_k(error_rate, longer, target) >= minimal_k(error_rate, shorter, target)


@given(st.floats(1e-6, 0.1), margins, st.integers(2, 6))
def test_larger_subtasks_are_never_better(error_rate: float, k: int, steps_per_subtask: int) -> None:
    whole = run_success(error_rate, k, MILLION, steps_per_subtask)
    assert whole <= run_success(error_rate, k, MILLION) * (1 + 1e-12)


@given(rates, st.integers(1, 200))
def test_a_step_takes_at_least_k_votes_and_at_most_its_square(error_rate: float, k: int) -> None:
    assert k * (1 - 1e-12) <= expected_votes(error_rate, k) <= k * k * (1 + 1e-12)
    assert expected_votes(error_rate, k) == pytest.approx(expected_votes(1 - error_rate, k), rel=1e-6)


# --- edges


def test_a_model_that_never_errs() -> None:
    assert run_success(0, 1, 1) == 1
    assert run_success(0, 1, MANY) == 1
    assert run_success(0, 1, MANY, 10) == 1
    assert minimal_k(0, MANY, 0.999999) == 1
    assert expected_votes(0, 4) == 4


def test_a_model_that_always_errs() -> None:
    assert run_success(1, 3, 1) == 0
    assert run_success(1, 3, 10) == 0
    assert run_success(1, 3, 10, 5) == 0
    assert expected_votes(1, 4) == 4


def test_a_coin() -> None:
    assert run_success(0.5, 9, 1) == pytest.approx(0.5)
    assert expected_votes(0.5, 9) == 81


def test_a_run_of_no_steps_is_right() -> None:
    assert run_success(0.3, 1, 0) == 1
    assert run_success(1, 1, 0) == 1


def test_one_vote_decides_at_k_of_one() -> None:
    assert run_success(0.3, 1, 1) == pytest.approx(0.7)
    assert expected_votes(0.3, 1) == pytest.approx(1)


def test_huge_margins_neither_overflow_nor_lose_the_answer() -> None:
    assert run_success(0.4, 10**9, 1) == 1
    assert run_success(0.6, 10**9, 1) == 0
    assert expected_votes(0.4, 10**9) == pytest.approx(5 * 10**9)


def test_a_subtask_of_m_steps_is_right_if_all_are() -> None:
    assert run_success(0.1, 1, 3, 3) == pytest.approx(0.9**3)
    assert run_success(0.1, 1, 6, 3) == pytest.approx(0.9**6)
    assert run_success(0.1, 2, 6, 2) == pytest.approx((1 + (0.19 / 0.81) ** 2) ** -3)


def test_samples_are_votes_over_the_valid_share() -> None:
    assert expected_samples(0.2, 3) == expected_votes(0.2, 3)
    assert expected_samples(0.2, 3, 0.5) == pytest.approx(2 * expected_votes(0.2, 3))


# --- plan


def test_plan_of_the_papers_run() -> None:
    """k = 3 suffices for 20 disks with gpt-4.1-mini, at little more than 3 samples a step."""
    made = plan(MILLION, 0.0022, 0.99, 0.95)
    assert made.k == 3
    assert made.p_zero_errors == run_success(0.0022, 3, MILLION) > 0.95
    assert made.votes_per_step == expected_votes(0.0022, 3) == pytest.approx(3.013, abs=0.001)
    assert made.votes == pytest.approx(MILLION * made.votes_per_step)
    assert made.samples == pytest.approx(made.votes / 0.99)
    assert (made.steps, made.error_rate, made.valid_rate, made.target) == (MILLION, 0.0022, 0.99, 0.95)


@pytest.mark.parametrize("k", [1, 2, 3, 40])
def test_plan_uses_the_k_it_is_given(k: int) -> None:
    """D13: a requested k is used, neither raised to what the target needs nor lowered to a ceiling."""
    made = plan(MILLION, 0.01, k=k)
    assert made.k == k
    assert made.p_zero_errors == run_success(0.01, k, MILLION)


def test_plan_with_a_given_k_tells_the_truth_about_a_hopeless_model() -> None:
    assert plan(10, 0.6, k=3).p_zero_errors < 0.001


def test_a_plan_is_frozen() -> None:
    made: Plan = plan(10, 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.k = 1  # type: ignore[misc]


# --- wrong use


@pytest.mark.parametrize("error_rate", [0.5, 0.7, 1.0])
def test_no_k_helps_a_model_that_errs_half_the_time(error_rate: float) -> None:
    with pytest.raises(
        UsageError, match=rf"^no k helps, because {error_rate:g} of the valid samples are wrong"
    ):
        minimal_k(error_rate, 100, 0.95)


def test_no_k_helps_a_subtask_that_is_too_large() -> None:
    """0.9^6 is above a half, 0.9^7 is not."""
    assert minimal_k(0.1, 100, 0.95, 6) > 1
    with pytest.raises(UsageError, match=r"^no k helps, because 0\.5217 "):
        minimal_k(0.1, 100, 0.95, 7)


@pytest.mark.parametrize("error_rate", [-0.1, 1.1, math.nan, math.inf])
def test_an_error_rate_is_a_share(error_rate: float) -> None:
    for call in (
        lambda: run_success(error_rate, 3, 1),
        lambda: run_success(error_rate, 3, 10),
        lambda: minimal_k(error_rate, 10, 0.95),
        lambda: expected_votes(error_rate, 3),
        lambda: expected_samples(error_rate, 3),
        lambda: plan(10, error_rate),
    ):
        with pytest.raises(UsageError, match="the error rate must be from 0 to 1"):
            call()


@pytest.mark.parametrize("k", [0, -3])
def test_a_margin_is_at_least_one(k: int) -> None:
    for call in (
        lambda: run_success(0.1, k, 1),
        lambda: run_success(0.1, k, 10),
        lambda: expected_votes(0.1, k),
        lambda: expected_samples(0.1, k),
        lambda: plan(10, 0.1, k=k),
    ):
        with pytest.raises(UsageError, match="the margin k must be at least 1"):
            call()


@pytest.mark.parametrize("steps", [0, -1])
def test_a_goal_is_for_at_least_one_step(steps: int) -> None:
    with pytest.raises(UsageError, match="the number of steps must be at least 1"):
        minimal_k(0.1, steps, 0.95)
    with pytest.raises(UsageError, match="the number of steps must be at least 1"):
        plan(steps, 0.1, k=3)


@pytest.mark.parametrize("target", [0, 1, -0.5, 1.5, math.nan])
def test_a_target_is_strictly_between_zero_and_one(target: float) -> None:
    with pytest.raises(UsageError, match="the target must be above 0 and below 1"):
        minimal_k(0.1, 10, target)
    with pytest.raises(UsageError, match="the target must be above 0 and below 1"):
        plan(10, 0.1, target=target, k=3)


@pytest.mark.parametrize("valid_rate", [0, -0.1, 1.1, math.nan])
def test_a_valid_rate_is_a_share_above_zero(valid_rate: float) -> None:
    with pytest.raises(UsageError, match="the valid rate must be above 0 and at most 1"):
        expected_samples(0.1, 3, valid_rate)
    with pytest.raises(UsageError, match="the valid rate must be above 0 and at most 1"):
        plan(10, 0.1, valid_rate)


@pytest.mark.parametrize("steps_per_subtask", [0, -1, 11])
def test_a_subtask_fits_its_task(steps_per_subtask: int) -> None:
    with pytest.raises(UsageError, match="the steps per subtask must be from 1 to the number of steps, 10"):
        run_success(0.1, 3, 10, steps_per_subtask)
    with pytest.raises(UsageError, match="the steps per subtask must be from 1 to the number of steps, 10"):
        minimal_k(0.1, 10, 0.95, steps_per_subtask)


def test_a_run_has_no_negative_length() -> None:
    with pytest.raises(UsageError, match="the number of steps must be at least 0"):
        run_success(0.1, 3, -1)
