"""The two seams of mdap: providers of samples, and the journal of facts."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from mdap.records import Fact, Reply, SampleRequest

__all__ = ["Journal", "Provider"]


@runtime_checkable
class Provider(Protocol):
    """A source of samples.

    A provider of a remote endpoint sets an attribute *remote* to True: mdap then discovers the number of
    concurrent requests, unless the user sets it, and probes the endpoint on start. It may keep the rate
    limits from its endpoint's headers in *told* (see `mdap.rules.headers.read_told`): mdap uses them as
    limits unless the user sets others.

    A provider whose replies do not depend on the temperature sets an attribute *uses_temperature* to False:
    samples with different temperatures may then share a request.

    Attributes:
        name: the name that selects it again, such as ``openai/gpt-4.1-mini``.
        nonblocking: True if `sample` never waits, so that mdap spawns no task for it.
        max_n: maximum replies of one request.
    """

    @property
    def name(self) -> str:
        """The name that selects it again."""

    @property
    def nonblocking(self) -> bool:
        """Whether `sample` never waits."""

    @property
    def max_n(self) -> int:
        """Maximum replies of one request."""

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
        """Whether facts arrive faster than the journal writes them, so that requests must pause."""

    def append(self, *facts: Fact) -> None:
        """Take *facts* for the next commit; returns at once."""

    async def wait_for_room(self) -> None:
        """Wait while more facts are pending than the journal allows (back-pressure)."""

    async def flush(self) -> None:
        """Wait until every fact appended so far is durable."""
