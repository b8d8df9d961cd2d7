"""Posterior of the error rate, and of whether some steps are harder, from many tallies.

Import it only where votes are weighed: scipy takes longer to import than all the rest.

The posterior weighs two models, with prior odds of nine to one:

- *alike*: every vote of every step is wrong with the same chance e;
- *mixed*: a share h of the steps is *hard*: there, a vote is wrong with chance u, which is 0.3, 0.4 or
  1/2 with equal prior probability; on the others it is wrong with chance e.

Both models assume that each step is right more often than wrong. Votes cannot reveal a step on which it is
not: with right and wrong exchanged, the same tallies are equally likely.

Two wrong votes on a step that is not hard agree with chance c, estimated from the steps with exactly two
votes against the winner; on a hard step they always agree. So if wrong votes usually differ, two that agree
are a sign of a hard step.

The chance e (below 1/2) has Jeffreys' prior; the share h has the prior Beta(1/2, 5), with mean 0.09. A voted
tally does not tell whether its winner is right, so the likelihood adds both readings. All sums run over a
grid, which two refinements narrow to the points that matter. Steps with equal tallies are one term, so the
time does not depend on the length of the run.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, expit

from mdap.records import TallyShape
from mdap.rules.scaling import lost_votes

Array: TypeAlias = NDArray[Any]

_LOWEST: Final = -30.0  # the log odds where the grids of e and h begin
_SEEN: Final = 20.0  # log-likelihoods this many nats below the best are negligible
_RATES: Final = 41
_SHARES: Final = 31
_HARD: Final = (0.3, 0.4, 0.5)
_MIXED: Final = 0.1
_PRIOR: Final = (0.5, 5.0)
# A step stands out if a run is expected to have fewer than so many with its tally: of the steps that are not
# hard, and of all.
_FEW_EASY: Final = 0.1
_FEW: Final = 0.5
# By so much, on average, a claim may exceed the truth.
_SLACK: Final = 0.05


class Weighed(NamedTuple):
    """One cloud of points (e, h, u) with their weights.

    Attributes:
        rates: chance of a wrong vote on a step that is not hard, by point.
        shares: share of hard steps, by point.
        hard: chance of a wrong vote on a hard step, by point.
        weights: how likely each point is, given the tallies; all clouds together sum to 1.
    """

    rates: Array
    shares: Array
    hard: Array
    weights: Array


class Belief(NamedTuple):
    """What the tallies say, by a model without hard steps, whose share is 0, and one with them.

    *agreement* is the chance that two wrong votes of a step are for the same answer.
    """

    alike: Weighed
    mixed: Weighed
    agreement: float

    @property
    def p_hard(self) -> float:
        """The chance that some steps are harder than others."""
        return float(self.mixed.weights.sum())

    @property
    def hard_share(self) -> float:
        """The share of hard steps that is to be expected."""
        return float(self.mixed.weights @ self.mixed.shares)

    def error_rate(self, *levels: float) -> tuple[float, ...]:
        """Return these quantiles of the chance that a vote is wrong, over all steps."""
        rates = np.concatenate([_overall(self.alike), _overall(self.mixed)])
        weights = np.concatenate([self.alike.weights, self.mixed.weights])
        order = np.argsort(rates)
        reached = np.cumsum(weights[order])
        places = np.minimum(np.searchsorted(reached, levels), rates.size - 1)
        return tuple(float(rate) for rate in rates[order][places])

    @property
    def mean_error_rate(self) -> float:
        """The chance that a vote is wrong, over all steps, that is to be expected."""
        return float(sum(cloud.weights @ _overall(cloud) for cloud in (self.alike, self.mixed)))

    def log_right_and_wrong(self, shape: TallyShape) -> list[tuple[Array, Array]]:
        """Return by cloud, as logarithms, the chances that a winner with this tally is right and wrong."""
        found = []
        for cloud in (self.alike, self.mixed):
            right, wrong = _readings(shape, cloud, self.agreement)
            both = np.logaddexp(right, wrong)
            found.append((right - both, wrong - both))
        return found

    def p_wrong(self, shape: TallyShape) -> float:
        """Return the chance that a winner with this tally is wrong."""
        readings = zip((self.alike, self.mixed), self.log_right_and_wrong(shape), strict=True)
        return sum(float(cloud.weights @ np.exp(wrong)) for cloud, (_, wrong) in readings)

    def log_chance(self, shape: TallyShape, *, seen: bool, hard: bool) -> float:
        """Return the log likelihood that a step has these votes, in one given order.

        It is the mean over the points of *mixed*, by weight.

        Args:
            shape: a tally.
            seen: whether the weights follow from this tally too; its share is then taken out of them again
                (leave-one-out), so that a tally does not predict itself.
            hard: whether the step may be a hard one.
        """
        any_step = np.logaddexp(*_readings(shape, self.mixed, self.agreement))
        chance = any_step if hard else np.logaddexp(*_votes(shape, self.mixed.rates))
        weights = self.mixed.weights * (np.exp(any_step.min() - any_step) if seen else 1.0)
        top = chance.max()
        return float(top + np.log(max(weights @ np.exp(chance - top), 1e-300) / max(weights.sum(), 1e-300)))


def posterior(shapes: Sequence[TallyShape]) -> Belief:
    """Return what *shapes* say of the rate of wrong votes and of hard steps."""
    agreement = _agreement(shapes)
    alike, evidence_alike = _refined((shapes, agreement), np.array([-np.inf]), np.array([0.5]))
    mixed, evidence_mixed = _refined((shapes, agreement), np.linspace(_LOWEST, 5.0, _SHARES), np.array(_HARD))
    top = max(evidence_alike, evidence_mixed)
    odds = (1 - _MIXED) * np.exp(evidence_alike - top), _MIXED * np.exp(evidence_mixed - top)
    total = sum(odds)
    return Belief(
        alike._replace(weights=alike.weights * odds[0] / total),
        mixed._replace(weights=mixed.weights * odds[1] / total),
        agreement,
    )


def _agreement(shapes: Sequence[TallyShape]) -> float:
    """Return the chance that two wrong votes of a step are for the same answer; 1 where nothing tells.

    There are as many orders in which a race can end with two votes for one other answer as with one each for
    two others, so their numbers compare as the chances do. One more is taken to agree, to be safe.
    """
    two = [shape for shape in shapes if shape.total - shape.votes == 2]
    agreed = sum(shape.steps for shape in two if shape.runner_up == 2)
    return (agreed + 1) / (sum(shape.steps for shape in two) + 1)


_Evidence = tuple[Sequence[TallyShape], float]


def _refined(evidence: _Evidence, share_logits: Array, hard: Array) -> tuple[Weighed, float]:
    """Return one model's points, with weights that sum to 1, and the logarithm of its evidence."""
    rate_logits = np.linspace(_LOWEST, 0.0, _RATES)
    for stage in range(3):
        axes = np.meshgrid(expit(rate_logits), expit(share_logits), hard, indexing="ij")
        rates, shares, hards = (axis.ravel() for axis in axes)
        cloud = Weighed(rates, shares, hards, weights=np.ones_like(rates))
        height = _height(evidence, cloud)
        if stage < 2:
            seen = (height > height.max() - _SEEN).reshape(axes[0].shape)
            rate_logits = _narrowed(rate_logits, seen.any(axis=(1, 2)))
            share_logits = _narrowed(share_logits, seen.any(axis=(0, 2)))
    top = height.max()
    weights = np.exp(height - top)
    cell = (rate_logits[1] - rate_logits[0]) * (
        share_logits[1] - share_logits[0] if share_logits.size > 1 else 1.0
    )
    return cloud._replace(weights=weights / weights.sum()), float(top + np.log(weights.sum() * cell))


def _narrowed(logits: Array, seen: Array) -> Array:
    if logits.size == 1:
        return logits
    places = np.flatnonzero(seen)
    low, high = max(places[0] - 1, 0), min(places[-1] + 1, logits.size - 1)
    finer: Array = np.linspace(logits[low], logits[high], logits.size)
    return finer


def _height(evidence: _Evidence, cloud: Weighed) -> Array:
    """Return the logarithm of prior times likelihood, by point; the module's docstring has the priors."""
    shapes, agreement = evidence
    # Jeffreys' prior of e; as the grid is even in log odds, the density is that of the log odds.
    height: Array = (np.log(cloud.rates) + np.log1p(-cloud.rates)) / 2
    if cloud.shares.any():  # the model without hard steps has no prior of h and u
        height += _PRIOR[0] * np.log(cloud.shares) + _PRIOR[1] * np.log1p(-cloud.shares)
        height -= betaln(*_PRIOR) + np.log(len(_HARD))
    for shape in shapes:
        height += shape.steps * np.logaddexp(*_readings(shape, cloud, agreement))
    return height


def _readings(shape: TallyShape, cloud: Weighed, agreement: float) -> list[Array]:
    """Return by point the log likelihoods of a tally if its winner is right, and if it is wrong.

    The number of orders in which the votes can have come is left out.
    """
    agreed = not shape.known and shape.total - shape.votes == shape.runner_up > 1
    alike, hard = _votes(shape, cloud.rates), _votes(shape, cloud.hard)
    with np.errstate(divide="ignore"):
        usual = np.log1p(-cloud.shares) + (np.log(agreement) if agreed else 0.0)
        rare = np.log(cloud.shares)
    return [np.logaddexp(usual + one, rare + other) for one, other in zip(alike, hard, strict=True)]


def _votes(shape: TallyShape, rates: Array) -> tuple[Array, Array]:
    """Return the log likelihoods of a tally if its winner is right, and if it is wrong, at these rates.

    If it is wrong, the runner-up is taken to be right. Votes for third answers weigh the same either way and
    are left out. Of a tally whose right answer is known, all votes for others count.
    """
    against = shape.total - shape.votes if shape.known else shape.runner_up
    log_wrong, log_right = np.log(rates), np.log1p(-rates)
    right = shape.votes * log_right + against * log_wrong
    if shape.known:
        return right, np.full_like(rates, -np.inf)
    return right, shape.votes * log_wrong + against * log_right


def _overall(cloud: Weighed) -> Array:
    overall: Array = cloud.rates * (1 - cloud.shares) + cloud.shares * cloud.hard
    return overall


def claim_of(shapes: Sequence[TallyShape], belief: Belief) -> tuple[float, float, int]:
    """Return P(no errors) of a run, its expected wrong decisions, and how many of its steps stand out."""
    clouds = (belief.alike, belief.mixed)
    log_zero = [np.zeros_like(cloud.rates) for cloud in clouds]
    expected, standing_out = 0.0, 0
    steps = sum(shape.steps for shape in shapes)
    for shape in shapes:
        at_most = _contribution(shape, belief, steps)
        standing_out += shape.steps if at_most < 1 else 0
        for place, (right, wrong) in enumerate(belief.log_right_and_wrong(shape)):
            log_zero[place] += shape.steps * np.minimum(right, np.log(at_most))
            expected += shape.steps * float(clouds[place].weights @ np.exp(wrong))
    p_zero = sum(float(cloud.weights @ np.exp(log)) for cloud, log in zip(clouds, log_zero, strict=True))
    return min(p_zero, 1.0), expected, standing_out


def _contribution(shape: TallyShape, belief: Belief, steps: int) -> float:
    """Return the most that a step with this tally may contribute to the chance of no error, above 0.

    At p just above 1/2 half of the decisions are wrong, and some of those steps look like any other. For the
    claim not to be too high on average, the steps that stand out must answer for those that do not: one that
    is more divided than half of all steps at p = 1/2 contributes nothing.
    """
    coin = _coin(shape.margin, shape.runner_up)
    most = float(_contributions(coin)[-1])
    return max(most, 1e-300) if most < 1 and _stands_out(shape, coin, belief, steps, seen=True) else 1.0


def _stands_out(shape: TallyShape, coin: Array, belief: Belief, steps: int, *, seen: bool) -> bool:
    orders = math.log(coin[shape.runner_up]) + (shape.margin + 2 * shape.runner_up - 1) * math.log(2)
    easy, every = (
        steps * math.exp(orders + belief.log_chance(shape, seen=seen, hard=hard)) for hard in (False, True)
    )
    return easy < _FEW_EASY and every < _FEW


def _coin(k: int, most: int) -> Array:
    """Return how likely a step at p = 1/2 has 0, 1, ..., *most* votes against its winner; above 0."""
    coin: Array = np.maximum(lost_votes(0.5, k, most), 1e-300)
    return coin


def _contributions(coin: Array) -> Array:
    most: Array = np.clip((0.5 + _SLACK - (np.cumsum(coin) - coin)) / coin, 0, 1)
    return most


def floor_of(shapes: Sequence[TallyShape], belief: Belief) -> float:
    """Return the least p of a step, in hundredths, at which the claim is not too high on average.

    It is 1/2 unless a step at p = 1/2 is likely to look like the others, among so many steps and at so small
    a margin.
    """
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
