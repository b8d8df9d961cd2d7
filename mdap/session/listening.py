"""Call a program's own function with every fact of a run."""

import inspect
from collections.abc import Callable
from typing import Final

import anyio

from mdap.engine.policy import Policy
from mdap.errors import RAISED, DatabaseError, PluginError, UsageError
from mdap.journal.facts import Cursor, Facts
from mdap.journal.reader import Reader
from mdap.journal.writer import Writer
from mdap.records import Event

__all__ = ["LOOK", "Listener"]

LOOK: Final = 0.25
"""Seconds to wait for a commit before reading the log anyway: another process may be writing."""

Log = tuple[Reader, Writer]


class Listener:
    """Call a function with every fact of a run, in order, once it is durable.

    Args:
        call: the program's function.

    Raises:
        UsageError: the function is a coroutine function.
    """

    def __init__(self, call: Callable[[Event], object]) -> None:
        if not callable(call) or inspect.iscoroutinefunction(call):
            raise UsageError(
                "on_event takes a plain function of an event: to await something, iterate over session.events"
            )
        self._call = call
        self._cursor = Cursor()
        self._failure: PluginError | None = None

    async def begin(self, log: Log, run: int) -> None:
        """Begin after the facts of earlier sessions."""
        await Facts(log[0], run, self._cursor).skip()

    async def listen(self, log: Log, run: int, race: Policy) -> None:
        """Call the function until cancelled; if it fails, stop *race*. Raise nothing."""
        try:
            while True:
                await self._tell(log, run)
                with anyio.move_on_after(LOOK):
                    await log[1].next_commit()
        except PluginError as error:
            self._failure = error
            race.decider.halt(error)
        except DatabaseError:
            pass  # the run itself raises it

    async def end(self, log: Log, run: int, ended: Exception | None) -> None:
        """Call the function with the remaining facts after the run's end.

        Args:
            log: its reader and its writer.
            run: the run's number.
            ended: the error that ended the run.

        Raises:
            PluginError: it failed, but did not end the run.
        """
        if self._failure is None:
            await self._tell(log, run)
        elif self._failure is not ended:
            raise self._failure

    async def _tell(self, log: Log, run: int) -> None:
        async for event in Facts(log[0], run, self._cursor).fresh():
            try:
                self._call(event)
            except RAISED as error:
                told = f"being told of {type(event.fact).__name__}"
                raise PluginError("on_event", told, error) from error
