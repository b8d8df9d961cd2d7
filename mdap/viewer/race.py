"""A step's race, sample by sample."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Row
from typing import Final

from mdap.journal.reader import Reader
from mdap.rules.digests import answer_key
from mdap.rules.tally import Tally

CHARACTERS: Final = 4_000
"""The length at which a page cuts a reply."""

_SAMPLES: Final = 300
_LETTERS: Final = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class ShownCandidate:
    """An answer with votes: its canonical JSON, if the log has it, and the number of its first sample."""

    letter: str
    style: str
    key: str
    answer: str | None
    votes: int
    reply: int


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample, with the candidate that it voted for, if any, and the lead after it, if it was counted."""

    row: Row
    candidate: ShownCandidate | None
    lead: int | None


@dataclass(frozen=True, slots=True)
class ShownRace:
    """The race of a step, with its samples in the order of counting, uncounted ones last."""

    opening: Row
    candidates: list[ShownCandidate]
    entries: list[ShownSample]
    tentative: bool
    cut: bool

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """The winner's votes, its lead and all votes, if votes decided."""
        opening = self.opening
        if opening["place"] is None or opening["author"] is not None:
            return None
        return opening["votes"], opening["margin"], sum(json.loads(opening["tally"]).values())

    @property
    def outcome(self) -> str:
        """The outcome of the step, in a word."""
        return outcome_of(self.opening)


def outcome_of(opening: Row) -> str:
    """Return the outcome of a step, in a word, from the columns of an opening and its decision."""
    if opening["place"] is None:
        return "undecided"
    if opening["author"] is not None:
        return "overridden"
    if not opening["votes"]:
        return "noted"
    return "divided" if opening["votes"] > opening["margin"] else "unanimous"


async def race_of(source: Reader, run: int, opening: Row) -> ShownRace:
    """Return the race of an *opening* of a step of the run with the number *run*."""
    where = (run, opening["step"], opening["opening"], _SAMPLES + 1, CHARACTERS)
    taken = await source.rows("view_samples", *where)
    rows = taken or await source.rows("view_pending", *where)
    candidates = _candidates(opening, rows)
    entries: list[ShownSample] = []
    tally = Tally(1)
    for row in rows[:_SAMPLES]:
        voted = row["verdict"] == "vote"
        if voted and row["counted"] is not None:
            tally.add(row["answer_key"])
        lead = tally.lead if row["counted"] is not None else None
        entries.append(ShownSample(row, candidates.get(row["answer_key"]) if voted else None, lead))
    tentative = bool(rows) and not taken
    return ShownRace(opening, list(candidates.values()), entries, tentative, len(rows) > _SAMPLES)


def _candidates(opening: Row, rows: Sequence[Row]) -> dict[str, ShownCandidate]:
    votes: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row in rows:
        if row["verdict"] == "vote" and row["answer_key"]:
            votes[row["answer_key"]] += 1
            first.setdefault(row["answer_key"], row["ordinal"])
    tally = json.loads(opening["tally"] or "{}")
    spelled = {answer_key(answer): answer for answer in tally}
    found = {}
    for index, (key, count) in enumerate(votes.most_common()):
        letter = _LETTERS[index] if index < len(_LETTERS) else f"#{index + 1}"
        style = f"candidate-{min(index, 4)}"
        found[key] = ShownCandidate(letter, style, key, spelled.get(key), count, first[key])
    return found
