"""Requests that go in jobs of a batch API, and the jobs that hold them."""

from dataclasses import dataclass, field
from typing import Final

import anyio

from mdap.errors import MdapError, TransientError
from mdap.providers.batch_api import Result
from mdap.records import BatchJob, BatchRow, SampleRequest

__all__ = ["FREED", "Row", "Sent"]


@dataclass(slots=True, eq=False)
class Row:
    """A request that waits for its response in a job, or for a job.

    Attributes:
        about: what it asks; its custom id is empty until it is part of a job.
        member: which model is asked.
        request: as the engine made it; None for a row of an earlier session until it is asked for again.
        waited: whether somebody waits for it now.
        done: set once there is a result or an error, or it goes back to those that wait for a job.
        result: what the vendor answered.
        error: why there is no result; `FREED` where it was never submitted.
        halt: the error that ends the waiting, although the row goes on.
        since: when it was submitted, in seconds of Unix time.
        wave: which wave it is part of.
    """

    about: BatchRow
    member: int
    request: SampleRequest | None = None
    waited: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Result | None = None
    error: Exception | None = None
    halt: MdapError | None = None
    since: float = 0.0
    wave: int = 0

    def end(self, result: Result | None, error: Exception | None = None) -> None:
        """Give the result, or the *error*, to the waiting sampler."""
        self.result, self.error = result, error
        self.done.set()

    def interrupt(self, error: MdapError) -> None:
        """End the waiting with *error*; the row goes on."""
        self.halt = error
        self.done.set()

    async def ended(self) -> None:
        """Wait for a result or an error.

        Raises:
            MdapError: it is not to be waited for.
        """
        self.waited = True
        try:
            await self.done.wait()
        finally:
            self.waited = False
        if self.halt is not None and self.result is None and self.error is None:
            error, self.halt, self.done = self.halt, None, anyio.Event()
            raise error.with_traceback(None)


FREED: Final = TransientError("the row was never submitted", kind="freed")


@dataclass(slots=True, eq=False)
class Sent:
    """What a job holds of this session.

    Attributes:
        about: the job, as it is on record.
        rows: by custom id, those that somebody here wants.
        lines: the requests, to be submitted; None for a job of an earlier session.
        tokens: about how many tokens its prompts have.
        parked: whether it is known to be under way.
        lost: whether it is not followed to its end in this session.
        cancelling: whether mdap cancels it, so that what is left goes as ordinary requests.
    """

    about: BatchJob
    rows: dict[str, Row]
    lines: list[bytes] | None
    tokens: int
    parked: bool = False
    lost: bool = False
    cancelling: bool = False
