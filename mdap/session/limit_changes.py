"""Record changes of a session's limits with every running run."""

from collections.abc import Sequence
from typing import Final

import anyio

from mdap.journal.writer import Writer
from mdap.providers.gate import Gate
from mdap.records import RunEvent
from mdap.rules.limiter import Change

__all__ = ["LimitChangeRecorder"]

# Seconds between events of a limit, however erratic the endpoint is.
_EVERY: Final = 10.0


class LimitChangeRecorder:
    """Record changes of limits as events of kind ``limits``.

    Args:
        names: the models of the session.
        gates: the gates of their requests, in the same order.
        writer: the journal.

    Attributes:
        running: the numbers of running runs.
    """

    def __init__(self, names: Sequence[str], gates: Sequence[Gate], writer: Writer) -> None:
        self.running: set[int] = set()
        self._gates = tuple(zip(names, gates, strict=True))
        self._writer = writer

    async def follow(self, place: int) -> None:
        """Record changes at the gate of that *place* forever, grouped by some seconds."""
        name, gate = self._gates[place]
        while True:
            await gate.changed()
            self._tell(name, gate)
            await anyio.sleep(_EVERY)

    def tell(self) -> None:
        """Record pending changes before a run ends."""
        for name, gate in self._gates:
            self._tell(name, gate)

    def _tell(self, name: str, gate: Gate) -> None:
        if not self._writer.usable:
            return
        for change in gate.changes():
            reason, data = _worded(name, change)
            for run in self.running:
                self._writer.append(RunEvent(run, "limits", reason, data=data))


def _worded(name: str, change: Change) -> tuple[str, dict[str, object]]:
    what = change.what.replace("_", " ")
    before, after = (_shown(limit) for limit in (change.limit_before, change.limit_after))
    data: dict[str, object] = {"model": name, **change._asdict()}
    return f"{name}: {what} from {before} to {after}: {change.reason}", data


def _shown(limit: float | None) -> str:
    return "no limit" if limit is None else f"{limit:,.0f}" if limit >= 10 else f"{limit:.2g}"
