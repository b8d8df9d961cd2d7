"""The tree of a run: its parts and its steps, by ranges, so that a page of any run is short."""

from dataclasses import dataclass
from sqlite3 import Row
from typing import Any, Final

from mdap.viewer.listing import listed
from mdap.viewer.pages import Visit, key
from mdap.viewer.race import outcome_of

__all__ = ["tree"]

_LEAVES: Final = 100  # parts or steps per range on the lowest level
_COUNTED: Final = 20_000  # maximum number of steps for which a page counts ranges
_LARGEST: Final = 2**62


@dataclass(frozen=True, slots=True)
class Branch:
    """A range of steps.

    Attributes:
        start: its first step.
        stop: the step after its last.
        open: whether the page shows its content.
        counts: all, decided, divided and settled steps; None if not counted.
        branches: the ranges in it, if it is open.
    """

    start: int
    stop: int
    open: bool
    counts: Row | None
    branches: list["Branch"]


async def tree(visit: Visit) -> tuple[str, dict[str, Any]]:
    """Show the parts and the steps of a run, one range of each open."""
    run, source = visit.run, visit.source
    at = key(visit.request, "step", 0 if run.opened <= _LEAVES else _LARGEST)
    branches = await _branches(visit, 0, run.opened, at)
    leaf = _leaf(branches)
    rows = []
    if leaf is not None:
        numbers = list(range(leaf.start, leaf.stop))
        rows = _last_openings(await source.rows("view_steps", run.number, str(numbers)))
    first = key(visit.request, "part", 0)
    offshoots = await source.rows("view_offshoots", run.number, _LEAVES, _COUNTED) if run.children else []
    chosen = next((row for row in offshoots if row["first"] <= first <= row["last"]), None)
    if chosen is None and len(offshoots) == 1:
        chosen = offshoots[0]
    parts = []
    if chosen is not None:
        found = await source.rows("view_runs", run.number, chosen["last"] + 1, _LEAVES)
        parts = await listed(source, sorted(row["id"] for row in found if row["id"] >= chosen["first"]))
    return "tree.html", {
        "branches": branches,
        "leaf": leaf,
        "rows": rows,
        "offshoots": offshoots,
        "chosen": chosen,
        "parts": parts,
        "each": _LEAVES,
        "tab": "tree",
    }


async def _branches(visit: Visit, start: int, stop: int, at: int) -> list[Branch]:
    """Return the ranges from *start* to before *stop*, with the content of the one with *at*."""
    size = _LEAVES
    while (stop - start) > size * _LEAVES:
        size *= _LEAVES
    counts: dict[int, Row] = {}
    if stop - start <= _COUNTED:
        rows = await visit.source.rows("view_branches", visit.run.number, size, start, stop)
        counts = {row["branch"]: row for row in rows}
    found = []
    for first in range(start, stop, size):
        last = min(first + size, stop)
        chosen = first <= at < last
        deeper = await _branches(visit, first, last, at) if chosen and size > _LEAVES else []
        found.append(Branch(first, last, chosen, counts.get(first // size), deeper))
    return found


def _leaf(branches: list[Branch]) -> Branch | None:
    chosen = next((branch for branch in branches if branch.open), None)
    return chosen if chosen is None or not chosen.branches else _leaf(chosen.branches)


def _last_openings(rows: Any) -> list[tuple[Any, str]]:
    found: dict[int, Any] = {}
    for row in rows:
        if row["step"] not in found or found[row["step"]]["place"] is None:
            found[row["step"]] = row
    return [(row, outcome_of(row)) for row in found.values()]
