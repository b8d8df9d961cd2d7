"""Steps to review, each with its candidates: settled by a person, divided, or undecided."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Row
from typing import Any, Final

from mdap.journal.reader import Reader
from mdap.viewer.about import About

__all__ = ["Disputed", "doubtful", "undecided"]

_CANDIDATES: Final = 6
_SAMPLES: Final = 300
_CHARACTERS: Final = 1_000
_PARTS: Final = 5_000
_LARGEST: Final = 2**62


@dataclass(frozen=True, slots=True)
class Disputed:
    """A step to review.

    Attributes:
        part: the name of its part; None for the run itself.
        wrong: the probability that its winner is wrong; None if unknown.
        author: the person who settled it; None for a vote or an undecided step.
        candidates: answer, votes, and whether it won; a reply in place of the answer if undecided.
        more: the number of further candidates.
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
    source: Reader, run: About, chances: Mapping[tuple[int, int, int], float], most: int
) -> list[Disputed]:
    """Return decisions of a run and its parts: those by a person, then the most doubtful ones.

    Args:
        source: the log.
        run: the run.
        chances: the probability that a winner is wrong, by its votes, the runner-up's and all votes.
        most: the maximum number of each kind.
    """
    names = await _names(source, run)
    wanted = json.dumps(list(names))
    rows = list(await source.rows("report_settled", wanted, most))
    rows += await source.rows("fold_doubtful", wanted, 0, _LARGEST, 2 * most)
    found: dict[tuple[int, int], Disputed] = {}
    for row in rows:
        if (row["run"], row["step"]) in found:
            continue
        chance = chances.get((row["votes"], row["votes"] - row["margin"], row["total"] or 0))
        [decided, *_] = await source.rows("view_openings", row["run"], row["step"], 1)
        found[row["run"], row["step"]] = _disputed(names[row["run"]], decided, chance)
    settled = [one for one in found.values() if one.author is not None]
    others = [one for one in found.values() if one.author is None]
    return settled[:most] + sorted(others, key=lambda one: -(one.wrong or 0))[:most]


async def _names(source: Reader, run: About) -> dict[int, str | None]:
    parts = await source.rows("report_parts", run.number, _PARTS) if run.children else []
    return {run.number: None, **{row["id"]: row["run_id"] for row in parts}}


def _disputed(part: str | None, row: Row, chance: float | None) -> Disputed:
    tally: dict[str, int] = json.loads(row["tally"] or "{}")
    tally.setdefault(row["winner"], 0)
    ranked = sorted(tally.items(), key=lambda item: (item[0] != row["winner"], -item[1], item[0]))
    candidates = [(answer, votes, answer == row["winner"]) for answer, votes in ranked]
    wrong = None if row["author"] is not None else chance
    return _cut(part, row, wrong, candidates)


def _cut(
    part: str | None, row: Row, wrong: float | None, candidates: Sequence[tuple[str, int, bool]]
) -> Disputed:
    shown = [(answer[:_CHARACTERS], votes, won) for answer, votes, won in candidates[:_CANDIDATES]]
    return Disputed(
        part,
        row["step"],
        row["input"][:_CHARACTERS],
        wrong,
        row["author"],
        row["reason"],
        shown,
        len(candidates) - len(shown),
    )


async def undecided(source: Reader, run: About, most: int) -> list[Disputed]:
    """Return the undecided steps of a run and its ended parts, with the replies that voted."""
    if run.dense and run.opened == run.decided and not run.children:
        return []
    names = await _names(source, run)
    found = []
    for row in await source.rows("report_undecided", json.dumps(list(names)), most):
        [opening, *_] = await source.rows("view_openings", row["run"], row["step"], 1)
        where = (row["run"], row["step"], opening["opening"], _SAMPLES, _CHARACTERS)
        votes: dict[str, list[Any]] = {}
        for sample in await source.rows("view_samples", *where):
            if sample["verdict"] == "vote":
                votes.setdefault(sample["answer_key"], [sample["body"] or "", 0])[1] += 1
        ranked = sorted(votes.values(), key=lambda one: -one[1])
        found.append(_cut(names[row["run"]], opening, None, [(text, count, False) for text, count in ranked]))
    return found
