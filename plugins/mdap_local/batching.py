"""One thread that computes: it takes together what waits, and answers each as soon as it is there."""

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
"""Seconds without a further request after which a batch begins; those of a decided step come one by one."""


class Job(Generic[T, R]):
    """Something that is computed for one caller.

    Attributes:
        wanted: what it is.
        size: how much of a batch it takes up.
    """

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
        """Return what came of it; a caller that is cancelled no longer waits for it."""
        return await asyncio.wrap_future(self._future)


class Batcher(Generic[T, R]):
    """Hand jobs to one thread, together with others that wait.

    Nothing here limits how many wait: each waits within a request, and those are limited by their gate.

    Args:
        compute: settles or fails each of the jobs that it is given.
        most: how large a batch may be.
        name: what the thread is called.
    """

    def __init__(self, compute: Callable[[Sequence[Job[T, R]]], None], most: int, name: str) -> None:
        self._compute = compute
        self._most = most
        self._name = name
        self._jobs: queue.SimpleQueue[Job[T, R] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def ask(self, wanted: T, size: int) -> R:
        """Return what is computed for *wanted*.

        Args:
            wanted: what to compute.
            size: how much of a batch it takes up, at most *most*.
        """
        job: Job[T, R] = Job(wanted, size)
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return await job.result()

    async def aclose(self) -> None:
        """End the thread after what waits by then; a later request starts another."""
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
        """Yield what waits, in its order and a batch at a time, until the end is called."""
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
        """Return what comes within a moment, if anything does."""
        try:
            job = self._jobs.get(timeout=_QUIET)
        except queue.Empty:
            return None
        if job is None:
            self._jobs.put(None)  # the end comes after this batch
        return job
