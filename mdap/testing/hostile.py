"""Hostile texts to test a parser with, and a bound on the processor time that it takes."""

import random
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

from mdap.rules.redflags import MAX_CHARS_PER_TOKEN, clean

LONGEST: Final = 120_000
"""Characters of the longest text: enough to tell linear time from quadratic."""

_VALUES: Final = (
    *("null", "true", "-0", "-1", "0.5", "1e999", "NaN", "Infinity", "9" * 5_000, "0x10", "1_000", "٣", "²"),
    *('"', "'", '""', "[", "{", "}", "[]", "{}", "[[]]", '{"a": 1, "a": 2}', "\\ud800", "\ufffd", "\u202e"),
    *("<b>", "%s", "{0}", "$x", "../..", "'; --", "\t", "\r\n", "\x1b[31m", "\ufeff", "e\u0301", "İ", "ß"),
)
_RENUMBERED: Final = ("", "-1", "9" * 5_000, "1.5", "null", "٣", "1e999")
_TOKEN: Final = re.compile(r"\w+|\s+|[^\w\s]")


def corpus(replies: Sequence[str], max_tokens: int) -> Iterator[str]:
    """Yield short hostile texts made of honest *replies* first, then texts of growing length.

    No text is longer than the engine would let through.
    """
    longest = min(LONGEST, max_tokens * MAX_CHARS_PER_TOKEN)
    texts: list[str] = list(_VALUES)
    texts += ["I cannot help with that.", "```json\n{}\n```", '{"answer": null}', "answer = 1"]
    for reply in replies[:2]:  # cut, doubled, wrapped and renumbered
        texts += [reply[: len(reply) * share // 8] for share in range(1, 8)]
        texts += [re.sub(r"\d+", value, reply) for value in _RENUMBERED]
        texts += [reply + reply, f"```\n{reply}\n```", reply.upper(), reply.replace(" ", "")]
    yield from (clean(text, max_tokens) for text in texts)
    # Where a parser looks for the last words of an honest reply, it may look too long.
    words = [word for reply in replies[:1] for word in reply.split()]
    lines = [line for reply in replies[:1] for line in reply.splitlines() if line]
    last = dict.fromkeys([*words[-6:], *lines[-2:]])
    parts = ["[", '{"a":', "(", "a", "1", " ", "\n", "= ", "\\", '"', "a1 ", "[1,", *last]
    # Growing slowly at first: what takes exponential time is found while it still ends.
    sizes = [*range(8, 40, 2), 200, 2_000, longest // 3, longest]
    for size in sizes:
        for part in parts:
            body = (part * (size // len(part) + 1))[:size]
            yield clean(body, max_tokens)
            yield clean(body[:-1] + "!", max_tokens)
    for reply in replies[:1]:
        yield clean((reply + "\n") * (longest // (len(reply) + 1) + 1), max_tokens)[:longest]
        yield clean(" " * (longest - len(reply)) + reply, max_tokens)


def fuzzed(replies: Sequence[str], count: int, seed: str, max_tokens: int) -> Iterator[str]:
    """Yield *count* replies with some of their tokens lost, doubled, swapped or replaced."""
    draw = random.Random(seed)
    for _ in range(count):
        tokens = _TOKEN.findall(draw.choice(replies))
        for _ in range(draw.randint(1, 4)):
            if tokens:
                _mutate(tokens, draw)
        yield clean("".join(tokens), max_tokens)


def _mutate(tokens: list[str], draw: random.Random) -> None:
    place = draw.randrange(len(tokens))
    match draw.randrange(5):
        case 0:
            del tokens[place]
        case 1:
            tokens.insert(place, tokens[place])
        case 2:
            other = draw.randrange(len(tokens))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        case 3:
            tokens[place] = draw.choice(_VALUES)
        case _:
            tokens[place] = str(draw.randint(-(10**6), 10**6))


_AGAIN: Final = 0.05


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
        # Again soon after an error, which is lost if it is raised in a callback of a weak reference.
        signal.setitimer(signal.ITIMER_VIRTUAL, left if left > 0 else _AGAIN)
        if left <= 0:
            raise OverdueError

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, end - time.thread_time())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
