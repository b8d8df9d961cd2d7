"""A bound on the processor time of a call, which also interrupts a regular expression that goes astray."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["OverdueError", "deadline"]


class OverdueError(BaseException):
    """Raised when a call took more processor time than allowed; `except Exception` does not hide it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `OverdueError` if the block takes more processor time than *seconds*.

    In the main thread, where the system has a timer of processor time, the block is interrupted;
    elsewhere it is only measured, and must end by itself.
    """
    started = time.thread_time()
    try:
        with _interrupted(started + seconds):
            yield
    finally:
        if time.thread_time() - started > seconds:
            raise OverdueError


@contextmanager
def _interrupted(end: float) -> Iterator[None]:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def look(number: int, frame: FrameType | None) -> None:
        # The timer counts all threads of the process; only this one's time matters.
        left = end - time.thread_time()
        if left <= 0:
            raise OverdueError
        signal.setitimer(signal.ITIMER_VIRTUAL, left)

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, end - time.thread_time())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
