"""Jobs of the batch APIs of OpenAI and Anthropic, and their JSON as a `FaultyServer` sends it."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

from mdap.testing.http import Request
from mdap.testing.shapes import usage_of

__all__ = ["Job", "errored", "file_in", "left_out", "message_batch", "openai_batch", "succeeded"]


@dataclass(slots=True)
class Job:
    """One job of a batch API.

    Attributes:
        id: the vendor's id.
        rows: the bodies that were sent, by custom id.
        metadata: what the client wrote there; Anthropic's jobs have none.
        file: the id of the file that it was made from; empty for Anthropic's.
        created: seconds of Unix time.
        troubled: whether trouble happens to it.
        state: OpenAI's word for it.
        polls: requests that showed it so far.
        output: lines of results.
        errors: lines of rows without a result; part of the results for Anthropic.
        code: why it failed as a whole, as OpenAI words it.
        listed: listings since it was created.
    """

    id: str
    rows: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    file: str
    created: float
    troubled: bool
    state: str = "in_progress"
    polls: int = 0
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    code: tuple[str, str] | None = None
    listed: int = 0

    @property
    def tokens(self) -> int:
        """Prompt tokens of all rows."""
        return sum(usage_of(body, ())["prompt_tokens"] for body in self.rows.values())

    @property
    def of_anthropic(self) -> bool:
        """Whether it is a job of Anthropic's API."""
        return self.id.startswith("msgbatch")

    @property
    def path(self) -> str:
        """The API's path for one of its rows."""
        return "/v1/messages" if self.of_anthropic else "/v1/chat/completions"


def openai_batch(job: Job, *, counted: bool) -> dict[str, Any]:
    """Return a job of OpenAI, with the ids of its files.

    Args:
        job: the job.
        counted: whether its counter of completed requests is right, and not 0.
    """
    failure = None
    if job.code is not None:
        code, message = job.code
        failure = {"object": "list", "data": [{"code": code, "message": message, "line": None}]}
    completed = len(job.output) if counted else 0
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.path,
        "input_file_id": job.file,
        "completion_window": "24h",
        "status": job.state,
        "output_file_id": f"{job.id}-output" if job.output else None,
        "error_file_id": f"{job.id}-errors" if job.errors else None,
        "created_at": int(job.created),
        "metadata": job.metadata or None,
        "request_counts": {"total": len(job.rows), "completed": completed, "failed": len(job.errors)},
        "errors": failure,
    }


def message_batch(job: Job) -> dict[str, Any]:
    """Return a job of Anthropic."""
    ended = job.state != "in_progress"
    left = {"expired": "expired", "cancelled": "canceled"}.get(job.state, "errored")
    good = min(len(job.output), len(job.rows))
    counts = dict.fromkeys(("processing", "succeeded", "errored", "expired", "canceled"), 0)
    counts |= {"succeeded": good, left: len(job.rows) - good} if ended else {"processing": len(job.rows)}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(job.created))
    created = f"{stamp}.{int(job.created % 1 * 1e6):06d}Z"
    return {
        "id": job.id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": counts,
        "created_at": created,
        "expires_at": created,
        "ended_at": created if ended else None,
        "results_url": f"https://elsewhere.invalid/{job.id}" if ended else None,
    }


def succeeded(job: Job, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a row with the response *body*."""
    if job.of_anthropic:
        return _result(name, {"type": "succeeded", "message": body})
    return _row(name, {"status_code": 200, "request_id": f"req-{name}", "body": body})


def errored(job: Job, name: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a row that failed with *status* and an error's *body*."""
    if job.of_anthropic:
        kinds = {400: "invalid_request_error", 413: "request_too_large"}
        error = {"type": kinds.get(status, "api_error"), "message": body["error"]["message"]}
        return _result(name, {"type": "errored", "error": {"type": "error", "error": error}})
    return _row(name, {"status_code": status, "request_id": f"req-{name}", "body": body})


def left_out(job: Job, name: str) -> dict[str, Any]:
    """Return the result of a row that *job* did not come to before its end."""
    if job.of_anthropic:
        return _result(name, {"type": "canceled" if job.state == "cancelled" else "expired"})
    code, message = f"batch_{job.state}", "This request could not be executed in time."
    return _row(name, None, {"code": code, "message": message})


def _result(name: str, result: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": name, "result": result}


def _row(name: str, response: dict[str, Any] | None, error: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"id": f"row-{name}", "custom_id": name, "response": response, "error": error}


def file_in(request: Request) -> tuple[str, bytes]:
    """Return name and content of the file in a form."""
    boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    for part in request.content.split(b"--" + boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if found := re.search(rb'filename="([^"]*)"', head):
            return found[1].decode(), content.removesuffix(b"\r\n")
    return "", b""
