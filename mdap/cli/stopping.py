"""Ctrl-C and SIGTERM: once to stop cleanly, twice to stop at once."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import anyio

from mdap.cli.output import Exit

__all__ = ["interruptible"]

_SENTENCE: Final = "interrupted twice: what was recorded is safe"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR: Final = b"\x1b[?25h"


@contextmanager
def interruptible(*, as_json: bool) -> Iterator[anyio.CancelScope]:
    """Give a scope, to be entered, that the first Ctrl-C or SIGTERM cancels; the second ends the process.

    The second one must not raise in the event loop, where what is shielded from being cancelled, such as
    a commit, would then be waited for without anybody to finish it.

    Args:
        as_json: whether the end of the process is to be told as JSON too.
    """
    scope = anyio.CancelScope()
    loop = asyncio.get_running_loop()

    def told(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, lambda number, frame: _end(as_json))
        loop.call_soon_threadsafe(scope.cancel)

    before = {number: signal.signal(number, told) for number in _SIGNALS}
    try:
        yield scope
    finally:
        if not scope.cancel_called:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(as_json: bool) -> None:
    """End the process from within a signal handler: no lock, no buffer, no exception."""
    cursor = _SHOW_CURSOR if os.isatty(2) else b""
    _tell(2, cursor + f"mdap: {_SENTENCE}\n".encode())
    if as_json:
        told = {"error": _SENTENCE, "exit_code": int(Exit.INTERRUPTED)}
        _tell(1, json.dumps(told).encode() + b"\n")
    os._exit(int(Exit.INTERRUPTED))


def _tell(descriptor: int, line: bytes) -> None:
    with suppress(OSError):  # nobody may be there to read it
        os.write(descriptor, line)
