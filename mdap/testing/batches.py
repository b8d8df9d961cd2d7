"""The batch APIs of OpenAI and Anthropic as a `FaultyServer` speaks them, with the trouble they give."""

import json
import random
import re
import time
from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from mdap.testing.faults import Canned
from mdap.testing.http import Request, Response
from mdap.testing.shapes import Job, error_of, job_of, result_of, usage_of

Work = Callable[[dict[str, Any], str], tuple[int, dict[str, Any]]]
"""Answers one row of a job: takes its body and the API's path, and returns status and response body."""


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


class BatchDesk:
    """Files of one server, by id, and its jobs of both protocols, in the order of their creation."""

    def __init__(self, faults: BatchFaults, work: Work, seed: int = 0) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: list[Job] = []
        self._faults = faults
        self._work = work
        self._seed = seed
        self._cut = faults.cut
        self._lost = faults.lost

    def respond(self, request: Request) -> Response | None:
        """Return the response; None if the request is for another API."""
        method, target = request.target
        largest = self._faults.largest
        if largest is not None and len(request.content) > largest:
            return Response(error_of(413, "request_too_large", "the request is larger than allowed"))
        for pattern, handler in _ROUTES.items():
            found = re.fullmatch(pattern, f"{method} {target.partition('?')[0]}")
            if found is not None:
                answer = handler(self, request, *found.groups())
                lost = self._lost > 0 and handler in _CREATIONS and answer.status == 200
                self._lost -= lost
                return Response(answer, "reset" if lost else "whole")
        return None

    # -- files, as OpenAI has them -----------------------------------------------------------------

    def _upload(self, request: Request) -> Canned:
        made = f"file-{len(self.files)}"
        self.files[made] = _file_in(request)
        return Canned(body=self._file(made))

    def _file(self, made: str) -> dict[str, Any]:
        name, content = self.files[made]
        about = {"id": made, "object": "file", "bytes": len(content), "filename": name, "purpose": "batch"}
        return {**about, "created_at": int(time.time()), "status": "processed"}

    def _files(self, request: Request) -> Canned:
        data = [self._file(made) for made, (name, _) in reversed(self.files.items()) if name]
        return Canned(body={"object": "list", "data": data, "has_more": False})

    def _content(self, request: Request, made: str) -> Canned:
        if made not in self.files:
            return error_of(404, "not_found", "no such file")
        return self._download(self.files[made][1])

    def _download(self, content: bytes) -> Canned:
        if self._cut and content:
            self._cut -= 1
            content = content[: len(content) * 2 // 3]
        return Canned(body=content, headers={"Content-Type": "application/octet-stream"})

    # -- jobs --------------------------------------------------------------------------------------

    def _create(self, request: Request) -> Canned:
        given = json.loads(request.content)
        if given.get("input_file_id") not in self.files:
            return error_of(400, "invalid_request_error", "no such input file")
        sent = map(json.loads, self.files[given["input_file_id"]][1].decode().splitlines())
        rows = {row["custom_id"]: row["body"] for row in sent}
        full = self._is_full(rows)
        job = self._job("batch", rows)
        job.metadata, job.file = given.get("metadata") or {}, given["input_file_id"]
        if full:
            job.state = "failed"
            limit = f" Limit: {self._faults.queued_tokens:,} enqueued tokens."
            message = "Enqueued token limit reached for faulty in organization org-1."
            job.code = ("token_limit_exceeded", message + (limit if self._faults.says_limit else ""))
        return self._shown(job)

    def _create_messages(self, request: Request) -> Canned:
        rows = {row["custom_id"]: row["params"] for row in json.loads(request.content)["requests"]}
        if bad := next((one for one in rows if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", one)), None):
            return error_of(400, "invalid_request_error", f"requests.0.custom_id: {bad!r}")
        if self._is_full(rows):
            return error_of(429, "rate_limit_error", "too many requests are being processed")
        return self._shown(self._job("msgbatch", rows))

    def _is_full(self, rows: dict[str, dict[str, Any]]) -> bool:
        """Return whether there is no room for the prompts of *rows* beside those that are being processed."""
        queued = [rows, *(job.rows for job in self.jobs if job.state == "in_progress")]
        tokens = sum(usage_of(body, ())["prompt_tokens"] for each in queued for body in each.values())
        return self._faults.queued_tokens is not None and tokens > self._faults.queued_tokens

    def _job(self, kind: str, rows: dict[str, dict[str, Any]]) -> Job:
        number, most = len(self.jobs), self._faults.jobs
        self.jobs.append(Job(f"{kind}_{number}", rows, troubled=most is None or number < most))
        return self.jobs[-1]

    def _list(self, request: Request, messages: str | None) -> Canned:
        data = []
        for job in reversed(self.jobs):
            job.listed += 1
            if job.of_anthropic == bool(messages) and job.listed > self._faults.hidden:
                self._advance(job)
                data.append(self._shown(job).body)
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        about = {"object": "list", "has_more": False, "first_id": first, "last_id": last}
        return Canned(body={**about, "data": data})

    def _retrieve(self, request: Request, made: str) -> Canned:
        job = self._named(made)
        if job is not None:
            self._advance(job)
        return self._shown(job)

    def _results(self, request: Request, made: str) -> Canned:
        job = self._named(made)
        if job is None or job.state == "in_progress":
            return error_of(404, "not_found_error", "no results yet")
        return self._download(_file_of([*job.output, *job.errors]))

    def _cancel(self, request: Request, made: str) -> Canned:
        job = self._named(made)
        if job is not None and job.state == "in_progress":
            self._end(job, "cancelled", left=0.5)
        return self._shown(job)

    def _named(self, made: str) -> Job | None:
        return next((job for job in self.jobs if job.id == made), None)

    def _shown(self, job: Job | None) -> Canned:
        if job is None:
            return error_of(404, "not_found", "no such batch")
        return Canned(body=job_of(job, counted=not self._faults.wrong_counters))

    # -- a job's life ------------------------------------------------------------------------------

    def _advance(self, job: Job) -> None:
        job.polls += 1
        faults = self._faults
        if job.state != "in_progress" or job.polls < faults.polls:
            return
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
        if job.troubled:
            copies = round(self._faults.doubled * len(job.output))
            job.output += job.output[:copies]
            for number in range(self._faults.unknown):
                job.output.append(json.dumps(result_of(job, f"nobody-{number}", 200, {})))
            if self._faults.shuffled:
                rng.shuffle(job.output)
        self.files[f"{job.id}-output"] = "", _file_of(job.output)
        self.files[f"{job.id}-errors"] = "", _file_of(job.errors)

    def _answer(self, job: Job, name: str, body: dict[str, Any] | None, rng: random.Random) -> None:
        drawn = rng.random() if job.troubled else 1.0
        status: int | None = None
        response: dict[str, Any] = {}
        if body is not None:
            if self._faults.missing <= drawn < self._faults.missing + self._faults.failed:
                status, response = 500, error_of(500, "api_error", "it broke").body
            else:
                status, response = self._work(body, job.path)
        if body is None or drawn >= self._faults.missing:
            lines = job.output if status == 200 else job.errors
            lines.append(json.dumps(result_of(job, name, status, response)))


def _file_in(request: Request) -> tuple[str, bytes]:
    """Return name and content of the file in a form."""
    boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    for part in request.content.split(b"--" + boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if found := re.search(rb'filename="([^"]*)"', head):
            return found[1].decode(), content.removesuffix(b"\r\n")
    return "", b""


def _file_of(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


_ROUTES: Final[dict[str, Callable[..., Canned]]] = {
    r"POST /v1/files": BatchDesk._upload,
    r"GET /v1/files": BatchDesk._files,
    r"GET /v1/files/([^/]+)/content": BatchDesk._content,
    r"POST /v1/batches": BatchDesk._create,
    r"POST /v1/messages/batches": BatchDesk._create_messages,
    r"GET /v1/(messages/)?batches": BatchDesk._list,
    r"GET /v1/(?:messages/)?batches/([^/]+)": BatchDesk._retrieve,
    r"GET /v1/messages/batches/([^/]+)/results": BatchDesk._results,
    r"POST /v1/(?:messages/)?batches/([^/]+)/cancel": BatchDesk._cancel,
}

# The requests whose responses can get lost.
_CREATIONS: Final = (BatchDesk._create, BatchDesk._create_messages)
