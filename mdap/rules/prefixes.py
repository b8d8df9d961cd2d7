"""Which beginnings of a prompt further requests will repeat, and so an endpoint may keep for them."""

from mdap.records import SampleRequest

__all__ = ["repeated"]

# The shortest beginning that any vendor keeps has 512 tokens, of about four characters each.
_LEAST_CHARS = 512 * 4


def repeated(request: SampleRequest) -> tuple[int, ...]:
    """Return where in the user message the beginnings end that further requests will repeat.

    One is what the step's author says that further steps share. All of the message is another, since each
    sample of the step repeats it, unless what it adds to the first one is too short to be kept.

    Args:
        request: one of those; without *warm*, nothing says that there will be more.

    Returns:
        Numbers of characters, the smallest first.
    """
    if not request.warm:
        return ()
    whole, head = len(request.user), len(request.system)
    if request.shared == 0:
        return (whole,) if head + whole >= _LEAST_CHARS else ()
    ends = (request.shared, whole) if whole - request.shared >= _LEAST_CHARS else (request.shared,)
    return tuple(end for end in ends if head + end >= _LEAST_CHARS)
