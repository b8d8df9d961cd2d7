"""The rows of the log as an audit reads them: by the key of their table, a page at a time."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Final, NamedTuple

from mdap.audit.prompts import Sent, sent_between
from mdap.logfile import SAMPLE, TEXTS, reading
from mdap.records import Decided, SampleTaken, StepOpened

__all__ = ["PAGE", "Page", "decided", "pages", "plain_reading", "samples_of", "undecided"]

PAGE: Final = 500
"""Steps read in one transaction: it ends soon, so that a run that is going on can checkpoint its log."""

_DECISIONS: Final = """
SELECT run, place, step, opening, winner, tally, votes, margin, author, reason, digest
FROM decisions WHERE run = ?1 AND place >= ?2 AND place < ?3 ORDER BY place"""
_OPENINGS: Final = """
SELECT run, step, opening, key, input, prompt_digest
FROM steps WHERE run = ?1 AND step >= ?2 AND step < ?3 ORDER BY step, opening"""
_SAMPLES: Final = f"""
SELECT {SAMPLE} FROM samples s {TEXTS}
WHERE s.run = ?1 AND s.step >= ?2 AND s.step < ?3 ORDER BY s.step, s.opening, s.ordinal"""
_WITH_OPENINGS: Final = """
SELECT d.run, d.place, d.step, d.opening, d.winner, d.tally, d.votes, d.margin, d.author, d.reason, d.digest,
       p.run, p.step, p.opening, p.key, p.input, p.prompt_digest
FROM decisions d LEFT JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening
WHERE d.run = ?1 AND d.place >= ?2 ORDER BY d.place LIMIT ?3"""
_UNDECIDED: Final = """
SELECT run, step, opening, key, input, prompt_digest FROM steps p WHERE run = ?1 AND NOT EXISTS
    (SELECT 1 FROM decisions d WHERE d.run = p.run AND d.step = p.step AND d.opening = p.opening)"""


class Page(NamedTuple):
    """Some steps of a run, in which decision *n* is of step *n*.

    Attributes:
        first: the first of the steps.
        last: the step after them.
        decisions: their decisions.
        openings: their openings.
        samples: their samples, yet to be read.
        sent: their recorded prompts, by step and opening.
    """

    first: int
    last: int
    decisions: list[Decided]
    openings: list[StepOpened]
    samples: Iterator[SampleTaken]
    sent: Mapping[tuple[int, int], Sent]


@contextmanager
def plain_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the log with rows as tuples."""
    with reading(path) as connection:
        connection.row_factory = None
        # Bytes that are no text are found by their digest; reading them must not end the audit.
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        connection.execute("PRAGMA cache_size = -16384")
        yield connection


def pages(connection: sqlite3.Connection, run: int, first: int, last: int) -> Iterator[Page]:
    """Yield the steps from *first* to before *last*, page by page."""
    for start in range(first, last, PAGE):
        bounds = (run, start, min(start + PAGE, last))
        decisions = [Decided._make(row) for row in connection.execute(_DECISIONS, bounds)]
        openings = [StepOpened._make(row) for row in connection.execute(_OPENINGS, bounds)]
        samples = connection.execute(_SAMPLES, bounds)
        sent = sent_between(connection, *bounds)
        yield Page(bounds[1], bounds[2], decisions, openings, starmap(SampleTaken, samples), sent)


def decided(connection: sqlite3.Connection, run: int) -> Iterator[tuple[Decided, StepOpened | None]]:
    """Yield the decisions of a run in their order, each with the opening that was decided."""
    place = 0
    while rows := connection.execute(_WITH_OPENINGS, (run, place, PAGE)).fetchall():
        for row in rows:
            decision = Decided._make(row[:11])
            yield decision, None if row[11] is None else StepOpened._make(row[11:])
        place = rows[-1][1] + 1


def undecided(connection: sqlite3.Connection, run: int) -> list[StepOpened]:
    """Return the openings of a run that nothing was decided on."""
    return [StepOpened._make(row) for row in connection.execute(_UNDECIDED, (run,))]


def samples_of(connection: sqlite3.Connection, run: int, step: int) -> list[SampleTaken]:
    """Return the samples of a step, by opening and ordinal."""
    return [SampleTaken(*row) for row in connection.execute(_SAMPLES, (run, step, step + 1))]
