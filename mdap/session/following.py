"""Follow a run: read its recorded facts from the log at the reader's own pace."""

from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio

from mdap.errors import RunNotFoundError, UsageError
from mdap.journal.claims import is_claimed
from mdap.journal.facts import Cursor, Facts
from mdap.records import Event
from mdap.session.listening import LOOK
from mdap.session.resources import SessionResources

__all__ = ["follow"]

# Reads of a run without a process after which it counts as over: killed or not sealed.
_SILENT: Final = 3
# Seconds to wait for a run to begin: a program may start and follow it concurrently.
_BEGIN: Final = 5.0


async def follow(
    resources: SessionResources, run_id: str, after: str | None, is_open: Callable[[], bool]
) -> AsyncIterator[Event]:
    """Yield the recorded facts of a run after a cursor until the run ends; see `Session.events`.

    Args:
        resources: the resources that all runs of the session share.
        run_id: the run's id.
        after: the cursor; None for the beginning.
        is_open: whether the session is still open.

    Raises:
        UsageError: *after* is no cursor, there is no such run, or the session was closed meanwhile.
    """
    try:
        async for event in _followed(resources, run_id, after):
            yield event
    except ValueError:  # of a connection that is closed
        if is_open():
            raise
        raise UsageError(f"the session was closed while run {run_id} was followed: keep it open") from None


async def _followed(resources: SessionResources, run_id: str, after: str | None) -> AsyncIterator[Event]:
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


async def _begun(resources: SessionResources, run_id: str) -> int:
    with anyio.move_on_after(_BEGIN):
        while (row := await resources.reader.run(run_id)) is None:
            with anyio.move_on_after(LOOK):
                await resources.writer.next_commit()
        return row.number
    raise RunNotFoundError(f"there is no run {run_id!r} to follow in {resources.reader.path}: start it first")


def _is_going_on(resources: SessionResources, run: int) -> bool:
    """Return whether a process works on *run*, if known."""
    return run in resources.named or is_claimed(resources.reader.path, run) is not False
