"""Estimates for a planned run: what a budget buys, other margins and subtask sizes, other ways to pay."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple

from mdap.errors import UsageError
from mdap.rules.money import Tokens, cost_of
from mdap.rules.scaling import Plan, plan
from mdap.settings import Price

_FACTORS: Final = (0.01, 0.1, 1, 10, 100)
_CUTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_MOST_STEPS: Final = 10**15

BATCH: Final = 0.5
"""What batch APIs charge, of the ordinary price."""

_REPLIES: Final = 8  # to one request
_WAVES: Final = 1_000
_NEGLIGIBLE: Final = 1e-12


class Each(NamedTuple):
    """The cost of a sample in USD: of its prompt, and of its reply to each of its steps."""

    input_usd: float
    output_usd: float

    def cost(self, made: Plan) -> float:
        """Return the cost of a plan, in USD."""
        return made.samples * (self.input_usd + self.output_usd * made.steps_per_subtask)


class Bought(NamedTuple):
    """Whether a budget pays for a plan, and what else it buys.

    Attributes:
        k: the largest margin that it pays for, for all the steps; None if not even 1.
        p_zero_errors: chance of no wrong decision at that margin; None without one.
        steps: the most steps whose target it pays for; 0 if not even one.
    """

    enough: bool
    k: int | None
    p_zero_errors: float | None
    steps: int


def what_buys(budget: float, each: Each, wanted: Plan) -> Bought:
    """Return what *budget*, in USD, buys at the rates of a plan."""
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
    return bisect_left(range(1, most + 1), True, key=lambda number: not fits(number))


class Sample(NamedTuple):
    """The tokens of one sample.

    Attributes:
        prompt: tokens of its prompt.
        reply: tokens of its reply to a single step.
        shared: the tokens with which the prompts of *steps* begin alike; all of the prompt, if 0.
        steps: how many steps begin alike.
    """

    prompt: float
    reply: float
    shared: float = 0.0
    steps: int = 1


class Way(NamedTuple):
    """One way to pay: USD for 1,000 steps, also in jobs of a batch API, and its share of the usual cost."""

    way: str
    usd: float
    batch_usd: float
    share: float


def ways(planned: Plan, sample: Sample, price: Price) -> list[Way]:
    """Return what a plan costs by each way, the ordinary one first.

    With `n`, a step's first sample has a request of its own, as it has a temperature of its own by default,
    and so has each wave of samples after that. With the cache, one request of those that begin alike pays for
    writing that beginning and all others for reading it; left out where *price* does not say what that is.
    """
    subtasks = planned.steps / planned.steps_per_subtask
    samples = planned.samples / subtasks
    wrong = 1 - (1 - planned.error_rate) ** planned.steps_per_subtask
    shared = expected_requests(planned.k, wrong, planned.valid_rate)
    single = expected_requests(planned.k, wrong, planned.valid_rate, temperatures=1)
    made = samples * sample.reply * planned.steps_per_subtask
    paid = {}
    for name, requests in (("ordinary", samples), ("n", shared), ("n, one temperature", single)):
        paid[name] = Tokens(requests * sample.prompt, made)
        if price.cached_input is not None:
            # What prompts begin with is written once, and read otherwise.
            shared_tokens = sample.shared or sample.prompt
            written = min(shared_tokens / sample.steps, shared_tokens * requests)
            read = requests * shared_tokens - written
            cached = "cache" if name == "ordinary" else f"{name}, cache"
            paid[cached] = Tokens(requests * sample.prompt, made, read, written)
    usd = {name: cost_of(price, tokens) * 1_000 * subtasks / planned.steps for name, tokens in paid.items()}
    ordinary = usd["ordinary"] or 1.0
    return [Way(name, each, BATCH * each, each / ordinary) for name, each in usd.items()]


@lru_cache(maxsize=64)
def expected_requests(k: int, error_rate: float, valid_rate: float, temperatures: int = 2) -> float:
    """Return how many requests a step takes if each brings as many samples as the leader lacks votes.

    Between two candidates; samples beyond eight go into further requests. *temperatures* is 2 if the first
    sample has another temperature than the others.
    """
    changes = _changes(k, valid_rate * (1 - error_rate), valid_rate * error_rate)
    leads, total = {0: 1.0}, 0.0
    if temperatures > 1 and k > 1:
        total = 1.0 + ceil((k - 1) / _REPLIES) - ceil(k / _REPLIES)
    for _ in range(_WAVES):
        following: defaultdict[int, float] = defaultdict(float)
        for lead, chance in leads.items():
            short = k - abs(lead)
            total += chance * ceil(short / _REPLIES)
            for change, likely in changes[short].items():
                if abs(lead + change) < k:
                    following[lead + change] += chance * likely
        leads = {lead: chance for lead, chance in following.items() if chance > _NEGLIGIBLE}
        if not leads:
            break
    return total


def _changes(most: int, right: float, wrong: float) -> list[dict[int, float]]:
    """Return by the number of samples, up to *most*, how likely they change the lead by how much."""
    found: list[dict[int, float]] = [{0: 1.0}]
    for _ in range(most):
        following: defaultdict[int, float] = defaultdict(float)
        for change, chance in found[-1].items():
            for by, likely in ((1, right), (-1, wrong), (0, 1 - right - wrong)):
                if chance * likely > _NEGLIGIBLE:
                    following[change + by] += chance * likely
        found.append(following)
    return found
