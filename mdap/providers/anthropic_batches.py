"""Anthropic's Message Batches: jobs have no metadata, so the ids in their results tell whose they are."""

import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

from mdap.errors import ProviderError, TransientError
from mdap.providers.batch_api import BatchAPI, JobState, Result, counted
from mdap.providers.failures import classify, json_or_none, mapping_of
from mdap.providers.sending import spelled
from mdap.records import SampleRequest
from mdap.rules.waves import Room

_PATH: Final = "/v1/messages/batches"
_SLACK: Final = 600.0
# Errors of a row have no status, only a type.
_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatches(BatchAPI):
    """The batch API of one model; see `mdap.providers.batch_api.BatchAPI`."""

    limits = Room(100_000, 256 * 10**6)
    uploads = False
    has_metadata = False
    jobs = attrgetter("messages.batches")

    def row(self, custom_id: str, request: SampleRequest) -> bytes:
        """Return one request of a job."""
        return spelled({"custom_id": custom_id, "params": self._body(request)})

    async def submit(self, token: str, file: str | None, rows: Sequence[bytes]) -> JobState:
        """Create the job."""
        requests = [json.loads(row) for row in rows]
        return self._state(await self._call(lambda client: self.jobs(client).create(requests=requests)))

    async def find(self, token: str, file: str | None, since: float) -> list[JobState]:
        """Return all jobs of the account created *since* then."""

        async def look(client: Any) -> list[JobState]:
            found = []
            async for job in self.jobs(client).list(limit=100):
                if job.created_at.timestamp() < since - _SLACK:
                    break
                found.append(self._state(job))
            return found

        return await self._call(look)

    async def download(self, state: JobState, take: Callable[[bytes], None]) -> None:
        """Hand *take* the lines of the results."""
        # Not the address that the vendor names: the key goes nowhere but to the endpoint.
        await self._download(f"{_PATH}/{state.vendor_id}/results", take)

    def result(self, line: bytes) -> Result | None:
        """Return what a line says; None if it cannot be read."""
        row = mapping_of(json_or_none(line))
        custom_id, result = row.get("custom_id"), mapping_of(row.get("result"))
        if not isinstance(custom_id, str) or "type" not in result:
            return None
        if result["type"] == "succeeded" and isinstance(result.get("message"), dict):
            return Result(custom_id, json.dumps(result["message"]).encode())
        return Result(custom_id, None, self._failed(result))

    def _state(self, job: Any) -> JobState:
        counts = counted(job.request_counts)
        ended = job.processing_status == "ended"
        files = (job.id,) if ended else ()
        return JobState(job.id, job.processing_status, ended, sum(counts.values()), counts, files)

    def _failed(self, result: dict[str, Any]) -> ProviderError:
        if result["type"] != "errored":
            kind = "cancelled" if result["type"] == "canceled" else str(result["type"])[:40]
            return TransientError(f"{self._endpoint.host} did not come to the request: {kind}", kind=kind)
        error = mapping_of(result.get("error"))
        error = mapping_of(error.get("error")) or error
        status = _STATUSES.get(str(error.get("type")), 500)
        return classify(status, {}, {"error": error}, self._endpoint)
