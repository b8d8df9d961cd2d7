"""What all ways to send a request share: what comes back, and the bounds on it."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

from mdap.errors import TransientError

__all__ = ["IDLE_SECONDS", "MAX_BODY", "MOST_CONNECTIONS", "Answer", "Sender", "check_head", "too_large"]

MAX_BODY: Final = 16 * 2**20
"""Bytes of a response after which reading stops."""

MOST_CONNECTIONS: Final = 2_000

IDLE_SECONDS: Final = 3_600.0
"""What keeps a request from an endless wait; its deadline is set by whoever asks."""

_PLAIN_ENCODINGS: Final = frozenset({"", "identity"})


class Answer(NamedTuple):
    """What an endpoint answered, unread.

    Attributes:
        status: of HTTP.
        headers: by name, in lower case.
        content: the body.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


class Sender(Protocol):
    """A way to send requests to one endpoint."""

    async def send(self, body: Mapping[str, Any]) -> Answer:
        """Send one request, and nothing a second time.

        Raises:
            Exception: nothing whole came back; `mdap.providers.failures.explain_failure` knows what it means.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections, if there are any; it may be called twice."""
        ...


def check_head(headers: Mapping[str, str]) -> bool:
    """Say whether the body's length is known and within bounds, so that it may be read in one go.

    Args:
        headers: of the response; names in any case.

    Raises:
        TransientError: the body is too large, or compressed.
    """
    # A compressed body of a few kilobytes can be gigabytes of text: none was asked for, and none is taken.
    if headers.get("content-encoding", "").strip().lower() not in _PLAIN_ENCODINGS:
        raise TransientError("the response is compressed, which was not asked for", kind="compressed")
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()) or "transfer-encoding" in headers:
        return False
    if int(length) > MAX_BODY:
        raise too_large()
    return True


def too_large() -> TransientError:
    """Return what is raised at a body beyond bounds."""
    return TransientError(f"the response is larger than {MAX_BODY // 2**20} MiB", kind="huge_body")
