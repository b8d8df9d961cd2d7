"""The number of connections that the limit of open files allows."""

import os
from contextlib import suppress
from typing import Final

__all__ = ["connections_within"]

# The database with its log and its lock, the logs, pipes, the event loop, name look-ups, what a task opens.
_RESERVE: Final = 64


def connections_within(wanted: int) -> int:
    """Return how many of *wanted* connections can be open together, at least 1.

    Where the soft limit of open files is too low for all of them, it is raised as far as the hard limit
    allows. A system that has no such limit, such as Windows, allows all of them.
    """
    try:
        import resource
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_files() + wanted + _RESERVE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    if hard == resource.RLIM_INFINITY or hard > soft:
        target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):  # macOS refuses more than it ever opens, whatever the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    return max(1, min(wanted, wanted + soft - needed))


def _open_files() -> int:
    with suppress(OSError):
        return len(os.listdir("/dev/fd"))
    return 0
