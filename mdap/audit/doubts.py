"""The probability that a winner is wrong, for each tally of a run."""

import sqlite3

from mdap.audit.runs import source_of
from mdap.journal.statements import query
from mdap.records import TallyShape
from mdap.rules.certificate import doubts

__all__ = ["doubts_of", "ranked"]


def ranked(connection: sqlite3.Connection, run: int) -> list[tuple[TallyShape, float]]:
    """Return each tally of a run and its parts with the probability that its winner is wrong, highest first.

    Args:
        connection: the log.
        run: the run's number.
    """
    return doubts([TallyShape(*row) for row in query(connection, "tallies", run)])


def doubts_of(connection: sqlite3.Connection, run: int) -> dict[tuple[int, int, int], float]:
    """Return the probability that a winner is wrong, by its votes, the runner-up's, and all votes.

    A decision copied from an overridden run keeps its probability from that run.
    """
    source = source_of(connection, run)
    known = {} if source is None else doubts_of(connection, source)
    own = {(shape.votes, shape.runner_up, shape.total): doubt for shape, doubt in ranked(connection, run)}
    return {**known, **own}
