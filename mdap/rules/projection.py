"""Estimate the samples, cost and time of a run from a calibration, with intervals."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from mdap.records import Interval
from mdap.rules.scaling import race_length
from mdap.settings import Limits

__all__ = ["VoteCounts", "estimated_samples", "estimated_seconds", "scaled"]

_POINTS: Final = 41
_Z: Final = 1.959964


class VoteCounts(NamedTuple):
    """VoteCounts of a calibration.

    Attributes:
        wrong: wrong votes.
        votes: votes.
        flags: red flags.
        clumping: variance of a step's wrong votes, relative to independent errors.
    """

    wrong: int
    votes: int
    flags: int
    clumping: float = 1.0


def estimated_samples(steps: int, k: int, counts: VoteCounts) -> Interval:
    """Return the estimated samples of a run, with a 95 % interval.

    The estimate assumes that all wrong votes agree. Wrong votes that differ hinder the right
    answer less: where no two agree, it needs k votes of its own and no more, so the interval begins there.
    Both ends include the uncertainty of p and v, and the run's own randomness.

    Args:
        steps: steps of the run.
        k: its margin.
        counts: what the calibration counted.
    """
    if counts.votes <= 0:
        return Interval(math.inf, 0.0, math.inf)
    rate = counts.wrong / counts.votes
    valid = counts.votes / (counts.votes + counts.flags)
    mean = steps * race_length(rate, k)[0] / valid
    low = _quantile(steps, k, counts, 0.025, scattered=True)
    high = _quantile(steps, k, counts, 0.975, scattered=False)
    return Interval(mean, min(low, mean), max(high, mean))


def _quantile(steps: int, k: int, counts: VoteCounts, level: float, *, scattered: bool) -> float:
    """Return a quantile of a mixture of normal distributions, one for each plausible pair of p and v."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import betaincinv, ndtr

    levels = (np.arange(_POINTS) + 0.5) / _POINTS
    wrong, votes = counts.wrong / counts.clumping, counts.votes / counts.clumping
    rates = np.minimum(betaincinv(wrong + 0.5, votes - wrong + 0.5, levels), 0.5)
    valids = betaincinv(counts.votes + 0.5, counts.flags + 0.5, levels) if counts.flags else np.ones(1)
    law = [_scattered(rate, k) if scattered else race_length(rate, k) for rate in rates.tolist()]
    means, variances = (np.array(part)[:, None] for part in zip(*law, strict=True))
    centre = steps * means / valids
    spread = np.sqrt(
        steps * counts.clumping * (variances / valids**2 + means * (1 - valids) / valids**2) + 1e-9
    )
    ends = float((centre - 8 * spread).min()), float((centre + 8 * spread).max())
    return float(brentq(lambda at: float(ndtr((at - centre) / spread).mean()) - level, *ends))


def _scattered(error_rate: float, k: int) -> tuple[float, float]:
    """Return mean and variance of the votes of a step where no two wrong ones ever agree."""
    right = 1 - error_rate
    return k / right, k * error_rate / right**2


def scaled(samples: Interval, each: float, relative_error: float) -> Interval:
    """Return the cost of *samples* at *each* per sample, given the relative standard error of *each*."""
    spread = _Z * relative_error
    return Interval(
        samples.value * each, max(samples.low * each * (1 - spread), 0.0), samples.high * each * (1 + spread)
    )


def estimated_seconds(
    steps: int, k: int, samples: Interval, limits: Limits, tokens: float, latencies: Sequence[float]
) -> Interval:
    """Return the estimated duration of a chain under *limits*.

    The rate limits bound requests and tokens per minute, the slots bound concurrent samples, and a chain
    waits for its steps one after the other: for the first vote of each at best (the estimate, as
    speculation on the leading vote achieves), or for the slowest of its votes.

    Args:
        steps: steps of the run.
        k: its margin.
        samples: samples of the run.
        limits: concurrency, requests and tokens a minute.
        tokens: tokens of one sample, prompt and reply.
        latencies: seconds that replies took.
    """
    import numpy as np

    if not latencies:
        latencies = [0.0]
    ordered = np.sort(np.asarray(latencies, dtype=float))
    places = np.arange(ordered.size + 1) / ordered.size
    fastest = float(ordered @ -np.diff((1 - places) ** k))
    slowest = float(ordered @ np.diff(places**k))
    mean = float(ordered.mean())

    # Where nothing bounds them, a chain has few samples at once, and its steps are what takes time.
    slots = limits.concurrency or math.inf

    def paced(count: float) -> float:
        requests = 60 * count / limits.requests_per_minute if limits.requests_per_minute else 0.0
        weighed = 60 * count * tokens / limits.tokens_per_minute if limits.tokens_per_minute else 0.0
        return max(requests, weighed, count * mean / slots)

    further = max(samples.high / max(steps, 1) - k, 0.0) * mean
    return Interval(
        max(paced(samples.value), steps * fastest),
        max(paced(samples.low), steps * fastest * 0.9),
        max(paced(samples.high), steps * (slowest + further)),
    )
