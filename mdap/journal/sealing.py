"""The seal of a run, taken from the rows that are durable."""

import sqlite3
from typing import Final

from mdap.journal.statements import statements
from mdap.rules.digests import CHAIN_START
from mdap.rules.seals import (
    EVENT_COLUMNS,
    NEWEST,
    OPEN_STEPS,
    PARTS,
    PROMPTS,
    REST,
    RUN_COLUMNS,
    SEALED,
    SIGNED,
    TIMES,
    TIMES_STEPS,
    Lines,
    Seal,
    Times,
)

__all__ = ["is_sealed", "take_seal"]

_LAST: Final = "SELECT kind FROM run_events WHERE run = ?1 AND kind <> ?2 ORDER BY id DESC LIMIT 1"


def is_sealed(connection: sqlite3.Connection, run: int) -> bool:
    """Return whether nothing has happened to *run* since its last seal."""
    last = connection.execute(_LAST, (run, SIGNED)).fetchone()
    return last is not None and last[0] == SEALED


def take_seal(connection: sqlite3.Connection, run: int) -> Seal:
    """Return the seal over what there is of *run*, however many rows that is."""
    events, rest, parts = Lines(), Lines(), Lines()
    events.add(connection.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?1", (run,)).fetchone())
    for event in connection.execute(
        f"SELECT {EVENT_COLUMNS} FROM run_events WHERE run = ?1 ORDER BY id", (run,)
    ):
        events.add(event)
    for opened in connection.execute(OPEN_STEPS, (run,)):
        rest.add(opened)
    for statement in REST:
        for sample in connection.execute(statement, (run,)):
            rest.add_sample(sample)
    for prompt in connection.execute(PROMPTS, (run,)):
        rest.add(prompt)
    last = connection.execute(statements("read")["last_decision"], (run,)).fetchone()
    decisions, head = (last["place"] + 1, last["digest"]) if last else (0, CHAIN_START)
    times = _times(connection, run)
    [newest] = connection.execute(NEWEST).fetchone()
    part = None
    for part in connection.execute(PARTS, (run, newest)):
        parts.add(part)
    if part is None:
        return Seal(decisions, head, events.digest, rest.digest, times=times)
    return Seal(decisions, head, events.digest, rest.digest, parts.digest, newest, times)


def _times(connection: sqlite3.Connection, run: int) -> str | None:
    times = Times()
    [last] = connection.execute("SELECT max(step) FROM samples WHERE run = ?1", (run,)).fetchone()
    for first in range(0, 0 if last is None else last + 1, TIMES_STEPS):
        for row in connection.execute(TIMES, (run, first)):
            times.add(row)
    return times.digest
