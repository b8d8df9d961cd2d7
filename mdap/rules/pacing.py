"""When to try again after a failed attempt."""

from typing import Final

__all__ = ["backoff"]

_FIRST: Final = 0.25
_LONGEST: Final = 20.0

# What the endpoint sent was broken on the way or by an accident of its own: that says nothing of its load.
_ACCIDENTS: Final = frozenset({"disconnected", "garbled_body", "wrong_type", "empty_choices", "no_reply"})
_FIRST_AFTER_ACCIDENT: Final = 0.02


def backoff(attempt: int, jitter: float, retry_after: float | None = None, kind: str = "") -> float:
    """Return how long to wait before the next attempt, in seconds.

    Exponential with full jitter, so that requests which failed together do not return together; never
    less than the endpoint asked for. After an accident, which says nothing of the endpoint's load, the first
    waits are short.

    Args:
        attempt: how many attempts have failed so far, from 1.
        jitter: a random number in [0, 1), brought by the caller.
        retry_after: the wait the endpoint asked for, in seconds; None where it did not say.
        kind: of the latest failure; see `mdap.errors.ProviderError`.
    """
    first = _FIRST_AFTER_ACCIDENT if kind in _ACCIDENTS else _FIRST
    wait = jitter * min(_LONGEST, first * 2.0 ** min(attempt - 1, 16))
    return wait if retry_after is None else retry_after + wait
