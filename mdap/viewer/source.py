"""Interfaces that the pages need: rows of the log, and rebuilt prompts."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mdap.audit.queue import Claim, Ruling, Settled, Waiting
from mdap.journal.reader import Reader

__all__ = ["Desk", "Opener", "Prompts", "Rendered", "Shown"]


class Opener(Protocol):
    """Open the log for one page."""

    def __call__(self) -> AbstractAsyncContextManager[Reader]:
        """Return the log as a context."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompts of a step, recorded or rebuilt from its input.

    Attributes:
        views: system and user message of each view.
        same: whether their digest matches the digest chain.
        max_tokens: maximum output tokens of a reply; None for the run's setting.
        schema: JSON schema of the answer; None for none.
        recorded: whether they come from the log.
    """

    views: tuple[tuple[str, str], ...]
    same: bool
    max_tokens: int | None = None
    schema: Any = None
    recorded: bool = False


class Prompts(Protocol):
    """Rebuild the prompts of recorded steps, if the task's code is available."""

    def length(self, task: str, params: Mapping[str, Any]) -> int | None:
        """Return the number of steps of a task; None where unknown."""

    def render(
        self, task: str, params: Mapping[str, Any], step: int, text: str, digest: str
    ) -> Rendered | str:
        """Return the prompts of a step.

        Args:
            task: the task's name.
            params: its parameters.
            step: the step's number.
            text: the step's input, in canonical JSON.
            digest: the recorded digest of the prompts.

        Returns:
            The prompts, or a sentence that explains why there are none.
        """


class Desk(Protocol):
    """A desk at which people settle steps."""

    async def waiting(self, run_id: str | None = None, most: int = 50) -> list[Waiting]:
        """Return the steps that wait for a person."""

    async def claim(self, run_id: str, step: int, author: str, claim: int | None = None) -> Claim:
        """Claim a step, or renew a claim on it."""

    async def release(self, run_id: str, step: int, author: str, claim: int | None = None) -> None:
        """Give a claimed step back."""

    async def settle(self, run_id: str, step: int, ruling: Ruling) -> Settled:
        """Settle a step."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A database to view.

    Attributes:
        name: its name on the pages.
        open: opens it for one page.
        prompts: rebuilds prompts.
        is_claimed: returns whether a process works on the run with a number; None if unknown.
        desk: settles steps from the pages; None for a read-only viewer.
    """

    name: str
    open: Opener
    prompts: Prompts
    is_claimed: Callable[[int], bool | None]
    desk: Desk | None = None
