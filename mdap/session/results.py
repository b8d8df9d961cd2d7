"""Build the solution of a run: its typed result, its certificate and its most doubtful decisions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mdap.journal.reader import Reader, RunRow
from mdap.journal.runs import RunRecord, record_of
from mdap.records import Certificate, Outcome, RunStatus, Solution, TallyShape
from mdap.rules.canonical import canonical
from mdap.rules.certificate import JUDGED, certify, doubts, outcome_of
from mdap.rules.declared import result_type_of
from mdap.rules.ledger import guarantee_of
from mdap.settings import VotingSettings
from mdap.tasks import Task


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


@dataclass(frozen=True, slots=True)
class Doubt:
    """A decision of a run or a part, its probability of being wrong, its winner's votes and all votes."""

    run_id: str
    step: int
    opening: int
    p_wrong: float
    votes: int
    total: int


def certified(shapes: Sequence[TallyShape], escalations: int, settled: int) -> Certificate | None:
    """Return the confidence in the decisions of these *shapes*, tallies with counts.

    It is None if the votes do not tell: without decisions, at k = 1, and after an escalation, since its votes
    come from several models with different error rates.
    """
    certificate = None if escalations else certify(shapes)
    if certificate is None or not settled:
        return certificate
    steps = "1 step was" if settled == 1 else f"{settled:,} steps were"
    sentence = f"{steps} settled by a person; the chance of no error at all is that of the others"
    return replace(certificate, warnings=(*certificate.warnings, sentence))


async def outcome_in(reader: Reader, row: RunRow) -> Outcome | None:
    """Return the outcome of a run; read its votes only if its task gives no verdict."""
    if row.status is not RunStatus.FINISHED or row.kind not in JUDGED:
        return None
    _, data = await reader.ending(row.number)
    undecided = data.get("undecided", 0)
    certificate = None
    if row.outcome is None and not undecided:
        escalations, settled = [
            await reader.value(f"count_{what}", row.number) for what in ("escalations", "settled")
        ]
        certificate = certified(await reader.tallies(row.number), escalations, settled)
    return outcome_of(row.outcome, certificate, undecided)


async def most_doubtful(reader: Reader, run: int, most: int = 20) -> list[Doubt]:
    """Return the most doubtful voted decisions of *run*, highest probability of being wrong first."""
    found: list[Doubt] = []
    for shape, p_wrong in doubts(await reader.tallies(run)):
        tally = (shape.votes, shape.runner_up, shape.total)
        for run_id, step, opening in await reader.rows("steps_with_tally", run, *tally, most - len(found)):
            found.append(Doubt(run_id, step, opening, p_wrong, shape.votes, shape.total))
        if len(found) >= most:
            break
    return found
