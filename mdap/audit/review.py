"""The decisions to look at first: the most doubtful, each with its candidates and what was replied."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdap.audit.rows import plain_reading, samples_of
from mdap.audit.runs import find_number
from mdap.records import SampleTaken, TallyShape
from mdap.rules.certificate import doubts
from mdap.rules.digests import answer_key

__all__ = ["Candidate", "Doubtful", "review"]

_TREE: Final = """
WITH RECURSIVE tree(run) AS (SELECT ?1 UNION SELECT r.id FROM runs r JOIN tree ON r.parent = tree.run)"""
# Where the margin is the winner's votes, nobody else has any.
_TOTAL: Final = """
CASE d.margin WHEN d.votes THEN d.votes ELSE (SELECT sum(value) FROM json_each(d.tally)) END"""
_SHAPES: Final = f"""{_TREE}
SELECT d.votes, d.votes - d.margin, {_TOTAL}, count(*)
FROM tree CROSS JOIN decisions d ON d.run = tree.run WHERE d.author IS NULL GROUP BY 1, 2, 3"""
_ALIKE: Final = f"""{_TREE}
SELECT r.run_id, d.run, d.step, d.opening, p.key, p.input, d.winner, d.tally, d.margin
FROM tree CROSS JOIN decisions d ON d.run = tree.run JOIN runs r ON r.id = d.run
LEFT JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening
WHERE d.author IS NULL AND d.votes = ?2 AND d.margin = ?3 AND {_TOTAL} = ?4
ORDER BY d.run, d.place LIMIT ?5"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that somebody voted for.

    Attributes:
        answer: the answer, as JSON values.
        votes: its votes.
        won: whether it was decided.
        replies: model and text of each vote for it, in the order of the samples.
    """

    answer: Any
    votes: int
    won: bool
    replies: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A decision to look at.

    Attributes:
        run_id: the run it is of: the one that was asked for, or a part of it.
        step: its step.
        key: the step's name in its run.
        input: what the step was about, as JSON values.
        doubt: the chance that its winner is wrong, going by all votes of the run.
        margin: the winner's lead.
        candidates: the winner first.
        flags: model, reason and text of each reply that was discarded.
    """

    run_id: str
    step: int
    key: str
    input: Any
    doubt: float
    margin: int
    candidates: tuple[Candidate, ...]
    flags: tuple[tuple[str, str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "run_id": self.run_id,
            "step": self.step,
            "key": self.key,
            "input": self.input,
            "doubt": self.doubt,
            "margin": self.margin,
            "candidates": [
                {
                    "answer": one.answer,
                    "votes": one.votes,
                    "won": one.won,
                    "replies": [{"model": model, "text": text} for model, text in one.replies],
                }
                for one in self.candidates
            ],
            "flags": [{"model": model, "reason": why, "text": text} for model, why, text in self.flags],
        }


def review(db: str | Path, run_id: str, most: int = 10) -> list[Doubtful]:
    """Return the decisions of a run, and of its parts, that are the most likely to be wrong.

    Args:
        db: path of the log.
        run_id: the run's id, a unique beginning of it, or ``latest``.
        most: how many at most.

    Raises:
        UsageError: there is no such run.
        DatabaseError: the log cannot be read.
    """
    with plain_reading(Path(db)) as connection:
        run = find_number(connection, run_id)
        shapes = [TallyShape(*row) for row in connection.execute(_SHAPES, (run,))]
        found: list[Doubtful] = []
        for shape, doubt in doubts(shapes) if shapes else ():
            if len(found) >= most:
                break
            found += _alike(connection, run, shape, (doubt, most - len(found)))
    return found


def _alike(
    connection: sqlite3.Connection, run: int, shape: TallyShape, wanted: tuple[float, int]
) -> Iterator[Doubtful]:
    doubt, most = wanted
    rows = connection.execute(_ALIKE, (run, shape.votes, shape.margin, shape.total, most)).fetchall()
    for run_id, number, step, opening, key, text, winner, tally, margin in rows:
        samples = [row for row in samples_of(connection, number, step) if row.opening == opening]
        yield Doubtful(
            run_id=run_id,
            step=step,
            key=key or str(step),
            input=json.loads(text or "null"),
            doubt=doubt,
            margin=margin,
            candidates=tuple(_candidates(winner, json.loads(tally), samples)),
            flags=tuple(
                (row.model, row.flag_reason or "", row.text or "") for row in samples if row.verdict == "flag"
            ),
        )


def _candidates(winner: str, tally: dict[str, int], samples: list[SampleTaken]) -> Iterator[Candidate]:
    for answer, votes in sorted(tally.items(), key=lambda pair: (pair[0] != winner, -pair[1], pair[0])):
        key = answer_key(answer)
        voters = [row for row in samples if row.verdict == "vote" and row.answer_key == key]
        replies = tuple((row.model, row.text or "") for row in voters)
        yield Candidate(json.loads(answer), votes, answer == winner, replies)
