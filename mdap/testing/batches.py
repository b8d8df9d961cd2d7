"""The batch APIs of OpenAI and Anthropic as a `FaultyServer` speaks them, with the trouble they give."""

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from mdap.testing.faults import Canned
from mdap.testing.http import Request
from mdap.testing.shapes import error_of, usage_of

__all__ = ["BatchDesk", "BatchFaults", "Job"]

Work = Callable[[dict[str, Any], str], tuple[int, dict[str, Any]]]
"""Answers one row of a job: takes its body and the API's path, and returns status and response body."""

_CHAT: Final = "/v1/chat/completions"
_MESSAGES: Final = "/v1/messages"


class BatchFaults(BaseModel):
    """What a `FaultyServer` does to jobs of its batch APIs; shares are of a job's rows.

    Attributes:
        polls: requests that show a job until it has ended.
        jobs: how many jobs the trouble below happens to, the first ones; None for all.
        expired: rows that the job did not come to before it expired.
        cancelled: rows that the vendor did not come to when it cancelled the job by itself.
        failed: rows that failed with status 500.
        missing: rows that neither file mentions.
        doubled: rows that the results have twice.
        unknown: rows in the results that nobody sent.
        shuffled: whether results come in another order.
        wrong_counters: whether OpenAI's counters of requests are wrong.
        cut: downloads that end in the middle of a line.
        lost: creations that take effect although their response is lost.
        hidden: listings that do not show a job yet.
        queued_tokens: prompt tokens that may be queued at a time; None for any number.
        says_limit: whether a refusal names that limit.
        largest: bytes of the largest file or request that is accepted; None for any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    polls: int = Field(1, ge=1)
    jobs: int | None = Field(None, ge=0)
    expired: float = Field(0.0, ge=0, le=1)
    cancelled: float = Field(0.0, ge=0, le=1)
    failed: float = Field(0.0, ge=0, le=1)
    missing: float = Field(0.0, ge=0, le=1)
    doubled: float = Field(0.0, ge=0, le=1)
    unknown: int = Field(0, ge=0)
    shuffled: bool = False
    wrong_counters: bool = False
    cut: int = Field(0, ge=0)
    lost: int = Field(0, ge=0)
    hidden: int = Field(0, ge=0)
    queued_tokens: int | None = Field(None, ge=1)
    says_limit: bool = True
    largest: int | None = Field(None, ge=1)


@dataclass(slots=True)
class Job:
    """One job of a batch API.

    Attributes:
        id: the vendor's id.
        rows: the bodies that were sent, by custom id.
        metadata: what the client wrote there; Anthropic's jobs have none.
        file: the id of the file that it was made from; empty for Anthropic's.
        created: seconds of Unix time.
        state: OpenAI's word for it.
        polls: requests that showed it so far.
        output: lines of results.
        errors: lines of rows without a result; part of the results for Anthropic.
        troubled: whether trouble happens to it.
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


class BatchDesk:
    """Files and jobs of one server.

    Args:
        faults: the trouble they give.
        work: answers a row; its tokens are billed.
        seed: of all draws.

    Attributes:
        files: content by id: uploads, outputs and error files.
        jobs: all jobs of both protocols, in the order of their creation.
    """

    def __init__(self, faults: BatchFaults, work: Work, seed: int = 0) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: list[Job] = []
        self._faults = faults
        self._work = work
        self._seed = seed
        self._cut = faults.cut
        self._lost = faults.lost

    def respond(self, request: Request) -> tuple[Canned, bool] | None:
        """Return the response and whether it is lost on its way; None if the request is for another API."""
        method, target = request.target
        path, _, query = target.partition("?")
        largest = self._faults.largest
        if largest is not None and len(request.content) > largest:
            return error_of(413, "request_too_large", "the request is larger than allowed"), False
        for pattern, handler in _ROUTES.items():
            found = re.fullmatch(pattern, f"{method} {path}")
            if found is not None:
                return handler(self, request, *found.groups(), query=query)
        return None

    # -- OpenAI ------------------------------------------------------------------------------------

    def _upload(self, request: Request, *, query: str) -> tuple[Canned, bool]:
        name, content = _file_in(request)
        made = f"file-{len(self.files)}"
        self.files[made] = name, content
        return Canned(body=self._file(made)), False

    def _file(self, made: str) -> dict[str, Any]:
        name, content = self.files[made]
        about = {"id": made, "object": "file", "bytes": len(content), "filename": name, "purpose": "batch"}
        return {**about, "created_at": int(time.time()), "status": "processed"}

    def _files(self, request: Request, *, query: str) -> tuple[Canned, bool]:
        data = [self._file(made) for made, (name, _) in reversed(self.files.items()) if name]
        return Canned(body={"object": "list", "data": data, "has_more": False}), False

    def _content(self, request: Request, made: str, *, query: str) -> tuple[Canned, bool]:
        if made not in self.files:
            return error_of(404, "not_found", "no such file"), False
        return self._download(self.files[made][1]), False

    def _download(self, content: bytes) -> Canned:
        if self._cut and content:
            self._cut -= 1
            content = content[: len(content) * 2 // 3]
        return Canned(body=content, headers={"Content-Type": "application/octet-stream"})

    def _create(self, request: Request, *, query: str) -> tuple[Canned, bool]:
        given = json.loads(request.content)
        if given.get("input_file_id") not in self.files:
            return error_of(400, "invalid_request_error", "no such input file"), False
        lines = self.files[given["input_file_id"]][1].decode().splitlines()
        sent = [json.loads(line) for line in lines]
        rows = {row["custom_id"]: row["body"] for row in sent}
        job = self._job("batch", rows, given.get("metadata") or {}, given["input_file_id"])
        limit = self._faults.queued_tokens
        queued = sum(one.tokens for one in self.jobs if one.state == "in_progress")
        if limit is not None and queued > limit:
            job.state = "failed"
            said = f" Limit: {limit:,} enqueued tokens." if self._faults.says_limit else ""
            message = f"Enqueued token limit reached for faulty in organization org-1.{said}"
            job.code = ("token_limit_exceeded", message)
        return Canned(body=self._batch(job)), self._is_lost()

    def _job(self, kind: str, rows: dict[str, Any], metadata: dict[str, str], file: str) -> Job:
        number, most = len(self.jobs), self._faults.jobs
        troubled = most is None or number < most
        job = Job(f"{kind}_{number}", rows, metadata, file, time.time(), troubled)
        self.jobs.append(job)
        return job

    def _is_lost(self) -> bool:
        lost, self._lost = self._lost > 0, max(self._lost - 1, 0)
        return lost

    def _batches(self, request: Request, *, query: str) -> tuple[Canned, bool]:
        data = [self._batch(job) for job in self._listed("batch")]
        return Canned(body={"object": "list", "data": data, "has_more": False}), False

    def _listed(self, kind: str) -> Iterator[Job]:
        for job in reversed(self.jobs):
            job.listed += 1
            if job.id.startswith(kind) and job.listed > self._faults.hidden:
                self._advance(job)
                yield job

    def _retrieve(self, request: Request, made: str, *, query: str) -> tuple[Canned, bool]:
        job = self._named(made)
        if job is None:
            return error_of(404, "not_found", "no such batch"), False
        self._advance(job)
        return Canned(body=self._batch(job)), False

    def _cancel(self, request: Request, made: str, *, query: str) -> tuple[Canned, bool]:
        job = self._named(made)
        if job is None:
            return error_of(404, "not_found", "no such batch"), False
        if job.state == "in_progress":
            self._end(job, "cancelled", left=0.5)
        anthropic = job.id.startswith("msgbatch")
        return Canned(body=self._message_batch(job) if anthropic else self._batch(job)), False

    def _named(self, made: str) -> Job | None:
        return next((job for job in self.jobs if job.id == made), None)

    def _batch(self, job: Job) -> dict[str, Any]:
        output = self._stored(f"{job.id}-output", job.output)
        errors = self._stored(f"{job.id}-errors", job.errors)
        wrong = 0 if self._faults.wrong_counters else 1
        counts = {"total": len(job.rows), "completed": len(job.output) * wrong, "failed": len(job.errors)}
        failure = None
        if job.code is not None:
            code, message = job.code
            failure = {"object": "list", "data": [{"code": code, "message": message, "line": None}]}
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": _CHAT,
            "input_file_id": job.file,
            "completion_window": "24h",
            "status": job.state,
            "output_file_id": output,
            "error_file_id": errors,
            "created_at": int(job.created),
            "metadata": job.metadata or None,
            "request_counts": counts,
            "errors": failure,
        }

    def _stored(self, made: str, lines: list[str]) -> str | None:
        if not lines:
            return None
        self.files[made] = "", "".join(f"{line}\n" for line in lines).encode()
        return made

    # -- Anthropic ---------------------------------------------------------------------------------

    def _create_messages(self, request: Request, *, query: str) -> tuple[Canned, bool]:
        given = json.loads(request.content)
        rows = {row["custom_id"]: row["params"] for row in given["requests"]}
        if bad := next((one for one in rows if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", one)), None):
            return error_of(400, "invalid_request_error", f"requests.0.custom_id: {bad!r}"), False
        limit = self._faults.queued_tokens
        queued = sum(one.tokens for one in self.jobs if one.state == "in_progress")
        if (
            limit is not None
            and queued + sum(usage_of(b, ())["prompt_tokens"] for b in rows.values()) > limit
        ):
            return error_of(429, "rate_limit_error", "too many requests are being processed"), False
        job = self._job("msgbatch", rows, {}, "")
        return Canned(body=self._message_batch(job)), self._is_lost()

    def _message_batches(self, request: Request, *, query: str) -> tuple[Canned, bool]:
        data = [self._message_batch(job) for job in self._listed("msgbatch")]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return Canned(body={"data": data, "has_more": False, **ends}), False

    def _retrieve_messages(self, request: Request, made: str, *, query: str) -> tuple[Canned, bool]:
        job = self._named(made)
        if job is None:
            return error_of(404, "not_found_error", "no such batch"), False
        self._advance(job)
        return Canned(body=self._message_batch(job)), False

    def _results(self, request: Request, made: str, *, query: str) -> tuple[Canned, bool]:
        job = self._named(made)
        if job is None or job.state == "in_progress":
            return error_of(404, "not_found_error", "no results yet"), False
        return self._download("".join(f"{line}\n" for line in (*job.output, *job.errors)).encode()), False

    def _message_batch(self, job: Job) -> dict[str, Any]:
        ended = job.state != "in_progress"
        left = {"completed": "errored", "expired": "expired", "cancelled": "canceled"}.get(
            job.state, "errored"
        )
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

    # -- a job's life ------------------------------------------------------------------------------

    def _advance(self, job: Job) -> None:
        job.polls += 1
        if job.state != "in_progress" or job.polls < self._faults.polls:
            return
        faults = self._faults
        if job.troubled and faults.expired:
            self._end(job, "expired", left=faults.expired)
        elif job.troubled and faults.cancelled:
            self._end(job, "cancelled", left=faults.cancelled)
        else:
            self._end(job, "completed", left=0.0)

    def _end(self, job: Job, state: str, left: float) -> None:
        """End *job*: its first rows are answered, and the share *left* of them is not."""
        job.state = state
        done = len(job.rows) - round(left * len(job.rows))
        rng = random.Random(f"{self._seed}:{job.id}")
        for place, (name, body) in enumerate(job.rows.items()):
            self._answer(job, name, body if place < done else None, rng)
        if not job.troubled:
            return
        copies = round(self._faults.doubled * len(job.output))
        job.output += job.output[:copies]
        for number in range(self._faults.unknown):
            job.output.append(json.dumps(_succeeded(job, f"nobody-{number}", {})))
        if self._faults.shuffled:
            rng.shuffle(job.output)

    def _answer(self, job: Job, name: str, body: dict[str, Any] | None, rng: random.Random) -> None:
        drawn = rng.random() if job.troubled else 1.0
        if body is None:
            job.errors.append(json.dumps(_left(job, name)))
        elif drawn < self._faults.missing:
            self._work(body, _path(job))
        elif drawn < self._faults.missing + self._faults.failed:
            job.errors.append(
                json.dumps(_errored(job, name, 500, error_of(500, "api_error", "it broke").body))
            )
        else:
            status, response = self._work(body, _path(job))
            if status == 200:
                job.output.append(json.dumps(_succeeded(job, name, response)))
            else:
                job.errors.append(json.dumps(_errored(job, name, status, response)))


def _path(job: Job) -> str:
    return _MESSAGES if job.id.startswith("msgbatch") else _CHAT


def _succeeded(job: Job, name: str, body: dict[str, Any]) -> dict[str, Any]:
    if job.id.startswith("msgbatch"):
        return {"custom_id": name, "result": {"type": "succeeded", "message": body}}
    response = {"status_code": 200, "request_id": f"req-{name}", "body": body}
    return {"id": f"row-{name}", "custom_id": name, "response": response, "error": None}


def _errored(job: Job, name: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    if job.id.startswith("msgbatch"):
        kinds = {400: "invalid_request_error", 413: "request_too_large"}
        error = {"type": kinds.get(status, "api_error"), "message": body["error"]["message"]}
        return {"custom_id": name, "result": {"type": "errored", "error": {"type": "error", "error": error}}}
    response = {"status_code": status, "request_id": f"req-{name}", "body": body}
    return {"id": f"row-{name}", "custom_id": name, "response": response, "error": None}


def _left(job: Job, name: str) -> dict[str, Any]:
    if job.id.startswith("msgbatch"):
        return {"custom_id": name, "result": {"type": "canceled" if job.state == "cancelled" else "expired"}}
    code = f"batch_{job.state}"
    error = {"code": code, "message": "This request could not be executed in time."}
    return {"id": f"row-{name}", "custom_id": name, "response": None, "error": error}


def _file_in(request: Request) -> tuple[str, bytes]:
    """Return name and content of the file in a form."""
    boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    for part in request.content.split(b"--" + boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if found := re.search(rb'filename="([^"]*)"', head):
            return found[1].decode(), content.removesuffix(b"\r\n")
    return "", b""


_ROUTES: Final[dict[str, Callable[..., tuple[Canned, bool]]]] = {
    r"POST /v1/files": BatchDesk._upload,
    r"GET /v1/files": BatchDesk._files,
    r"GET /v1/files/([^/]+)/content": BatchDesk._content,
    r"POST /v1/batches": BatchDesk._create,
    r"GET /v1/batches": BatchDesk._batches,
    r"GET /v1/batches/([^/]+)": BatchDesk._retrieve,
    r"POST /v1/batches/([^/]+)/cancel": BatchDesk._cancel,
    r"POST /v1/messages/batches": BatchDesk._create_messages,
    r"GET /v1/messages/batches": BatchDesk._message_batches,
    r"GET /v1/messages/batches/([^/]+)": BatchDesk._retrieve_messages,
    r"GET /v1/messages/batches/([^/]+)/results": BatchDesk._results,
    r"POST /v1/messages/batches/([^/]+)/cancel": BatchDesk._cancel,
}
