"""Limits around any provider: requests at once, requests and tokens a minute, seconds an attempt."""

import heapq
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from asyncio_throttle.throttler import Throttler

from mdap.errors import RateLimitError, TransientError
from mdap.protocols import Provider
from mdap.records import Reply, SampleRequest
from mdap.rules.limiter import Estimator, Pace, Reservation, prompt_tokens
from mdap.settings import Limits

__all__ = ["Gate", "Paced"]

# The throttle admits in portions of a tenth of a second: smooth for the endpoint, cheap for the loop.
_PORTIONS_PER_MINUTE: Final = 600
# After a refusal that does not say for how long.
_PAUSE_SECONDS: Final = 1.0


class _Waiter:
    __slots__ = ("gone", "news", "reservation", "tokens")

    def __init__(self, tokens: int) -> None:
        self.news = anyio.Event()
        self.tokens = tokens
        self.reservation: Reservation | None = None
        self.gone = False


class Gate:
    """Admit requests to a bounded number of slots, smallest priority first, no faster than the rates.

    One dispatcher waits for all waiters: each waiter of asyncio-throttle polls, and only whoever sees the
    whole queue can give the first claim to the most urgent request.

    Args:
        concurrency: slots.
        requests_per_minute: admissions in any minute, or None.
        tokens_per_minute: tokens of the requests admitted in any minute, or None.
    """

    def __init__(
        self, concurrency: int, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        self._free = concurrency
        self._queue: list[tuple[int, int, _Waiter]] = []
        self._order = itertools.count()
        self._news = anyio.Event()
        self.pace = Pace(None, tokens_per_minute)
        self._throttle: Any = None  # asyncio-throttle has no annotations
        if requests_per_minute is not None:
            portion = max(1, requests_per_minute // _PORTIONS_PER_MINUTE)
            period = 60.0 * portion / requests_per_minute
            self._throttle = Throttler(portion, period, retry_interval=min(0.01, period / 10))

    async def serve(self) -> None:
        """Admit waiters that the rates or a pause hold back, for as long as this runs."""
        while True:
            head = self._head()
            if head is None or not self._free:
                await self._nap(None)
                continue
            wait = self.pace.ready_at(head.tokens, time.monotonic()) - time.monotonic()
            if wait > 0:
                await self._nap(wait)
                continue
            if self._throttle is not None:
                await self._throttle.acquire()
            self._admit()

    async def _nap(self, seconds: float | None) -> None:
        """Wait for news, or for so long."""
        self._news = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._news.wait()

    def pause(self, seconds: float) -> None:
        """Admit nothing for so long: the endpoint has asked for it."""
        self.pace.pause_until(time.monotonic() + seconds)

    @asynccontextmanager
    async def slot(self, priority: int, tokens: int = 0) -> AsyncIterator[Reservation]:
        """Hold a slot; waits for one to be free and for the rates to allow it.

        Args:
            priority: smaller goes first.
            tokens: what the request will likely take.
        """
        waiter, held = _Waiter(tokens), False
        heapq.heappush(self._queue, (priority, next(self._order), waiter))
        self._look()
        try:
            if waiter.reservation is None:
                await waiter.news.wait()
            assert waiter.reservation is not None
            held = True
            yield waiter.reservation
        finally:
            waiter.gone = True
            if waiter.reservation is not None:
                self._free += 1
                now = time.monotonic()
                if held:  # and not settled: nobody knows what it took
                    self.pace.settle(waiter.reservation, None, now)
                else:  # cancelled on the way here: it took nothing
                    self.pace.refund(waiter.reservation, now)
            self._look()

    def _look(self) -> None:
        while self._throttle is None and self._admit():
            pass
        self._news.set()

    def _head(self) -> _Waiter | None:
        """Return the first waiter that is still there."""
        while self._queue and self._queue[0][2].gone:
            heapq.heappop(self._queue)
        return self._queue[0][2] if self._queue else None

    def _admit(self) -> bool:
        """Admit the first waiter if there is a slot and its tokens may go; return whether it was."""
        head = self._head()
        if head is None or not self._free:
            return False
        head.reservation = self.pace.reserve(head.tokens, time.monotonic())
        if head.reservation is None:
            return False
        heapq.heappop(self._queue)
        self._free -= 1
        head.news.set()
        return True


class Paced:
    """A provider that keeps within limits and gives every attempt a total deadline.

    Args:
        inner: the provider to ask.
        limits: concurrency, requests and tokens per minute, seconds an attempt may take.
    """

    def __init__(self, inner: Provider, limits: Limits) -> None:
        self._inner = inner
        self._timeout = limits.attempt_timeout
        # Whoever was told to come back tomorrow stops its run; the others must get to hear it too.
        self._longest_pause = limits.max_silence
        self.gate = Gate(limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute)
        self._estimator = Estimator()
        self.name = inner.name
        self.max_n = inner.max_n
        unlimited = limits.requests_per_minute is None and limits.tokens_per_minute is None
        self.instant = inner.instant and unlimited

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask once, when there is a slot; see `mdap.protocols.Provider.sample`.

        A refusal for coming too fast holds back every other request too, for as long as it asks.

        Raises:
            TransientError: the attempt outlived its deadline, or it failed for a reason that may pass.
            ProviderError: it failed.
        """
        if self.instant:
            return await self._inner.sample(request)
        async with self.gate.slot(request.priority, self._likely_tokens(request)) as reservation:
            request.trace.sent = True
            try:
                replies = await self._in_time(request)
            except RateLimitError as error:
                self.gate.pace.settle(reservation, 0, time.monotonic())
                asked = _PAUSE_SECONDS if error.retry_after is None else error.retry_after
                self.gate.pause(min(asked, self._longest_pause))
                raise
            self.gate.pace.settle(reservation, self._taken(replies), time.monotonic())
            return replies

    async def _in_time(self, request: SampleRequest) -> Sequence[Reply]:
        with anyio.move_on_after(self._timeout) as scope:
            return await self._inner.sample(request)
        if scope.cancelled_caught:
            raise TransientError(f"no reply within {self._timeout:g} seconds", kind="timeout")
        raise AssertionError("unreachable: the scope either returned or was cancelled")

    def _likely_tokens(self, request: SampleRequest) -> int:
        each = self._estimator.expect(self.name, request.max_tokens, self.gate.pace.outstanding)
        return prompt_tokens(request.system, request.user) + each * len(request.ordinals)

    def _taken(self, replies: Sequence[Reply]) -> int | None:
        """Return the tokens that *replies* took, or None where the endpoint did not say."""
        if any(reply.output_tokens is None for reply in replies):
            return None
        for reply in replies:
            self._estimator.learn(self.name, reply.output_tokens or 0)
        return sum((reply.input_tokens or 0) + (reply.output_tokens or 0) for reply in replies)

    def describe(self) -> dict[str, Any]:
        """Return what the inner provider says of itself."""
        return self._inner.describe()

    async def aclose(self) -> None:
        """Close the inner provider."""
        await self._inner.aclose()
