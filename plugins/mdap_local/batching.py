"""Batch jobs for one computing thread, which returns each result as soon as it is ready."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Final, Generic, TypeVar

import anyio

__all__ = ["Batcher", "Job"]

T = TypeVar("T")
R = TypeVar("R")

_QUIET: Final = 0.002
"""Seconds without a further request before a batch begins; requests after a decision come one by one."""


class Job(Generic[T, R]):
    """A computation for one caller: its input, and its share of a batch."""

    def __init__(self, wanted: T, size: int) -> None:
        self.wanted = wanted
        self.size = size
        self._future: Future[R] = Future()

    def waits(self) -> bool:
        """Return whether its caller still waits for it."""
        return not self._future.done()

    def settle(self, result: R) -> None:
        """Hand *result* to the caller, if it still waits."""
        with suppress(InvalidStateError):
            self._future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Raise *error* at the caller, if it still waits."""
        with suppress(InvalidStateError):
            self._future.set_exception(error)

    async def result(self) -> R:
        """Return the result; a cancelled caller no longer waits for it."""
        return await asyncio.wrap_future(self._future)


class Batcher(Generic[T, R]):
    """Group waiting jobs for one thread, up to the size *most*; *compute* settles or fails each of them.

    This class does not limit the number of waiting jobs: each belongs to a request, and a gate limits these.
    """

    def __init__(self, compute: Callable[[Sequence[Job[T, R]]], None], most: int, name: str) -> None:
        self._compute = compute
        self._most = most
        self._name = name
        self._jobs: queue.SimpleQueue[Job[T, R] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def ask(self, wanted: T, size: int) -> R:
        """Compute and return the result for *wanted*, whose share of a batch is *size*."""
        job: Job[T, R] = Job(wanted, size)
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return await job.result()

    async def aclose(self) -> None:
        """End the thread after all waiting jobs; a later request starts another."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(thread.join)

    def _work(self) -> None:
        for batch in self._batches():
            try:
                self._compute(batch)
            except BaseException as error:
                for job in batch:
                    job.fail(error)

    def _batches(self) -> Iterator[list[Job[T, R]]]:
        """Yield waiting jobs in order, a batch at a time, until the end."""
        over: Job[T, R] | None = None
        while (job := over or self._jobs.get()) is not None:
            batch, room = list[Job[T, R]](), self._most
            while job is not None and job.size <= room:
                batch.append(job)
                room -= job.size
                job = self._next()
            over = job
            if waiting := [job for job in batch if job.waits()]:
                yield waiting

    def _next(self) -> Job[T, R] | None:
        """Return the next job if one arrives within a moment."""
        try:
            job = self._jobs.get(timeout=_QUIET)
        except queue.Empty:
            return None
        if job is None:
            self._jobs.put(None)  # the end comes after this batch
        return job
