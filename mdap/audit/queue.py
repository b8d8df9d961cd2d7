"""The steps that wait for a person: those that voting left undecided, and the most doubtful decisions."""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mdap.audit.doubts import TREE
from mdap.audit.review import Doubtful, doubtful, undecided
from mdap.audit.rows import plain_reading
from mdap.audit.runs import find_number

__all__ = ["Claim", "Ruling", "Settled", "Waiting", "waiting"]

_DOUBT: Final = 0.01
"""A decision is in the queue if it is wrong with at least this chance, going by all votes of its run."""

_RUNS_SHOWN: Final = 50
_EACH: Final = 10
_LONGEST: Final = 50_000
"""Of a longer run, doubtful decisions are only looked for where that run is asked for: it takes a while."""

_RUNS: Final = """
SELECT r.id, (SELECT e.kind FROM run_events e WHERE e.run = r.id AND e.kind IN
        ('started', 'resumed', 'finished', 'undecided', 'stopped', 'failed') ORDER BY e.id DESC LIMIT 1)
FROM runs r WHERE r.id = ?1 OR ?1 IS NULL AND r.parent IS NULL AND r.kind IN ('run', 'batch')
ORDER BY r.id DESC LIMIT ?2"""
_DECIDED: Final = f"""{TREE}
SELECT total((SELECT max(place) + 1 FROM decisions d WHERE d.run = tree.run)) FROM tree"""
_CLAIM: Final = """
SELECT id, kind, author, until, until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now') FROM rulings
WHERE run = ?1 AND step = ?2 AND kind IN ('claimed', 'released', 'settled') ORDER BY id DESC LIMIT 1"""
_RULED: Final = """
SELECT author FROM rulings r WHERE run = ?1 AND step = ?2 AND kind = 'ruled'
AND NOT EXISTS (SELECT 1 FROM rulings o WHERE o.run = r.run AND o.step = r.step AND o.about = r.id)
ORDER BY id DESC LIMIT 1"""
_OVERRIDDEN: Final = """
SELECT DISTINCT e.data->>'overrides', e.data->>'step' FROM runs r CROSS JOIN run_events e
WHERE e.run = r.id AND e.kind = 'started' AND json_valid(e.data) AND e.data->>'overrides' IS NOT NULL"""
_WAITS: Final = """
SELECT 1 FROM run_events WHERE run = ?1 AND kind = 'waiting' AND data->>'step' = ?2 AND id > coalesce((
    SELECT max(id) FROM run_events WHERE run = ?1 AND kind IN
    ('started', 'resumed', 'finished', 'undecided', 'stopped', 'failed')), 0) LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Claim:
    """That a person is at a step.

    Attributes:
        number: by which that person shows that the claim is theirs.
        author: who has the step.
        until: when the claim ends by itself, in UTC.
    """

    number: int
    author: str
    until: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"claim": self.number, "author": self.author, "until": self.until}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a person says of a step.

    Attributes:
        answer: the answer as JSON, or ``candidate:`` and the key of an answer that was voted for.
        author: who decides.
        reason: why so.
        override: whether the step is one that is decided; None for either.
        claim: the number of the author's claim; None to claim the step now.
    """

    answer: str
    author: str
    reason: str
    override: bool | None = None
    claim: int | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of settling a step.

    Attributes:
        run_id: the run that goes on: the step's own, or one that takes over from it.
        step: the step.
        author: who settled it.
        goes_on: whether a process took the answer up and goes on from it; if not, resume the run.
    """

    run_id: str
    step: int
    author: str
    goes_on: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"run_id": self.run_id, "step": self.step, "author": self.author, "goes_on": self.goes_on}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Doubtful):
    """A step that waits for a person.

    Attributes:
        run: the run's number in the database.
        state: ``waiting``: its run waits for the answer; ``undecided``: its run ended without one;
            ``doubtful``: votes decided it, and may be wrong.
        claim: who has it; None for nobody.
        ruled_by: who gave an answer that no process has taken up yet; None for nobody.
    """

    run: int
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
        run_id: only those of this run and its parts: its id, a unique beginning of it, or ``latest``.
        most: how many at most.

    Raises:
        UsageError: there is no such run.
        DatabaseError: the log cannot be read.
    """
    with plain_reading(Path(db)) as connection:
        only = None if run_id is None else find_number(connection, run_id)
        runs = connection.execute(_RUNS, (only, _RUNS_SHOWN)).fetchall()
        overridden = {(run, step) for run, step in connection.execute(_OVERRIDDEN)}
        found: list[Waiting] = []
        for run, _ in runs:
            found += _waiting(connection, list(undecided(connection, run, most - len(found))))
        for run, status in runs:
            if status == "finished" and (run_id is not None or _is_short(connection, run)):
                each = min(_EACH, most - len(found))
                found += _waiting(connection, list(doubtful(connection, run, each, _DOUBT)))
    return [one for one in found if (one.run_id, one.step) not in overridden]


def _is_short(connection: sqlite3.Connection, run: int) -> bool:
    [(decided,)] = connection.execute(_DECIDED, (run,)).fetchall()
    return bool(decided <= _LONGEST)


def _waiting(connection: sqlite3.Connection, found: list[Doubtful]) -> list[Waiting]:
    numbers = dict(
        connection.execute(
            "SELECT run_id, id FROM runs WHERE run_id IN (SELECT value FROM json_each(?1))",
            (json.dumps([one.run_id for one in found]),),
        )
    )
    return [_stands(connection, numbers[one.run_id], one) for one in found]


def _stands(connection: sqlite3.Connection, run: int, one: Doubtful) -> Waiting:
    columns = {name: getattr(one, name) for name in Doubtful.__dataclass_fields__}
    at = (run, one.step)
    live = one.doubt is None and connection.execute(_WAITS, at).fetchone() is not None
    state: Any = "waiting" if live else "undecided" if one.doubt is None else "doubtful"
    row = connection.execute(_CLAIM, at).fetchone()
    claim = Claim(row[0], row[2], row[3]) if row is not None and row[1] == "claimed" and row[4] else None
    ruled = connection.execute(_RULED, at).fetchone() if one.doubt is None else None
    return Waiting(**columns, run=run, state=state, claim=claim, ruled_by=None if ruled is None else ruled[0])
