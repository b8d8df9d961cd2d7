"""A run as one self-contained page, to send, keep or print."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Row
from typing import Any, Final

from markupsafe import Markup

from mdap.audit.events import Signature, checked
from mdap.journal.reader import Reader
from mdap.rules.digests import SEALED, SIGNED
from mdap.viewer.about import About, chances_of, verdicts
from mdap.viewer.counting import Count
from mdap.viewer.figures import figures
from mdap.viewer.templating import environment, static

_MOST_SEALS: Final = 20
_EVENTS: Final = 50
_PARTS: Final = 200
_DISPUTED: Final = 25
_CANDIDATES: Final = 6
_SAMPLES: Final = 300
_CHARACTERS: Final = 1_000
_DISPUTED_PARTS: Final = 5_000
_LARGEST: Final = 2**62

Names = dict[int, str | None]
"""The names of the parts of a run, by number; None for the run itself."""


async def report(source: Reader, run: About, length: int | None, made_at: str) -> str:
    """Return the report of a run as HTML, without scripts or external resources."""
    count = Count(run)
    await count.go_on(source, run)
    run, summary = count.with_parts(run), count.summary
    happened = await source.rows("view_main_events", run.number, _EVENTS)
    parts = await source.rows("view_runs", run.number, _LARGEST, _PARTS) if run.children else []
    found = verdicts(run, summary)
    chances = {} if found.certificate is None else chances_of(summary)
    names = await _names(source, run)
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            summary=summary,
            verdicts=found,
            disputed=await doubtful(source, names, chances),
            undecided=await undecided(source, names) if run.children or run.opened > run.decided else [],
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
    """A seal of a run, with the time of each signature, and the signature if it can be checked here."""

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


@dataclass(frozen=True, slots=True)
class Disputed:
    """A step to review.

    Attributes:
        part: the name of its part; None for the run itself.
        wrong: the probability that its winner is wrong; None if unknown.
        author: the person who settled it; None for a vote or an undecided step.
        candidates: answer, votes, and whether it won; a reply in place of the answer if undecided.
    """

    part: str | None
    step: int
    input: str
    wrong: float | None
    author: str | None
    reason: str | None
    candidates: list[tuple[str, int, bool]]
    more: int


async def doubtful(
    source: Reader, names: Names, chances: Mapping[tuple[int, int, int], float]
) -> list[Disputed]:
    """Return decisions of some runs: those by a person, then the most doubtful ones.

    *chances* are the probabilities that a winner is wrong, by its votes, its lead and all votes.
    """
    wanted = json.dumps(list(names))
    settled = await source.rows("report_settled", wanted, _DISPUTED)
    divided = await source.rows("report_divided", wanted, 2 * _DISPUTED)
    voted = [
        _disputed(names, row, _ranked(row), chances.get((row["votes"], row["margin"], row["total"])))
        for row in divided
    ]
    voted.sort(key=lambda one: -(one.wrong or 0))
    return [_disputed(names, row, _ranked(row)) for row in settled] + voted[:_DISPUTED]


async def _names(source: Reader, run: About) -> Names:
    parts = await source.rows("report_parts", run.number, _DISPUTED_PARTS) if run.children else []
    return {run.number: None, **{row["id"]: row["run_id"] for row in parts}}


def _ranked(row: Row) -> list[tuple[str, int, bool]]:
    """Return answer and votes of each candidate of a decision, the winner first."""
    tally: dict[str, int] = json.loads(row["tally"] or "{}")
    tally.setdefault(row["winner"], 0)
    ranked = sorted(tally.items(), key=lambda item: (item[0] != row["winner"], -item[1], item[0]))
    return [(answer, votes, answer == row["winner"]) for answer, votes in ranked]


def _disputed(
    names: Names, row: Row, candidates: Sequence[tuple[str, int, bool]], wrong: float | None = None
) -> Disputed:
    shown = [(answer[:_CHARACTERS], votes, won) for answer, votes, won in candidates[:_CANDIDATES]]
    return Disputed(
        names[row["run"]],
        row["step"],
        row["input"][:_CHARACTERS],
        wrong,
        row["author"],
        row["reason"],
        shown,
        len(candidates) - len(shown),
    )


async def undecided(source: Reader, names: Names) -> list[Disputed]:
    """Return the undecided steps of some runs that ended, with the replies that voted."""
    found = []
    for row in await source.rows("report_undecided", json.dumps(list(names)), _DISPUTED):
        where = (row["run"], row["step"], row["opening"], _SAMPLES, _CHARACTERS)
        votes: dict[str, list[Any]] = {}
        for sample in await source.rows("view_samples", *where):
            if sample["verdict"] == "vote":
                votes.setdefault(sample["answer_key"], [sample["body"] or "", 0])[1] += 1
        ranked = sorted(votes.values(), key=lambda one: -one[1])
        found.append(_disputed(names, row, [(text, count, False) for text, count in ranked]))
    return found
