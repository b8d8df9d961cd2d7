"""A run as one self-contained page, to send, keep or print."""

import json
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from mdap.audit.events import Signature, checked
from mdap.journal.reader import Reader
from mdap.rules.certificate import doubts
from mdap.rules.digests import SEALED, SIGNED
from mdap.viewer.about import About, verdicts
from mdap.viewer.counting import Count
from mdap.viewer.disputed import doubtful, undecided
from mdap.viewer.figures import figures
from mdap.viewer.templating import environment, static

__all__ = ["report"]

_MOST_SEALS: Final = 20
_EVENTS: Final = 50
_PARTS: Final = 200
_DISPUTED: Final = 25
_LARGEST: Final = 2**62


async def report(source: Reader, run: About, length: int | None, made_at: str) -> str:
    """Return the report of a run as HTML, without scripts or external resources.

    Args:
        source: the log.
        run: the run.
        length: the number of steps of the task; None if unknown.
        made_at: the time of the report.
    """
    count = Count(run)
    await count.go_on(source, run)
    run, summary = count.told(run), count.summary
    happened = await source.rows("view_main_events", run.number, _EVENTS)
    parts = await source.rows("view_runs", run.number, _LARGEST, _PARTS) if run.children else []
    found = verdicts(run, summary)
    chances = {(shape.votes, shape.runner_up, shape.total): p for shape, p in doubts(summary.shapes())}
    disputed = await doubtful(source, run, {} if found.certificate is None else chances, _DISPUTED)
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            summary=summary,
            verdicts=found,
            disputed=disputed,
            undecided=await undecided(source, run, _DISPUTED),
            seals=await seals_of(source, run.number, run.run_id),
            figures=figures(summary, run.k, run.prices),
            events=happened,
            parts=parts,
            length=length,
            made_at=made_at,
            style=Markup(static("style.css").decode()),
        )
    )


@dataclass(frozen=True, slots=True)
class ShownSeal:
    """A seal of a run.

    Attributes:
        at: its time.
        decisions: the number of decisions that it covers.
        newest: whether the run has not changed since.
        signatures: time and signer of each; None if it cannot be checked here.
    """

    at: str
    seal: str
    decisions: int
    newest: bool
    signatures: list[tuple[str, Signature | None]]


async def seals_of(source: Reader, run: int, run_id: str) -> list[ShownSeal]:
    """Return the latest seals of a run, newest first."""
    rows = await source.rows("view_events", run, json.dumps([SEALED, SIGNED]), _LARGEST, _MOST_SEALS)
    signed = [row for row in rows if row["kind"] == SIGNED]
    told = checked([row["data"] for row in signed], run_id)
    known = dict(zip((row["id"] for row in signed), told, strict=False))
    last = await source.rows("last_happened", run)
    found: list[ShownSeal] = []
    after: list[tuple[str, Signature | None]] = []
    for row in rows:
        if row["kind"] == SIGNED:
            after.append((row["at"], known.get(row["id"])))
            continue
        data = json.loads(row["data"] or "{}")
        newest = bool(last) and row["id"] >= last[0]["id"]
        seal, decisions = str(data.get("seal")), int(data.get("decisions") or 0)
        found.append(ShownSeal(row["at"], seal, decisions, newest, after))
        after = []
    return found
