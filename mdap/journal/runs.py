"""The two calls with which a session begins or resumes a run and ends it; in between, it only appends.

Each call visits the database's thread once.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import anyio

from mdap.errors import DatabaseError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader, RunRow
from mdap.journal.resuming import process_point, resume_point
from mdap.journal.writer import Writer
from mdap.records import ProcessPoint, Recorded, ResumePoint, RunEvent, RunStatus, TallyShape, Totals
from mdap.rules.digests import CHAIN_START, SEALED, Seal
from mdap.rules.drift import Baseline, Drift
from mdap.rules.ledger import Payments
from mdap.rules.money import Bill
from mdap.rules.presence import Absence
from mdap.settings import VotingSettings

_NEW_CHAIN: Final = ResumePoint(0, CHAIN_START)
_NEW_PROCESS: Final = ProcessPoint(0, CHAIN_START, 0, {}, ())


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The recorded data of a run that its solution reports.

    Attributes:
        shapes: the tallies of its voted decisions, with counts.
        voters: the votes by model; empty if there is only one.
        payments: its payments from its error budget; None without one.
    """

    row: RunRow
    reason: str | None
    data: dict[str, Any]
    totals: Totals
    bill: Bill | None
    seconds: float
    shapes: list[TallyShape]
    escalations: int
    settled: int
    voters: dict[str, int]
    payments: Payments | None
    warnings: tuple[str, ...]
    digest: str | None
    seal: str | None


@dataclass(frozen=True, slots=True)
class RunStart:
    """The state of a run when a session begins or resumes it. A new run has only its number.

    Attributes:
        row: its row; None for a new run.
        record: its recorded end, if it is finished (mdap does not claim finished runs).
        is_half: whether it is an override that was interrupted before it was complete.
        tiers: the tiers that have voted in it.
        drift: the drift detector; None without a baseline.
        has_rulings: whether a person has answered a step that waits.
        options: by model, the options that a probe found.
        owed: decisions whose effects are not recorded as done.
        point: the end of its decisions.
    """

    number: int
    row: RunRow | None = None
    record: RunRecord | None = None
    is_half: bool = False
    totals: Totals = field(default_factory=Totals)
    cost: float | None = None
    paid: Sequence[dict[str, Any]] = ()
    tiers: frozenset[int] = frozenset()
    absences: tuple[Absence, ...] = ()
    drift: Drift | None = None
    has_rulings: bool = False
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    owed: Sequence[tuple[int, str, Recorded]] = ()
    point: ResumePoint | ProcessPoint = _NEW_CHAIN


class Runs:
    """Begin and end the runs of a session, in a database on this machine."""

    def __init__(self, writer: Writer, reader: Reader, claims: Claims) -> None:
        self._writer = writer
        self._reader = reader
        self._claims = claims

    async def begin(
        self, columns: Mapping[str, Any], *, known: bool, process: bool = False, effects: bool = False
    ) -> RunStart:
        """Begin or resume a run, and claim it unless it is finished.

        Args:
            columns: its row, for a new run.
            known: whether the log probably has it.
            process: whether its task is a process.
            effects: whether its decisions have outside effects.

        Raises:
            RunBusyError: another process is working on it.
            DatabaseError: the database can no longer be written.
        """
        found = partial(self._found, run_id=columns["run_id"], process=process, effects=effects)
        start = await self._reader.visit(found) if known else None
        if start is None:
            try:
                number = await self._writer.begin_run(columns)
                start = RunStart(number, point=_NEW_PROCESS if process else _NEW_CHAIN)
            except DatabaseError:
                start = await self._reader.visit(found)  # another process began it at the same moment
                if start is None:
                    raise
            else:
                self._claims.take(start.number, columns["run_id"], shared=columns["kind"] == "batch")
        if start.record is not None and start.record.seal is None:
            # Its process was killed between its end and its seal.
            seal = await append_seal(self._writer, self._reader, start.number)
            await self._writer.flush()
            return replace(start, record=replace(start.record, seal=seal))
        return start

    async def _found(self, reader: Reader, run_id: str, *, process: bool, effects: bool) -> RunStart | None:
        row = await reader.run(run_id)
        if row is None:
            return None
        if row.status is RunStatus.FINISHED and row.kind != "batch":
            record = await record_of(reader, row)
            is_sealed = await reader.is_sealed(row.number)
            return RunStart(row.number, row, record if is_sealed else replace(record, seal=None))
        # Only reads after the claim see all rows of the previous process.
        self._claims.take(row.number, run_id, shared=row.kind == "batch")
        try:
            return await _start_of(reader, row, process=process, effects=effects)
        except BaseException:
            self._claims.drop(row.number)
            raise

    async def end(self, ended: RunEvent, *, record: bool = True) -> RunRecord | None:
        """Record how a session's work on a run ended, seal the run, and make all of it durable.

        Args:
            ended: the event for this end, the last one of the session.
            record: whether to return the run's record.

        Raises:
            DatabaseError: the database can no longer be written.
        """
        with anyio.CancelScope(shield=True):
            self._writer.append(ended)
            await self._writer.flush()
            seal, found = await self._reader.visit(partial(_ended, run=ended.run, record=record))
            self._writer.append(RunEvent(ended.run, SEALED, data=seal.to_dict()))
            await self._writer.flush()
        return None if found is None else replace(found, seal=seal.seal)

    async def release(self, run: int) -> None:
        """Release a run, once all its appended facts are durable."""
        # The next process that resumes the run must find all of it.
        with anyio.CancelScope(shield=True), suppress(DatabaseError):
            await self._writer.flush()
        self._claims.drop(run)


async def _start_of(reader: Reader, row: RunRow, *, process: bool, effects: bool) -> RunStart:
    number = row.number
    allowed = VotingSettings.recorded(row.settings).samples_allowed
    tiers = [ordinal // allowed for [ordinal] in await reader.rows("any_vote", number)]
    tiers += [tier for [tier] in await reader.rows("tiers_escalated_with_votes", number, allowed)]
    return RunStart(
        number=number,
        row=row,
        is_half=bool(await reader.rows("half_override", number)),
        totals=await reader.totals(number),
        cost=await reader.cost(number),
        paid=await reader.paid(number),
        tiers=frozenset(tiers),
        absences=await reader.absences(number),
        drift=await _drift(reader, row),
        has_rulings=bool(await reader.rows("open_rulings", number)),
        options={
            one["model"]: json.loads(one["options"]) for one in await reader.rows("options_found", number)
        },
        owed=[
            (step, given, Recorded(winner, tally, None, None, author=author))
            for step, given, winner, tally, author in await reader.rows("without_effect", number)
        ]
        if effects
        else (),
        point=await (process_point if process else resume_point)(reader, number),
    )


async def _drift(reader: Reader, row: RunRow) -> Drift | None:
    """Return the drift detector of a run; None without a baseline."""
    baseline = await reader.rows("baseline", row.number)
    if not baseline:
        return None
    warnings = [json.loads(data) for [data] in await reader.rows("raised", row.number)]
    raised = frozenset(data["drift"] for data in warnings if "drift" in data)
    drift = Drift(Baseline(**json.loads(baseline[0][0])), row.k, raised)
    heard = await reader.rows("heard", row.number)
    if heard:
        votes = sum(one["votes"] for one in heard)
        [[flags]] = await reader.rows("flags_decided", row.number)
        drift.hear(votes - sum(one["won"] for one in heard), votes, flags)
    return drift


async def record_of(reader: Reader, row: RunRow) -> RunRecord:
    """Return the record of the run in *row*."""
    reason, data = await reader.ending(row.number)
    last = await reader.rows("last_decision", row.number)
    [[seconds]] = await reader.rows("seconds", row.number)
    alone = len(set(row.provider["models"])) == 1
    return RunRecord(
        row=row,
        reason=reason,
        data=data,
        totals=await reader.totals(row.number),
        bill=await reader.bill(row.number),
        seconds=seconds,
        shapes=await reader.tallies(row.number),
        escalations=await reader.value("count_escalations", row.number),
        settled=await reader.value("count_settled", row.number),
        voters={} if alone else dict(map(tuple, await reader.rows("voters", row.number))),
        payments=await reader.payments(row.number) if row.settings.get("robust") else None,
        warnings=tuple(row[0] for row in await reader.rows("warnings", row.number)),
        digest=last[0]["digest"] if last else None,
        seal=await reader.value("last_seal", row.number),
    )


async def _ended(reader: Reader, run: int, *, record: bool) -> tuple[Seal, RunRecord | None]:
    seal = await reader.take_seal(run)
    return seal, await record_of(reader, await reader.numbered(run)) if record else None


async def append_seal(writer: Writer, reader: Reader, run: int) -> str:
    """Append a seal over all rows of *run*, and return it.

    Raises:
        DatabaseError: the database can no longer be written.
    """
    with anyio.CancelScope(shield=True):
        await writer.flush()
        seal = await reader.take_seal(run)
        writer.append(RunEvent(run, SEALED, data=seal.to_dict()))
    return seal.seal
