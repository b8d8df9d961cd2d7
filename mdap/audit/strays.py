"""Rows that belong to no run, and rows that are gone: what shows in the log as a whole, not in one run."""

import sqlite3
from typing import Final

from mdap.audit.findings import Findings, Kind

__all__ = ["check_strays"]

_OF_RUNS: Final = ("run_events", "steps", "prompts", "samples", "pending", "decisions")
# mdap numbers these rows one by one and deletes none.
_NUMBERED: Final = ("runs", "run_events")
# From one run to the next in the table's index, without reading its rows.
_RUNS_OF: Final = """
WITH RECURSIVE found(run) AS (SELECT min(run) FROM {table} UNION ALL
    SELECT (SELECT min(run) FROM {table} WHERE run > found.run) FROM found WHERE run IS NOT NULL)
SELECT run FROM found WHERE run IS NOT NULL AND run NOT IN (SELECT id FROM runs) LIMIT 10"""
_MISSING: Final = "SELECT max(id) - count(*) FROM {table}"
_PARENTLESS: Final = """
SELECT run_id, parent FROM runs WHERE parent IS NOT NULL AND parent NOT IN (SELECT id FROM runs) LIMIT 10"""


def check_strays(connection: sqlite3.Connection, findings: Findings) -> None:
    """Find rows of runs that are not in the log, and gaps in the numbers of runs and events.

    Args:
        connection: the log, with rows as tuples.
        findings: where to say what does not match.
    """
    for table in _OF_RUNS:
        for (run,) in connection.execute(_RUNS_OF.format(table=table)):
            findings.add(Kind.STRAY, f"run of some rows in {table}", f"a row {run} in runs", None)
    for run_id, parent in connection.execute(_PARENTLESS):
        findings.add(Kind.STRAY, f"what {run_id} is a part of", f"a row {parent} in runs", None)
    for table in _NUMBERED:
        [missing] = connection.execute(_MISSING.format(table=table)).fetchone()
        if missing:
            findings.add(Kind.STRAY, f"rows that are missing from {table}", 0, missing)
