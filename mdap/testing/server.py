"""A real HTTP server on loopback that speaks two providers' protocols and misbehaves on demand."""

import json
import math
import random
import socket
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Self, TypedDict, Unpack

import anyio
from anyio.abc import SocketStream, TaskGroup
from anyio.from_thread import start_blocking_portal
from anyio.streams.buffered import BufferedByteReceiveStream

from mdap.testing.batches import BatchDesk, BatchFaults
from mdap.testing.faults import ANSWERED, KINDS, Canned, Faults, Served
from mdap.testing.http import Manner, Request, Response, read_request, send_response
from mdap.testing.ledger import Ledger
from mdap.testing.manners import Manners
from mdap.testing.shapes import APIS, Shape, completion_of, error_of, usage_of

Answer = Callable[[dict[str, Any], random.Random], str]
"""What a `FaultyServer` says: a function of the request's JSON body and a random source of its own."""


class ServerOptions(TypedDict, total=False):
    """The options of a `FaultyServer`."""

    faults: Faults | None
    manners: Manners | None
    script: Iterable[str | Canned]
    seed: int
    ledger: Ledger | None
    batches: BatchFaults | None


class FaultyServer:
    """A server on a free loopback port that misbehaves as told.

    It speaks the Chat Completions API, and Anthropic's Messages API at the same address without ``/v1``,
    and the batch API of both.

    ``async with FaultyServer(answer) as server`` serves at ``server.base_url``; `in_thread` does so for
    code without a loop, such as tests of the command line. Faults are drawn by the request's number, so
    a client that asks one by one meets the same faults each time. On leaving, open connections are cut.

    Args:
        answer: writes one reply to a request; called once for each choice.
        faults: how often the server misbehaves.
        manners: what it takes of a request, and how it answers.
        script: what the first requests meet, before rates apply: ``ok``, a fault's name, or a `Canned`.
        seed: of all draws.
        ledger: counts the tokens of each request and its replies, and charges them; None for plain counts.
        batches: what it does to jobs of its batch APIs.

    Attributes:
        base_url: what to set as ``OPENAI_BASE_URL``; known once the server runs.
        log: one entry for each request for a completion, and for each answered row of a job, in order.
        desk: files and jobs of the batch APIs.
    """

    def __init__(  # noqa: PLR0913 - keywords, each of them optional
        self,
        answer: Answer,
        *,
        faults: Faults | None = None,
        manners: Manners | None = None,
        script: Iterable[str | Canned] = (),
        seed: int = 0,
        ledger: Ledger | None = None,
        batches: BatchFaults | None = None,
    ) -> None:
        self.base_url = ""
        self.log: list[Served] = []
        self._answer = answer
        self._faults = faults or Faults()
        self._manners = manners or Manners()
        self._slots = anyio.Semaphore(self._manners.slots or _ANY)
        self._script = list(script)
        self._seed = seed
        self._ledger = ledger
        self.desk = BatchDesk(batches or BatchFaults(), self._row, seed)
        self._answered = 0
        self._busy = 0
        self._taken: deque[tuple[float, int]] = deque()  # moments of the last minute, and tokens
        self._spent = 0
        self._running: AbstractAsyncContextManager[None] | None = None
        unknown = {name for name in self._script if isinstance(name, str)} - {"ok", *KINDS}
        if unknown:
            raise ValueError(f"no such faults: {', '.join(sorted(unknown))}")

    @classmethod
    @contextmanager
    def in_thread(cls, answer: Answer, **options: Unpack[ServerOptions]) -> Iterator[Self]:
        """Serve from a thread of its own; arguments as for the class."""
        server = cls(answer, **options)
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
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            listener.setblocking(False)
            self.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._accept, listener, tasks)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()

    async def _accept(self, listener: socket.socket, tasks: TaskGroup) -> None:
        # Not anyio's own listener: it loses a connection, still open, that it accepts as it is cancelled.
        while True:
            await anyio.wait_readable(listener)
            with suppress(BlockingIOError, ConnectionError):
                tasks.start_soon(self._talk, listener.accept()[0])

    async def _talk(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._converse(await SocketStream.from_socket(connection))

    async def _converse(self, stream: SocketStream) -> None:
        gone = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
        unreadable = (anyio.IncompleteRead, anyio.DelimiterNotFound, ValueError)
        async with stream:
            with suppress(*gone, *unreadable):
                reader = BufferedByteReceiveStream(stream)
                good = True
                while good:
                    response = self._respond(await read_request(reader))
                    if response.works:
                        await self._work(response.delay)
                    good = await send_response(stream, response, self._faults)

    async def _work(self, seconds: float) -> None:
        self._busy += 1
        try:
            async with self._slots:
                await anyio.sleep(seconds)
        finally:
            self._busy -= 1

    def _respond(self, request: Request) -> Response:
        if request.target == ("GET", "/v1/models"):
            model = {"id": "faulty", "object": "model", "owned_by": "mdap"}
            return Response(Canned(body={"object": "list", "data": [model]}))
        if (answered := self.desk.respond(request)) is not None:
            return answered
        if request.target not in APIS:
            return Response(error_of(404, "not_found", f"no {' '.join(request.target)} here"))
        try:
            body = json.loads(request.content)
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return Response(error_of(400, "invalid_request", "the body must be JSON with messages"))
        return self._complete(body, request.headers, APIS[request.target])

    def _complete(self, body: dict[str, Any], headers: dict[str, str], shape: Shape) -> Response:
        number = len(self.log)
        outcome = self._draw(number, body)
        if isinstance(outcome, Canned):
            return self._refuse("canned", body, headers, Response(outcome))
        if outcome not in ANSWERED:
            return self._refuse(outcome, body, headers, self._fault(outcome))
        if (refusal := self._manners.refusal(body)) is not None:
            return self._refuse("refused", body, headers, Response(refusal))
        source = json.dumps(body["messages"]) if self._faults.repeats else number
        try:
            texts, cut = self._manners.cut(body, self._texts(body, shape, source))
        except Exception as error:
            broken = error_of(500, "broken_answer", f"the answer function raised {error!r}")
            return self._refuse("broken_answer", body, headers, Response(broken))
        usage = usage_of(body, texts)
        if not self._lets_through(usage["total_tokens"]):
            limited = error_of(*_REFUSALS["rate_limit_silent"], self._told())
            return self._refuse("limited", body, headers, Response(limited))
        if self._ledger is not None:
            now = time.monotonic()
            usage = self._ledger.bill(body, texts, now, now + self._delay(number))
        self._answered += 1
        tokens = usage["prompt_tokens"], usage["completion_tokens"]
        self.log.append(Served(number, outcome, body, headers, len(texts), *tokens))
        said = [None if outcome == "content_filter" else text for text in texts]
        completion = shape(body, said, usage)
        self._manners.put_on(completion, cut=cut)
        completion["id"] = f"made-{self._random(source, 'id').randbytes(12).hex()}"
        return self._deliver(number, outcome, completion)

    def _row(self, body: dict[str, Any], path: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of what a row of a job is answered."""
        number, shape = len(self.log), APIS["POST", path]
        if (refusal := self._manners.refusal(body)) is not None:
            self.log.append(Served(number, "refused", body, {}))
            return refusal.status, refusal.body
        texts = self._texts(body, shape, number)
        usage = usage_of(body, texts) if self._ledger is None else self._ledger.bill_row(body, texts)
        tokens = usage["prompt_tokens"], usage["completion_tokens"]
        self.log.append(Served(number, "batched", body, {}, len(texts), *tokens))
        return 200, {**shape(body, list(texts), usage), "id": f"made-{number}"}

    def _texts(self, body: dict[str, Any], shape: Shape, source: str | int) -> list[str]:
        """Return the replies to a request, drawn from *source*."""
        count = body.get("n") or 1 if self._faults.supports_n and shape is completion_of else 1
        return [self._answer(body, self._random(source, place)) for place in range(count)]

    def _refuse(
        self, outcome: str, body: dict[str, Any], headers: dict[str, str], response: Response
    ) -> Response:
        self.log.append(Served(len(self.log), outcome, body, headers))
        return response

    def _lets_through(self, tokens: int) -> bool:
        """Return whether the limits leave room for a request, and count it if so."""
        faults, now = self._faults, time.monotonic()
        while self._taken and self._taken[0][0] <= now - 60.0:
            self._spent -= self._taken.popleft()[1]
        wanted = (
            (self._busy + 1, faults.at_once),
            (len(self._taken) + 1, faults.requests_per_minute),
            (self._spent + tokens, faults.tokens_per_minute),
        )
        if any(most is not None and amount > most for amount, most in wanted):
            return False
        self._taken.append((now, tokens))
        self._spent += tokens
        return True

    def _told(self) -> dict[str, str]:
        limits = ("requests", self._faults.requests_per_minute), ("tokens", self._faults.tokens_per_minute)
        told = {f"x-ratelimit-limit-{what}": str(limit) for what, limit in limits if limit is not None}
        return told if self._faults.tells_limits else {}

    def _draw(self, number: int, body: dict[str, Any]) -> str | Canned:
        """Return the response to request *number*: scripted, by a fixed fault, or a random one of `KINDS`."""
        if number < len(self._script):
            return self._script[number]
        longest = self._faults.longest_prompt
        if longest is not None and usage_of(body, ())["prompt_tokens"] > longest:
            return "prompt_too_long"
        if self._random("refused", json.dumps(body["messages"])).random() < self._faults.refused:
            return "prompt_refused"
        quota = self._faults.out_of_quota_after
        if quota is not None and self._answered >= quota:
            return "out_of_quota"
        point = self._random(number).random()
        for kind in KINDS:
            point -= getattr(self._faults, kind)
            if point < 0:
                return kind
        return "ok"

    def _random(self, *place: int | str) -> random.Random:
        return random.Random(":".join(map(str, (self._seed, *place))))

    def _fault(self, outcome: str) -> Response:
        match outcome:
            case "hang" | "huge_body":
                return Response(Canned(), outcome)
            case "wrong_type":
                html = Canned(200, "<html><h1>Bad gateway</h1></html>", {"Content-Type": "text/html"})
                return Response(html)
            case "empty_choices":
                return Response(Canned(body=completion_of({}, [], {})))
            case "rate_limit":
                pause = {"Retry-After": f"{self._faults.retry_after:g}"}
                return Response(error_of(429, "rate_limit_exceeded", "slow down", pause))
            case _:
                return Response(error_of(*_REFUSALS[outcome]))

    def _delay(self, number: int) -> float:
        delay = self._faults.latency
        if delay and self._faults.sigma:
            return self._random(number, "latency").lognormvariate(math.log(delay), self._faults.sigma)
        return delay

    def _deliver(self, number: int, outcome: str, completion: dict[str, Any]) -> Response:
        manner: Manner = "whole"
        match outcome:
            case "drip" | "reset" | "truncated":
                manner = outcome
            case "missing_usage":
                del completion["usage"]
            case "unreadable":
                broke = {"code": 502, "message": "upstream failed"}
                choices = [{"index": 0, "error": broke, "finish_reason": "error"}]
                completion |= {"choices": choices, "content": None}
        delay = self._delay(number)
        named = {"X-Request-Id": f"req-{number}", "Request-Id": f"req-{number}"}
        what = Canned(body=completion, headers={**named, **self._told()})
        return Response(what, manner, delay, works=bool(delay or self._manners.slots))


_ANY: Final = 1_000_000

_REFUSALS: Final = {
    "rate_limit_silent": (429, "rate_limit_exceeded", "slow down"),
    "server_error": (500, "server_error", "the server had an error"),
    "overloaded": (503, "overloaded", "the server is overloaded"),
    "prompt_refused": (400, "content_filter", "the prompt was filtered by the content policy"),
    "prompt_too_long": (400, "context_length_exceeded", "the prompt is longer than the model's context"),
    "out_of_quota": (429, "insufficient_quota", "You exceeded your current quota, check your plan"),
}
