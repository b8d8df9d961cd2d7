"""One job of a batch API: submit it once, find it again after a lost answer, poll it, collect its results."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from mdap.errors import ProviderError, RateLimitError, RejectedError, TransientError, UnavailableError
from mdap.providers.batch_api import FREED, JobState, Result, Row
from mdap.records import BatchJob, BatchRow

if TYPE_CHECKING:
    from mdap.providers.lane import BatchLane

_OLDEST: Final = 72 * 3600.0
"""Seconds after which a vendor would have ended a job long ago."""

_TRIES: Final = 20
_REFUSALS: Final = 3
_DOWNLOADS: Final = 3
_GONE: Final = "model_not_found"
_TOO_LARGE: Final = "http_413"
_LONGEST_NAP: Final = 60.0


class BatchLog(Protocol):
    """What the log keeps of jobs; every write is on the disk when it returns."""

    async def intend(self, token: str, model: str, wave: int, rows: Sequence[BatchRow]) -> BatchJob:
        """Note that a job is about to be submitted, and claim it."""

    def claim(self, number: int) -> bool:
        """Return whether this process is the one that may submit the job."""

    def drop(self, number: int) -> None:
        """Give the claim on a job back."""

    async def note(self, number: int, kind: str, data: Mapping[str, Any]) -> None:
        """Note what became of a job."""

    async def reread(self, number: int) -> BatchJob:
        """Return a job as it is on record now."""

    async def vendor_ids(self) -> set[str]:
        """Return the vendors' ids of all jobs on record."""


class Job:
    """A job with rows that somebody here wants; `live` brings it to its end.

    Args:
        lane: where its rows wait, with the log and the times to wait.
        about: the job, as it is on record.
        member: which model replies.
        rows: by custom id, those that somebody here wants.
        lines: the requests, to be submitted; None for a job of an earlier session.
        tokens: about how many tokens its prompts have.

    Attributes:
        parked: whether it is known to be under way.
        lost: whether it is not followed to its end in this session.
        cancelling: whether mdap cancels it, so that what is left goes as ordinary requests.
    """

    def __init__(
        self,
        lane: "BatchLane",
        about: BatchJob,
        member: int,
        rows: dict[str, Row],
        lines: list[bytes] | None = None,
        *,
        tokens: int = 0,
    ) -> None:
        self.about, self.member, self.rows, self.lines, self.tokens = about, member, rows, lines, tokens
        self.parked = self.lost = False
        self.cancelling = about.state == "cancelling"
        self._lane, self._log, self._waves = lane, lane.log, lane.waves
        self._api, self._host = lane.api(member), lane.members[member].name
        self._file = about.file
        # When it may have been created without our knowing; None where it cannot have been.
        self._unsure = about.intended if lines is None else None
        self._unsure_file = lines is None

    async def live(self) -> None:
        """Submit the job if need be, wait for its end, and hand out its results; raises nothing."""
        try:
            vendor_id = self.about.vendor_id or await self._submitted()
            if vendor_id is not None:
                await self._collect(await self._ended(vendor_id))
        except Exception as error:
            # None of its rows may be asked for again before it is known what became of it.
            self.lost = True
            about = f"{self._host} cannot be asked about job {self.about.token}: {error}"
            passing = isinstance(error, TransientError)
            self._end_all(UnavailableError(about, kind="batch_unreachable") if passing else error)
        finally:
            self._log.drop(self.about.number)

    async def _submitted(self) -> str | None:
        """Return the vendor's id of the job; None if it was not submitted, and its rows are free again."""
        if not self._log.claim(self.about.number) and (known := await self._by_another()) is not None:
            return known
        tries = refusals = 0
        while True:
            try:
                state = await self._found_or_made()
            except RateLimitError as error:
                refusals += 1
                if refusals >= _REFUSALS and not self._lane.others(self):
                    await self._refused(error, self._lane.full(self, None))
                    return None
                await anyio.sleep(max(error.retry_after or 0.0, self._nap(refusals)))
            except TransientError:
                tries += 1
                if tries >= _TRIES:
                    raise
                await anyio.sleep(self._nap(tries))
            except RejectedError as error:
                if error.kind == _TOO_LARGE:
                    await self._refused(error, self._lane.too_large(self))
                    return None
                raise UnavailableError(f"the batch was refused: {error}", kind="batch_refused") from None
            else:
                if state is None:
                    await self._log.note(self.about.number, "abandoned", {"reason": "it was never submitted"})
                    self._end_all(FREED)
                    return None
                await self._log.note(self.about.number, "submitted", {"vendor_id": state.vendor_id})
                self.lines = None
                return state.vendor_id

    def _nap(self, tries: int) -> float:
        return min(self._waves.poll * tries, _LONGEST_NAP)

    async def _by_another(self) -> str | None:
        """Return the vendor's id once the process that has the job knows it; None if that has ended."""
        while not self._log.claim(self.about.number):  # noqa: ASYNC110 - the other is another process
            await anyio.sleep(self._waves.poll)
        about = await self._log.reread(self.about.number)
        self._file = about.file
        return about.vendor_id

    async def _found_or_made(self) -> JobState | None:
        """Return the job, created now or found; None if there is none, and nothing to create it from."""
        if self._unsure is not None and (found := await self._found(self._unsure)) is not None:
            return found
        lines = self.lines
        if self._api.uploads and self._file is None:
            if self._unsure_file:
                self._file = await self._api.find_upload(self.about.token)
            if self._file is None and lines is not None:
                self._unsure_file = True
                self._file = await self._api.upload(self.about.token, lines)
            if self._file is not None:
                await self._log.note(self.about.number, "uploaded", {"file": self._file})
        if self._file is None and (lines is None or self._api.uploads):
            return None
        before = time.time()
        try:
            return await self._api.submit(self.about.token, self._file, lines or ())
        except (RateLimitError, RejectedError, UnavailableError):
            raise  # then there is none
        except TransientError:
            self._unsure = before
            raise

    async def _found(self, since: float) -> JobState | None:
        """Return the job if the vendor has it; None once it is sure that it has not."""
        rejected: set[str] = set()
        while True:
            waits = False
            known = await self._log.vendor_ids()
            for state in await self._api.find(self.about.token, self._file, since):
                if self._api.has_metadata:
                    return state
                if state.vendor_id in known | rejected or state.requests != self.about.requests:
                    continue
                if not state.ended:
                    waits = True
                elif await self._is_ours(state):
                    return state
                else:
                    rejected.add(state.vendor_id)
            if not waits and time.time() - since >= self._waves.settle:
                return None
            await anyio.sleep(self._waves.poll)

    async def _is_ours(self, state: JobState) -> bool:
        found = False

        def look(line: bytes) -> None:
            nonlocal found
            result = self._api.result(line)
            found = found or (result is not None and result.custom_id in self.rows)

        await self._api.download(state, look)
        return found

    async def _refused(self, error: ProviderError, smaller: bool) -> None:
        """Free the rows for smaller jobs; raise the *error* if there is no smaller one."""
        await self._log.note(self.about.number, "refused", {"reason": str(error)})
        if smaller:
            self._end_all(FREED)
        elif error.kind == _TOO_LARGE:
            self._end_all(error)  # about the one prompt that it has
        else:
            raise UnavailableError(f"the batch queue of {self._host} is full: {error}", kind="queue_full")

    async def _ended(self, vendor_id: str) -> JobState:
        """Return the job's state once it has ended."""
        known, failures = "", 0
        while True:
            try:
                state = await self._api.state(vendor_id)
                failures = 0
                if state.state != known:
                    known = state.state
                    about = {"state": state.state, "counts": dict(state.counts)}
                    await self._log.note(self.about.number, "state", about)
                if state.ended:
                    return state
                await self._cancel_if_late(vendor_id)
            except TransientError:
                failures += 1
                if failures >= _TRIES:
                    raise
            except UnavailableError as error:
                raise self._unknown(vendor_id, error) from None
            if not self.parked:
                self.parked = True
                self._lane.changed()
            if time.time() - self.about.intended > _OLDEST:
                raise UnavailableError(f"{self._host} has not ended job {vendor_id} in 72 hours", kind="late")
            await anyio.sleep(self._waves.poll)

    async def _cancel_if_late(self, vendor_id: str) -> None:
        most = self._waves.max_wait
        if most is None or self.cancelling or time.time() - self.about.intended < most:
            return
        self.cancelling = True
        await self._log.note(self.about.number, "cancelling", {})
        await self._api.cancel(vendor_id)

    def _unknown(self, vendor_id: str, error: UnavailableError) -> UnavailableError:
        if error.kind != _GONE:
            return error
        return UnavailableError(
            f"{self._host} does not know job {vendor_id}: use the key and the address that submitted it, or, "
            f"if it was deleted, `mdap batches --forget {self.about.token}`",
            kind="unknown_job",
        )

    async def _collect(self, state: JobState) -> None:
        if state.queue_full is not None:
            smaller = self._lane.full(self, state.limit)
            await self._refused(UnavailableError(state.queue_full, kind="queue_full"), smaller)
            return
        if state.refusal is not None:
            await self._log.note(self.about.number, "refused", {"reason": state.refusal})
            raise UnavailableError(f"{self._host} refused the batch: {state.refusal}", kind="batch_refused")
        results, strange = await self._results(state)
        missing = state.state if state.state in ("expired", "cancelled") else "missing"
        for custom_id in self.rows:
            lost = TransientError(f"{self._host} returned nothing for the row", kind=missing)
            results.setdefault(custom_id, Result(custom_id, None, lost))
        failed = {name: one.failure.kind for name, one in results.items() if one.failure is not None}
        data = {"state": "collected", "answered": len(results) - len(failed), "failed": failed, **strange}
        await self._log.note(self.about.number, "collected", data)
        for custom_id, row in self.rows.items():
            if self.cancelling:
                self._lane.leave_lane(row)
            row.end(results[custom_id])

    async def _results(self, state: JobState) -> tuple[dict[str, Result], dict[str, int]]:
        """Return the results of our rows, and how many lines were of no use."""
        results: dict[str, Result] = {}
        strange: dict[str, int] = {}

        def take(line: bytes) -> None:
            result = self._api.result(line)
            if result is None:
                strange["broken"] += 1
            elif result.custom_id in results:
                strange["doubled"] += 1
            elif result.custom_id in self.rows:
                results[result.custom_id] = result
            else:
                strange["unknown"] += 1

        for attempt in range(1, _DOWNLOADS + _TRIES):
            results.clear()
            strange |= dict.fromkeys(("unknown", "doubled", "broken"), 0)
            try:
                await self._api.download(state, take)
            except TransientError:
                if attempt >= _TRIES:
                    raise
            except UnavailableError as error:
                if error.kind != _GONE:
                    raise
                return {}, strange  # the vendor keeps results for some weeks only
            else:
                if not strange["broken"] or attempt >= _DOWNLOADS:
                    return results, strange
            await anyio.sleep(self._nap(attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _end_all(self, error: Exception) -> None:
        for row in self.rows.values():
            row.end(None, error)
