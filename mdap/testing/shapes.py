"""Response bodies of the protocols that a `FaultyServer` speaks, and the jobs of their batch APIs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mdap.testing.faults import Canned


def error_of(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Canned:
    """Return a refusal as OpenAI words it."""
    error = {"message": message, "type": code, "param": None, "code": code}
    return Canned(status, {"error": error}, headers or {})


Shape = Callable[[dict[str, Any], Sequence[str | None], dict[str, Any]], dict[str, Any]]


def completion_of(body: dict[str, Any], texts: Sequence[str | None], usage: dict[str, Any]) -> dict[str, Any]:
    """Return what the Chat Completions API answers."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "content_filter" if text is None else "stop",
        }
        for index, text in enumerate(texts)
    ]
    return {"object": "chat.completion", "model": body.get("model"), "choices": choices, "usage": usage}


def _message_of(body: dict[str, Any], texts: Sequence[str | None], usage: dict[str, Any]) -> dict[str, Any]:
    """Return what the Messages API answers; its usage counts apart what the cache has to do with."""
    [text] = texts
    counted = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    if details := usage.get("prompt_tokens_details"):
        read, written = details["cached_tokens"], details["cache_write_tokens"]
        counted["input_tokens"] -= read + written
        counted |= {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    return {
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": "refusal" if text is None else "end_turn",
        "usage": counted,
    }


APIS: Final[dict[tuple[str, str], Shape]] = {
    ("POST", "/v1/chat/completions"): completion_of,
    ("POST", "/v1/messages"): _message_of,
}


def usage_of(body: dict[str, Any], texts: Sequence[str]) -> dict[str, int]:
    """Return the usage of a request and its replies."""
    # Four characters a token: near enough, and the same everywhere.
    prompt = 1 + sum(len(str(_content(message))) for message in body["messages"]) // 4
    completion = sum(1 + len(text) // 4 for text in texts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _content(message: Any) -> Any:
    content = message.get("content", "") if isinstance(message, dict) else ""
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return content


@dataclass(slots=True)
class Job:
    """One job of a batch API: the bodies that were sent, by custom id, and the lines of its results.

    Its *state*, and the *code* with which it failed as a whole, are in OpenAI's words. Anthropic's jobs have
    no *metadata* and no *file*, and *errors* are part of their results.
    """

    id: str
    rows: dict[str, dict[str, Any]]
    troubled: bool
    metadata: dict[str, str] = field(default_factory=dict)
    file: str = ""
    created: float = field(default_factory=time.time)
    state: str = "in_progress"
    polls: int = 0
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    code: tuple[str, str] | None = None
    listed: int = 0

    @property
    def of_anthropic(self) -> bool:
        """Whether it is a job of Anthropic's API."""
        return self.id.startswith("msgbatch")

    @property
    def path(self) -> str:
        """The API's path for one of its rows."""
        return "/v1/messages" if self.of_anthropic else "/v1/chat/completions"


def job_of(job: Job, *, counted: bool) -> dict[str, Any]:
    """Return a job as its vendor words it; one of OpenAI claims no completed request if not *counted*."""
    if job.of_anthropic:
        return _message_batch(job)
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


def _message_batch(job: Job) -> dict[str, Any]:
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


def result_of(job: Job, name: str, status: int | None, body: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a row: its response or error; without a status, *job* did not come to it."""
    if not job.of_anthropic:
        response = {"status_code": status, "request_id": f"req-{name}", "body": body}
        error = {"code": f"batch_{job.state}", "message": "This request could not be executed in time."}
        outcome = (None, error) if status is None else (response, None)
        return {"id": f"row-{name}", "custom_id": name, "response": outcome[0], "error": outcome[1]}
    if status is None:
        result: dict[str, Any] = {"type": "canceled" if job.state == "cancelled" else "expired"}
    elif status == 200:
        result = {"type": "succeeded", "message": body}
    else:
        kinds = {400: "invalid_request_error", 413: "request_too_large"}
        error = {"type": kinds.get(status, "api_error"), "message": body["error"]["message"]}
        result = {"type": "errored", "error": {"type": "error", "error": error}}
    return {"custom_id": name, "result": result}
