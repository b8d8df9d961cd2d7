"""Ctrl-C and SIGTERM: once to stop cleanly, twice to stop at once."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

__all__ = ["interruptible"]


@asynccontextmanager
async def interruptible() -> AsyncIterator[anyio.CancelScope]:
    """Open a scope that the first Ctrl-C or SIGTERM cancels; the second one ends the process as usual."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(_listen, scope)
            # Raised after the group has closed, which would wrap it.
            try:
                yield scope
            except Exception as error:
                failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _listen(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
            return
