"""Samples from a model in this process, ``--model local/micro``, computed in batches by one thread."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mdap import RejectedError, Reply, SampleRequest, UsageError
from mdap.rules.reading import split_reasoning
from mdap.settings import explain
from mdap_local.generating import Row, Sampled, generate
from mdap_local.model import Device, Dtype, LocalModel, load_model

T = TypeVar("T")
R = TypeVar("R")

_QUIET: Final = 0.002
"""Seconds without a further request before a batch begins; requests after a decision come one by one."""


class LocalSettings(BaseModel):
    """Options of a local model, set with ``-M NAME=VALUE``.

    Attributes:
        seed: the seed of all samples.
        batch: maximum number of samples to compute together.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: the stored format on a GPU, float32 on a
            CPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    batch: int = Field(64, ge=1, le=4096)
    device: Device = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True, slots=True, eq=False)
class Job(Generic[T, R]):
    """A computation for one caller: its input, its share of a batch, and its result once there is one."""

    wanted: T
    size: int
    future: Future[R] = field(default_factory=Future)

    def waits(self) -> bool:
        """Return whether its caller still waits for it."""
        return not self.future.done()

    def settle(self, result: R) -> None:
        """Hand *result* to the caller, if it still waits."""
        with suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Raise *error* at the caller, if it still waits."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


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
        return await asyncio.wrap_future(job.future)  # a cancelled caller no longer waits

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


class Local:
    """A `mdap.Provider` over a model in this process.

    A sample's random numbers depend on the seed, the model's name, the step, the prompt and the sample's
    ordinal. So a sample gets the same reply in a batch of any size, except for rounding: another batch may
    add the same numbers in another order, which changes probabilities by about one in a million.

    Args:
        model: who replies.
        settings: see `LocalSettings`; the model already has its device and dtype.

    Attributes:
        name: as a person names it: ``local/micro``.
        nonblocking: False.
        max_n: the maximum number of replies per request.
    """

    nonblocking: Final = False

    def __init__(self, model: LocalModel, settings: LocalSettings) -> None:
        self.name: Final = model.name
        self.max_n: Final = settings.batch
        self.model: Final = model
        self._settings = settings
        self._batcher = Batcher(self._compute, settings.batch, model.name)

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Return a reply for each requested ordinal, computed together with other waiting requests.

        Raises:
            RejectedError: the prompt leaves no room for a reply.
            UnavailableError: there is not enough memory.
        """
        started = time.monotonic()
        replies = await self._batcher.ask(request, len(request.ordinals))
        latency = time.monotonic() - started
        return [reply._replace(latency=latency) for reply in replies]

    def describe(self) -> dict[str, Any]:
        """Return name, seed, number format and the digest of the weights."""
        about = {"model": self.name, "seed": self._settings.seed, "dtype": self._settings.dtype}
        return {**about, "weights": self.model.digest}

    async def aclose(self) -> None:
        """End the thread that computes."""
        await self._batcher.aclose()

    # -- in the thread that computes ---------------------------------------------------------------

    def _compute(self, jobs: Sequence[Job[SampleRequest, list[Reply]]]) -> None:
        rows_of: dict[Job[SampleRequest, list[Reply]], list[Row]] = {}
        for job in jobs:
            try:
                rows_of[job] = self._rows(job.wanted, job.waits)
            except RejectedError as error:
                job.fail(error)
        job_of = {row: job for job, rows in rows_of.items() for row in rows}
        done: dict[Row, Sampled] = {}
        for sampled in generate(self.model, list(job_of)) if job_of else ():
            done[sampled.row] = sampled
            job = job_of[sampled.row]
            if all(row in done for row in rows_of[job]):
                job.settle([self._reply(done[row]) for row in rows_of[job]])

    def _rows(self, request: SampleRequest, waits: Callable[[], bool]) -> list[Row]:
        """Return the samples of a request.

        Raises:
            RejectedError: the prompt cannot be written, or leaves no room for a reply.
        """
        try:
            prompt = tuple(self.model.chat(request.system, request.user))
        except Exception as error:  # chat templates can raise any error
            raise RejectedError(f"the chat template of {self.name} refuses this prompt: {error}") from None
        if len(prompt) >= self.model.context:
            raise RejectedError(
                f"a prompt of {len(prompt)} tokens leaves no room for a reply in the context of {self.name}, "
                f"{self.model.context} tokens"
            )
        temperature = 1.0 if request.temperature is None else request.temperature
        return [
            Row(prompt, self._seed(request, ordinal), temperature, request.max_tokens, waits)
            for ordinal in request.ordinals
        ]

    def _seed(self, request: SampleRequest, ordinal: int) -> int:
        about = f"{self._settings.seed}|{self.name}|{request.key}|{request.prompt_digest}|{ordinal}"
        return int.from_bytes(blake2b(about.encode(), digest_size=16).digest())

    def _reply(self, sampled: Sampled) -> Reply:
        text, reasoning = split_reasoning(self.model.text(sampled.tokens))
        thought = None if reasoning is None else max(0, sampled.made - len(self.model.reply(text)))
        return Reply(
            text=text,
            model=self.name,
            finish_reason=sampled.finish_reason,
            input_tokens=len(sampled.row.prompt),
            output_tokens=sampled.made,
            cached_tokens=0,
            reasoning=reasoning,
            reasoning_tokens=thought,
        )


def create(model: str, options: dict[str, Any]) -> Local:
    """Load a model: the factory behind ``--model local/<name>``.

    Args:
        model: a shipped model's name, a folder, or a name on the Hugging Face Hub.
        options: fields of `LocalSettings`; strings are converted.

    Raises:
        UsageError: an option is unknown or out of range, or see `load_model`.
    """
    try:
        settings = LocalSettings(**options)
    except ValidationError as error:
        raise UsageError(explain("local option", error, LocalSettings.model_fields)) from None
    return Local(load_model(model, device=settings.device, dtype=settings.dtype), settings)


create.settings = LocalSettings  # type: ignore[attr-defined] # `mdap models` lists them
