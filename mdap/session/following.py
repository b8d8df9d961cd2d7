"""Follow a run: read its recorded facts from the log, or have a function called with each."""

import inspect
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

import anyio

from mdap.engine.policy import Policy
from mdap.errors import RAISED, DatabaseError, PluginError, RunNotFoundError, UsageError
from mdap.journal.claims import is_claimed
from mdap.journal.facts import Cursor, Facts
from mdap.records import Event

if TYPE_CHECKING:
    from mdap.session.resources import SessionResources

LOOK: Final = 0.25
"""Seconds to wait for a commit before reading the log anyway: another process may be writing."""

# Reads of a run without a process after which it counts as over: killed or not sealed.
_SILENT: Final = 3
# Seconds to wait for a run to begin: a program may start and follow it concurrently.
_BEGIN: Final = 5.0


async def follow(
    resources: "SessionResources", run_id: str, after: str | None, is_open: Callable[[], bool]
) -> AsyncIterator[Event]:
    """Yield the recorded facts of a run after a cursor until the run ends; see `Session.events`."""
    try:
        cursor = Cursor.read(after)
        run = await _begun(resources, run_id)
        facts = Facts(resources.reader, run, cursor)
        silent = 0
        while True:
            silent = 0 if _is_going_on(resources, run) else silent + 1
            async for event in facts.fresh():
                yield event
            if await facts.is_over(quiet=silent >= _SILENT):
                return
            with anyio.move_on_after(LOOK):
                await resources.writer.next_commit()
    except ValueError:  # of a connection that is closed
        if is_open():
            raise
        raise UsageError(f"the session was closed while run {run_id} was followed: keep it open") from None


async def _begun(resources: "SessionResources", run_id: str) -> int:
    with anyio.move_on_after(_BEGIN):
        while (row := await resources.reader.run(run_id)) is None:
            with anyio.move_on_after(LOOK):
                await resources.writer.next_commit()
        return row.number
    raise RunNotFoundError(f"there is no run {run_id!r} to follow in {resources.reader.path}: start it first")


def _is_going_on(resources: "SessionResources", run: int) -> bool:
    """Return whether a process works on *run*, if known."""
    return run in resources.named or is_claimed(resources.reader.path, run) is not False


class Listener:
    """Call a function with every fact of a run, in order, once it is durable."""

    def __init__(self, call: Callable[[Event], object]) -> None:
        if not callable(call) or inspect.iscoroutinefunction(call):
            raise UsageError(
                "on_event takes a plain function of an event: to await something, iterate over session.events"
            )
        self._call = call
        self._cursor = Cursor()
        self._failure: PluginError | None = None

    async def begin(self, resources: "SessionResources", run: int) -> None:
        """Begin after the facts of earlier sessions."""
        await Facts(resources.reader, run, self._cursor).skip()

    async def listen(self, resources: "SessionResources", run: int, policy: Policy) -> None:
        """Call the function until cancelled; if it fails, stop the run. Raise nothing."""
        try:
            while True:
                await self._tell(resources, run)
                with anyio.move_on_after(LOOK):
                    await resources.writer.next_commit()
        except PluginError as error:
            self._failure = error
            policy.decider.halt(error)
        except DatabaseError:
            pass  # the run itself raises it

    async def end(self, resources: "SessionResources", run: int, ended: Exception | None) -> None:
        """Call the function with the remaining facts, or raise its failure unless that *ended* the run."""
        if self._failure is None:
            await self._tell(resources, run)
        elif self._failure is not ended:
            raise self._failure

    async def _tell(self, resources: "SessionResources", run: int) -> None:
        async for event in Facts(resources.reader, run, self._cursor).fresh():
            try:
                self._call(event)
            except RAISED as error:
                told = f"being told of {type(event.fact).__name__}"
                raise PluginError("on_event", told, error) from error
