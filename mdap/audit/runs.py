"""What an audit must know of a run before it looks at its steps: all of it from the run's row."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from mdap.audit.budget import Charges, charges_of
from mdap.errors import DatabaseError, RunNotFoundError, UsageError
from mdap.rules.presence import Absence
from mdap.rules.schedule import SampleSchedule, schedule_of, tiers_of
from mdap.settings import VotingSettings

__all__ = ["Place", "Refusal", "RunFacts", "find_number", "run_facts", "source_of"]

Place = tuple[int, int]
"""A step, and which opening of it."""

_COLUMNS = "id, run_id, kind, task, task_version, params, settings, provider, k"

_LAST_STATUS: Final = """SELECT kind, reason FROM run_events WHERE run = ?1 AND kind IN
    ('started', 'resumed', 'finished', 'undecided', 'stopped', 'failed') ORDER BY id DESC LIMIT 1"""

_REFUSED: Final = ("step", "opening", "member", "view", "views", "tier", "model", "reason")


class Refusal(NamedTuple):
    """What is recorded of a model that would not answer a step."""

    member: int
    view: int
    views: int
    tier: int
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run as its row describes it.

    Attributes:
        number: its key in the other tables.
        sent: temperatures by member, of those that were sent another one than the schedule's.
        decisions: how many decisions it had when the audit began.
        charges: what it paid out of its error budget; None if it has none.
        source: the run that it took over, to decide a step otherwise; None if it did not.
        overridden: that step; None if it did not, or the step is of a nested run that it has no result of.
        refusals: by step and opening, who refused to answer it, in order.
        escalated: by step and opening, the tier to which it went.
        absences: who was left out as the run went on, in order.
        failure: why it failed; None if it did not.
        prompts: whether the run records its prompts; None: those of a process. False for a run that an
            earlier version began.
    """

    number: int
    run_id: str
    kind: str
    task: str
    task_version: str
    params: dict[str, Any]
    voting: VotingSettings
    tiers: tuple[tuple[int, ...], ...]
    sent: dict[int, tuple[float | None, ...]]
    k: int
    decisions: int
    charges: Charges | None = None
    source: int | None = None
    overridden: int | None = None
    refusals: Mapping[Place, tuple[Refusal, ...]] = field(default_factory=dict)
    escalated: Mapping[Place, int] = field(default_factory=dict)
    absences: tuple[Absence, ...] = ()
    failure: str | None = None
    prompts: bool | None = False

    @property
    def schedule(self) -> SampleSchedule:
        """Who was asked for which sample, with everyone there."""
        return schedule_of(self.voting, self.tiers, sent=self.sent)

    def schedules(self) -> Iterator[SampleSchedule]:
        """Yield who was asked for which sample, before anyone was left out and after each who was."""
        for count in range(len(self.absences) + 1):
            schedule = self.schedule
            for absence in self.absences[:count]:
                schedule.leave_out(absence.member, absence.tier)
            yield schedule

    def views(self, place: Place, key: str, ordinal: int, views: int) -> set[int]:
        """Return the views that sample *ordinal* of an opening of so many *views* may have been shown."""
        turns = [(refusal.member, refusal.view) for refusal in self.refusals.get(place, ())]
        sets = [frozenset(turns[:count]) for count in range(len(turns) + 1)]
        return {
            schedule.part(ordinal, views, refused, key).view
            for schedule in self.schedules()
            for refused in sets
        }

    def closed(self, place: Place, tier: int) -> bool:
        """Return whether nobody of a *tier* could be asked for an opening any more, at the end."""
        refusals = self.refusals.get(place, ())
        views = max((refusal.views for refusal in refusals), default=1)
        *_, schedule = self.schedules()
        return schedule.closed(tier, views, frozenset((one.member, one.view) for one in refusals))


def find_number(connection: sqlite3.Connection, name: str) -> int:
    """Return the number of the run called *name*: its id, a unique beginning of it, or ``latest``.

    Raises:
        RunNotFoundError: there is no such run.
        UsageError: there are several.
    """
    rows = connection.execute("SELECT id FROM runs WHERE run_id = ?1", (name,)).fetchall()
    whole = "kind IN ('run', 'batch') AND parent IS NULL"
    if not rows and name == "latest":
        rows = connection.execute(f"SELECT id FROM runs WHERE {whole} ORDER BY id DESC LIMIT 1").fetchall()
    elif not rows:
        begins = f"SELECT id FROM runs WHERE {whole} AND substr(run_id, 1, length(?1)) = ?1 LIMIT 2"
        rows = connection.execute(begins, (name,)).fetchall()
    if len(rows) > 1:
        raise UsageError(f"several runs begin with {name!r}: name one in full (see `mdap runs`)")
    if not rows:
        raise RunNotFoundError(f"there is no run {name!r} in this log: `mdap runs` lists those there are")
    return int(rows[0][0])


def run_facts(connection: sqlite3.Connection, number: int) -> RunFacts:
    """Return the run with that *number*.

    Raises:
        DatabaseError: its row cannot be read.
    """
    row = connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?1", (number,)).fetchone()
    sql = "SELECT coalesce(max(place) + 1, 0) FROM decisions WHERE run = ?1"
    [decisions] = connection.execute(sql, (number,)).fetchone()
    facts = _facts(tuple(row), decisions)
    charges = charges_of(connection, number, facts.voting)
    refusals: dict[Place, tuple[Refusal, ...]] = {}
    for step, opening, *refusal in _events(connection, facts, "refused", _REFUSED):
        refusals[step, opening] = (*refusals.get((step, opening), ()), Refusal(*refusal))
    escalated: dict[Place, int] = {}
    for step, opening, tier in _events(connection, facts, "escalated", ("step", "opening", "tier")):
        escalated[step, opening] = max(tier, escalated.get((step, opening), 0))
    absences = _events(connection, facts, "left_out", ("member", "tier"))
    source, overridden = _overridden(connection, number)
    return replace(
        facts,
        charges=charges,
        source=source,
        overridden=overridden,
        refusals=refusals,
        escalated=escalated,
        absences=tuple(Absence(member, tier, "") for member, tier in absences),
        failure=_failure(connection, number),
    )


def _failure(connection: sqlite3.Connection, number: int) -> str | None:
    kind, reason = connection.execute(_LAST_STATUS, (number,)).fetchone() or (None, None)
    return str(reason) if kind == "failed" else None


def _events(
    connection: sqlite3.Connection, facts: RunFacts, kind: str, names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Return of each event of a *kind* the data of these *names*, and its reason by that name.

    Those that are not as mdap wrote them are left out: the audit of events says so.
    """
    sql = "SELECT reason, data FROM run_events WHERE run = ?1 AND kind = ?2 ORDER BY id"
    found = []
    for reason, text in connection.execute(sql, (facts.number, kind)):
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            data = {**json.loads(text), "reason": reason}
            found.append(tuple(data[name] for name in names))
    return found


def source_of(connection: sqlite3.Connection, run: int) -> int | None:
    """Return the number of the run that *run* took over, to decide a step otherwise; None if it did not."""
    return _overridden(connection, run)[0]


def _overridden(connection: sqlite3.Connection, run: int) -> tuple[int | None, int | None]:
    sql = "SELECT data FROM run_events WHERE run = ?1 AND kind = 'started' ORDER BY id LIMIT 1"
    row = connection.execute(sql, (run,)).fetchone()
    try:
        about = json.loads(row[0]) if row is not None and row[0] else {}
        if "overrides" not in about:
            return None, None
        sql = "SELECT id FROM runs WHERE run_id = ?1 AND id < ?2"
        source = connection.execute(sql, (str(about["overrides"]), run)).fetchone()
        return None if source is None else source[0], None if about["step"] is None else int(about["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, None  # the audit of events says that it is not as mdap wrote it


def _facts(row: tuple[Any, ...], decisions: int) -> RunFacts:
    number, run_id, kind, task, version, params, settings, provider, k = row
    try:
        models = json.loads(provider)
        tiers = tiers_of(models["models"], models["escalate_to"])[1]
        sent = _sent(models["about"])
        given_settings = json.loads(settings)
        voting = VotingSettings.recorded(given_settings)
        prompts = voting.record_prompts if "record_prompts" in given_settings else False
        given = dict(json.loads(params))
        if k < 1:
            raise ValueError(k)
        return RunFacts(
            number, run_id, kind, task, version, given, voting, tiers, sent, k, decisions, prompts=prompts
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DatabaseError(
            f"the row of run {run_id} in the table runs is not as mdap wrote it: restore a copy of the log"
        ) from None


def _sent(about: dict[str, Any]) -> dict[int, tuple[float | None, ...]]:
    """Return the temperatures that a user had sent in place of the schedule's, by member."""
    bodies = [member.get("extra_body", {}) for member in about.get("members", [about])]
    return {
        place: (float(body["temperature"]),)
        for place, body in enumerate(bodies)
        if isinstance(body.get("temperature"), int | float)
    }
