"""Find stray and missing rows, which show only in the log as a whole."""

import sqlite3
from typing import Final

from mdap.audit.findings import Findings, Kind
from mdap.journal.statements import query

__all__ = ["check_strays"]

_OF_RUNS: Final = ("run_events", "steps", "prompts", "samples", "pending", "decisions")
# mdap numbers these rows one by one and deletes none.
_NUMBERED: Final = ("runs", "run_events")


def check_strays(connection: sqlite3.Connection, findings: Findings) -> None:
    """Find rows of runs that are not in the log, and gaps in the numbers of runs and events.

    Args:
        connection: the log, with rows as tuples.
        findings: collects the mismatches.
    """
    for table in _OF_RUNS:
        for (run,) in query(connection, "runs_missing", table=table):
            findings.add(Kind.STRAY, f"run of some rows in {table}", f"a row {run} in runs", None)
    for run_id, parent in query(connection, "parents_missing"):
        findings.add(Kind.STRAY, f"what {run_id} is a part of", f"a row {parent} in runs", None)
    for table in _NUMBERED:
        [missing] = query(connection, "rows_missing", table=table).fetchone()
        if missing:
            findings.add(Kind.STRAY, f"rows that are missing from {table}", 0, missing)
