"""Rows of the log as values: the only module that maps columns to fields."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from mdap.errors import DatabaseError, RunNotFoundError, UsageError
from mdap.journal.statements import query
from mdap.records import Decided, RunStatus, SampleTaken, StepOpened, StopCause
from mdap.rules.money import cost_of
from mdap.settings import Price

Row = sqlite3.Row | tuple[Any, ...]

ENDED: Final = (RunStatus.FINISHED, RunStatus.UNDECIDED, RunStatus.STOPPED, RunStatus.FAILED)
"""The statuses of an ended run; the events that set them have these names."""

_STOP_CAUSES: Final = {str(cause): cause for cause in StopCause}
_DECISION: Final = len(Decided._fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One row of *runs*, with the run's status.

    Attributes:
        number: the run's key in the other tables.
        parent: the number of the run that it is a part of; None for none.
        status: *running* also after its process was killed.
        stop_cause: the recorded cause of an end without a result; None if not recorded.
        outcome: the task's verdict on its result, ``solved`` or ``unsolved``; None for none.
    """

    number: int
    run_id: str
    kind: str
    parent: int | None
    task: str
    task_version: str
    params: dict[str, Any]
    settings: dict[str, Any]
    provider: dict[str, Any]
    k: int
    mdap_version: str
    created_at: str
    status: RunStatus
    stop_cause: StopCause | None = None
    outcome: str | None = None

    def columns(self) -> dict[str, Any]:
        """Return these fields by their names, for a class that adds others."""
        return {name: getattr(self, name) for name in RunRow.__dataclass_fields__}


@lru_cache(maxsize=1024)
def prices_of(text: str | None) -> dict[str, Price]:
    """Return the recorded prices of a session, by model."""
    return {model: Price(**price) for model, price in json.loads(text or "{}").items()}


class Billed(NamedTuple):
    """Tokens of one model billed outside the samples of steps: by a ``probe``, or an ``attempt_failed``."""

    kind: str
    model: str | None
    samples: int
    failed_attempts: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int

    @property
    def purpose(self) -> str:
        """The purpose of the request, in a few words."""
        return "for the probe" if self.kind == "probe" else "in answers that cannot be read"

    def cost(self, prices: Mapping[str, Price]) -> float | None:
        """Return its price in USD; None where the model has none."""
        price = prices.get(self.model or "")
        return None if price is None else cost_of(price, self)


class DecidedOpening(NamedTuple):
    """The first opening of a step of a process, with its decision: a row of *first_opening*."""

    input: str
    winner: str
    tally: str
    reason: str | None
    author: str | None


def not_ours(run_id: str) -> DatabaseError:
    """Return the error for a run whose row another program has changed."""
    what = f"the row of run {run_id} in the table runs is not as mdap wrote it"
    return DatabaseError(f"{what}: restore a copy of the log")


def status_of(last_event: str | None) -> RunStatus:
    """Return a run's status, from the last event that changed it."""
    return RunStatus(last_event) if last_event in ENDED else RunStatus.RUNNING


def run_row(row: sqlite3.Row) -> RunRow:
    """Return a row of ``{run}``, see ``fragments.sql``."""
    columns = {name: value for name, value in dict(row).items() if name in RunRow.__dataclass_fields__}
    columns |= {name: json.loads(row[name]) for name in ("params", "settings", "provider")}
    columns["stop_cause"] = _STOP_CAUSES.get(row["stop_cause"])
    return RunRow(number=row["id"], status=status_of(row["last_event"]), **columns)


def run_numbered(connection: sqlite3.Connection, number: int) -> RunRow:
    """Return the run with that *number*; raise DatabaseError if its row cannot be read."""
    found = query(connection, "run_of", number)
    found.row_factory = sqlite3.Row
    row = found.fetchone()
    try:
        return run_row(row)
    except (ValueError, TypeError, RecursionError):
        raise not_ours(row["run_id"]) from None


def the_one(numbers: Sequence[int], name: str, where: object) -> int:
    """Return the number that the statement *find* gives for the *name* of a run.

    Raises:
        RunNotFoundError: there is none.
        UsageError: there are several.
    """
    if len(numbers) > 1:
        raise UsageError(f"several runs begin with {name!r}: name one in full (see `mdap runs`)")
    if not numbers:
        raise RunNotFoundError(f"there is no run {name!r} in {where}: `mdap runs` lists those there are")
    return numbers[0]


def decision_and_opening(row: Row) -> tuple[Decided, StepOpened | None]:
    """Return a row of ``{decision}, {opening}``; None where there is no opening."""
    opening = row[_DECISION:]
    return Decided._make(row[:_DECISION]), None if opening[0] is None else StepOpened._make(opening)


def sample_of(row: Iterable[Any]) -> SampleTaken:
    """Return a row of ``{sample}``."""
    return SampleTaken(*row)
