"""Waves of a batch API: names of rows, how many jobs they make, and chains that would take too many."""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

HOURS: Final = 24
"""Hours that a job may take at every vendor."""

GUESSED_AHEAD: Final = 4096
"""Steps of a chain that guesses open ahead of the first undecided one."""

_ID_DIGITS: Final = 40
_MANY_HOURS: Final = 72


class Room(NamedTuple):
    """What one job may hold: requests, bytes and tokens of prompts; None for any number of tokens."""

    requests: int
    size: int
    tokens: int | None = None


def custom_id(token: str, place: int, *about: object) -> str:
    """Return the id of a row for the vendor: always 45 letters, digits and dashes."""
    digest = hashlib.sha256("\0".join(map(str, (token, place, *about))).encode("utf-8", "replace"))
    return f"mdap-{digest.hexdigest()[:_ID_DIGITS]}"


def parts_of(sizes: Sequence[tuple[int, int]], room: Room) -> list[range]:
    """Return which rows go into which job, so that none holds more than it may; each has at least one row.

    *sizes* are the bytes and tokens of each row.
    """
    parts, first, size, tokens = [], 0, 0, 0
    for place, (own_size, own_tokens) in enumerate(sizes):
        full = place - first >= room.requests or size + own_size > room.size
        full = full or (room.tokens is not None and tokens + own_tokens > room.tokens)
        if full and place > first:
            parts.append(range(first, place))
            first, size, tokens = place, 0, 0
        size, tokens = size + own_size, tokens + own_tokens
    if len(sizes) > first:
        parts.append(range(first, len(sizes)))
    return parts


def too_many_waves(steps: int, most: int) -> str | None:
    """Return why a chain must not go by waves, with the arithmetic; None if it takes *most* or fewer."""
    if steps <= most:
        return None
    hours = steps * HOURS
    time = f"{hours} hours" if hours <= _MANY_HOURS else f"{hours / HOURS:,.0f} days"
    return (
        f"a chain of {steps:,} steps needs at least {steps:,} waves, one after another, each of up to "
        f"{HOURS} hours: {steps:,} x {HOURS} h = {time}; use --lane requests, or --speculate guess if the "
        f"task can guess, or --max-waves {steps}"
    )
