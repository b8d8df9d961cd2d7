"""Record how a session's work on a run ends, whatever ends it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from mdap.engine.policy import Policy
from mdap.errors import DatabaseError, MdapError, PluginError, told, traceback_of
from mdap.journal.runs import RunRecord, RunStart
from mdap.records import RunEvent, RunStatus, StopCause
from mdap.rules.redflags import clean_text
from mdap.session.resources import SessionResources
from mdap.tracing import RunTrace

__all__ = ["Ending", "work_on"]


@dataclass(slots=True)
class Ending:
    """The end of a run; *interrupted* unless something else is set.

    Attributes:
        status: the run's status.
        reason: why it did not finish, as one sentence.
        cause: the reason as one word.
        error: the exception that ended it; None for none.
        data: further data to record.
        begun: whether the log records that this session began or resumed the run.
        record: the run's record, once written.
    """

    status: RunStatus = RunStatus.STOPPED
    reason: str | None = "interrupted"
    cause: StopCause | None = StopCause.INTERRUPTED
    error: Exception | None = None
    data: dict[str, Any] = field(default_factory=dict)
    begun: bool = False
    record: RunRecord | None = None
    _started: float = field(default_factory=time.monotonic)

    def begin(self, resources: SessionResources, start: RunStart, *, independent: bool = False) -> None:
        """Record that the session begins or resumes the run."""
        kind = "started" if start.row is None else "resumed"
        about = resources.about() | ({"independent": True} if independent else {})
        resources.writer.append(RunEvent(start.number, kind, data=about))
        self.begun = True

    def take(self, race: Policy) -> None:
        """Copy the end of *race*."""
        self.status, self.reason = race.decider.status, race.decider.reason
        self.cause, self.error = race.decider.stop_cause, race.decider.error

    def stop(self, reason: str, cause: StopCause) -> None:
        """Set that the run cannot continue for now."""
        self.status, self.reason, self.cause, self.error = RunStatus.STOPPED, reason, cause, None

    def fail(self, error: MdapError) -> None:
        """Set that the code of a task or of a provider failed."""
        self.stop(str(error), StopCause.ERROR)
        self.status, self.error = RunStatus.FAILED, error

    def crash(self, error: Exception) -> None:
        """Set an error that the caller must handle."""
        self.stop(str(error) if isinstance(error, MdapError) else told(error), StopCause.ERROR)
        self.error = error

    @property
    def seconds(self) -> float:
        """Seconds that the session has worked on the run."""
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


@asynccontextmanager
async def work_on(
    resources: SessionResources, run: int, name: str, trace: RunTrace | None = None, *, record: bool = True
) -> AsyncIterator[Ending]:
    """Work on a run that was begun; record the end, seal the run and release it.

    If a task's or a provider's own code fails, the run ends without raising.

    Args:
        resources: the resources that all runs of the session share.
        run: its number.
        name: its id.
        trace: its spans; None for none.
        record: whether to read the run's record at the end.

    Raises:
        DatabaseError: the database can no longer be written.
    """
    ended = Ending()
    resources.named[run] = name
    try:
        try:
            yield ended
        except PluginError as error:
            if not ended.begun:
                raise
            ended.fail(error)
        except BaseException as error:
            if isinstance(error, Exception):
                ended.crash(error)
            with suppress(DatabaseError):  # the error itself, or a consequence of it
                await _end(resources, run, ended, trace, record=False)
            raise
        await _end(resources, run, ended, trace, record=record)
    finally:
        await resources.runs.release(run)
        resources.named.pop(run, None)  # a batch that the program started twice


async def _end(
    resources: SessionResources, run: int, ended: Ending, trace: RunTrace | None, *, record: bool
) -> None:
    if not ended.begun:
        return
    resources.limit_changes.tell()
    resources.limit_changes.running.discard(run)
    if trace is not None:
        trace.ended(ended.status, ended.cause)
    ended.record = await resources.runs.end(ended.event(run), record=record)
