"""The decisions to review first: the most doubtful, each with its candidates and replies."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mdap.audit.runs import find_number, plain_reading, samples_of, source_of
from mdap.journal.statements import query
from mdap.records import SampleTaken, TallyShape
from mdap.rules.certificate import doubts
from mdap.rules.digests import answer_key

__all__ = ["Candidate", "Doubtful", "doubtful", "doubts_of", "review", "undecided"]


_PLAIN: Final = ("run_id", "step", "key", "input", "doubt", "reason", "margin")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer with votes.

    Attributes:
        answer: the answer, as JSON values; None in a step without a winner: the log has only replies for it.
        votes: its votes.
        won: whether it won.
        replies: model and text of each vote for it, in the order of the samples.
        key: the answer's key in the log.
    """

    answer: Any
    votes: int
    won: bool
    replies: tuple[tuple[str, str], ...]
    key: str


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A decision to review.

    Attributes:
        run_id: its run: the reviewed run or a part of it.
        doubt: the probability that its winner is wrong, given all votes of the run; None without a winner.
        margin: the winner's lead, or that of the best answer.
        candidates: the winner first.
        flags: model, reason and text of each discarded reply.
        reason: the reason for having no winner; None if it has one.
    """

    run_id: str
    step: int
    key: str
    input: Any
    doubt: float | None
    margin: int
    candidates: tuple[Candidate, ...]
    flags: tuple[tuple[str, str, str], ...]
    reason: str | None = None
    run: int = field(kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        candidates = [
            {
                **{name: getattr(one, name) for name in ("answer", "key", "votes", "won")},
                "replies": [{"model": model, "text": text} for model, text in one.replies],
            }
            for one in self.candidates
        ]
        flags = [{"model": model, "reason": why, "text": text} for model, why, text in self.flags]
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {**plain, "candidates": candidates, "flags": flags}


def _ranked(connection: sqlite3.Connection, run: int) -> list[tuple[TallyShape, float]]:
    """Return the tallies of a run and its parts, each with P(its winner is wrong), highest first."""
    return doubts([TallyShape(*row) for row in query(connection, "tallies", run)])


def doubts_of(connection: sqlite3.Connection, run: int) -> dict[tuple[int, int, int], float]:
    """Return the probability that a winner is wrong, by its votes, the runner-up's, and all votes.

    A decision copied from an overridden run keeps its probability from that run.
    """
    source = source_of(connection, run)
    known = {} if source is None else doubts_of(connection, source)
    own = {(shape.votes, shape.runner_up, shape.total): doubt for shape, doubt in _ranked(connection, run)}
    return {**known, **own}


def review(db: str | Path, run_id: str, most: int = 10) -> list[Doubtful]:
    """Return the steps to review in a run and its parts: undecided ones, then the most doubtful.

    Raises:
        UsageError: there is no such run.
        DatabaseError: the log cannot be read.
    """
    with plain_reading(Path(db)) as connection:
        run = find_number(connection, run_id)
        found = list(undecided(connection, run, most))
        return found + list(doubtful(connection, run, most - len(found)))


def doubtful(connection: sqlite3.Connection, run: int, most: int, least: float = 0.0) -> Iterator[Doubtful]:
    """Yield up to *most* decisions of a run and its parts that are wrong with probability *least* or more."""
    for shape, doubt in _ranked(connection, run):
        if most <= 0 or doubt < least:
            return
        tally = (shape.votes, shape.margin, shape.total)
        found = query(connection, "decisions_with_tally", run, *tally, most).fetchall()
        for *step, winner, votes, margin in found:
            most -= 1
            samples = _samples(connection, step)
            candidates = tuple(_candidates(winner, json.loads(votes), samples))
            yield _reviewed(step, samples, candidates, doubt=doubt, margin=margin)


def undecided(connection: sqlite3.Connection, run: int, most: int) -> Iterator[Doubtful]:
    """Yield up to *most* undecided steps of a run and its parts."""
    for *step, refused in query(connection, "undecided_and_sampled", run, most).fetchall():
        samples = _samples(connection, step)
        candidates = tuple(_unwon(samples))
        votes = [one.votes for one in candidates] + [0, 0]
        counted = sum(sample.counted is not None for sample in samples)
        reason = f"{counted} samples, none of which leads far enough"
        if refused is not None:
            [reason] = query(connection, "reason_of_event", refused).fetchone()
        margin = votes[0] - votes[1]
        yield _reviewed(step, samples, candidates, doubt=None, margin=margin, reason=reason)


def _samples(connection: sqlite3.Connection, place: list[Any]) -> list[SampleTaken]:
    _, number, step, opening, *_ = place
    return [row for row in samples_of(connection, number, step) if row.opening == opening]


def _reviewed(
    place: list[Any], samples: list[SampleTaken], candidates: tuple[Candidate, ...], **columns: Any
) -> Doubtful:
    run_id, run, step, _, key, text = place
    flags = [(row.model, row.flag_reason or "", row.text or "") for row in samples if row.verdict == "flag"]
    about = (key or str(step), json.loads(text or "null"))
    return Doubtful(run_id, step, *about, candidates=candidates, flags=tuple(flags), run=run, **columns)


def _unwon(samples: list[SampleTaken]) -> Iterator[Candidate]:
    voted = [row for row in samples if row.verdict == "vote"]
    for key, votes in Counter(row.answer_key for row in voted).most_common():
        replies = tuple((row.model, row.text or "") for row in voted if row.answer_key == key)
        yield Candidate(None, votes, won=False, replies=replies, key=key or "")


def _candidates(winner: str, tally: dict[str, int], samples: list[SampleTaken]) -> Iterator[Candidate]:
    for answer, votes in sorted(tally.items(), key=lambda pair: (pair[0] != winner, -pair[1], pair[0])):
        key = answer_key(answer)
        voters = [row for row in samples if row.verdict == "vote" and row.answer_key == key]
        replies = tuple((row.model, row.text or "") for row in voters)
        yield Candidate(json.loads(answer), votes, answer == winner, replies, key)
