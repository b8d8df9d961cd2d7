"""Estimate p and v of a model on a task from samples of random steps, and from them what a run takes.

p counts valid samples only, so that red flags do not bias it. Intervals are
Jeffreys', at 95 %, two-sided; the bound on the error rate by which k is chosen is Clopper and Pearson's,
one-sided, at 95 %.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from mdap.records import SURE, Interval, Quantiles, TallyShape
from mdap.rules.certificate import error_upper_bound, jeffreys
from mdap.rules.scaling import expected_votes, race_length
from mdap.settings import Limits

_UNLIKELY: Final = 0.01
_POINTS: Final = 41
_Z: Final = 1.959964


class Drawn(NamedTuple):
    """One sample: the key of its answer or the reason of its red flag, its cost, and its text."""

    answer: str | None
    flag: str | None
    input_tokens: int | None
    output_tokens: int | None
    latency: float | None
    text: str


class Poll(NamedTuple):
    """The samples of one step, in order, and the key of the right answer; None if none was found."""

    truth: str | None
    drawn: tuple[Drawn, ...]


class _Step(NamedTuple):
    truth: str | None
    votes: list[str]
    wrong: int
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, poll: Poll) -> "_Step":
        votes = [drawn.answer for drawn in poll.drawn if drawn.answer is not None]
        others = Counter(answer for answer in votes if answer != poll.truth)
        right = len(votes) - others.total()
        return cls(poll.truth, votes, others.total(), (right, max(others.values(), default=0), len(votes)))


class Measured(NamedTuple):
    """Totals of polls. Fields that `mdap.Calibration` has too are documented there.

    Attributes:
        flags: red flags by reason.
        pairs: steps with two votes.
        minority: steps with more wrong votes than right ones.
        clumping: variance of a step's wrong votes, relative to independent errors, for which it is 1.
    """

    steps: int
    undecided: int
    samples: int
    votes: int
    wrong: int
    error_rate: Interval
    error_bound: float
    bias_bound: float
    valid_rate: Interval
    flags: dict[str, int]
    collisions: int
    pairs: int
    collisions_expected: float
    duplicates: float
    p_hard: float
    hard_share: float
    minority: int
    clumping: float

    @property
    def uneven(self) -> bool:
        """Whether the samples show that some steps are harder than others."""
        return self.p_hard > SURE

    @property
    def collide(self) -> bool:
        """Whether more steps collide than independent errors explain."""
        from scipy.stats import binom

        rate = self.collisions_expected / self.pairs if self.pairs else 0.0
        return self.collisions > 0 and float(binom.sf(self.collisions - 1, self.pairs, rate)) < _UNLIKELY


def measure(polls: Sequence[Poll], consensus: int | None = None) -> Measured:
    """Return the totals of *polls*.

    Where nobody knows the right answers, the winners of races by the margin *consensus* stand for them.
    """
    from mdap.rules.hardness import posterior  # with numpy and scipy, which take long to load

    drawn = [drawn for poll in polls for drawn in poll.drawn]
    flags = Counter(one.flag for one in drawn if one.flag is not None)
    steps = [_Step.of(poll) for poll in polls if poll.truth is not None]
    votes, wrong = sum(len(step.votes) for step in steps), sum(step.wrong for step in steps)
    shapes = Counter(step.shape for step in steps)
    belief = posterior([TallyShape(*shape, n, consensus is None) for shape, n in sorted(shapes.items())])
    clumping = _clumping(steps, wrong / max(votes, 1)) if belief.p_hard > SURE else 1.0
    rate, bound, bias = _error_rate(wrong / clumping, votes / clumping, consensus)
    pairs = [step for step in steps if len(step.votes) > 1]
    later = len(drawn) - sum(bool(poll.drawn) for poll in polls)
    repeated = len(drawn) - sum(len({drawn.text for drawn in poll.drawn}) for poll in polls)
    return Measured(
        steps=len(steps),
        undecided=len(polls) - len(steps),
        samples=len(drawn),
        votes=votes,
        wrong=wrong,
        error_rate=rate,
        error_bound=bound,
        bias_bound=bias,
        valid_rate=jeffreys(len(drawn) - flags.total(), len(drawn)),
        flags=dict(flags.most_common()),
        collisions=sum(step.votes[0] == step.votes[1] != step.truth for step in pairs),
        pairs=len(pairs),
        collisions_expected=len(pairs) * rate.value**2,
        duplicates=repeated / later if later else 0.0,
        p_hard=belief.p_hard,
        hard_share=belief.hard_share,
        minority=sum(2 * step.wrong > len(step.votes) for step in steps),
        clumping=clumping,
    )


def consensus_rate(error_rate: float, k: int) -> float:
    """Return the share of votes against winners, where a share *error_rate*, at most 1/2, of votes is wrong.

    A race ends with a lead of k, so l of its k + 2 l votes are against the winner: of all votes, the share
    (1 - k / E(votes)) / 2. It is less than the error rate, since a wrong winner counts as right.
    """
    return (1 - k / expected_votes(error_rate, k)) / 2


def rate_behind(against: float, k: int) -> float:
    """Return the error rate at which the share *against* of the votes is against winners; the inverse of
    `consensus_rate`, and 1/2 where no rate below that explains it.
    """
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if consensus_rate(middle, k) < against else (low, middle)
    return high


def spread_of(values: Sequence[float]) -> Quantiles | None:
    """Return mean and quantiles of *values*; None without any."""
    if not values:
        return None
    import numpy as np

    middle, most = np.quantile(values, [0.5, 0.95])
    return Quantiles(float(np.mean(values)), float(middle), float(most))


def _error_rate(wrong: float, votes: float, consensus: int | None) -> tuple[Interval, float, float]:
    rate, bound = jeffreys(wrong, votes), error_upper_bound(wrong, votes)
    if consensus is None:
        return rate, bound, 0.0
    bias = rate_behind(min(rate.high, 0.5), consensus) - min(rate.high, 0.5)
    return (
        Interval(rate.value, rate.low, rate.high + max(bias, 0.0)),
        bound if bound >= 0.5 else rate_behind(bound, consensus),
        max(bias, 0.0),
    )


def _clumping(steps: Sequence[_Step], rate: float) -> float:
    seen = sum((step.wrong - rate * len(step.votes)) ** 2 for step in steps)
    expected = sum(rate * (1 - rate) * len(step.votes) for step in steps)
    return max(seen / expected, 1.0) if expected else 1.0


class VoteCounts(NamedTuple):
    """Wrong votes, votes, red flags and clumping of a calibration; see `Measured`."""

    wrong: int
    votes: int
    flags: int
    clumping: float = 1.0


def estimated_samples(steps: int, k: int, counts: VoteCounts) -> Interval:
    """Return the estimated samples of a run, with a 95 % interval.

    The estimate assumes that all wrong votes agree. Wrong votes that differ hinder the right
    answer less: where no two agree, it needs k votes of its own and no more, so the interval begins there.
    Both ends include the uncertainty of p and v, and the run's own randomness.
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
    # Where no two wrong votes ever agree, a step takes as many as k right ones among them do.
    law = [
        (k / (1 - rate), k * rate / (1 - rate) ** 2) if scattered else race_length(rate, k)
        for rate in rates.tolist()
    ]
    means, variances = (np.array(part)[:, None] for part in zip(*law, strict=True))
    centre = steps * means / valids
    spread = np.sqrt(
        steps * counts.clumping * (variances / valids**2 + means * (1 - valids) / valids**2) + 1e-9
    )
    ends = float((centre - 8 * spread).min()), float((centre + 8 * spread).max())
    return float(brentq(lambda at: float(ndtr((at - centre) / spread).mean()) - level, *ends))


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
    speculation on the leading vote achieves), or for the slowest of its votes. *tokens* are those of one
    sample, prompt and reply, and *latencies* the seconds that replies took.
    """
    import numpy as np

    ordered = np.sort(np.asarray(latencies or [0.0], dtype=float))
    places = np.arange(ordered.size + 1) / ordered.size
    fastest = float(ordered @ -np.diff((1 - places) ** k))
    slowest = float(ordered @ np.diff(places**k))
    mean = float(ordered.mean())

    # Without limits, the latency of a chain's steps takes the time: few samples are in flight.
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
