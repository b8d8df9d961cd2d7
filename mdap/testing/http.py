"""HTTP as a `FaultyServer` speaks it, whole or broken."""

import socket
import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from mdap.testing.faults import Canned, Faults

Manner = Literal["whole", "hang", "drip", "reset", "truncated", "huge_body"]


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent, how, and after how many seconds; `works` says that it took one of the server's slots."""

    what: Canned
    manner: Manner = "whole"
    delay: float = 0.0
    works: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: method and path, headers by name in lower case, and the body."""

    target: tuple[str, str]
    headers: dict[str, str]
    content: bytes


async def read_request(reader: BufferedByteReceiveStream) -> Request:
    """Return the next request of a connection."""
    head = (await reader.receive_until(b"\r\n\r\n", 65536)).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    content = await reader.receive_exactly(int(headers.get("content-length", "0")))
    return Request((method, target), headers, content)


async def send_response(stream: SocketStream, response: Response, faults: Faults) -> bool:
    """Send *response* in its manner; return whether the connection is still good."""
    content = response.what.content()
    match response.manner:
        case "whole":
            await stream.send(_head(response.what, len(content)) + content)
            return True
        case "drip":
            await stream.send(_head(response.what, len(content)))
            for byte in content:
                await stream.send(bytes([byte]))
                await anyio.sleep(faults.drip_interval)
            return True
        case "reset":
            await stream.send(_head(response.what, len(content)) + content[: len(content) // 2])
            # Closing a socket that lingers for no time sends RST in place of FIN.
            linger = struct.pack("ii", 1, 0)
            stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        case "truncated":
            await stream.send(_head(response.what, None) + content[: len(content) // 2])
            await _hang_up(stream)
        case "huge_body":
            await stream.send(_head(response.what, None) + b'{"padding": "')
            for _ in range(faults.huge_bytes // 65536 + 1):
                await stream.send(b"x" * 65536)
            await stream.send(b'"}')
            await _hang_up(stream)
        case "hang":
            await _wait_for_end(stream)
    return False


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
