"""Compute the seal of a run from its durable rows."""

import sqlite3

from mdap.journal.statements import query
from mdap.rules.digests import CHAIN_START
from mdap.rules.seals import REST, SEALED, SIGNED, TIMES_STEPS, Lines, Seal, Times

__all__ = ["is_sealed", "take_seal"]


def is_sealed(connection: sqlite3.Connection, run: int) -> bool:
    """Return whether nothing has happened to *run* since its last seal."""
    last = query(connection, "last_event_but", run, SIGNED).fetchone()
    return last is not None and last[0] == SEALED


def take_seal(connection: sqlite3.Connection, run: int) -> Seal:
    """Return the seal over all rows of *run*, in constant memory."""
    events, rest, parts = Lines(), Lines(), Lines()
    events.add(query(connection, "sealed_run", run).fetchone())
    for event in query(connection, "sealed_events", run):
        events.add(event)
    for opened in query(connection, "sealed_openings", run):
        rest.add(opened)
    for name in REST:
        for sample in query(connection, name, run):
            rest.add_sample(sample)
    for prompt in query(connection, "sealed_prompts", run):
        rest.add(prompt)
    last = query(connection, "last_decision", run).fetchone()
    decisions, head = (last["place"] + 1, last["digest"]) if last else (0, CHAIN_START)
    times = _times(connection, run)
    [newest] = query(connection, "newest_event").fetchone()
    part = None
    for part in query(connection, "sealed_parts", run, newest):
        parts.add(part)
    if part is None:
        return Seal(decisions, head, events.digest, rest.digest, times=times)
    return Seal(decisions, head, events.digest, rest.digest, parts.digest, newest, times)


def _times(connection: sqlite3.Connection, run: int) -> str | None:
    times = Times()
    [last] = query(connection, "last_sampled_step", run).fetchone()
    for first in range(0, 0 if last is None else last + 1, TIMES_STEPS):
        for row in query(connection, "sealed_times", run, first, TIMES_STEPS):
            times.add(row)
    return times.digest
