"""The cost of samples, and whether the budget allows the next one."""

from dataclasses import dataclass

from mdap.settings import Budget, Price

__all__ = ["Hold", "Wallet", "cost_of"]

_MILLION = 1e6


def cost_of(price: Price, input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> float:
    """Return what tokens cost, in USD.

    Args:
        price: USD per million tokens.
        input_tokens: tokens of prompts, cached ones included.
        output_tokens: tokens of replies, reasoning included.
        cached_tokens: the part of *input_tokens* read from the provider's cache.
    """
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = input_tokens - cached_tokens
    return (fresh * price.input + cached_tokens * cached_price + output_tokens * price.output) / _MILLION


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
