"""Adaptive margins again: each must be the one that the rule gives for the decisions before it."""

import json
import sqlite3
from typing import Any

from mdap.audit.findings import Findings, Kind
from mdap.audit.runs import RunFacts
from mdap.rules.margins import block_start, next_margin

__all__ = ["check_margins"]

_HEARD = """
SELECT CASE WHEN author IS NULL THEN margin END, count(*), sum(votes),
       sum(CASE margin WHEN votes THEN votes ELSE (SELECT sum(value) FROM json_each(tally)) END)
FROM decisions WHERE run = ?1 AND place < ?2 GROUP BY 1
"""
_EVENTS = "SELECT data FROM run_events WHERE run = ?1 AND kind = 'margin' ORDER BY id"


def check_margins(
    connection: sqlite3.Connection, facts: RunFacts, length: int | None, findings: Findings
) -> None:
    """Choose each margin anew, and say where another one is on record.

    Args:
        connection: the log.
        facts: the run.
        length: the steps of its task.
        findings: where to say it.
    """
    target = facts.voting.adaptive_target
    if target is None or length is None:
        return
    events = [json.loads(data) for (data,) in connection.execute(_EVENTS, (facts.number,))]
    starts = sorted({block_start(step) for step in _block_firsts(min(facts.decisions, length - 1))})
    recorded = [event["from"] for event in events]
    if recorded != starts:
        findings.add(Kind.EVENT, "steps at which a margin was chosen", starts, recorded)
    for event in events:
        expected = _chosen(connection, facts, event["from"], (length, target), events[0])
        if expected != event["k"]:
            findings.add(Kind.EVENT, "margin", expected, event["k"], (event["from"],))


def _block_firsts(last: int) -> list[int]:
    """Return a step of every block up to that of step *last*."""
    firsts, step = [0], block_start(last)
    while step > 0:
        firsts.append(step)
        step = block_start(step - 1)
    return firsts


def _chosen(
    connection: sqlite3.Connection,
    facts: RunFacts,
    step: int,
    goal: tuple[int, float],
    began: dict[str, Any],
) -> int:
    if step == 0:
        return facts.k
    against, total = began["against"], began["votes"]
    margins: dict[int, int] = {}
    for k, decisions, won, votes in connection.execute(_HEARD, (facts.number, step)):
        if k is not None:
            margins[k] = decisions
        against += votes - won
        total += votes
    return next_margin(margins, (against, total), goal[0] - step, goal[1])[0]
