"""The cost of samples, and whether the budget allows the next one."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from mdap.settings import Budget, Price

_MILLION = 1e6


class _Billed(Protocol):
    """Anything that counts the tokens of a bill; see `Tokens`."""

    @property
    def input_tokens(self) -> float: ...
    @property
    def output_tokens(self) -> float: ...
    @property
    def cached_tokens(self) -> float: ...
    @property
    def cache_write_tokens(self) -> float: ...


class Tokens(NamedTuple):
    """The tokens of a bill.

    Attributes:
        input_tokens: tokens of prompts, cached ones included.
        output_tokens: tokens of replies, reasoning included.
        cached_tokens: the part of *input_tokens* read from the provider's cache.
        cache_write_tokens: the part of *input_tokens* written to the provider's cache.
    """

    input_tokens: float
    output_tokens: float
    cached_tokens: float = 0
    cache_write_tokens: float = 0

    @classmethod
    def of(cls, row: Any) -> Self:
        """Return the tokens in a *row* of the database."""
        return cls(*(row[name] for name in cls._fields))


class Bill(NamedTuple):
    """The cost of a run, and what its prompts would have cost more if each sample had paid for its own."""

    usd: float
    saved_usd: float


def cost_of(price: Price, used: _Billed) -> float:
    """Return what tokens cost, in USD."""
    full = used.input_tokens * price.input + used.output_tokens * price.output
    return full / _MILLION - saved_by_cache(price, used)


def saved_in_batches(price: Price, used: _Billed) -> float:
    """Return what samples cost less in jobs of a batch API than as ordinary requests, in USD."""
    return cost_of(price, used) * (1 - price.batch)


def saved_by_cache(price: Price, used: _Billed) -> float:
    """Return what reading from the provider's cache saved, in USD, less what writing to it cost extra."""
    read = price.input if price.cached_input is None else price.cached_input
    write = price.input if price.cache_write is None else price.cache_write
    saved = used.cached_tokens * (price.input - read) - used.cache_write_tokens * (write - price.input)
    return saved / _MILLION


def saved_by_sharing(price: Price, used: _Billed, prompts: int, shared: int) -> float:
    """Return what prompts would have cost that were paid with another reply to the same request, in USD.

    *prompts* were paid for and *shared* were not; each of these counts as long as the mean of the others.
    """
    return shared * used.input_tokens / prompts * price.input / _MILLION if prompts else 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """The reservation of one request until its actual cost is known, in USD and tokens."""

    usd: float
    tokens: float


class Wallet:
    """Reserve before each request, then settle its cost: concurrent requests never exceed the budget.

    Args:
        budget: what may be spent.
        usd: spent already.
        tokens: used already.

    Attributes:
        holds: how many are out; while there are any, waiting may help, since each may turn out smaller.
    """

    def __init__(self, budget: Budget, usd: float = 0.0, tokens: float = 0.0) -> None:
        self.budget = budget
        self.usd = usd
        self.tokens = tokens
        self._held_usd = 0.0
        self._held_tokens = 0.0
        self.holds = 0

    @property
    def spent(self) -> str | None:
        """Which part of the budget is used up, as a sentence's subject; None if none is."""
        if self.budget.usd is not None and self.usd >= self.budget.usd:
            return f"the budget of {self.budget.usd:g} USD is spent"
        if self.budget.tokens is not None and self.tokens >= self.budget.tokens:
            return f"the budget of {self.budget.tokens:,} tokens is used up"
        return None

    def hold(self, usd: float, tokens: float) -> Hold | None:
        """Reserve an amount; return None if the budget does not allow it."""
        limits = (
            (self.budget.usd, self.usd + self._held_usd + usd),
            (self.budget.tokens, self.tokens + self._held_tokens + tokens),
        )
        if any(limit is not None and wanted > limit for limit, wanted in limits):
            return None
        self._held_usd += usd
        self._held_tokens += tokens
        self.holds += 1
        return Hold(usd, tokens)

    def settle(self, hold: Hold, usd: float, tokens: float) -> None:
        """Replace *hold* by the actual cost: zero for a failed request."""
        self.holds -= 1
        self._held_usd -= hold.usd
        self._held_tokens -= hold.tokens
        self.usd += usd
        self.tokens += tokens
