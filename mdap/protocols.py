"""The two seams of the house: where samples come from, and where facts go."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from mdap.records import Fact, Reply, SampleRequest

__all__ = ["Journal", "Provider"]


@runtime_checkable
class Provider(Protocol):
    """A source of samples.

    One that asks an endpoint beyond this process may say so with an attribute *remote* that is True: then
    the number of requests in flight is found out, unless a user sets it, and a few requests on start find out
    what the endpoint is like. It may keep what its endpoint's headers tell in *told* (see
    `mdap.rules.headers.read_told`): then limits that no user sets are taken from there.

    One whose replies do not depend on the temperature may say so with an attribute *uses_temperature* that
    is False: then samples that are drawn at different temperatures otherwise can share a request.

    Attributes:
        name: how a person would name it again: ``openai/gpt-4.1-mini``.
        nonblocking: True if `sample` never waits for anything, so that no task need be spawned for it.
        max_n: the most replies that one request may ask for.
    """

    @property
    def name(self) -> str:
        """How a person would name it again."""

    @property
    def nonblocking(self) -> bool:
        """Whether `sample` never waits for anything."""

    @property
    def max_n(self) -> int:
        """The most replies that one request may ask for."""

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask once for ``request.n`` independent replies to one prompt.

        Args:
            request: the prompt, how to sample it, and which samples of its step are wanted.

        Returns:
            At least one reply and at most ``request.n``, for the first of the wanted ordinals in
            order; the engine asks again for the rest.

        Raises:
            ProviderError: the attempt failed; the subclass says whether another may work.
        """

    def describe(self) -> dict[str, Any]:
        """Return the settings that matter to a reader of the log, as JSON values without secrets."""

    async def aclose(self) -> None:
        """Release connections."""


class Journal(Protocol):
    """The append-only record of runs."""

    @property
    def behind(self) -> bool:
        """Whether facts come faster than they can be written: then nothing more should be asked for."""

    def append(self, *facts: Fact) -> None:
        """Take *facts* for the next commit; returns at once."""

    async def wait_for_room(self) -> None:
        """Wait while more facts are pending than the journal allows (back-pressure)."""

    async def flush(self) -> None:
        """Wait until every fact appended so far is durable."""
