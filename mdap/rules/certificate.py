"""The certificate: the probability that a run has no errors, from its votes."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mdap.records import SURE, Certificate, Interval, TallyShape
from mdap.rules.hardness import Belief, posterior
from mdap.rules.scaling import lost_votes, race_length

if TYPE_CHECKING:
    from numpy.typing import NDArray
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from mdap.tasks import A, Decision

__all__ = [
    "certify",
    "confident",
    "contribution",
    "doubts",
    "error_upper_bound",
    "floor_of",
    "jeffreys",
    "shape_of",
]

_MUCH_DISSENT: Final = 0.4


def error_upper_bound(wrong: float, votes: float, confidence: float = 0.95) -> float:
    """Return a one-sided upper confidence bound on the error rate (Clopper-Pearson).

    Args:
        wrong: votes known to be wrong.
        votes: all votes, at least as many.
        confidence: probability that the bound holds, in (0, 1).
    """
    # Imported here, since scipy alone takes longer to import than all the rest.
    from scipy.special import betaincinv

    return 1.0 if wrong >= votes else float(betaincinv(wrong + 1, votes - wrong, confidence))


def jeffreys(hits: float, trials: float) -> Interval:
    """Return the share of *hits* with Jeffreys' 95 % interval, which ends at 0 or 1 where all agree."""
    from scipy.special import betaincinv

    if trials <= 0:
        return Interval(0.5, 0.0, 1.0)
    a, b = hits + 0.5, trials - hits + 0.5
    low = 0.0 if hits <= 0 else float(betaincinv(a, b, 0.025))
    high = 1.0 if hits >= trials else float(betaincinv(a, b, 0.975))
    return Interval(hits / trials, low, high)


def certify(shapes: Sequence[TallyShape]) -> Certificate | None:
    """Return the certificate of decisions, given their tallies.

    The uncertainty of the error rate, and of how many steps are harder than others, is averaged over, see
    `mdap.rules.hardness`; nothing is taken at one estimate.

    Args:
        shapes: the tallies of all voted decisions.

    Returns:
        The certificate; None without decisions of a margin above 1: at 1 no vote can be against the winner,
        however wrong it is. Where other margins are greater, it was a proposal, on which others vote.
    """
    # The cases of a batch are short, and their votes fall in few ways.
    return _certified(tuple(_decisions(shapes)))


@lru_cache(maxsize=1024)
def _certified(shapes: tuple[TallyShape, ...]) -> Certificate | None:
    import numpy as np

    if not shapes:
        return None
    belief = posterior(shapes)
    clouds = (belief.alike, belief.mixed)
    log_zero = [np.zeros_like(cloud.rates) for cloud in clouds]
    expected = 0.0
    most = [contribution(shape, belief, sum(one.steps for one in shapes)) for shape in shapes]
    for shape, at_most in zip(shapes, most, strict=True):
        for place, (right, wrong) in enumerate(belief.log_right_and_wrong(shape)):
            log_zero[place] += shape.steps * np.minimum(right, np.log(at_most))
            expected += shape.steps * float(clouds[place].weights @ np.exp(wrong))
    p_zero = sum(float(cloud.weights @ np.exp(log)) for cloud, log in zip(clouds, log_zero, strict=True))
    rate = _error_rate(shapes, belief)
    return Certificate(
        p_zero_errors=min(p_zero, 1.0),
        expected_errors=expected,
        error_rate=rate.value,
        error_rate_low=rate.low,
        error_rate_high=rate.high,
        p_hard=belief.p_hard,
        hard_share=belief.hard_share,
        dispersion=_dispersion(shapes, belief),
        floor=floor_of(shapes, belief),
        warnings=(
            *_warnings(belief, rate),
            *_standing_out(sum(one.steps for one, top in zip(shapes, most, strict=True) if top < 1)),
        ),
    )


def doubts(shapes: Sequence[TallyShape]) -> list[tuple[TallyShape, float]]:
    """Return each tally with the probability that its winner is wrong, most doubtful first.

    Args:
        shapes: the tallies of all voted decisions of a run.
    """
    shapes = _decisions(shapes)
    if not shapes:
        return []
    belief = posterior(shapes)
    found = [(shape, belief.p_wrong(shape)) for shape in shapes]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def _decisions(shapes: Sequence[TallyShape]) -> list[TallyShape]:
    """Return the tallies with a margin above 1: at 1 no vote can disagree."""
    return [shape for shape in shapes if shape.margin > 1]


def _dispersion(shapes: Sequence[TallyShape], belief: Belief) -> float | None:
    """Return the variance of the votes for runners-up, relative to steps that are all equally hard."""
    alike = belief.alike
    rate = float(alike.weights @ alike.rates / max(alike.weights.sum(), 1e-300))
    seen = expected = 0.0
    for shape in shapes:
        mean, variance = race_length(rate, shape.margin)
        seen += shape.steps * (shape.runner_up - (mean - shape.margin) / 2) ** 2
        expected += shape.steps * variance / 4
    return seen / expected if expected > 0 else None


def _error_rate(shapes: Sequence[TallyShape], belief: Belief) -> Interval:
    """Return the probability that a vote is wrong.

    Where wrong votes differ, hardly a winner is wrong, and those against winners are the wrong ones. Where
    they all agree, the law says how many wrong winners hide.
    """
    against = sum(shape.steps * (shape.total - shape.votes) for shape in shapes)
    if against > sum(shape.steps * shape.runner_up for shape in shapes):
        return jeffreys(against, sum(shape.steps * shape.total for shape in shapes))
    return Interval(belief.mean_error_rate, *belief.error_rate(0.025, 0.975))


def _standing_out(steps: int) -> list[str]:
    if not steps:
        return []
    are, each = ("step is", "it") if steps == 1 else ("steps are", "each")
    return [
        f"{steps:,} {are} far more divided than the others: P(no errors) counts {each} as wrong, wholly or "
        "in part; check the most doubtful ones"
    ]


def _warnings(belief: Belief, rate: Interval) -> tuple[str, ...]:
    found = []
    if belief.p_hard > SURE:
        found.append(
            f"about {max(belief.hard_share, 1e-4):.2%} of the steps are hard: their votes are more divided "
            "than independent errors explain, and on such a step they can agree on a wrong answer; "
            "check the most doubtful ones"
        )
    if rate.value > _MUCH_DISSENT and rate.low > 0.75 * _MUCH_DISSENT:
        found.append(
            f"about {rate.value:.0%} of the votes are wrong: where it is half or more on a step, "
            "voting makes it worse; take a better model or smaller steps"
        )
    return tuple(found)


# A step stands out if a run is expected to have fewer than so many with its tally: of the steps that are not
# hard, and of all.
_FEW_EASY: Final = 0.1
_FEW: Final = 0.5
# By so much, on average, a claim may exceed the truth.
_SLACK: Final = 0.05


def contribution(shape: TallyShape, belief: Belief, steps: int) -> float:
    """Return the most that a step with this tally may contribute to the chance of no error, above 0.

    At p just above 1/2 half of the decisions are wrong, and some of those steps look like any other. For the
    claim not to be too high on average, the steps that stand out must answer for those that do not: one that
    is more divided than half of all steps at p = 1/2 contributes nothing.
    """
    coin = _coin(shape.margin, shape.runner_up)
    most = float(_contributions(coin)[-1])
    return max(most, 1e-300) if most < 1 and _stands_out(shape, coin, belief, steps, seen=True) else 1.0


def _stands_out(shape: TallyShape, coin: "NDArray[Any]", belief: Belief, steps: int, *, seen: bool) -> bool:
    orders = math.log(coin[shape.runner_up]) + (shape.margin + 2 * shape.runner_up - 1) * math.log(2)
    easy, every = (
        steps * math.exp(orders + belief.log_chance(shape, seen=seen, hard=hard)) for hard in (False, True)
    )
    return easy < _FEW_EASY and every < _FEW


def _coin(k: int, most: int) -> "NDArray[Any]":
    """Return how likely a step at p = 1/2 has 0, 1, ..., *most* votes against its winner; above 0."""
    import numpy as np

    coin: NDArray[Any] = np.maximum(lost_votes(0.5, k, most), 1e-300)
    return coin


def _contributions(coin: "NDArray[Any]") -> "NDArray[Any]":
    import numpy as np

    most: NDArray[Any] = np.clip((0.5 + _SLACK - (np.cumsum(coin) - coin)) / coin, 0, 1)
    return most


def floor_of(shapes: Sequence[TallyShape], belief: Belief) -> float:
    """Return the least p of a step, in hundredths, at which the claim is not too high on average.

    It is 1/2 unless a step at p = 1/2 is likely to look like the others, among so many steps and at so small
    a margin.
    """
    import numpy as np

    k, steps = min(shape.margin for shape in shapes), sum(shape.steps for shape in shapes)
    coin = _coin(k, 10 * k * k)
    contributed = _contributions(coin)
    for lost in range(coin.size):
        shape = TallyShape(k + lost, lost, k + 2 * lost, 1)
        if _stands_out(shape, coin, belief, steps, seen=False):
            break
        contributed[lost] = 1 - belief.p_wrong(shape)
    p = np.arange(51, 100)[:, None] / 100
    excess = lost_votes(1 - p, k, coin.size - 1) @ contributed - 1 / (1 + ((1 - p[:, 0]) / p[:, 0]) ** k)
    too_high = np.flatnonzero(excess > _SLACK)
    return 0.5 if too_high.size == 0 else float(p[too_high[-1], 0] + 0.01)


# Nothing is ever certain, and the last digits may differ from one machine to the next.
_DIGITS: Final = 6
_MOST: Final = 1 - 10**-_DIGITS


def shape_of(winner: str, votes: Mapping[str, int]) -> TallyShape:
    """Return how the votes of a step fell.

    Args:
        winner: the winning answer in canonical JSON.
        votes: the votes of each candidate.
    """
    others = max((count for answer, count in votes.items() if answer != winner), default=0)
    return TallyShape(votes.get(winner, 0), others, sum(votes.values()), 1)


def confident(decisions: Sequence[Decision[A]], shapes: Sequence[TallyShape | None]) -> list[Decision[A]]:
    """Return *decisions* with the chance that each winner is right, by the votes on all of them.

    It is one minus the doubt of the certificate, taken over these steps alone, so that it follows from what
    was asked and decided: it is the same after a resume and in an audit.

    Args:
        decisions: the decisions.
        shapes: how the votes of each fell; None where no vote decided.
    """
    found = _confidences(tuple(sorted(Counter(shape for shape in shapes if shape is not None).items())))
    return [
        replace(decision, confidence=None if shape is None else found.get(shape))
        for decision, shape in zip(decisions, shapes, strict=True)
    ]


@lru_cache(maxsize=256)
def _confidences(counted: tuple[tuple[TallyShape, int], ...]) -> dict[TallyShape, float]:
    known = doubts([shape._replace(steps=count) for shape, count in counted])
    return {shape._replace(steps=1): min(round(1 - doubt, _DIGITS), _MOST) for shape, doubt in known}
