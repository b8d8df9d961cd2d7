"""A page of runs."""

import json
from dataclasses import dataclass
from time import monotonic
from typing import Any

from mdap.audit.about import about, status_of, verdicts
from mdap.audit.counting import Counts
from mdap.audit.source import Row, Source
from mdap.rules.outcomes import outcome_of

__all__ = ["Listed", "list_runs"]


@dataclass(slots=True)
class Listed:
    """A run in the list.

    Attributes:
        counted: whether *votes* and *cost_usd* are known, and whether the votes make the outcome doubtful.
    """

    number: int
    run_id: str
    kind: str
    task: str
    params: dict[str, Any]
    models: str
    k: int
    status: str
    outcome: str | None
    decided: int
    children: int
    created_at: str
    turn: int
    counted: bool = False
    votes: int = 0
    cost_usd: float | None = None


def _listed(row: Row) -> Listed:
    return Listed(
        number=row["id"],
        run_id=row["run_id"],
        kind=row["kind"],
        task=row["task"],
        params=json.loads(row["params"]),
        models=" + ".join(json.loads(row["provider"]).get("models", ())),
        k=row["k"],
        status=status_of(row["last_event"]),
        outcome=None if row["outcome"] is None else outcome_of(row["outcome"], None, 0),
        decided=row["steps"],
        children=row["children"],
        created_at=row["created_at"],
        turn=row["last_turn"] or 0,
    )


async def list_runs(source: Source, counts: Counts, rows: list[Row], seconds: float) -> list[Listed]:
    """Return the runs of *rows*, counted as far as there is time; what was counted before is not again."""
    found = [_listed(row) for row in rows]
    deadline = monotonic() + seconds
    for one in sorted(found, key=lambda one: one.decided):  # a short run must not wait for a long one
        known = counts.known(one.number, one.turn)
        if known is None and monotonic() < deadline:
            run = await about(source, one.number)
            if run is not None:
                count = counts.of(run)
                await count.go_on(source, run, deadline - monotonic())
                if count.whole:
                    found_out = verdicts(run, count.summary)
                    known = (found_out.votes, found_out.cost_usd, found_out.outcome)
                    if one.status != "running":
                        counts.note(one.number, one.turn, known)
        if known is not None:
            one.counted, (one.votes, one.cost_usd, one.outcome) = True, known
    return found
