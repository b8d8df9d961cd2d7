"""Read a run for an audit: first the facts in its row and events, then its rows, a page at a time."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from mdap.audit.budget import Charges, charges_of
from mdap.journal.logfile import reading
from mdap.journal.rows import RunRow, decision_and_opening, not_ours, run_numbered, sample_of, the_one
from mdap.journal.statements import query
from mdap.records import Decided, PromptSent, SampleTaken, StepOpened, encodable
from mdap.rules.presence import Absence
from mdap.rules.schedule import SampleSchedule, schedule_of, tiers_of
from mdap.settings import VotingSettings

Place = tuple[int, int]
"""A step and the number of its opening."""

_STEP: Final = attrgetter("step")
_OPENING: Final = attrgetter("step", "opening")

PAGE: Final = 500
"""Steps read in one transaction: short, so that a running run can checkpoint its log."""

_REFUSED: Final = ("step", "opening", "member", "view", "views", "tier", "model", "reason")


class RecordedRefusal(NamedTuple):
    """The record of a model that refused a step."""

    member: int
    view: int
    views: int
    tier: int
    model: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts(RunRow):
    """A run, from its row and its events.

    Attributes:
        sent: temperatures by member, where they differ from the schedule.
        overridden: the overridden step; None for none, or in a nested run without a result.
        refusals: by step and opening, the models that refused it, in order.
        escalated: by step and opening, the tier it escalated to.
        prompts: whether the run records its prompts; None records those of processes only. False for a run
            that an earlier version began.
    """

    voting: VotingSettings
    tiers: tuple[tuple[int, ...], ...]
    sent: dict[int, tuple[float | None, ...]]
    decisions: int
    charges: Charges | None
    source: int | None
    overridden: int | None
    refusals: Mapping[Place, tuple[RecordedRefusal, ...]]
    escalated: Mapping[Place, int]
    absences: tuple[Absence, ...]
    failure: str | None
    prompts: bool | None

    @property
    def schedule(self) -> SampleSchedule:
        """The model for each sample while all models are available."""
        return schedule_of(self.voting, self.tiers, sent=self.sent)

    def schedules(self) -> Iterator[SampleSchedule]:
        """Yield the schedule of samples, at first and after each dropped model."""
        for count in range(len(self.absences) + 1):
            schedule = self.schedule
            for absence in self.absences[:count]:
                schedule.leave_out(absence.member, absence.tier)
            yield schedule

    def views(self, place: Place, key: str, ordinal: int, views: int) -> set[int]:
        """Return the views that sample *ordinal* of an opening with that number of *views* may have used."""
        turns = [(refusal.member, refusal.view) for refusal in self.refusals.get(place, ())]
        sets = [frozenset(turns[:count]) for count in range(len(turns) + 1)]
        return {
            schedule.part(ordinal, views, refused, key).view
            for schedule in self.schedules()
            for refused in sets
        }

    def closed(self, place: Place, tier: int) -> bool:
        """Return whether no model of a *tier* was available for an opening at the end."""
        refusals = self.refusals.get(place, ())
        views = max((refusal.views for refusal in refusals), default=1)
        *_, schedule = self.schedules()
        return schedule.closed(tier, views, frozenset((one.member, one.view) for one in refusals))


def find_number(connection: sqlite3.Connection, name: str) -> int:
    """Return the number of the run called *name*: its id, a unique prefix of it, or ``latest``.

    Raises:
        RunNotFoundError: there is no such run.
        UsageError: there are several.
    """
    return the_one([number for (number,) in query(connection, "find", encodable(name))], name, "this log")


def run_facts(connection: sqlite3.Connection, number: int) -> RunFacts:
    """Return the run with that *number*; raise DatabaseError if its row cannot be read."""
    [decisions] = query(connection, "last_place", number).fetchone()
    row = run_numbered(connection, number)
    try:
        _, tiers = tiers_of(row.provider["models"], row.provider["escalate_to"])
        voting, sent = VotingSettings.recorded(row.settings), _sent(row.provider["about"])
        if row.k < 1 or not isinstance(row.params, dict):
            raise ValueError(row)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise not_ours(row.run_id) from None
    charges = charges_of(connection, number, voting)
    refusals: dict[Place, tuple[RecordedRefusal, ...]] = {}
    for step, opening, *refusal in _events(connection, number, "refused", _REFUSED):
        refusals[step, opening] = (*refusals.get((step, opening), ()), RecordedRefusal(*refusal))
    escalated: dict[Place, int] = {}
    for step, opening, tier in _events(connection, number, "escalated", ("step", "opening", "tier")):
        escalated[step, opening] = max(tier, escalated.get((step, opening), 0))
    absences = _events(connection, number, "left_out", ("member", "tier"))
    source, overridden = _overridden(connection, number)
    kind, reason = query(connection, "last_status", number).fetchone() or (None, None)
    return RunFacts(
        **row.columns(),
        voting=voting,
        tiers=tiers,
        sent=sent,
        decisions=decisions,
        charges=charges,
        source=source,
        overridden=overridden,
        refusals=refusals,
        escalated=escalated,
        absences=tuple(Absence(member, tier, "") for member, tier in absences),
        failure=str(reason) if kind == "failed" else None,
        prompts=voting.record_prompts if "record_prompts" in row.settings else False,
    )


def _events(
    connection: sqlite3.Connection, run: int, kind: str, names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Return the data fields *names*, and the reason, of each event of a *kind*.

    It skips changed events: the check of the events reports them.
    """
    found = []
    for reason, text in query(connection, "events_of_kind", run, kind):
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            data = {**json.loads(text), "reason": reason}
            found.append(tuple(data[name] for name in names))
    return found


def source_of(connection: sqlite3.Connection, run: int) -> int | None:
    """Return the number of the run that *run* overrides; None if it overrides none."""
    source, _ = _overridden(connection, run)
    return source


def _overridden(connection: sqlite3.Connection, run: int) -> tuple[int | None, int | None]:
    _, data = query(connection, "events_of_kind", run, "started").fetchone() or (None, None)
    try:
        about = json.loads(data) if data else {}
        if "overrides" not in about:
            return None, None
        [source] = query(connection, "run_called", str(about["overrides"])).fetchone() or (None,)
        earlier = source is not None and source < run
        return source if earlier else None, None if about["step"] is None else int(about["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, None  # the check of the events reports the change


def _sent(about: dict[str, Any]) -> dict[int, tuple[float | None, ...]]:
    """Return the temperatures that a user set instead of the schedule's, by member."""
    bodies = [member.get("extra_body", {}) for member in about.get("members", [about])]
    return {
        place: (float(body["temperature"]),)
        for place, body in enumerate(bodies)
        if isinstance(body.get("temperature"), int | float)
    }


class Page(NamedTuple):
    """Some steps of a run whose decision *n* decides step *n*: all their rows, by place of the row."""

    steps: range
    decisions: dict[int, Decided]
    openings: dict[int, list[StepOpened]]
    samples: dict[Place, list[SampleTaken]]
    sent: dict[Place, list[PromptSent]]


@contextmanager
def plain_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the log with rows as tuples."""
    with reading(path) as connection:
        connection.row_factory = None
        # The digest check finds bytes that are not valid text; reading them must not end the audit.
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        connection.execute("PRAGMA cache_size = -16384")
        yield connection


def pages(connection: sqlite3.Connection, run: int, first: int, last: int) -> Iterator[Page]:
    """Yield the steps from *first* to before *last*, page by page."""
    for start in range(first, last, PAGE):
        bounds = (run, start, min(start + PAGE, last))
        decided = map(Decided._make, query(connection, "decisions_between", *bounds))
        opened = groupby(map(StepOpened._make, query(connection, "openings_between", *bounds)), _STEP)
        samples = groupby(map(sample_of, query(connection, "samples_between", *bounds)), _OPENING)
        prompts = groupby(map(PromptSent._make, query(connection, "prompts_between", *bounds)), _OPENING)
        yield Page(
            range(*bounds[1:]),
            {decision.place: decision for decision in decided},
            {step: list(openings) for step, openings in opened},
            {place: list(taken) for place, taken in samples},
            {place: list(sent) for place, sent in prompts},
        )


def decided(connection: sqlite3.Connection, run: int) -> Iterator[tuple[Decided, StepOpened | None]]:
    """Yield the decisions of a run in their order, each with its opening."""
    place = 0
    while rows := query(connection, "decisions_with_openings", run, place, PAGE).fetchall():
        for decision, opened in map(decision_and_opening, rows):
            yield decision, opened
            place = decision.place + 1


def undecided(connection: sqlite3.Connection, run: int) -> list[StepOpened]:
    """Return the openings of a run that have no decision."""
    return list(map(StepOpened._make, query(connection, "openings_undecided", run)))


def samples_of(connection: sqlite3.Connection, run: int, step: int) -> list[SampleTaken]:
    """Return the samples of a step, by opening and ordinal."""
    return list(map(sample_of, query(connection, "samples_between", run, step, step + 1)))
