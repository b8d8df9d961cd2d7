"""OpenAI's batch API, and that of servers that speak it: a file of requests is uploaded, then made a job."""

import json
import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

from mdap.errors import ProviderError, TransientError
from mdap.providers.batch_api import BatchAPI, JobState, Result, counted
from mdap.providers.failures import classify, json_or_none, mapping_of
from mdap.providers.sending import spelled
from mdap.records import SampleRequest
from mdap.rules.waves import Room

_PATH: Final = "/v1/chat/completions"
_METADATA: Final = "mdap"
_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_QUEUE: Final = frozenset({"token_limit_exceeded", "request_limit_exceeded"})
_LIMIT: Final = re.compile(r"limit:\s*([\d,]+)", re.I)
_SLACK: Final = 600.0
"""Seconds by which the clock of the vendor may be behind."""


class OpenAIBatches(BatchAPI):
    """The batch API of one model; see `mdap.providers.batch_api.BatchAPI`."""

    limits = Room(50_000, 200 * 10**6)
    uploads = True
    has_metadata = True
    jobs = attrgetter("batches")

    def row(self, custom_id: str, request: SampleRequest) -> bytes:
        """Return one line of the file to upload."""
        row = {"custom_id": custom_id, "method": "POST", "url": _PATH, "body": self._body(request)}
        return spelled(row) + b"\n"

    async def upload(self, token: str, rows: Sequence[bytes]) -> str:
        """Upload *rows* as a file with the name of the job."""
        file = (f"{token}.jsonl", b"".join(rows), "application/jsonl")
        made = await self._call(lambda client: client.files.create(file=file, purpose="batch"))
        return str(made.id)

    async def find_upload(self, token: str) -> str | None:
        """Return the file that was uploaded as *token*; None if there is none."""

        async def look(client: Any) -> str | None:
            async for file in client.files.list(purpose="batch", order="desc"):
                if file.filename == f"{token}.jsonl":
                    return str(file.id)
            return None

        return await self._call(look)

    async def submit(self, token: str, file: str | None, rows: Sequence[bytes]) -> JobState:
        """Create the job of an uploaded *file*."""
        about = {"endpoint": _PATH, "completion_window": "24h", "input_file_id": file}
        metadata = {_METADATA: token}
        return self._state(
            await self._call(lambda client: self.jobs(client).create(**about, metadata=metadata))
        )

    async def find(self, token: str, file: str | None, since: float) -> list[JobState]:
        """Return the job whose metadata names *token*, or that was made of its *file*."""

        async def look(client: Any) -> list[JobState]:
            async for job in self.jobs(client).list(limit=100):
                if job.created_at < since - _SLACK:
                    break
                named = mapping_of(job.metadata).get(_METADATA) == token
                if named or (file is not None and job.input_file_id == file):
                    return [self._state(job)]
            return []

        return await self._call(look)

    async def download(self, state: JobState, take: Callable[[bytes], None]) -> None:
        """Hand *take* the lines of both files, as far as there are any."""
        for file in state.files:
            await self._download(f"/files/{file}/content", take)

    def result(self, line: bytes) -> Result | None:
        """Return what a line says; None if it cannot be read."""
        row = mapping_of(json_or_none(line))
        custom_id = row.get("custom_id")
        if not isinstance(custom_id, str):
            return None
        response = mapping_of(row.get("response"))
        status, body = response.get("status_code"), response.get("body")
        if isinstance(status, int) and 200 <= status < 300 and isinstance(body, dict):
            return Result(custom_id, json.dumps(body).encode())
        return Result(custom_id, None, self._failed(status, body, mapping_of(row.get("error"))))

    def _state(self, job: Any) -> JobState:
        files = tuple(file for file in (job.output_file_id, job.error_file_id) if file)
        counts = counted(job.request_counts)
        state = JobState(job.id, job.status, job.status in _ENDED, counts.get("total", 0), counts, files)
        if job.status != "failed":
            return state
        errors = (job.errors.data if job.errors else None) or ()
        first = mapping_of(errors[0].model_dump()) if errors else {}
        said = str(first.get("message") or "the vendor gives no reason")[:300]
        if first.get("code") in _QUEUE or "enqueued token limit" in said.lower():
            found = _LIMIT.search(said)
            limit = int(found[1].replace(",", "")) if found else None
            return state._replace(queue_full=said, limit=limit)
        return state._replace(refusal=said)

    def _failed(self, status: Any, body: Any, error: dict[str, Any]) -> ProviderError:
        if isinstance(status, int) and status >= 300:
            return classify(status, {}, body, self._endpoint)
        kind = str(error.get("code") or "row_failed").removeprefix("batch_")[:40]
        said = self._endpoint.tell(str(error.get("message") or "the row has no response"))
        return TransientError(f"{self._endpoint.host} did not answer: {said}", kind=kind)
