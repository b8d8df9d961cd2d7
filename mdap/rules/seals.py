"""The seal of a run: a digest over what the digest chain leaves out, taken whenever a session ends.

The chain covers decisions, their inputs and the samples that were counted. The seal covers the rest: the
run's own row, everything that happened to it, whatever was sampled without being counted, when each sample
was asked for, the prompts that are recorded, and the seals of its parts.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

from mdap.records import without_later

__all__ = [
    "REST",
    "SEALED",
    "SIGNED",
    "TIMES_STEPS",
    "Lines",
    "Seal",
    "Times",
    "message",
]

SEALED: Final = "sealed"
"""The kind of the event that holds a seal."""

SIGNED: Final = "signed"
"""The kind of the event that holds somebody's signature of the seal before it."""

REST: Final = ("sealed_samples_not_counted", "sealed_samples_undecided", "sealed_samples_pending")
"""The statements that read samples which neither the chain nor the events cover, in the seal's order."""

TIMES_STEPS: Final = 4096
"""Steps of a run whose times are one line of their digest."""

_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


class Lines:
    """The 256-bit digest of lines, each of them JSON and ended by a newline."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32)

    def add(self, row: Iterable[Any]) -> None:
        """Take one more line."""
        self._hash.update(f"{_line(list(row))}\n".encode())

    def add_sample(self, row: Iterable[Any]) -> None:
        """Take one more line, of a row of a statement of `REST`."""
        self.add(without_later(tuple(row)))

    @property
    def digest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


class Times:
    """The digest over when samples were asked for.

    Attributes:
        digest: so far; None as long as no sample has a time.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self.digest: str | None = None

    def add(self, row: Sequence[Any]) -> None:
        """Take one more row of the statement *sealed_times*."""
        first, began, timed = row
        if timed:
            self._lines.add((first, began))
            self.digest = self._lines.digest


@dataclass(frozen=True, slots=True)
class Seal:
    """What a seal holds; it stands in the data of its event.

    Attributes:
        decisions: decisions so far.
        digest: the head of their chain.
        events: digest of the run's row and of every event before the seal.
        rest: digest of the rows of *sealed_openings*, `REST` and *sealed_prompts*, one after the other.
        parts: digest of the rows of *sealed_parts*; None if the run has no part that is sealed.
        until: the newest event whose seal may be among them; None with no parts.
        times: digest of the rows of *sealed_times*, one for `TIMES_STEPS` steps; None if none has a time.
    """

    decisions: int
    digest: str
    events: str
    rest: str
    parts: str | None = None
    until: int | None = None
    times: str | None = None

    @property
    def seal(self) -> str:
        """The one digest that stands for all of them."""
        of_parts = () if self.parts is None else (self.parts, self.until)
        of_times = () if self.times is None else (self.times,)
        lines = Lines()
        lines.add((self.decisions, self.digest, self.events, self.rest, *of_parts, *of_times))
        return lines.digest

    def to_dict(self) -> dict[str, Any]:
        """Return the event's data."""
        held = {name: value for name, value in asdict(self).items() if value is not None}
        return {**held, "seal": self.seal}


def message(run_id: str, seal: str) -> str:
    """Return the text that a signature or a timestamp of a run's seal covers."""
    return f"mdap run {run_id}\nseal {seal}\n"
