"""What a run costs by each way of paying for its prompts: one by one, shared, from a cache, in a batch."""

from collections import Counter
from functools import lru_cache
from typing import Final, NamedTuple

from mdap.rules.money import Tokens, cost_of
from mdap.rules.scaling import Plan
from mdap.settings import Price

__all__ = ["BATCH", "Sample", "Way", "expected_requests", "ways"]

BATCH: Final = 0.5
"""What batch APIs charge, of the ordinary price."""

_REPLIES: Final = 8  # to one request
_WAVES: Final = 1_000
_NEGLIGIBLE: Final = 1e-12
_THOUSAND: Final = 1_000


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
    """One way to pay.

    Attributes:
        way: what is used.
        usd: USD for a thousand steps.
        batch_usd: the same in jobs of a batch API.
        share: *usd* as a share of what ordinary requests cost.
    """

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
            paid["cache" if name == "ordinary" else f"{name}, cache"] = _cached(sample, requests, made)
    usd = {
        name: cost_of(price, tokens) * _THOUSAND * subtasks / planned.steps for name, tokens in paid.items()
    }
    ordinary = usd["ordinary"] or 1.0
    return [Way(name, each, BATCH * each, each / ordinary) for name, each in usd.items()]


def _cached(sample: Sample, requests: float, made: float) -> Tokens:
    """Return the tokens of one step if what its prompts begin with is written once, and read otherwise."""
    shared = sample.shared or sample.prompt
    written = min(shared / sample.steps, shared * requests)
    return Tokens(requests * sample.prompt, made, requests * shared - written, written)


@lru_cache(maxsize=64)
def expected_requests(k: int, error_rate: float, valid_rate: float, temperatures: int = 2) -> float:
    """Return how many requests a step takes if each brings as many samples as the leader lacks votes.

    Between two candidates; samples beyond eight go into further requests.

    Args:
        k: the margin.
        error_rate: chance that a valid sample is wrong.
        valid_rate: chance that a sample is valid.
        temperatures: 2 if the first sample has another temperature than the others.
    """
    changes = _changes(k, valid_rate * (1 - error_rate), valid_rate * error_rate)
    leads, total = {0: 1.0}, 0.0
    if temperatures > 1 and k > 1:
        total = 1.0 + _requests(k - 1) - _requests(k)
    for _ in range(_WAVES):
        following: Counter[int] = Counter()
        for lead, chance in leads.items():
            short = k - abs(lead)
            total += chance * _requests(short)
            for change, likely in changes[short].items():
                if abs(lead + change) < k:
                    following[lead + change] += chance * likely  # type: ignore[assignment]
        leads = {lead: chance for lead, chance in following.items() if chance > _NEGLIGIBLE}
        if not leads:
            break
    return total


def _requests(samples: int) -> int:
    return -(-samples // _REPLIES)


def _changes(most: int, right: float, wrong: float) -> list[dict[int, float]]:
    """Return by the number of samples, up to *most*, how likely they change the lead by how much."""
    found: list[dict[int, float]] = [{0: 1.0}]
    for _ in range(most):
        following: dict[int, float] = {}
        for change, chance in found[-1].items():
            for by, likely in ((1, right), (-1, wrong), (0, 1 - right - wrong)):
                if chance * likely > _NEGLIGIBLE:
                    following[change + by] = following.get(change + by, 0.0) + chance * likely
        found.append(following)
    return found
