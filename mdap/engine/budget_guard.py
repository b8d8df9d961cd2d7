"""The session's budget: reserves a request's estimated cost until the actual one is known."""

from collections.abc import Sequence
from typing import Final

import anyio

from mdap.errors import ProviderError, UnavailableError
from mdap.records import Reply, SampleRequest
from mdap.rules.limiter import Estimator, prompt_tokens
from mdap.rules.money import Hold, Tokens, Wallet, cost_of
from mdap.settings import Budget, Price

BUDGET: Final = "budget"
"""The kind of the error that refuses a request for lack of money."""

LATE: Final = "deadline"
"""The kind of the error that ends a run whose time is over."""


class BudgetGuard:
    """The budget of a session, shared by all its runs.

    *prices* are by member of the ensemble; *batched* requests are likely to go in jobs of a batch API.
    """

    def __init__(self, budget: Budget, prices: Sequence[Price | None], *, batched: bool = False) -> None:
        self._wallet = Wallet(budget)
        self._prices = tuple(prices)
        self._batched = batched
        self._estimators = [Estimator() for _ in self._prices]
        self._news = anyio.Event()
        self.limited = budget.usd is not None or budget.tokens is not None
        self.seconds = budget.seconds

    def spent_before(self, usd: float, tokens: float) -> None:
        """Count what a resumed run has spent in earlier sessions."""
        self._wallet.usd += usd
        self._wallet.tokens += tokens

    def learn(self, member: int, output_tokens: int) -> None:
        """Learn from a reply of a member of the ensemble how long its replies are."""
        self._estimators[member].learn(output_tokens)

    async def hold(self, request: SampleRequest) -> Hold:
        """Reserve the estimated cost of *request*, waiting for others to settle if necessary.

        Raises:
            UnavailableError: the budget does not allow another request.
        """
        usd, tokens, each = self._likely(request)
        try:
            return await self.reserve(usd, tokens)
        except UnavailableError as error:
            if self._wallet.spent is not None or each < request.max_tokens:
                raise
            reserved = f"{each} output tokens are reserved for a reply, which --max-tokens lowers"
            raise UnavailableError(f"{error}: {reserved}", kind=BUDGET) from None

    async def reserve(self, usd: float, tokens: float) -> Hold:
        """Reserve USD and tokens, waiting for others to settle if necessary.

        Raises:
            UnavailableError: the budget does not allow that much.
        """
        while True:
            hold = self._wallet.hold(usd, tokens)
            if hold is not None:
                return hold
            if self._wallet.spent is not None or not self._wallet.holds:
                raise UnavailableError(self._wallet.spent or self._nearly_spent(), kind=BUDGET)
            await self._news.wait()

    def settle(
        self,
        request: SampleRequest,
        hold: Hold,
        replies: Sequence[Reply] = (),
        failure: ProviderError | None = None,
    ) -> None:
        """Record the actual cost of *request*; of a failed one, the cost that the endpoint billed."""
        billed = replies if failure is None else (failure,)
        used = Tokens(
            input_tokens=sum(one.input_tokens or 0 for one in billed),
            output_tokens=sum(one.output_tokens or 0 for one in billed),
            cached_tokens=sum(reply.cached_tokens or 0 for reply in replies),
            cache_write_tokens=sum(reply.cache_write_tokens or 0 for reply in replies),
        )
        for reply in replies:
            if reply.output_tokens is not None:
                self.learn(request.member, reply.output_tokens)
        usd = self._cost(request.member, used, batched=request.trace.batched)
        self.spend(hold, usd, used.input_tokens + used.output_tokens)

    def spend(self, hold: Hold, usd: float, tokens: float) -> None:
        """Replace the hold by the actual cost."""
        self._wallet.settle(hold, usd, tokens)
        # Every waiter checks again; later ones wait for the next settlement.
        news, self._news = self._news, anyio.Event()
        news.set()

    def _likely(self, request: SampleRequest) -> tuple[float, float, int]:
        """Return the likely cost in USD and tokens, and the output tokens of one reply in it."""
        given = prompt_tokens(request.system, request.user)
        each = self._estimators[request.member].expect(request.max_tokens, self._wallet.holds)
        made = each * len(request.ordinals)
        used = Tokens(given, made)
        return self._cost(request.member, used, batched=self._batched), given + made, each

    def _cost(self, member: int, used: Tokens, *, batched: bool) -> float:
        price = self._prices[member]
        if price is None:
            return 0.0
        return cost_of(price, used) * (price.batch if batched else 1.0)

    def too_late(self) -> str:
        """Return that the time of a run is over."""
        return f"the {self.seconds:g} seconds allowed are over"

    def _nearly_spent(self) -> str:
        budget = self._wallet.budget
        if budget.usd is not None:
            return f"what is left of the budget of {budget.usd:g} USD does not pay for another request"
        return f"what is left of the budget of {budget.tokens:,} tokens does not allow another request"
