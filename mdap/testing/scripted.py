"""A provider in this process that replies from a script."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import anyio.lowlevel

from mdap.errors import UnavailableError
from mdap.records import Reply, SampleRequest

Scripted = str | Reply | Exception
Script = Iterable[Scripted] | Callable[[SampleRequest, int], Scripted]
"""What a `ScriptedProvider` says: replies in order, or a function of the request and the ordinal."""


class ScriptedProvider:
    """A provider that replies from a script; it raises an exception in the script when its turn comes.

    Where an exception stands behind replies to the same request, the replies are returned first and the
    exception meets the next request, as no reply may be lost.

    Args:
        script: texts, replies and exceptions in the order in which samples are asked for, or a function
            of the request and the ordinal. Once it is used up, `UnavailableError` is raised.
        name: the provider's name.
        nonblocking: whether it says that it never waits.
        max_n: how many replies one request may ask for.

    Attributes:
        requests: the requests seen so far.
    """

    def __init__(
        self, script: Script, *, name: str = "scripted", nonblocking: bool = True, max_n: int = 1
    ) -> None:
        self.name: Final = name
        self.nonblocking: Final = nonblocking
        self.max_n: Final = max_n
        self.requests: list[SampleRequest] = []
        self._function = script if callable(script) else None
        self._rest: Iterator[Scripted] = iter(()) if callable(script) else iter(script)

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Return the next replies of the script, one for each ordinal wanted.

        Args:
            request: what is asked; it is kept in `requests`.

        Raises:
            UnavailableError: the script is used up.
        """
        self.requests.append(request)
        if not self.nonblocking:
            await anyio.lowlevel.checkpoint()
        used_up = UnavailableError(f"the script of {self.name} is used up", kind="script_used_up")
        replies: list[Reply] = []
        for ordinal in request.ordinals[: self.max_n]:
            said = self._function(request, ordinal) if self._function else next(self._rest, used_up)
            if isinstance(said, Exception):
                if not replies:
                    raise said
                self._rest = chain([said], self._rest)
                break
            replies.append(said if isinstance(said, Reply) else Reply(said, self.name))
        return replies

    def describe(self) -> dict[str, Any]:
        """Return nothing: a script has no settings."""
        return {}

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""
