"""Estimate p and v of a model on a task from samples of random steps, with intervals and warnings.

p counts valid samples only, so that red flags do not bias it. Intervals are
Jeffreys', at 95 %, two-sided; the bound on the error rate by which k is chosen is Clopper and Pearson's,
one-sided, at 95 %.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from mdap.records import SURE, Interval, Quantiles, TallyShape
from mdap.rules.certificate import error_upper_bound, jeffreys
from mdap.rules.hardness import posterior
from mdap.rules.scaling import expected_votes

__all__ = ["Drawn", "Measured", "Poll", "consensus_rate", "jeffreys", "measure", "rate_behind", "spread_of"]

_UNLIKELY: Final = 0.01


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


class Measured(NamedTuple):
    """Totals of polls.

    Attributes:
        steps: steps whose right answer is known, or agreed on.
        undecided: steps on which no answer was agreed.
        samples: samples of all steps.
        votes: valid samples of the steps that count.
        wrong: wrong ones among them.
        error_rate: share of wrong votes, 1 - p.
        error_bound: upper 95 % confidence bound of the error rate.
        bias_bound: largest amount by which agreement may understate the error rate.
        valid_rate: share of samples that are not red-flagged, v.
        flags: red flags by reason.
        collisions: steps whose first two votes agree on a wrong answer.
        pairs: steps with two votes.
        collisions_expected: collisions if errors are independent and all say the same; fewer if they differ.
        duplicates: share of samples whose text repeats an earlier one of the same step.
        p_hard: probability that some steps are harder than others.
        hard_share: expected share of hard steps.
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

    Args:
        polls: the samples, step by step.
        consensus: margin of the races whose winners stand in for the truth; None if the truth is known.
    """
    counted = [poll for poll in polls if poll.truth is not None]
    votes_of = [[drawn.answer for drawn in poll.drawn if drawn.answer is not None] for poll in counted]
    wrong_of = [
        sum(answer != poll.truth for answer in votes) for poll, votes in zip(counted, votes_of, strict=True)
    ]
    votes, wrong = sum(map(len, votes_of)), sum(wrong_of)
    drawn = [drawn for poll in polls for drawn in poll.drawn]
    flags = Counter(one.flag for one in drawn if one.flag is not None)
    belief = posterior(_shapes(counted, votes_of, wrong_of, known=consensus is None))
    clumping = _clumping(votes_of, wrong_of) if belief.p_hard > SURE else 1.0
    rate, bound, bias = _error_rate(wrong / clumping, votes / clumping, consensus)
    firsts = [(poll.truth, answers[:2]) for poll, answers in zip(counted, votes_of, strict=True)]
    pairs = [(truth, *two) for truth, two in firsts if len(two) == 2]
    return Measured(
        steps=len(counted),
        undecided=len(polls) - len(counted),
        samples=len(drawn),
        votes=votes,
        wrong=wrong,
        error_rate=rate,
        error_bound=bound,
        bias_bound=bias,
        valid_rate=jeffreys(len(drawn) - flags.total(), len(drawn)),
        flags=dict(flags.most_common()),
        collisions=sum(first == second != truth for truth, first, second in pairs),
        pairs=len(pairs),
        collisions_expected=len(pairs) * rate.value**2,
        duplicates=_duplicates(polls),
        p_hard=belief.p_hard,
        hard_share=belief.hard_share,
        minority=sum(2 * bad > len(answers) for bad, answers in zip(wrong_of, votes_of, strict=True)),
        clumping=clumping,
    )


def consensus_rate(error_rate: float, k: int) -> float:
    """Return the share of votes against winners, where a share *error_rate* of the votes is wrong.

    A race ends with a lead of k, so l of its k + 2 l votes are against the winner: of all votes, the share
    (1 - k / E(votes)) / 2. It is less than the error rate, since a wrong winner counts as right.

    Args:
        error_rate: chance that a vote is wrong, 1/2 at most.
        k: the margin of the races.
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


def _shapes(
    polls: Sequence[Poll], votes_of: Sequence[Sequence[str | None]], wrong_of: Sequence[int], *, known: bool
) -> list[TallyShape]:
    shapes: Counter[tuple[int, int, int]] = Counter()
    for poll, votes, wrong in zip(polls, votes_of, wrong_of, strict=True):
        others = Counter(answer for answer in votes if answer != poll.truth)
        shapes[len(votes) - wrong, max(others.values(), default=0), len(votes)] += 1
    return [TallyShape(*shape, count, known) for shape, count in sorted(shapes.items())]


def _clumping(votes_of: Sequence[Sequence[str | None]], wrong_of: Sequence[int]) -> float:
    rate = sum(wrong_of) / max(sum(map(len, votes_of)), 1)
    seen = sum((wrong - rate * len(votes)) ** 2 for votes, wrong in zip(votes_of, wrong_of, strict=True))
    expected = sum(rate * (1 - rate) * len(votes) for votes in votes_of)
    return max(seen / expected, 1.0) if expected else 1.0


def _duplicates(polls: Sequence[Poll]) -> float:
    later = sum(max(len(poll.drawn) - 1, 0) for poll in polls)
    repeated = sum(len(poll.drawn) - len({drawn.text for drawn in poll.drawn}) for poll in polls)
    return repeated / later if later else 0.0
