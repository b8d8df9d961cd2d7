"""A stand-in for a model behind the Chat Completions API, quick enough to measure clients with.

It plays Towers of Hanoi from the prompt of `mdap_hanoi`, by that plugin's own strategy, and looks at
nothing else in a request but ``n``. Whether a reply is wrong and how long it takes is drawn from the
seed, the state in the prompt, and how often that prompt came before; so every client meets the same
draws for the same prompts. It is a bare asyncio protocol that finds what it needs by searching the
request's bytes: no validation, no HTTP beyond what well-behaved clients send. Run by the benchmarks;
it prints its port and ends when its standard input does.
"""

import asyncio
import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist
from struct import Struct
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import raise_file_limit
from mdap_hanoi import Hanoi, State

_MOVE: Final = b"Previous move: "
_STATE: Final = b"Current state: "
_UNITS: Final = Struct(">3Q").unpack
_UNIT: Final = 2.0**-64
_NORMAL: Final = NormalDist()


@dataclass(slots=True)
class Manner:
    """How the server answers, and what it counted since that was set."""

    latency: float = 0.0
    sigma: float = 0.0
    error_rate: float = 0.0
    seed: int = 0
    requests: int = 0
    replies: int = 0
    dropped: int = 0
    waiting: int = 0
    most_waiting: int = 0
    bytes_in: int = 0
    cpu: float = field(default_factory=time.process_time)
    arrivals: Counter[bytes] = field(default_factory=Counter)

    def counters(self) -> dict[str, Any]:
        """Return the counters.

        ``requests`` came, for ``replies`` choices in all; ``dropped`` of them were hung up on before the
        answer; at most ``most_waiting`` were waiting for their latency to pass; ``cpu`` is the server's
        processor time and ``clock`` its clock, in seconds.
        """
        return {
            "requests": self.requests,
            "replies": self.replies,
            "dropped": self.dropped,
            "most_waiting": self.most_waiting,
            "bytes_in": self.bytes_in,
            "cpu": time.process_time() - self.cpu,
            "clock": time.monotonic(),
        }


_manner = Manner()


@lru_cache(maxsize=1 << 16)
def _texts(key: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the right reply to a prompt, and wrong ones, as JSON strings."""
    move_text, _, state_text = key.partition(b"\\n" + _STATE)
    pegs = json.loads(state_text)
    move = None if move_text == b"none" else tuple(json.loads(move_text))
    state = State((tuple(pegs[0]), tuple(pegs[1]), tuple(pegs[2])), move)
    task = Hanoi(disks=sum(map(len, pegs)))
    truth = task.oracle(state)
    wrong = (json.dumps(task.render(answer)).encode() for answer in task.mistakes(state, truth))
    return json.dumps(task.render(truth)).encode(), tuple(wrong)


def _complete(body: bytes) -> tuple[bytes, float]:
    """Return the response to a request for a completion, and the seconds until it is due."""
    manner = _manner
    start = body.rindex(_MOVE) + len(_MOVE)
    key = body[start : body.index(b'"', start)]
    count = _count(body)
    right, wrong = _texts(key)
    manner.requests += 1
    manner.replies += count
    manner.bytes_in += len(body)
    arrival = manner.arrivals[key]
    manner.arrivals[key] = arrival + count
    delay, choices, length = 0.0, [], 0
    for index in range(count):
        seed = b"%d|%d|%b" % (manner.seed, arrival + index, key)
        slow, bad, which = _UNITS(blake2b(seed, digest_size=24).digest())
        if index == 0 and manner.latency:
            spread = _NORMAL.inv_cdf(min(max(slow * _UNIT, 1e-12), 1 - 1e-12)) * manner.sigma
            delay = manner.latency * math.exp(spread)
        text = wrong[which % len(wrong)] if bad * _UNIT < manner.error_rate else right
        length += len(text)
        choices.append(
            b'{"index":%d,"message":{"role":"assistant","content":%b},"finish_reason":"stop"}' % (index, text)
        )
    prompt, output = len(body) // 4, length // 4
    content = (
        b'{"id":"chatcmpl-%d","object":"chat.completion","created":0,"model":"sim","choices":[%b],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}'
    ) % (manner.requests, b",".join(choices), prompt, output, prompt + output)
    return _response(content), delay


def _count(body: bytes) -> int:
    # Inside a JSON string the quotes would be escaped, so this can only be the field.
    place = body.find(b'"n":')
    return 1 if place < 0 else int(body[place + 4 : place + 9].split(b",")[0].split(b"}")[0])


def _response(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(content),
        content,
    )


def _control(body: bytes) -> bytes:
    """Answer the benchmark itself: a body sets the manner, none asks for the counters."""
    global _manner
    if body:
        _manner = Manner(**json.loads(body))
    return _response(json.dumps(_manner.counters()).encode())


class Wire(asyncio.Protocol):
    """One connection; requests on it are answered one after another."""

    def __init__(self) -> None:
        self._rest = b""
        self._due: tuple[asyncio.TimerHandle, Manner] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._due is not None:
            handle, manner = self._due
            handle.cancel()
            manner.waiting -= 1
            manner.dropped += 1

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end].lower()
            place = head.find(b"\r\ncontent-length:")
            size = 0 if place < 0 else int(head[place + 17 :].split(b"\r\n", 1)[0])
            if len(self._rest) < end + 4 + size:
                return
            body = self._rest[end + 4 : end + 4 + size]
            self._rest = self._rest[end + 4 + size :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if b" /control " in head[:64]:
            self._send(_control(body))
            return
        content, delay = _complete(body)
        if not delay:
            self._send(content)
            return
        manner = _manner
        manner.waiting += 1
        manner.most_waiting = max(manner.most_waiting, manner.waiting)
        loop = asyncio.get_running_loop()
        self._due = loop.call_later(delay, self._send_late, content, manner), manner

    def _send_late(self, content: bytes, manner: Manner) -> None:
        manner.waiting -= 1
        self._due = None
        self._send(content)

    def _send(self, content: bytes) -> None:
        if self._transport is not None:
            self._transport.write(content)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    server = await loop.create_server(Wire, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await over.wait()
    server.close()


if __name__ == "__main__":
    raise_file_limit()
    asyncio.run(_serve())
