"""How doubtful each way is in which the votes of a run's steps fell."""

import sqlite3

from mdap.audit.runs import source_of
from mdap.journal.statements import query
from mdap.records import TallyShape
from mdap.rules.certificate import doubts

__all__ = ["doubts_of", "ranked"]


def ranked(connection: sqlite3.Connection, run: int) -> list[tuple[TallyShape, float]]:
    """Return each tally of a run and its parts with the chance that its winner is wrong, the highest first.

    Args:
        connection: the log.
        run: the run's number.
    """
    return doubts([TallyShape(*row) for row in query(connection, "tallies", run)])


def doubts_of(connection: sqlite3.Connection, run: int) -> dict[tuple[int, int, int], float]:
    """Return the chance that a winner is wrong, by its votes, those for the runner-up, and all votes.

    What a run took over from one that it overrides is as doubtful as it was there.
    """
    source = source_of(connection, run)
    known = {} if source is None else doubts_of(connection, source)
    own = {(shape.votes, shape.runner_up, shape.total): doubt for shape, doubt in ranked(connection, run)}
    return {**known, **own}
