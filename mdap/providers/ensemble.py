"""Several models that vote together, or in turn when the first cannot decide."""

from collections.abc import Sequence
from typing import Any

import anyio

from mdap.protocols import Provider
from mdap.records import Reply, SampleRequest

__all__ = ["Ensemble"]


class Ensemble:
    """A provider that hands each request to the member it names.

    Args:
        members: the models, each within its own limits; a request's *member* is a place among them.
    """

    def __init__(self, members: Sequence[Provider]) -> None:
        self.members = tuple(members)
        self.name = " + ".join(member.name for member in members)
        self.nonblocking = all(member.nonblocking for member in members)

    @property
    def max_n(self) -> int:
        """The most replies that any member may be asked for at once."""
        return max(member.max_n for member in self.members)

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask the member that *request* names; see `mdap.protocols.Provider.sample`."""
        return await self.members[request.member].sample(request)

    def describe(self) -> dict[str, Any]:
        """Return what each member says of itself."""
        return {"members": [member.describe() for member in self.members]}

    async def aclose(self) -> None:
        """Close every member, the others too if one fails to."""
        async with anyio.create_task_group() as group:
            for member in self.members:
                group.start_soon(member.aclose)
