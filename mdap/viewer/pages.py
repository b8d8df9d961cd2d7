"""The pages: each returns a template's name and its values."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Row
from typing import Any, Final

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mdap.journal.reader import Reader
from mdap.viewer.about import About, chances_of, verdicts
from mdap.viewer.catalog import count_up, listed
from mdap.viewer.counting import Count, RunCounts
from mdap.viewer.figures import figures, progress
from mdap.viewer.guard import whole_number
from mdap.viewer.race import CHARACTERS, outcome_of, race_of
from mdap.viewer.source import Found, Prompts, merged_by, prompts_of, walk
from mdap.viewer.timeline import KINDS, timeline_of

_TIMED_STEPS: Final = 25

Shown = tuple[str, dict[str, Any]]

_LARGEST: Final = 2**62
_STEPS: Final = 50
_EVENTS: Final = 100
_LATEST: Final = 12
_PARTS: Final = 5_000
_OPENINGS: Final = 10
_SEARCHED: Final = 200
_LEAVES: Final = 100  # parts or steps per range on the lowest level of the tree
_COUNTED: Final = 20_000  # maximum number of steps for which a page counts ranges
_COUNTING: Final = 0.08  # seconds that a page spends counting

RUNS: Final = 30

FILTERS: Final = {
    "all": "All",
    "undecided": "Undecided",
    "divided": "Divided",
    "flagged": "Flagged",
    "overridden": "Overridden",
}
"""The filters of the list of steps."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a page about a run."""

    source: Reader
    run: About
    request: Request
    counts: RunCounts
    prompts: Prompts


def key(request: Request, name: str, default: int) -> int:
    """Return a whole number of the query, *default* if it is missing; raise HTTPException for other text."""
    text = request.query_params.get(name, "")
    number = whole_number(text) if text else default
    if number is None:
        raise HTTPException(400, f"{name} must be a whole number from 0 on.")
    return number


async def overview(visit: Visit) -> Shown:
    """Show a run: its status, result, plots and settings."""
    run, source = visit.run, visit.source
    happened = await source.rows("view_main_events", run.number, _LATEST)
    before = key(visit.request, "before", _LARGEST)
    values = {**await _changing(visit), "events": happened, "parts": None}
    if run.children:
        rows = await source.rows("view_runs", run.number, before, RUNS + 1)
        parts = await listed(source, [row["id"] for row in rows[:RUNS]])
        await count_up(source, visit.counts, parts, _COUNTING / 4)
        older = rows[RUNS - 1]["id"] if len(rows) > RUNS else None
        values |= {"parts": {"listed": parts, "before": older}, "most_parts": _PARTS}
        values["ended"] = await source.rows("view_parts_by_status", run.number, _PARTS)
    return "run.html", values


async def live(visit: Visit) -> Shown:
    """Show the part of the overview that changes while a run continues."""
    return "_live.html", await _changing(visit)


async def counted(visit: Visit) -> Count:
    """Continue counting a run for the time of one page, and return its counts."""
    count = visit.counts.of(visit.run)
    await count.go_on(visit.source, visit.run, _COUNTING)
    return count


async def _changing(visit: Visit) -> dict[str, Any]:
    """Return the values that change while a run continues: counts, verdicts, plots and pace."""
    run = visit.run
    count = await counted(visit)
    # In a thread: it runs the task's code.
    length = await anyio.to_thread.run_sync(visit.prompts.length, run.task, run.params)
    run = count.with_parts(run)
    return {
        "run": run,
        "summary": count.summary,
        "whole": count.whole,
        "parts_counted": count.parts,
        "verdicts": verdicts(run, count.summary),
        "figures": figures(count.summary, run.k, run.prices),
        "length": length,
        "pace": count.pace(run),
    }


async def steps(visit: Visit) -> Shown:
    """List the steps of a run, all or those of a kind."""
    run, start = visit.run, key(visit.request, "from", 0)
    kind = visit.request.query_params.get("show", "all")
    if kind not in FILTERS:
        raise HTTPException(400, f"show must be one of {', '.join(FILTERS)}.")
    end = run.decided if kind in ("divided", "overridden") else run.opened
    found = await _found(visit, kind, start, end)
    every = range(found.start, found.stop)
    numbers = [*every] if kind == "all" else [int(row["step"]) for row in found.rows]
    rows = await visit.source.rows("view_steps", run.number, str(numbers))
    return "steps.html", {
        "listed": _one_a_step(rows),
        "doubts": chances_of((await counted(visit)).summary),
        "found": found,
        "kind": kind,
        "kinds": FILTERS,
        "end": end,
        "size": _STEPS,
    }


async def _found(visit: Visit, kind: str, start: int, end: int) -> Found:
    run = visit.run
    if kind == "all":
        stop = min(start + _STEPS, end)
        return Found([], start, max(stop, start), more=stop < end)
    if kind == "undecided" and run.dense:
        start = max(start, run.decided)
    return await walk(visit.source, f"walk_{kind}", run.number, (start, end), _STEPS)


def _one_a_step(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """Return the decided opening of each step, or else its last one, with its outcome."""
    chosen: dict[int, Row] = {}
    for row in rows:
        before = chosen.get(row["step"])
        if before is None or before["place"] is None:
            chosen[row["step"]] = row
    return [(row, outcome_of(row)) for row in chosen.values()]


async def step(visit: Visit) -> Shown:
    """Show how a step was decided, sample by sample."""
    run, number = visit.run, visit.request.path_params["step"]
    openings = await visit.source.rows("view_openings", run.number, number, _OPENINGS)
    if not openings:
        raise HTTPException(404, "The run has no such step yet.")
    prompts = await prompts_of(visit.source, visit.prompts, run, openings[0])
    return "step.html", {
        "number": number,
        "races": [await race_of(visit.source, run.number, opening) for opening in openings],
        "doubts": chances_of((await counted(visit)).summary),
        "prompts": prompts,
        "merged_by": await merged_by(visit.source, run),
        "last": run.opened - 1,
        "timeline": await timeline_of(visit.source, run.number, number, number + 1, by_sample=True),
        "kinds": KINDS,
        "characters": CHARACTERS,
    }


async def search(visit: Visit) -> Shown:
    """Find replies that contain some words."""
    words = visit.request.query_params.get("q", "")
    if len(words) > _SEARCHED:
        raise HTTPException(400, f"Search for {_SEARCHED} characters at most.")
    found = None
    if words:
        pattern = "%" + words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        bounds = (key(visit.request, "from", 0), visit.run.opened)
        found = await walk(visit.source, "walk_texts", visit.run.number, bounds, _STEPS, pattern, words)
    return "search.html", {"words": words, "found": found}


async def events(visit: Visit) -> Shown:
    """List the events of a run."""
    counted = {
        row["kind"]: row["events"] for row in await visit.source.rows("view_event_kinds", visit.run.number)
    }
    kind = visit.request.query_params.get("kind", "")
    chosen = [kind] if kind else [one for one in counted if one != "attempt_failed"]
    before = key(visit.request, "before", _LARGEST)
    rows = await visit.source.rows("view_events", visit.run.number, json.dumps(chosen), before, _EVENTS + 1)
    return "events.html", {
        "events": rows[:_EVENTS],
        "before": rows[_EVENTS - 1]["id"] if len(rows) > _EVENTS else None,
        "counted": counted,
        "kind": kind,
    }


async def times(visit: Visit) -> Shown:
    """Show the attempts at some steps of a run, and the run's progress over time."""
    start = key(visit.request, "from", 0)
    count = await counted(visit)
    return "times.html", {
        "progress": progress(count.summary),
        "whole": count.whole,
        "timeline": await timeline_of(
            visit.source, visit.run.number, start, start + _TIMED_STEPS, by_sample=False
        ),
        "kinds": KINDS,
        "start": start,
        "size": _TIMED_STEPS,
    }


@dataclass(frozen=True, slots=True)
class Branch:
    """A range of steps, with the numbers of all, decided, divided and settled ones if they are counted."""

    start: int
    stop: int
    open: bool
    counts: Row | None
    branches: list["Branch"]


async def tree(visit: Visit) -> Shown:
    """Show the parts and the steps of a run, one range of each open."""
    run, source = visit.run, visit.source
    at = key(visit.request, "step", 0 if run.opened <= _LEAVES else _LARGEST)
    branches = await _branches(visit, 0, run.opened, at)
    leaf = _leaf(branches)
    numbers = [] if leaf is None else [*range(leaf.start, leaf.stop)]
    rows = _one_a_step(await source.rows("view_steps", run.number, str(numbers))) if numbers else []
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
