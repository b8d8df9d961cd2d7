"""Posterior of the error rate, and of whether some steps are harder, from many tallies.

Two models are weighed against each other, nine to one beforehand:

- *alike*: every vote of every step is wrong with the same chance e;
- *mixed*: a share h of the steps is *hard*: there, the chance that a vote is wrong is u, which is 0.3,
  0.4 or 1/2, each as likely beforehand; on the others it is e.

So everything is said of runs in which each step is right more often than wrong. No vote can tell a step on
which it is not: with right and wrong exchanged, the same tallies are as likely.

Two wrong votes of a step that is not hard are for the same answer with a chance of c, which is counted where
just two votes were against a winner; on a hard step they always are. So where wrong votes differ as a rule,
two that agree are a sign of a hard step.

The chance e (below 1/2) has Jeffreys' prior; the share h has a beta prior of 1/2 and 5, a tenth or so. Of a
voted tally nobody knows whether its winner is right, so both readings count. Everything is summed over a
grid, of which two refinements leave only the part that matters; steps with equal tallies are one term, so
that the length of a run costs nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mdap.records import TallyShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Belief", "Weighed", "posterior"]

_LOWEST: Final = -30.0
_SEEN: Final = 20.0  # log-likelihoods this many nats below the best are negligible
_RATES: Final = 41
_SHARES: Final = 31
_HARD: Final = (0.3, 0.4, 0.5)
_MIXED: Final = 0.1
_PRIOR: Final = (0.5, 5.0)


class Weighed(NamedTuple):
    """One cloud of points (e, h, u) with their weights.

    Attributes:
        rates: chance of a wrong vote on a step that is not hard, by point.
        shares: share of hard steps, by point.
        hard: chance of a wrong vote on a hard step, by point.
        weights: how likely each point is, given the tallies; all clouds together sum to 1.
    """

    rates: "NDArray[Any]"
    shares: "NDArray[Any]"
    hard: "NDArray[Any]"
    weights: "NDArray[Any]"


class Belief(NamedTuple):
    """What the tallies say.

    Attributes:
        alike: the points of the model without hard steps; their share is 0.
        mixed: those of the model with hard steps.
        agreement: the chance that two wrong votes of a step are for the same answer.
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
        """Return quantiles of the chance that a vote is wrong, over all steps.

        Args:
            levels: which quantiles, from 0 to 1.
        """
        import numpy as np

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

    def log_right_and_wrong(self, shape: TallyShape) -> list[tuple["NDArray[Any]", "NDArray[Any]"]]:
        """Return by cloud, as logarithms, the chances that a winner with this tally is right and wrong."""
        import numpy as np

        found = []
        for cloud in (self.alike, self.mixed):
            right, wrong = _readings(shape, cloud, self.agreement)
            both = np.logaddexp(right, wrong)
            found.append((right - both, wrong - both))
        return found

    def p_wrong(self, shape: TallyShape) -> float:
        """Return the chance that a winner with this tally is wrong."""
        import numpy as np

        readings = zip((self.alike, self.mixed), self.log_right_and_wrong(shape), strict=True)
        return sum(float(cloud.weights @ np.exp(wrong)) for cloud, (_, wrong) in readings)

    def log_chance(self, shape: TallyShape, *, seen: bool, hard: bool) -> float:
        """Return the logarithm of how likely one order of these votes is on a step.

        Args:
            shape: a tally.
            seen: whether it is one of the tallies; then only the others say how likely it is.
            hard: whether the step may be hard.
        """
        import numpy as np

        any_step = np.logaddexp(*_readings(shape, self.mixed, self.agreement))
        chance = any_step if hard else np.logaddexp(*_votes(shape, self.mixed.rates))
        weights = self.mixed.weights * (np.exp(any_step.min() - any_step) if seen else 1.0)
        top = chance.max()
        return float(top + np.log(max(weights @ np.exp(chance - top), 1e-300) / max(weights.sum(), 1e-300)))


def posterior(shapes: Sequence[TallyShape]) -> Belief:
    """Return what *shapes* say of the rate of wrong votes and of hard steps.

    Args:
        shapes: tallies, each with the number of steps that have it.
    """
    import numpy as np

    agreement = agreement_of(shapes)
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


def agreement_of(shapes: Sequence[TallyShape]) -> float:
    """Return the chance that two wrong votes of a step are for the same answer; 1 where nothing tells.

    There are as many orders in which a race can end with two votes for one other answer as with one each for
    two others, so their numbers compare as the chances do. One more is taken to agree, to be safe.

    Args:
        shapes: tallies, each with the number of steps that have it.
    """
    two = [shape for shape in shapes if shape.total - shape.votes == 2]
    agreed = sum(shape.steps for shape in two if shape.runner_up == 2)
    return (agreed + 1) / (sum(shape.steps for shape in two) + 1)


_Evidence = tuple[Sequence[TallyShape], float]


def _refined(
    evidence: _Evidence, share_logits: "NDArray[Any]", hard: "NDArray[Any]"
) -> tuple[Weighed, float]:
    """Return one model's points, with weights that sum to 1, and the logarithm of its evidence."""
    import numpy as np
    from scipy.special import expit

    rate_logits = np.linspace(_LOWEST, 0.0, _RATES)
    for stage in range(3):
        axes = np.meshgrid(expit(rate_logits), expit(share_logits), hard, indexing="ij")
        rates, shares, hards = (axis.ravel() for axis in axes)
        cloud = Weighed(rates, shares, hards, rates)
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


def _narrowed(logits: "NDArray[Any]", seen: "NDArray[Any]") -> "NDArray[Any]":
    import numpy as np

    if logits.size == 1:
        return logits
    places = np.flatnonzero(seen)
    low, high = max(places[0] - 1, 0), min(places[-1] + 1, logits.size - 1)
    finer: NDArray[Any] = np.linspace(logits[low], logits[high], logits.size)
    return finer


def _height(evidence: _Evidence, cloud: Weighed) -> "NDArray[Any]":
    """Return the logarithm of prior times likelihood, by point."""
    import numpy as np
    from scipy.special import betaln

    shapes, agreement = evidence
    height: NDArray[Any] = (np.log(cloud.rates) + np.log1p(-cloud.rates)) / 2
    if cloud.shares.any():
        height += _PRIOR[0] * np.log(cloud.shares) + _PRIOR[1] * np.log1p(-cloud.shares)
        height -= betaln(*_PRIOR) + np.log(len(_HARD))
    for shape in shapes:
        height += shape.steps * np.logaddexp(*_readings(shape, cloud, agreement))
    return height


def _readings(shape: TallyShape, cloud: Weighed, agreement: float) -> list["NDArray[Any]"]:
    """Return by point the log likelihoods of a tally if its winner is right, and if it is wrong.

    The number of orders in which the votes can have come is left out.
    """
    import numpy as np

    agreed = not shape.known and shape.total - shape.votes == shape.runner_up > 1
    alike, hard = _votes(shape, cloud.rates), _votes(shape, cloud.hard)
    with np.errstate(divide="ignore"):
        usual = np.log1p(-cloud.shares) + (np.log(agreement) if agreed else 0.0)
        rare = np.log(cloud.shares)
    return [np.logaddexp(usual + one, rare + other) for one, other in zip(alike, hard, strict=True)]


def _votes(shape: TallyShape, rates: "NDArray[Any]") -> tuple["NDArray[Any]", "NDArray[Any]"]:
    """Return the log likelihoods of a tally if its winner is right, and if it is wrong, at these rates.

    If it is wrong, the runner-up is taken to be right. Votes for third answers weigh the same either way and
    are left out. Of a tally whose right answer is known, all votes for others count.
    """
    import numpy as np

    against = shape.total - shape.votes if shape.known else shape.runner_up
    log_wrong, log_right = np.log(rates), np.log1p(-rates)
    right = shape.votes * log_right + against * log_wrong
    if shape.known:
        return right, np.full_like(rates, -np.inf)
    return right, shape.votes * log_wrong + against * log_right


def _overall(cloud: Weighed) -> "NDArray[Any]":
    overall: NDArray[Any] = cloud.rates * (1 - cloud.shares) + cloud.shares * cloud.hard
    return overall
