"""Estimates for a planned run: what a budget buys, and the cost of another k or subtask size."""

from collections.abc import Callable
from typing import Final, NamedTuple

from mdap.errors import UsageError
from mdap.rules.scaling import Plan, plan

__all__ = ["Bought", "Each", "by_margin", "by_subtask", "what_buys"]

_FACTORS: Final = (0.01, 0.1, 1, 10, 100)
_CUTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_MOST_STEPS: Final = 10**15


class Each(NamedTuple):
    """The cost of one sample.

    Attributes:
        input_usd: USD for its prompt.
        output_usd: USD for its reply to a single step; one to m steps is m times as long.
    """

    input_usd: float
    output_usd: float

    def cost(self, made: Plan) -> float:
        """Return the cost of a plan, in USD."""
        return made.samples * (self.input_usd + self.output_usd * made.steps_per_subtask)


class Bought(NamedTuple):
    """What a budget buys.

    Attributes:
        enough: whether it pays for the plan.
        k: the largest margin that it pays for, for all the steps; None if not even 1.
        p_zero_errors: chance of no wrong decision at that margin; None without one.
        steps: the most steps whose target it pays for; 0 if not even one.
    """

    enough: bool
    k: int | None
    p_zero_errors: float | None
    steps: int


def what_buys(budget: float, each: Each, wanted: Plan) -> Bought:
    """Return what *budget* buys, at the rates of a plan.

    Args:
        budget: USD.
        each: the cost of one sample.
        wanted: the plan.
    """
    k = _largest(lambda margin: each.cost(_again(wanted, k=margin)) <= budget, 1000)
    steps = _largest(lambda count: each.cost(_again(wanted, steps=count)) <= budget, _MOST_STEPS)
    return Bought(
        enough=each.cost(wanted) <= budget,
        k=k or None,
        p_zero_errors=_again(wanted, k=k).p_zero_errors if k else None,
        steps=steps,
    )


def by_margin(wanted: Plan) -> list[list[Plan]]:
    """Return plans for some lengths around that of *wanted*, one row each, at the margins around its own."""
    margins = range(max(1, wanted.k - 2), wanted.k + 4)
    lengths = sorted({max(wanted.steps_per_subtask, round(wanted.steps * factor)) for factor in _FACTORS})
    return [[_again(wanted, steps=steps, k=k) for k in margins] for steps in lengths]


def by_subtask(wanted: Plan) -> list[Plan]:
    """Return plans for the same task cut into subtasks of 1, 2, 5, 10, ... steps, as long as voting helps."""
    found = []
    for cut in _CUTS:
        if cut > wanted.steps:
            break
        try:
            found.append(
                plan(wanted.steps, wanted.error_rate, wanted.valid_rate, wanted.target, steps_per_subtask=cut)
            )
        except UsageError:
            break
    return found


def _again(wanted: Plan, steps: int | None = None, k: int | None = None) -> Plan:
    """Return a plan of another length at its smallest margin, or at another margin."""
    length = wanted.steps if steps is None else steps
    cut = min(wanted.steps_per_subtask, length)
    return plan(length, wanted.error_rate, wanted.valid_rate, wanted.target, k, cut)


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number from 1 to *most* that fits, if smaller ones do as well; 0 for none."""
    low, high = 0, 1
    while high < most and fits(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
