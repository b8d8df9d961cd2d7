"""When to try again after a failed attempt."""

__all__ = ["backoff"]

_FIRST = 0.25
_LONGEST = 20.0


def backoff(attempt: int, jitter: float, retry_after: float | None = None) -> float:
    """Return how long to wait before the next attempt, in seconds.

    Exponential with full jitter, so that requests which failed together do not return together; never
    less than the endpoint asked for.

    Args:
        attempt: how many attempts have failed so far, from 1.
        jitter: a random number in [0, 1), brought by the caller.
        retry_after: the wait the endpoint asked for, in seconds; None where it did not say.
    """
    wait = jitter * min(_LONGEST, _FIRST * 2.0 ** min(attempt - 1, 16))
    return wait if retry_after is None else retry_after + wait
