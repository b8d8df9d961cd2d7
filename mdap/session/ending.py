"""How a run ended, and what is recorded of it: status, sentence, cause, and the traceback of foreign code."""

import time
from dataclasses import dataclass, field
from typing import Any

from mdap.engine.decider import Decider
from mdap.errors import MdapError, told, traceback_of
from mdap.records import RunEvent, RunStatus, StopCause
from mdap.rules.redflags import clean_text

__all__ = ["Ending"]


@dataclass(slots=True)
class Ending:
    """How a run ends; as long as nothing else is said, it was interrupted.

    Attributes:
        status: how the run stands.
        reason: one sentence on why it did not finish.
        cause: the same as one word.
        error: what ended it; None for nothing that was raised.
        data: what else to record.
    """

    status: RunStatus = RunStatus.STOPPED
    reason: str | None = "interrupted"
    cause: StopCause | None = StopCause.INTERRUPTED
    error: Exception | None = None
    data: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def take(self, race: Decider) -> None:
        """Take over how *race* ended."""
        self.status, self.reason = race.status, race.reason
        self.cause, self.error = race.stop_cause, race.error

    def stop(self, reason: str, cause: StopCause) -> None:
        """Note that the run cannot go on for now."""
        self.status, self.reason, self.cause, self.error = RunStatus.STOPPED, reason, cause, None

    def fail(self, error: MdapError) -> None:
        """Note that the code of a task or of a provider failed."""
        self.status, self.reason, self.cause, self.error = (
            RunStatus.FAILED,
            str(error),
            StopCause.ERROR,
            error,
        )

    def crash(self, error: Exception) -> None:
        """Note an error that the run is not the place to handle."""
        reason = str(error) if isinstance(error, MdapError) else told(error)
        self.stop(reason, StopCause.ERROR)
        self.error = error

    @property
    def seconds(self) -> float:
        """How long the session has worked on the run."""
        return round(time.monotonic() - self._started, 3)

    def event(self, run: int) -> RunEvent:
        """Return the event to record with *run*."""
        data = {"seconds": self.seconds, **self.data}
        if self.cause is not None:
            data["stop_cause"] = str(self.cause)
        trace = traceback_of(self.error) if self.error and self.cause is StopCause.ERROR else None
        if trace is not None:
            data["traceback"] = clean_text(trace)
        return RunEvent(run, str(self.status), self.reason or None, data=data)
