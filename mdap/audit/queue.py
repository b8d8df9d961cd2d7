"""The steps that wait for a person: undecided steps and the most doubtful decisions."""

import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mdap.audit.review import Doubtful, doubtful, undecided
from mdap.audit.runs import find_number, plain_reading
from mdap.journal.rulings import Claim
from mdap.journal.statements import query

__all__ = ["Claim", "Ruling", "Settled", "Waiting", "waiting"]

_DOUBT: Final = 0.01
"""The queue holds decisions with at least this probability of being wrong, given all votes of the run."""

_RUNS_SHOWN: Final = 50
_EACH: Final = 10
_LONGEST: Final = 50_000
"""For a longer run, the queue lists doubtful decisions only on request for that run: it takes a while."""


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
