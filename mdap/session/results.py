"""Build the solution of a run, with a result of the type that its task declares."""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mdap.journal.reader import Reader, RunRow
from mdap.journal.runs import RunRecord, record_of
from mdap.records import RunStatus, Solution
from mdap.rules.canonical import canonical
from mdap.rules.declared import result_type_of
from mdap.rules.ledger import guarantee_of
from mdap.rules.outcomes import JUDGED, outcome_of
from mdap.session.certifying import certified
from mdap.settings import VotingSettings
from mdap.tasks import Task

__all__ = ["read_solution", "solution_of", "with_typed_result"]


async def read_solution(reader: Reader, row: RunRow) -> Solution:
    """Return the solution so far of the run in *row*, from its rows alone."""
    return solution_of(await reader.visit(partial(record_of, row=row)))


def solution_of(record: RunRecord) -> Solution:
    """Return the solution so far of a run, from its record."""
    row, data = record.row, record.data
    certificate = certified(record.shapes, record.escalations, record.settled)
    if certificate is not None and record.voters:
        certificate = replace(certificate, voters=record.voters)
    finished = row.status is RunStatus.FINISHED
    undecided = data.get("undecided", 0) if finished else 0
    judged = finished and row.kind in JUDGED
    return Solution(
        run_id=row.run_id,
        task=row.task,
        status=row.status,
        outcome=outcome_of(row.outcome, certificate, undecided) if judged else None,
        result=data.get("result") if finished else None,
        reason=record.reason,
        stop_cause=row.stop_cause,
        traceback=None if row.stop_cause is None else data.get("traceback"),
        totals=record.totals,
        k=row.k,
        cost_usd=None if record.bill is None else record.bill.usd,
        saved_usd=None if record.bill is None else record.bill.saved_usd,
        seconds=record.seconds,
        certificate=certificate,
        digest=record.digest,
        seal=record.seal,
        guarantee=None
        if record.payments is None
        else guarantee_of(VotingSettings.recorded(row.settings), record.payments),
        warnings=(*record.warnings, *(certificate.warnings if certificate else ())),
        undecided=undecided,
    )


def with_typed_result(task: Task, solution: Solution[Any]) -> Solution[Any]:
    """Return *solution* with its result as the type that *task* declares, if that is lossless."""
    adapter = _adapter_of(type(task))
    if adapter is None or solution.status is not RunStatus.FINISHED:
        return solution
    text = canonical(solution.result)
    try:
        value = adapter.validate_json(text, strict=True, by_alias=True, by_name=True)
        same = canonical(value) == text
    except (ValidationError, TypeError, ValueError):
        return solution
    return replace(solution, result=value, _json=solution.result) if same else solution


@lru_cache(maxsize=256)
def _adapter_of(kind: type[Task]) -> TypeAdapter[Any] | None:
    declared = result_type_of(kind)
    if declared is Any:
        return None
    try:
        return TypeAdapter(declared)
    except Exception:  # a type without a JSON form
        return None
