"""Read the rows of the log for an audit, in key order, a page at a time."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from mdap.audit.prompts import Sent, sent_between
from mdap.audit.runs import Place
from mdap.journal.logfile import reading
from mdap.journal.rows import decision_and_opening, sample_of
from mdap.journal.statements import query
from mdap.records import Decided, SampleTaken, StepOpened

__all__ = ["PAGE", "Page", "decided", "pages", "plain_reading", "samples_of", "undecided"]

_STEP: Final = attrgetter("step")
_OPENING: Final = attrgetter("step", "opening")

PAGE: Final = 500
"""Steps read in one transaction: short, so that a running run can checkpoint its log."""


class Page(NamedTuple):
    """Some steps of a run whose decision *n* decides step *n*.

    Attributes:
        steps: the numbers of the steps.
        decisions: their decisions, by place.
        openings: their openings, by step.
        samples: their samples, by step and opening.
        sent: their recorded prompts, by step and opening.
    """

    steps: range
    decisions: dict[int, Decided]
    openings: dict[int, list[StepOpened]]
    samples: dict[Place, list[SampleTaken]]
    sent: Mapping[Place, Sent]


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
        yield Page(
            range(*bounds[1:]),
            {decision.place: decision for decision in decided},
            {step: list(openings) for step, openings in opened},
            {place: list(taken) for place, taken in samples},
            sent_between(connection, *bounds),
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
