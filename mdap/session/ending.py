"""Record how a session's work on a run ends, whatever ends it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from mdap.engine.policy import Policy
from mdap.errors import DatabaseError, MdapError, PluginError, told, traceback_of
from mdap.journal.runs import RunRecord, RunStart
from mdap.records import RunEvent, RunStatus, StopCause
from mdap.rules.redflags import clean_text
from mdap.session.resources import SessionResources
from mdap.tracing import RunTrace


class Ending:
    """The end of a session's work on a run; *interrupted* unless something else is set.

    Attributes:
        data: further data to record.
        record: the run's record, once written.
    """

    def __init__(self, resources: SessionResources, start: RunStart, name: str) -> None:
        self.status = RunStatus.STOPPED
        self.reason: str | None = "interrupted"
        self.cause: StopCause | None = StopCause.INTERRUPTED
        self.error: Exception | None = None
        self.data: dict[str, Any] = {}
        self.record: RunRecord | None = None
        self._resources = resources
        self._start = start
        self._name = name
        self._begun = False
        self._started = time.monotonic()

    def begin(self, *, independent: bool = False) -> None:
        """Record that the session begins or resumes the run."""
        kind = "started" if self._start.row is None else "resumed"
        about = self._resources.about() | ({"independent": True} if independent else {})
        self._resources.writer.append(RunEvent(self._start.number, kind, data=about))
        self._begun = True

    def take(self, policy: Policy) -> None:
        """Copy how the run of *policy* ended."""
        self.status, self.reason = policy.decider.status, policy.decider.reason
        self.cause, self.error = policy.decider.stop_cause, policy.decider.error

    def stop(self, reason: str, cause: StopCause) -> None:
        """Set that the run cannot continue for now."""
        self.status, self.reason, self.cause, self.error = RunStatus.STOPPED, reason, cause, None

    @property
    def seconds(self) -> float:
        """Seconds that the session has worked on the run."""
        return round(time.monotonic() - self._started, 3)

    @asynccontextmanager
    async def recorded(self, trace: RunTrace | None = None, *, record: bool = True) -> AsyncIterator[None]:
        """Work on the run within the block; then record its end, seal the run and release it.

        If a task's or a provider's own code fails, the run ends without raising. With *record*, it reads the
        run's record at the end.
        """
        resources, number = self._resources, self._start.number
        resources.named[number] = self._name
        try:
            try:
                yield
            except PluginError as error:
                if not self._begun:
                    raise
                self.stop(str(error), StopCause.ERROR)
                self.status, self.error = RunStatus.FAILED, error
            except BaseException as error:
                if isinstance(error, Exception):
                    self.stop(str(error) if isinstance(error, MdapError) else told(error), StopCause.ERROR)
                    self.error = error
                with suppress(DatabaseError):  # the error itself, or a consequence of it
                    await self._end(trace, record=False)
                raise
            await self._end(trace, record=record)
        finally:
            await resources.runs.release(number)
            resources.named.pop(number, None)  # a batch that the program started twice

    async def _end(self, trace: RunTrace | None, *, record: bool) -> None:
        if not self._begun:
            return
        resources, data = self._resources, {"seconds": self.seconds, **self.data}
        resources.limit_changes.tell()
        resources.limit_changes.running.discard(self._start.number)
        if trace is not None:
            trace.ended(self.status, self.cause)
        if self.cause is not None:
            data["stop_cause"] = str(self.cause)
        lines = traceback_of(self.error) if self.error and self.cause is StopCause.ERROR else None
        if lines is not None:
            data["traceback"] = clean_text(lines)
        ended = RunEvent(self._start.number, str(self.status), self.reason or None, data=data)
        self.record = await resources.runs.end(ended, record=record)
