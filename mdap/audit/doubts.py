"""How doubtful each way is in which the votes of a run's steps fell."""

import sqlite3
from typing import Final

from mdap.audit.runs import source_of
from mdap.records import TallyShape
from mdap.rules.certificate import doubts

__all__ = ["TOTAL", "TREE", "doubts_of", "ranked"]

TREE: Final = """
WITH RECURSIVE tree(run) AS (SELECT ?1 UNION SELECT r.id FROM runs r JOIN tree ON r.parent = tree.run)"""
"""A run and its parts."""

# Where the margin is the winner's votes, nobody else has any.
TOTAL: Final = """
CASE d.margin WHEN d.votes THEN d.votes ELSE (SELECT sum(value) FROM json_each(d.tally)) END"""
"""All votes of a decision."""

_SHAPES: Final = f"""{TREE}
SELECT d.votes, d.votes - d.margin, {TOTAL}, count(*)
FROM tree CROSS JOIN decisions d ON d.run = tree.run WHERE d.author IS NULL GROUP BY 1, 2, 3"""


def ranked(connection: sqlite3.Connection, run: int) -> list[tuple[TallyShape, float]]:
    """Return each tally of a run and its parts with the chance that its winner is wrong, the highest first.

    Args:
        connection: the log.
        run: the run's number.
    """
    return doubts([TallyShape(*row) for row in connection.execute(_SHAPES, (run,))])


def doubts_of(connection: sqlite3.Connection, run: int) -> dict[tuple[int, int, int], float]:
    """Return the chance that a winner is wrong, by its votes, those for the runner-up, and all votes.

    What a run took over from one that it overrides is as doubtful as it was there.
    """
    source = source_of(connection, run)
    known = {} if source is None else doubts_of(connection, source)
    own = {(shape.votes, shape.runner_up, shape.total): doubt for shape, doubt in ranked(connection, run)}
    return {**known, **own}
