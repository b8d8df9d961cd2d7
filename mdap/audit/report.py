"""A run as one page that needs nothing else: to be sent, kept or printed."""

from typing import Final

from markupsafe import Markup

from mdap.audit.about import About, verdicts
from mdap.audit.counting import Count
from mdap.audit.figures import figures
from mdap.audit.looks import environment, static
from mdap.audit.source import Source

__all__ = ["report"]

_EVENTS: Final = 50
_PARTS: Final = 200
_LARGEST: Final = 2**62


async def report(source: Source, run: About, length: int | None, made_at: str) -> str:
    """Return the report of a run as HTML, without a script and without anything from elsewhere.

    Args:
        source: the log.
        run: the run.
        length: how many steps the task has; None where unknown.
        made_at: when the report is made.
    """
    count = Count(run)
    await count.go_on(source, run)
    run, summary = count.told(run), count.summary
    happened = await source.rows("view_main_events", run.number, _EVENTS)
    parts = await source.rows("view_runs", run.number, _LARGEST, _PARTS) if run.children else []
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            summary=summary,
            verdicts=verdicts(run, summary),
            figures=figures(summary, run.k, run.prices),
            events=happened,
            parts=parts,
            length=length,
            made_at=made_at,
            style=Markup(static("style.css").decode()),
        )
    )
