"""Stop cleanly at the first Ctrl-C, SIGTERM or SIGHUP, and end the process at the second."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

import anyio

from mdap.cli.output import Exit
from mdap.cli.streams import answer_stream

_SENTENCE: Final = "interrupted twice: what was recorded is safe"
_TERMINATING: Final = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
_SHOW_CURSOR: Final = b"\x1b[?25h"


@contextmanager
def interruptible(*, as_json: bool) -> Iterator[anyio.CancelScope]:
    """Yield a scope that the first Ctrl-C, SIGTERM or SIGHUP cancels; the second signal ends the process.

    The caller enters the scope. The second signal must not raise an exception in the event loop: the loop
    would then wait forever for shielded work, such as a commit, that nothing continues.
    """
    scope = anyio.CancelScope()
    loop = asyncio.get_running_loop()
    answer = _descriptor() if as_json else None

    def cancel(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, lambda number, frame: _end(answer))
        loop.call_soon_threadsafe(scope.cancel)

    before = _handle(cancel, signal.SIGINT, *_TERMINATING)
    try:
        yield scope
    finally:
        if not scope.cancel_called:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do within the block what Ctrl-C does, whatever the command is at."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):  # Ctrl-C is ignored, as in the background of a shell
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    before = _handle(terminate, *_TERMINATING)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, FrameType | None], None], *signals: signal.Signals) -> dict[int, Any]:
    """Have *handler* called for these signals; return the earlier handlers."""
    # A command under nohup outlives its terminal.
    wanted = [
        each for each in signals if each is signal.SIGINT or signal.getsignal(each) is not signal.SIG_IGN
    ]
    return {number: signal.signal(number, handler) for number in wanted}


def _descriptor() -> int | None:
    """Return the descriptor of what the command prints as JSON; None if it has none."""
    try:
        descriptor: int = answer_stream().fileno()
    except (OSError, ValueError):
        return None
    return descriptor


def _end(answer: int | None) -> None:
    """End the process from within a signal handler: no lock, no buffer, no exception."""
    cursor = _SHOW_CURSOR if os.isatty(2) else b""
    _tell(2, cursor + f"mdap: {_SENTENCE}\n".encode())
    if answer is not None:
        told = {"error": _SENTENCE, "exit_code": int(Exit.INTERRUPTED)}
        _tell(answer, json.dumps(told).encode() + b"\n")
    os._exit(int(Exit.INTERRUPTED))


def _tell(descriptor: int, line: bytes) -> None:
    with suppress(OSError):  # nobody may be there to read it
        os.write(descriptor, line)
