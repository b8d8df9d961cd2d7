"""The common part of all transports: request encoding, responses, and their size limits."""

import json
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

from mdap.errors import RejectedError, TransientError
from mdap.rules.redflags import clean_label

MAX_BODY: Final = 16 * 2**20
"""Bytes of a response after which reading stops."""

MOST_CONNECTIONS: Final = 2_000

IDLE_SECONDS: Final = 3_600.0
"""How long a connection may be silent within a request, whose deadline the caller sets."""

CLOSE_SECONDS: Final = 5.0
"""How long connections are given to close in order."""

# As the SDKs spell it: not everything beyond ASCII is escaped.
_spell: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# Digits of a length beyond which it need not be read as a number, which takes longer the more there are.
_MOST_DIGITS: Final = 12
# How zlib is told the format: gzip and zlib's own by what is there, and deflate without any header.
_INFLATERS: Final = {"gzip": (47,), "x-gzip": (47,), "deflate": (47, -15)}


class Response(NamedTuple):
    """What an endpoint answered: headers by name in lower case, and the body as it came.

    *latency* are the seconds from the request to the end of the body, once they are known.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    latency: float = 0.0


def spelled(body: Mapping[str, Any]) -> bytes:
    """Return the JSON of *body*.

    Raises:
        RejectedError: it has no such form.
    """
    try:
        return _spell(body).encode()
    except UnicodeEncodeError:
        raise RejectedError("the prompt holds characters that cannot be sent", kind="unencodable") from None


def check_head(headers: Mapping[str, str]) -> bool:
    """Say whether the body's length is known and within bounds, so that it may be read in one go.

    Raises:
        TransientError: the body is too large.
    """
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()) or "transfer-encoding" in headers:
        return False
    digits = length.lstrip("0")
    if len(digits) > _MOST_DIGITS or int(digits or "0") > MAX_BODY:
        raise _too_large()
    return True


def unpacked(content: bytes, encoding: str) -> bytes:
    """Return the body that *content* is, as servers compress it that were asked not to.

    Raises:
        TransientError: it is too large when unpacked, or compressed in a way that is not known.
    """
    for name in reversed([name.strip().lower() for name in encoding.split(",")]):
        if name not in ("", "identity"):
            content = _inflated(content, name)
    return content


def _inflated(content: bytes, encoding: str) -> bytes:
    for form in _INFLATERS.get(encoding, ()):
        inflater = zlib.decompressobj(form)
        try:
            # A compressed body of a few kilobytes can be gigabytes of text: no more of it is unpacked.
            body = inflater.decompress(content, MAX_BODY + 1)
        except zlib.error:
            continue
        if len(body) > MAX_BODY:
            raise _too_large()
        if inflater.eof:
            return body
    failure = TransientError(
        f"the response is compressed ({clean_label(encoding)}), which nobody asked for, and cannot be read",
        kind="compressed",
    )
    failure.foreign = True
    raise failure


async def bounded(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the *chunks* of a body until there are too many of them.

    Raises:
        TransientError: the body is too large.
    """
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_BODY:
            raise _too_large()
        yield chunk


def _too_large() -> TransientError:
    return TransientError(f"the response is larger than {MAX_BODY // 2**20} MiB", kind="huge_body")
