"""The steps for people: decisions to review, the most doubtful first, and steps that wait for an answer."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mdap.audit.runs import find_number, plain_reading, samples_of, source_of
from mdap.journal.rulings import Claim
from mdap.journal.statements import query
from mdap.records import SampleTaken, TallyShape
from mdap.rules.certificate import doubts
from mdap.rules.digests import answer_key

__all__ = [
    "Candidate",
    "Claim",
    "Doubtful",
    "Ruling",
    "Settled",
    "Waiting",
    "doubtful",
    "doubts_of",
    "review",
    "undecided",
    "waiting",
]

_PLAIN: Final = ("run_id", "step", "key", "input", "doubt", "reason", "margin")

_DOUBT: Final = 0.01
"""The queue holds decisions with at least this probability of being wrong, given all votes of the run."""

_RUNS_SHOWN: Final = 50
_EACH: Final = 10
_LONGEST: Final = 50_000
"""For a longer run, the queue lists doubtful decisions only on request for that run: it takes a while."""


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


@dataclass(frozen=True, slots=True)
class Ruling:
    """A person's answer to a step.

    Attributes:
        answer: the answer as JSON, or ``candidate:`` and the key of an answer that was voted for.
        override: whether the step is already decided; None for either.
        claim: the number of the author's claim; None to claim the step now.
    """

    answer: str
    author: str
    reason: str
    override: bool | None = None
    claim: int | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The result of settling a step.

    Attributes:
        run_id: the run that continues: the step's own, or a new one that replaces it.
        step: the step.
        author: the person who settled it.
        goes_on: whether a process continues with the answer; if not, resume the run.
    """

    run_id: str
    step: int
    author: str
    goes_on: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Doubtful):
    """A step that waits for a person.

    Attributes:
        run: the run's number in the database.
        state: ``waiting``: its run waits for the answer; ``undecided``: its run ended without one;
            ``doubtful``: votes decided it, and may be wrong.
        claim: its current claim; None for none.
        ruled_by: author of an answer that no process has used yet; None for none.
    """

    state: Literal["waiting", "undecided", "doubtful"]
    claim: Claim | None = None
    ruled_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        claim = None if self.claim is None else self.claim.to_dict()
        own = {"run": self.run, "state": self.state, "claim": claim, "ruled_by": self.ruled_by}
        return {**Doubtful.to_dict(self), **own}


def waiting(db: str | Path, run_id: str | None = None, most: int = 50) -> list[Waiting]:
    """Return the steps that wait for a person, of the newest runs: undecided ones, then doubtful decisions.

    Args:
        db: path of the log.
        run_id: only those of this run and its parts: its id, a unique prefix of it, or ``latest``.
        most: the maximum number of steps.

    Raises:
        UsageError: there is no such run.
        DatabaseError: the log cannot be read.
    """
    with plain_reading(Path(db)) as connection:
        only = None if run_id is None else find_number(connection, run_id)
        runs = query(connection, "runs_to_settle", only, _RUNS_SHOWN).fetchall()
        overridden = {(run, step) for run, step in query(connection, "steps_overridden")}
        found: list[Waiting] = []
        for run, _ in runs:
            found += [_waiting(connection, one) for one in undecided(connection, run, most - len(found))]
        for run, status in runs:
            [decided] = query(connection, "count_decisions", run).fetchone()
            if status == "finished" and (run_id is not None or decided <= _LONGEST):
                each = min(_EACH, most - len(found))
                found += [_waiting(connection, one) for one in doubtful(connection, run, each, _DOUBT)]
    return [one for one in found if (one.run_id, one.step) not in overridden]


def _waiting(connection: sqlite3.Connection, one: Doubtful) -> Waiting:
    columns = {name: getattr(one, name) for name in Doubtful.__dataclass_fields__}
    at = (one.run, one.step)
    live = one.doubt is None and query(connection, "waits_for_person", *at).fetchone() is not None
    state: Any = "waiting" if live else "undecided" if one.doubt is None else "doubtful"
    row: Any = query(connection, "latest_claim", *at).fetchone() or (None,) * 5
    number, kind, author, until, live = row
    claim = Claim(number, author, until) if kind == "claimed" and live else None
    ruled = query(connection, "open_ruling", *at).fetchone() if one.doubt is None else None
    [ruled_by] = ruled or (None,)
    return Waiting(**columns, state=state, claim=claim, ruled_by=ruled_by)
