"""One caller at a time drives a run of this process; other callers for the same run wait.

The claims of `mdap.journal.claims` keep processes apart. Sessions of one process may be in several event
loops of several threads, so the list of runs under way belongs to the process.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Final

import anyio

from mdap.errors import RunBusyError

_Key = tuple[str, str]
_LOCK: Final = threading.Lock()
_TAKEN: Final[dict[_Key, "Turn"]] = {}
# A run whose own code asked for it would wait for itself.
_DRIVEN: Final[ContextVar[frozenset[_Key]]] = ContextVar("mdap_driven_runs", default=frozenset())


class Turn:
    """The right to drive one run.

    Attributes:
        ended: whether the run ended during this turn instead of being interrupted.
        error: the exception that ended it; None for none.
    """

    def __init__(self, key: _Key) -> None:
        self.ended = False
        self.error: Exception | None = None
        self._key = key
        self._waiting: list[tuple[asyncio.AbstractEventLoop, anyio.Event]] = []

    async def news(self) -> None:
        """Wait until the run has a row, or the turn is over; returns immediately if it is."""
        place = (asyncio.get_running_loop(), anyio.Event())
        with _LOCK:
            if _TAKEN.get(self._key) is not self:
                return
            self._waiting.append(place)
        try:
            await place[1].wait()
        finally:
            with _LOCK, suppress(ValueError):
                self._waiting.remove(place)

    def tell(self) -> None:
        """Wake the waiting callers."""
        with _LOCK:
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with suppress(RuntimeError):  # its loop is closed, so nothing waits there
                loop.call_soon_threadsafe(event.set)

    def release(self) -> None:
        """Release the turn."""
        with _LOCK:
            del _TAKEN[self._key]
        self.tell()


def take_turn(path: Path, run_id: str) -> tuple[Turn, bool]:
    """Return the turn at a run of the database *path*, and whether this caller has it.

    Raises:
        RunBusyError: the run's own code asks for it.
    """
    key = (os.path.realpath(path), run_id)
    if key in _DRIVEN.get():
        raise RunBusyError(
            f"run {run_id} would wait for itself, since its own task asks for it: give the inner run another "
            "run_id, or use ask.solve(...) in a process"
        )
    with _LOCK:
        held = _TAKEN.get(key)
        if held is not None:
            return held, False
        turn = _TAKEN[key] = Turn(key)
        return turn, True


@contextmanager
def driving(turn: Turn) -> Iterator[None]:
    """Mark the run of *turn* as driven by the block's calls; release the turn after the block."""
    token = _DRIVEN.set(_DRIVEN.get() | {turn._key})
    try:
        yield
    finally:
        _DRIVEN.reset(token)
        turn.release()
