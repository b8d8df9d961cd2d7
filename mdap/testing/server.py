"""A real HTTP server on loopback that speaks two providers' protocols and misbehaves on demand."""

import json
import math
import random
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal, Self

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.from_thread import start_blocking_portal
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Answer", "Canned", "Faults", "FaultyServer", "Served"]

Answer = Callable[[dict[str, Any], random.Random], str]
"""What a `FaultyServer` says: a function of the request's JSON body and a random source of its own."""


class Faults(BaseModel):
    """How often a `FaultyServer` misbehaves, and how; the rates are shares of all requests.

    Attributes:
        rate_limit: status 429 with ``Retry-After``.
        rate_limit_silent: status 429 without a word on how long.
        server_error: status 500.
        overloaded: status 503.
        hang: no answer until the client hangs up.
        drip: the right answer, byte by byte.
        reset: the connection is reset in the middle of the body.
        truncated: half a body, ended so that only the JSON shows it.
        wrong_type: status 200 with a page of HTML.
        empty_choices: status 200 with an empty list of choices.
        missing_usage: the right answer without ``usage``.
        content_filter: a choice without content.
        huge_body: a body of `huge_bytes`, its length not announced.
        refused: status 400 of a content filter, for this share of all prompts: the same ones each time.
        longest_prompt: tokens of a prompt beyond which it is refused with status 400; None for any.
        unreadable: usage, and a choice that says only that something broke.
        out_of_quota_after: answered requests after which the account is empty; None for never.
        requests_per_minute: requests let through in any 60 seconds, the others getting 429; None for any.
        tokens_per_minute: tokens let through in any 60 seconds, as above.
        at_once: requests let through while others are being answered, as above.
        tells_limits: whether headers tell requests and tokens per minute.
        repeats: whether the same prompt always gets the very same response, as from a cache.
        supports_n: whether ``n`` is honoured rather than ignored.
        latency: median seconds until an answer.
        sigma: spread of the latency: standard deviation of its logarithm.
        retry_after: seconds that ``Retry-After`` asks for.
        drip_interval: seconds between two bytes of a drip.
        huge_bytes: bytes of a huge body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_limit: float = Field(0.0, ge=0, le=1)
    rate_limit_silent: float = Field(0.0, ge=0, le=1)
    server_error: float = Field(0.0, ge=0, le=1)
    overloaded: float = Field(0.0, ge=0, le=1)
    hang: float = Field(0.0, ge=0, le=1)
    drip: float = Field(0.0, ge=0, le=1)
    reset: float = Field(0.0, ge=0, le=1)
    truncated: float = Field(0.0, ge=0, le=1)
    wrong_type: float = Field(0.0, ge=0, le=1)
    empty_choices: float = Field(0.0, ge=0, le=1)
    missing_usage: float = Field(0.0, ge=0, le=1)
    content_filter: float = Field(0.0, ge=0, le=1)
    huge_body: float = Field(0.0, ge=0, le=1)
    refused: float = Field(0.0, ge=0, le=1)
    longest_prompt: int | None = Field(None, ge=1)
    unreadable: float = Field(0.0, ge=0, le=1)
    out_of_quota_after: int | None = Field(None, ge=0)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    at_once: int | None = Field(None, ge=1)
    tells_limits: bool = False
    repeats: bool = False
    supports_n: bool = True
    latency: float = Field(0.0, ge=0)
    sigma: float = Field(0.0, ge=0)
    retry_after: float = Field(1.0, ge=0)
    drip_interval: float = Field(0.01, ge=0)
    huge_bytes: int = Field(64 * 2**20, ge=0)

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if sum(getattr(self, kind) for kind in _KINDS) > 1 + 1e-9:
            raise ValueError("the rates of all faults add up to more than 1")
        return self


_KINDS: Final = (
    "rate_limit",
    "rate_limit_silent",
    "server_error",
    "overloaded",
    "hang",
    "drip",
    "reset",
    "truncated",
    "wrong_type",
    "empty_choices",
    "missing_usage",
    "content_filter",
    "huge_body",
    "unreadable",
)
# The model did its work for these, so an endpoint bills them whether or not the answer arrives.
_ANSWERED: Final = frozenset(
    {"ok", "drip", "reset", "truncated", "missing_usage", "content_filter", "unreadable"}
)


@dataclass(frozen=True, slots=True)
class Canned:
    """A response written by hand, for a server's script.

    Attributes:
        status: the HTTP status.
        body: bytes or text as they are, or a JSON value.
        headers: headers to send; ``Content-Type`` is JSON unless given, and left out where it is empty.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """Return the body's bytes."""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


@dataclass(frozen=True, slots=True)
class Served:
    """One request for a completion, and what it met.

    Attributes:
        number: its place in the order of arrival, from 0.
        outcome: ``ok``, a fault's name, ``limited``, ``prompt_refused``, ``prompt_too_long``,
            ``out_of_quota``, ``canned`` or ``broken_answer``.
        body: the request's JSON.
        headers: the request's headers, names in lower case.
        replies: choices the model wrote for it, whether or not they arrived.
        prompt_tokens: tokens billed for the prompt.
        completion_tokens: tokens billed for all its replies.
        at: when it arrived, in seconds of `time.monotonic`.
    """

    number: int
    outcome: str
    body: dict[str, Any]
    headers: dict[str, str]
    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    at: float = field(default_factory=time.monotonic)


_Manner = Literal["whole", "hang", "drip", "reset", "truncated", "huge_body"]


@dataclass(frozen=True, slots=True)
class _Response:
    what: Canned
    manner: _Manner = "whole"
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class _Request:
    target: tuple[str, str]
    headers: dict[str, str]
    content: bytes


class _Allowance:
    """So much in any 60 seconds.

    Args:
        most: how much; None for any amount.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._taken: deque[tuple[float, int]] = deque()
        self._total = 0

    def allows(self, amount: int, now: float) -> bool:
        """Return whether *amount* may be taken at the moment *now*."""
        while self._taken and self._taken[0][0] <= now - 60.0:
            self._total -= self._taken.popleft()[1]
        return self._most is None or self._total + amount <= self._most

    def take(self, amount: int, now: float) -> None:
        """Count *amount* as taken."""
        if self._most is not None:
            self._taken.append((now, amount))
            self._total += amount


class FaultyServer:
    """A server on a free loopback port that misbehaves as told.

    It speaks the Chat Completions API, and Anthropic's Messages API at the same address without ``/v1``.

    ``async with FaultyServer(answer) as server`` serves at ``server.base_url``; `in_thread` does so for
    code without a loop, such as tests of the command line. Faults are drawn by the request's number, so
    a client that asks one by one meets the same faults each time. On leaving, open connections are cut.

    Args:
        answer: writes one reply to a request; called once for each choice.
        faults: how often the server misbehaves.
        script: what the first requests meet, before rates apply: ``ok``, a fault's name, or a `Canned`.
        seed: of all draws.

    Attributes:
        base_url: what to set as ``OPENAI_BASE_URL``; known once the server runs.
        log: one entry for each request for a completion, in order of arrival.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        faults: Faults | None = None,
        script: Iterable[str | Canned] = (),
        seed: int = 0,
    ) -> None:
        self.base_url = ""
        self.log: list[Served] = []
        self._answer = answer
        self._faults = faults or Faults()
        self._script = list(script)
        self._seed = seed
        self._answered = 0
        self._busy = 0
        self._requests = _Allowance(self._faults.requests_per_minute)
        self._tokens = _Allowance(self._faults.tokens_per_minute)
        self._running: AbstractAsyncContextManager[None] | None = None
        unknown = {name for name in self._script if isinstance(name, str)} - {"ok", *_KINDS}
        if unknown:
            raise ValueError(f"no such faults: {', '.join(sorted(unknown))}")

    @classmethod
    @contextmanager
    def in_thread(
        cls,
        answer: Answer,
        *,
        faults: Faults | None = None,
        script: Iterable[str | Canned] = (),
        seed: int = 0,
    ) -> Iterator[Self]:
        """Serve from a thread of its own; arguments as for the class."""
        server = cls(answer, faults=faults, script=script, seed=seed)
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(server):
            yield server

    def counts(self) -> Counter[str]:
        """Return how many requests met each outcome."""
        return Counter(served.outcome for served in self.log)

    async def __aenter__(self) -> Self:
        self._running = self._serve()
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        # The error of the caller's block is kept from the task group, which would wrap it in a group.
        if self._running is not None:
            await self._running.__aexit__(None, None, None)

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=4096)
        async with listener, anyio.create_task_group() as tasks:
            self.base_url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/v1"
            tasks.start_soon(listener.serve, self._talk)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _talk(self, stream: SocketStream) -> None:
        gone = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
        unreadable = (anyio.IncompleteRead, anyio.DelimiterNotFound, ValueError)
        async with stream:
            with suppress(*gone, *unreadable):
                reader = BufferedByteReceiveStream(stream)
                while await self._send(stream, self._respond(await _read_request(reader))):
                    pass

    def _respond(self, request: _Request) -> _Response:
        if request.target == ("GET", "/v1/models"):
            model = {"id": "faulty", "object": "model", "owned_by": "mdap"}
            return _Response(Canned(body={"object": "list", "data": [model]}))
        if request.target not in _APIS:
            return _Response(_error(404, "not_found", f"no {' '.join(request.target)} here"))
        try:
            body = json.loads(request.content)
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return _Response(_error(400, "invalid_request", "the body must be JSON with messages"))
        return self._complete(body, request.headers, _APIS[request.target])

    def _complete(self, body: dict[str, Any], headers: dict[str, str], shape: "_Shape") -> _Response:
        number = len(self.log)
        outcome = self._draw(number, body)
        if isinstance(outcome, Canned):
            self.log.append(Served(number, "canned", body, headers))
            return _Response(outcome)
        if outcome not in _ANSWERED:
            self.log.append(Served(number, outcome, body, headers))
            return self._refuse(outcome)
        count = body.get("n") or 1 if self._faults.supports_n and shape is _completion else 1
        source = json.dumps(body["messages"]) if self._faults.repeats else number
        try:
            texts = [self._answer(body, self._random(source, place)) for place in range(count)]
        except Exception as error:
            self.log.append(Served(number, "broken_answer", body, headers))
            return _Response(_error(500, "broken_answer", f"the answer function raised {error!r}"))
        usage = _usage(body, texts)
        if not self._lets_through(usage["total_tokens"]):
            self.log.append(Served(number, "limited", body, headers))
            return _Response(_error(*_REFUSALS["rate_limit_silent"], self._told()))
        self._answered += 1
        tokens = usage["prompt_tokens"], usage["completion_tokens"]
        self.log.append(Served(number, outcome, body, headers, count, *tokens))
        completion = shape(body, [None if outcome == "content_filter" else text for text in texts], usage)
        completion["id"] = f"made-{self._random(source, 'id').randbytes(12).hex()}"
        if outcome == "missing_usage":
            del completion["usage"]
        if outcome == "unreadable":
            broke = {"code": 502, "message": "upstream failed"}
            completion |= {
                "choices": [{"index": 0, "error": broke, "finish_reason": "error"}],
                "content": None,
            }
        return self._deliver(number, outcome, completion)

    def _lets_through(self, tokens: int) -> bool:
        now = time.monotonic()
        full = self._faults.at_once is not None and self._busy >= self._faults.at_once
        if full or not (self._requests.allows(1, now) and self._tokens.allows(tokens, now)):
            return False
        self._requests.take(1, now)
        self._tokens.take(tokens, now)
        return True

    def _told(self) -> dict[str, str]:
        limits = ("requests", self._faults.requests_per_minute), ("tokens", self._faults.tokens_per_minute)
        told = {f"x-ratelimit-limit-{what}": str(limit) for what, limit in limits if limit is not None}
        return told if self._faults.tells_limits else {}

    def _draw(self, number: int, body: dict[str, Any]) -> str | Canned:
        if number < len(self._script):
            return self._script[number]
        longest = self._faults.longest_prompt
        if longest is not None and _usage(body, ())["prompt_tokens"] > longest:
            return "prompt_too_long"
        if self._random("refused", json.dumps(body["messages"])).random() < self._faults.refused:
            return "prompt_refused"
        quota = self._faults.out_of_quota_after
        if quota is not None and self._answered >= quota:
            return "out_of_quota"
        point = self._random(number).random()
        for kind in _KINDS:
            point -= getattr(self._faults, kind)
            if point < 0:
                return kind
        return "ok"

    def _random(self, *place: int | str) -> random.Random:
        return random.Random(":".join(map(str, (self._seed, *place))))

    def _refuse(self, outcome: str) -> _Response:
        match outcome:
            case "hang" | "huge_body":
                return _Response(Canned(), outcome)
            case "wrong_type":
                html = Canned(200, "<html><h1>Bad gateway</h1></html>", {"Content-Type": "text/html"})
                return _Response(html)
            case "empty_choices":
                return _Response(Canned(body=_completion({}, [], {})))
            case "rate_limit":
                pause = {"Retry-After": f"{self._faults.retry_after:g}"}
                return _Response(_error(429, "rate_limit_exceeded", "slow down", pause))
            case _:
                return _Response(_error(*_REFUSALS[outcome]))

    def _deliver(self, number: int, outcome: str, completion: dict[str, Any]) -> _Response:
        manner: _Manner = "whole"
        if outcome in ("drip", "reset", "truncated"):
            manner = outcome  # type: ignore[assignment]
        delay = self._faults.latency
        if delay and self._faults.sigma:
            delay = self._random(number, "latency").lognormvariate(math.log(delay), self._faults.sigma)
        what = Canned(body=completion, headers={**_named(number), **self._told()})
        return _Response(what, manner, delay)

    async def _send(self, stream: SocketStream, response: _Response) -> bool:
        """Send *response* in its manner; return whether the connection is still good."""
        content = response.what.content()
        if response.delay:
            self._busy += 1
            try:
                await anyio.sleep(response.delay)
            finally:
                self._busy -= 1
        match response.manner:
            case "whole":
                await stream.send(_head(response.what, len(content)) + content)
                return True
            case "drip":
                await stream.send(_head(response.what, len(content)))
                for byte in content:
                    await stream.send(bytes([byte]))
                    await anyio.sleep(self._faults.drip_interval)
                return True
            case "reset":
                await stream.send(_head(response.what, len(content)) + content[: len(content) // 2])
                # Closing a socket that lingers for no time sends RST in place of FIN.
                linger = struct.pack("ii", 1, 0)
                stream.extra(SocketAttribute.raw_socket).setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            case "truncated":
                await stream.send(_head(response.what, None) + content[: len(content) // 2])
                await _hang_up(stream)
            case "huge_body":
                await stream.send(_head(response.what, None) + b'{"padding": "')
                for _ in range(self._faults.huge_bytes // 65536 + 1):
                    await stream.send(b"x" * 65536)
                await stream.send(b'"}')
                await _hang_up(stream)
            case "hang":
                await _wait_for_end(stream)
        return False


_REFUSALS: Final = {
    "rate_limit_silent": (429, "rate_limit_exceeded", "slow down"),
    "server_error": (500, "server_error", "the server had an error"),
    "overloaded": (503, "overloaded", "the server is overloaded"),
    "prompt_refused": (400, "content_filter", "the prompt was filtered by the content policy"),
    "prompt_too_long": (400, "context_length_exceeded", "the prompt is longer than the model's context"),
    "out_of_quota": (429, "insufficient_quota", "You exceeded your current quota, check your plan"),
}


def _named(number: int) -> dict[str, str]:
    return {"X-Request-Id": f"req-{number}", "Request-Id": f"req-{number}"}


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Canned:
    error = {"message": message, "type": code, "param": None, "code": code}
    return Canned(status, {"error": error}, headers or {})


_Shape = Callable[[dict[str, Any], Sequence[str | None], dict[str, int]], dict[str, Any]]


def _completion(body: dict[str, Any], texts: Sequence[str | None], usage: dict[str, int]) -> dict[str, Any]:
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


def _message(body: dict[str, Any], texts: Sequence[str | None], usage: dict[str, int]) -> dict[str, Any]:
    """Return what the Messages API answers."""
    [text] = texts
    return {
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": "refusal" if text is None else "end_turn",
        "usage": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
    }


_APIS: Final[dict[tuple[str, str], _Shape]] = {
    ("POST", "/v1/chat/completions"): _completion,
    ("POST", "/v1/messages"): _message,
}


def _usage(body: dict[str, Any], texts: Sequence[str]) -> dict[str, int]:
    # Four characters a token: near enough, and the same everywhere.
    prompt = 1 + sum(len(str(_content(message))) for message in body["messages"]) // 4
    completion = sum(1 + len(text) // 4 for text in texts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _content(message: Any) -> Any:
    return message.get("content", "") if isinstance(message, dict) else ""


async def _read_request(reader: BufferedByteReceiveStream) -> _Request:
    head = (await reader.receive_until(b"\r\n\r\n", 65536)).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    content = await reader.receive_exactly(int(headers.get("content-length", "0")))
    return _Request((method, target), headers, content)


def _head(what: Canned, length: int | None) -> bytes:
    """Return status line and headers; without a length, the body ends where the connection does."""
    headers = {"Content-Type": "application/json", **what.headers}
    headers |= {"Connection": "close"} if length is None else {"Content-Length": str(length)}
    try:
        phrase = HTTPStatus(what.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {what.status} {phrase}", *(f"{k}: {v}" for k, v in headers.items() if v)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _hang_up(stream: SocketStream) -> None:
    # Closing at once would throw away what the client has not read yet.
    await stream.send_eof()
    await _wait_for_end(stream)


async def _wait_for_end(stream: SocketStream) -> None:
    async for _ in stream:
        pass
