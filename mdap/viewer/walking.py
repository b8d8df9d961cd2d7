"""Search steps in ranges of keys, for the time that a page may take."""

from dataclasses import dataclass
from sqlite3 import Row
from time import monotonic
from typing import Any, Final

from mdap.journal.reader import Reader

__all__ = ["Found", "walk"]

_FIRST_RANGE: Final = 500
_LONGEST_RANGE: Final = 16_000
_SECONDS: Final = 0.15  # about how long a search may take


@dataclass(frozen=True, slots=True)
class Found:
    """What a search from *start* to before *stop* found, and whether there is *more* from there on."""

    rows: list[Row]
    start: int
    stop: int
    more: bool


async def walk(
    source: Reader,
    name: str,
    run: int,
    bounds: tuple[int, int],
    most: int,
    *values: Any,
) -> Found:
    """Search until there are *most* steps, no keys are left, or the time is up.

    Args:
        name: a statement of rows with a column *at*, for a run, a range of keys and a limit.
        bounds: the first key, and the one before which the search ends.
        most: steps per page.
        values: further values of the statement.
    """
    start, end = bounds
    rows: list[Row] = []
    at, size, began = start, _FIRST_RANGE, monotonic()
    deadline = began + _SECONDS
    while at < end and began < deadline:
        stop = min(at + size, end)
        rows += await source.rows(name, run, at, stop, most + 1 - len(rows), *values)
        if len(rows) > most:
            stop = int(rows[most]["at"])
            return Found(rows[:most], start, stop, more=True)
        at, took = stop, monotonic() - began
        began += took
        # Long enough for few queries, and short enough for the last one not to exceed the time by much.
        if took < _SECONDS / 8:
            size = min(size * 2, _LONGEST_RANGE)
        elif took > _SECONDS / 4:
            size = max(size // 2, _FIRST_RANGE)
    return Found(rows, start, at, more=at < end)
