"""Outlier steps, whose votes are far more divided than the others, and their effect on P(no errors)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from mdap.records import TallyShape
from mdap.rules.hardness import Belief
from mdap.rules.lengths import lost_votes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["contribution", "floor_of"]

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
