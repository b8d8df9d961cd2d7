"""The page of when things happened: how a run came along, and the attempts at some of its steps."""

from typing import Any, Final

from mdap.viewer.pages import Visit, counted, key
from mdap.viewer.timeline import KINDS, timeline_of
from mdap.viewer.trends import progress

__all__ = ["times"]

_STEPS: Final = 25


async def times(visit: Visit) -> tuple[str, dict[str, Any]]:
    """Show the attempts at some steps of a run, and how the run came along."""
    start = key(visit.request, "from", 0)
    count = await counted(visit)
    return "times.html", {
        "progress": progress(count.summary),
        "whole": count.whole,
        "timeline": await timeline_of(visit.source, visit.run.number, start, start + _STEPS, by_sample=False),
        "kinds": KINDS,
        "start": start,
        "size": _STEPS,
        "tab": "timeline",
    }
