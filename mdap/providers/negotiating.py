"""Discover the request fields that an endpoint supports, from its refusals."""

from collections.abc import Awaitable, Callable
from typing import Any

from mdap.errors import ProviderError, RateLimitError, RejectedError
from mdap.providers.dialect import Dialect, options_named

__all__ = ["is_refusal", "negotiate"]

Send = Callable[[], Awaitable[ProviderError | None]]
"""Sends one request with all that an option may change, and returns why it failed."""


async def negotiate(dialect: Dialect[Any], send: Send) -> ProviderError | None:
    """Try the options that the user left open until the endpoint answers; return why it does not.

    Where its refusals name what they refuse, that is changed. Where they do not, the endpoint is asked for as
    little as possible, and then for one thing after the other.

    Args:
        dialect: the options; left at what was found, or where nothing was, as they were.
        send: sends one request with them.
    """
    error = await _by_words(dialect, send)
    if error is None or not is_refusal(error) or not dialect.open:
        return error
    known = dialect.found
    if await _asked_for_least(dialect, send):
        await _asked_for_more(dialect, send)
        return None
    dialect.adopt(known)
    return error


async def _by_words(dialect: Dialect[Any], send: Send) -> ProviderError | None:
    # What led on from a breakdown may be chance: it only stays if it leads to an answer.
    sure = dialect.found
    error = await _sent(send)
    while error is not None:
        following = dialect.next_of(options_named(str(error))) if is_refusal(error) else {}
        if not following:
            dialect.adopt(sure)
            return error
        dialect.adopt(following)
        if isinstance(error, RejectedError):
            sure |= following
        error = await _sent(send)
    return None


async def _asked_for_least(dialect: Dialect[Any], send: Send) -> bool:
    """Return whether the endpoint answers where it is asked for as little as possible."""
    least = {name: values[-1] for name, values in dialect.open.items()}
    # There is no least name of a limit.
    for tokens in dialect.open.get("token_parameter", ("",))[::-1]:
        dialect.adopt({**least, "token_parameter": tokens})
        error = await send()
        if error is None:
            return True
        if not isinstance(error, RejectedError):
            return False
    return False


async def _asked_for_more(dialect: Dialect[Any], send: Send) -> None:
    """Give each option the best value with which the endpoint still answers."""
    for name, values in dialect.open.items():
        if name == "n":
            continue  # whether that is worth anything, usage must tell: the probe measures it
        least = dialect.found[name]
        for value in values[: values.index(least)]:
            dialect.adopt({name: value})
            if await _sent(send) is None:
                break
            dialect.adopt({name: least})


async def _sent(send: Send) -> ProviderError | None:
    """Send once, and once more after a failure that may be none of the request's."""
    error = await send()
    if error is not None and not isinstance(error, RejectedError) and is_refusal(error):
        error = await send()
    return error


def is_refusal(error: ProviderError) -> bool:
    """Return whether *error* may be about what was asked for: some servers break where they should refuse."""
    broke = error.kind.startswith("http_5") and not isinstance(error, RateLimitError)
    # One that comes with status 200 may be of another API, unless it speaks of an option.
    named = error.kind == "error_body" and bool(options_named(str(error)))
    return isinstance(error, RejectedError) or broke or named
