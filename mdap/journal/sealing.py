"""Compute the seal of a run, and its parts, from the durable rows."""

import sqlite3

from mdap.journal.statements import query
from mdap.rules.digests import CHAIN_START, REST, SEALED, SIGNED, TIMES_STEPS, Lines, Seal, Times


def is_sealed(connection: sqlite3.Connection, run: int) -> bool:
    """Return whether nothing has happened to *run* since its last seal."""
    last = query(connection, "last_event_but", run, SIGNED).fetchone()
    return last is not None and last[0] == SEALED


def take_seal(connection: sqlite3.Connection, run: int) -> Seal:
    """Return the seal over all rows of *run*, in constant memory."""
    events = Lines()
    events.add(query(connection, "sealed_run", run).fetchone())
    for event in query(connection, "sealed_events", run):
        events.add(event)
    last = query(connection, "last_decision", run).fetchone()
    decisions, head = (last["place"] + 1, last["digest"]) if last else (0, CHAIN_START)
    rest, times = digest_of_rest(connection, run), digest_of_times(connection, run)
    [newest] = query(connection, "newest_event").fetchone()
    parts = digest_of_parts(connection, run, newest)
    return Seal(decisions, head, events.digest, rest, parts, None if parts is None else newest, times)


def digest_of_rest(connection: sqlite3.Connection, run: int) -> str:
    """Return the digest of the rows of *run* that no decision covers: openings, samples and prompts."""
    rest = Lines()
    for opened in query(connection, "sealed_openings", run):
        rest.add(opened)
    for name in REST:
        for sample in query(connection, name, run):
            rest.add_sample(sample)
    for prompt in query(connection, "sealed_prompts", run):
        rest.add(prompt)
    return rest.digest


def digest_of_parts(connection: sqlite3.Connection, run: int, until: int | None) -> str | None:
    """Return the digest of the seals of the parts of *run* up to the event *until*; None without parts."""
    parts, part = Lines(), None
    for part in query(connection, "sealed_parts", run, until):
        parts.add(part)
    return None if part is None else parts.digest


def digest_of_times(connection: sqlite3.Connection, run: int) -> str | None:
    """Return the digest of the times of the samples of *run*; None without times."""
    times = Times()
    [last] = query(connection, "last_sampled_step", run).fetchone()
    for first in range(0, 0 if last is None else last + 1, TIMES_STEPS):
        for row in query(connection, "sealed_times", run, first, TIMES_STEPS):
            times.add(row)
    return times.digest
