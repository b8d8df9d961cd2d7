"""Limits around any provider: how many requests at once, how many a minute, how long each may take."""

import heapq
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from asyncio_throttle.throttler import Throttler

from mdap.errors import TransientError
from mdap.protocols import Provider
from mdap.records import Reply, SampleRequest
from mdap.settings import Limits

__all__ = ["Gate", "Paced"]

# The throttle admits in portions of a tenth of a second: smooth for the endpoint, cheap for the loop.
_PORTIONS_PER_MINUTE: Final = 600


class _Waiter:
    __slots__ = ("admitted", "gone", "news")

    def __init__(self) -> None:
        self.news = anyio.Event()
        self.admitted = False
        self.gone = False


class Gate:
    """Admit requests to a bounded number of slots, smallest priority first, no faster than a rate.

    One dispatcher waits on the throttle for all waiters, since each waiter of asyncio-throttle polls.

    Args:
        concurrency: slots.
        requests_per_minute: admissions in any minute, or None.
    """

    def __init__(self, concurrency: int, requests_per_minute: int | None = None) -> None:
        self._free = concurrency
        self._queue: list[tuple[int, int, _Waiter]] = []
        self._order = itertools.count()
        self._news = anyio.Event()
        self._throttle: Any = None  # asyncio-throttle has no annotations
        if requests_per_minute is not None:
            portion = max(1, requests_per_minute // _PORTIONS_PER_MINUTE)
            period = 60.0 * portion / requests_per_minute
            self._throttle = Throttler(portion, period, retry_interval=min(0.01, period / 10))

    async def serve(self) -> None:
        """Admit waiters for as long as this runs; needed only where there is a rate."""
        if self._throttle is None:
            return
        while True:
            while not (self._free and self._queue):
                self._news = anyio.Event()
                await self._news.wait()
            await self._throttle.acquire()
            self._admit()

    @asynccontextmanager
    async def slot(self, priority: int) -> AsyncIterator[None]:
        """Hold a slot; waits for one to be free and for the rate to allow it."""
        waiter = _Waiter()
        heapq.heappush(self._queue, (priority, next(self._order), waiter))
        self._look()
        try:
            if not waiter.admitted:
                await waiter.news.wait()
            yield
        finally:
            waiter.gone = True
            if waiter.admitted:
                self._free += 1
            self._look()

    def _look(self) -> None:
        if self._throttle is None:
            self._admit_all()
        else:
            self._news.set()

    def _admit_all(self) -> None:
        while self._free and self._queue:
            self._admit()

    def _admit(self) -> None:
        """Admit the first waiter that is still there, if a slot is free."""
        while self._free and self._queue:
            _, _, waiter = heapq.heappop(self._queue)
            if not waiter.gone:
                self._free -= 1
                waiter.admitted = True
                waiter.news.set()
                return


class Paced:
    """A provider that keeps within limits and gives every attempt a total deadline.

    Args:
        inner: the provider to ask.
        limits: concurrency, requests per minute, seconds an attempt may take.
    """

    def __init__(self, inner: Provider, limits: Limits) -> None:
        self._inner = inner
        self._timeout = limits.attempt_timeout
        self.gate = Gate(limits.concurrency, limits.requests_per_minute)
        self.name = inner.name
        self.max_n = inner.max_n
        self.instant = inner.instant and limits.requests_per_minute is None

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask once, when there is a slot; see `mdap.protocols.Provider.sample`.

        Raises:
            TransientError: the attempt outlived its deadline, or it failed for a reason that may pass.
            ProviderError: it failed.
        """
        if self.instant:
            return await self._inner.sample(request)
        async with self.gate.slot(request.priority):
            request.trace.sent = True
            with anyio.move_on_after(self._timeout) as scope:
                return await self._inner.sample(request)
        if scope.cancelled_caught:
            raise TransientError(f"no reply within {self._timeout:g} seconds", kind="timeout")
        raise AssertionError("unreachable: the scope either returned or was cancelled")

    def describe(self) -> dict[str, Any]:
        """Return what the inner provider says of itself."""
        return self._inner.describe()

    async def aclose(self) -> None:
        """Close the inner provider."""
        await self._inner.aclose()
