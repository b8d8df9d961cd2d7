"""What a margin buys: the scaling laws of first-to-ahead-by-k voting (paper, section 3.2).

Everything is computed from the log odds of a vote being wrong, ``ln(e / (1 - e))``, so that a billion
steps at an error rate of 1e-9 lose no digits that matter. An error rate here is 1 - p of the paper: of
the *valid* samples, the share that is wrong. The laws let all wrong votes go to one same alternative,
which is the worst case. Values out of range raise a `UsageError`.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mdap.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimate of a run before anything is spent.

    Attributes:
        error_rate: chance that a valid sample is wrong, 1 - p.
        valid_rate: chance that a sample is valid, v.
        target: the wanted chance of a run without one wrong decision, t.
        steps: number of steps, s.
        k: the margin.
        p_zero_errors: chance of a run without one wrong decision, at this k.
        votes_per_step: expected votes of one step, or of one subtask of several.
        votes: expected votes of the run.
        samples: expected samples of the run, those that are red-flagged included.
        steps_per_subtask: steps that one sample answers at once, m.
    """

    error_rate: float
    valid_rate: float
    target: float
    steps: int
    k: int
    p_zero_errors: float
    votes_per_step: float
    votes: float
    samples: float
    steps_per_subtask: int = 1


def plan(
    steps: int,
    error_rate: float,
    valid_rate: float = 1.0,
    target: float = 0.95,
    k: int | None = None,
    steps_per_subtask: int = 1,
) -> Plan:
    """Estimate the margin, the reliability and the samples of a run; see `Plan` for the parameters.

    Without *k*, the margin is the smallest that reaches *target*.

    Raises:
        UsageError: if a value is out of range, or k is None and no margin reaches the target.
    """
    _check_goal(steps, target)
    margin = minimal_k(error_rate, steps, target, steps_per_subtask) if k is None else k
    p_zero_errors = run_success(error_rate, margin, steps, steps_per_subtask)
    wrong = error_rate if error_rate == 1 else -math.expm1(steps_per_subtask * math.log1p(-error_rate))
    subtasks = steps / steps_per_subtask
    votes_per_step = expected_votes(wrong, margin)
    return Plan(
        error_rate=error_rate,
        valid_rate=valid_rate,
        target=target,
        steps=steps,
        k=margin,
        p_zero_errors=p_zero_errors,
        votes_per_step=votes_per_step,
        votes=subtasks * votes_per_step,
        samples=subtasks * expected_samples(wrong, margin, valid_rate),
        steps_per_subtask=steps_per_subtask,
    )


def run_success(error_rate: float, k: int, steps: int, steps_per_subtask: int = 1) -> float:
    """Return the chance that every decision of a run is right: ``(1 + (e' / (1 - e'))^k)^(-s/m)``.

    A sample of a subtask of m steps is right if all of them are, so ``1 - e' = (1 - e)^m``. A run of no steps
    is right.
    """
    _check_race(error_rate, k)
    _check_cut(steps, steps_per_subtask)
    log_odds = _log_odds(error_rate, steps_per_subtask)
    return math.exp(-steps / steps_per_subtask * _softplus(k * log_odds)) if steps else 1.0


def minimal_k(error_rate: float, steps: int, target: float, steps_per_subtask: int = 1) -> int:
    """Return the smallest margin whose `run_success` reaches the target.

    It is ``ceil(ln(t^(-m/s) - 1) / ln((1 - p') / p'))`` of the paper, at least 1, with ``p' = p^m``.

    Raises:
        UsageError: if a value is out of range, or half or more of the samples of a subtask are wrong.
    """
    _check_race(error_rate, 1)
    _check_goal(steps, target)
    _check_cut(steps, steps_per_subtask)
    log_odds = _log_odds(error_rate, steps_per_subtask)
    if log_odds >= 0:
        raise UsageError(
            f"no k helps, because {math.exp(-_softplus(-log_odds)):.4g} of the valid samples are wrong"
            " and more votes only help below 0.5: take a better model or smaller steps"
        )

    def reaches(k: int) -> bool:
        return run_success(error_rate, k, steps, steps_per_subtask) >= target

    # Searched rather than computed: the closed form lands beside the integer where a margin fits exactly,
    # and far from it where the target is so near to 1 that the success itself is rounded.
    high = 1
    while not reaches(high):
        high *= 2
    low = high // 2 + 1
    return low + bisect_left(range(low, high), True, key=reaches)


def expected_votes(error_rate: float, k: int) -> float:
    """Return how many votes a step takes on average: ``k (2P - 1) / (2p - 1)``, or ``k^2`` at p = 1/2.

    This is the gambler's ruin between two candidates, with P the chance that the right one wins.
    """
    _check_race(error_rate, k)
    half = _log_odds(error_rate) / 2
    # 2p - 1 and 2P - 1 are the hyperbolic tangents of half the log odds, once and k times.
    return k * math.tanh(k * half) / math.tanh(half) if half else float(k * k)


def race_length(error_rate: float, k: int) -> tuple[float, float]:
    """Return mean and variance of the votes that a step takes.

    Who wins says nothing of how many votes it took, see `docs/explanation/why-voting.md`; with that, Wald's
    identities give the second moment as well as the first.
    """
    mean = expected_votes(error_rate, k)
    drift = 1 - 2 * error_rate
    if abs(drift) < 1e-4:  # the limit at p = 1/2, where the formula below would lose all digits
        return mean, 2 * k**2 * (k**2 - 1) / 3
    noise = 4 * error_rate * (1 - error_rate)
    net = math.tanh(k * _log_odds(error_rate) / 2)  # 1 - 2P
    square = (noise * mean - k**2 - 2 * drift * k * net * mean) / drift**2
    return mean, max(square - mean**2, 0.0)


def expected_samples(error_rate: float, k: int, valid_rate: float = 1.0) -> float:
    """Return the expected number of samples of a step: its expected votes divided by the valid rate."""
    if not 0 < valid_rate <= 1:
        raise UsageError(f"the valid rate must be above 0 and at most 1, not {valid_rate}")
    return expected_votes(error_rate, k) / valid_rate


def _log_odds(error_rate: float, steps_per_subtask: int = 1) -> float:
    """Return ``ln((1 - p') / p')``, with ``p' = p^m`` the chance that a sample of a subtask is right."""
    if error_rate in (0, 1):
        return math.inf if error_rate else -math.inf
    # By way of ln(p'): 1 - p' is then read off the same rounded value, so that errors cancel next to 1/2.
    log_right = steps_per_subtask * math.log1p(-error_rate)
    return math.log(-math.expm1(log_right)) - log_right


def _softplus(x: float) -> float:
    """Return ``ln(1 + e^x)`` without overflow, exact to the last digits at both ends."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _check_race(error_rate: float, k: int) -> None:
    if not 0 <= error_rate <= 1:
        raise UsageError(f"the error rate must be from 0 to 1, not {error_rate}")
    if k < 1:
        raise UsageError(f"the margin k must be at least 1, not {k}")


def _check_goal(steps: int, target: float) -> None:
    if steps < 1:
        raise UsageError(f"the number of steps must be at least 1, not {steps}")
    if not 0 < target < 1:
        raise UsageError(f"the target must be above 0 and below 1, not {target}")


def _check_cut(steps: int, steps_per_subtask: int) -> None:
    if steps < 0:
        raise UsageError(f"the number of steps must be at least 0, not {steps}")
    if not 1 <= steps_per_subtask <= max(steps, 1):
        raise UsageError(
            f"the steps per subtask must be from 1 to the number of steps, {steps}, not {steps_per_subtask}"
        )


def race_lengths(error_rate: float, k: int, most: int) -> list[float]:
    """Return the chance that a race between two candidates is decided by exactly 0, 1, ... *most* votes."""
    ends = [0.0] * (most + 1)
    if most >= k:
        ends[k::2] = lost_votes(error_rate, k, (most - k) // 2).tolist()
    return ends


def lost_votes(error_rate: Any, k: int, most: int) -> "NDArray[Any]":
    """Return the chance that a race has exactly 0, 1, ... *most* votes against its winner.

    At p = 1/2 it is a random walk to one of two ends, k places away (Feller, volume 1, XIV.5). Each way that
    ends with l votes against the winner has the chance ``(e (1 - e))^l ((1 - e)^k + e^k)`` at any p. A column
    of error rates gives a row of chances each.
    """
    import numpy as np

    lost = np.arange(most + 1)
    angle = np.arange(1, 2 * k, 2)[:, None] * np.pi / (2 * k)
    even = (np.cos(angle) ** (k + 2 * lost - 1) * np.sin(angle) * np.sin(k * angle)).sum(axis=0) / k
    right = 1 - error_rate
    law: NDArray[Any] = np.maximum(even, 0) * (4 * error_rate * right) ** lost * 2.0 ** (k - 1)
    law *= right**k + error_rate**k
    return law


def likely_error_rate(races: Mapping[tuple[int, int], int]) -> float:
    """Return the error rate under which races between two candidates were most likely to go as they did.

    Votes against the winners are not simply wrong ones: some winners are wrong. A race of margin k with a
    votes against its winner has the likelihood ``(e (1 - e))^a ((1 - e)^k + e^k)``. The rate is one half at
    most: above that, the same races look like others below it. *races* counts them by both numbers.
    """

    def log_likelihood(rate: float) -> float:
        inner = math.log(rate * (1 - rate))
        return sum(
            count * (against * inner + math.log((1 - rate) ** k + rate**k))
            for (k, against), count in races.items()
        )

    if not any(against for _, against in races):
        return 0.0
    low, high = 1e-9, 0.5
    while high - low > 1e-9:
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if log_likelihood(left) < log_likelihood(right):
            low = left
        else:
            high = right
    return (low + high) / 2
