"""Record a person's decision of a step, undecided or decided."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from mdap.engine.chain import ChainPolicy
from mdap.engine.guarded import not_undecided
from mdap.engine.ordered import process_policy
from mdap.errors import UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader, RunRow, open_log
from mdap.journal.resuming import process_point, resume_point
from mdap.journal.runs import append_seal
from mdap.journal.writer import Writer, open_journal
from mdap.plugins import make_recorded, make_task
from mdap.records import RunEvent, RunStatus, StopCause, encodable
from mdap.session.overriding import ManualDecision, override_step
from mdap.session.seeking import Muted, ask_again, config_of, runs_around
from mdap.tasks import Chain, Process, Task

_BY_KEY: Final = "key:"
_BY_NUMBER: Final = "step:"
_SHOWN: Final = 3


async def settle_step(  # noqa: PLR0913 - public API, all keywords named
    db: str | Path,
    run_id: str,
    step: int | str,
    *,
    answer: str,
    author: str,
    reason: str,
    moved: str | None = None,
) -> str:
    """Record a person's decision of a step; resume the run to continue from there.

    This settles an undecided step in its run, even if that is finished. To override a decided step, it
    creates a new run that copies the earlier decisions; it changes nothing on record. A part of
    `mdap.Ask.solve_all` is settled or overridden by itself, and the run that it is a part of goes on.

    Args:
        db: path of the database.
        run_id: the run's id, a unique prefix of it, or ``latest``.
        step: the step, by its number or its key.
        answer: the answer, as JSON.
        author: the person who decides.
        reason: that person's reason.
        moved: the run's task, if it has moved to another file, module or name.

    Returns:
        The full id of the run to resume.

    Raises:
        UsageError: there is no such run or step, or the answer is invalid for it.
    """
    path = Path(db)
    async with open_log(path) as reader:
        row = await reader.find(run_id)
        if row.kind != "run":
            raise UsageError(f"{row.run_id} is a {row.kind}, which has no steps of its own to settle")
        row, number = await find_step(reader, row, step)
        task = make_recorded(row.task, row.params) if moved is None else make_task(moved, row.params)
        decision = ManualDecision(number, answer, encodable(author), encodable(reason))
        return await _record(reader, path, row, task, decision)


async def _record(reader: Reader, path: Path, row: RunRow, task: Task, decision: ManualDecision) -> str:
    """Settle an undecided step or override a decided one; return the full id of the run to resume.

    If the run is an independent part, the finished runs around it then wait for a resume too.
    """
    outermost, wholes = await _enclosing(reader, row)
    nested = row.status is RunStatus.FINISHED and outermost.number != row.number
    with closing(Claims(path)) as claims:
        for each in wholes:
            claims.take(each.number, each.run_id)
        if nested or await reader.rows("winner", row.number, decision.step):
            resumed = await override_step(path, row, task, decision)
        else:
            claims.take(row.number, row.run_id)
            async with open_journal(path) as journal:
                await _settle(reader, journal, row, task, decision)
                about = {"step": decision.step}
                events = [RunEvent(row.number, "settled", decision.reason, decision.author, about)]
                if row.status is RunStatus.FINISHED:  # it goes on
                    events.append(_waiting(row, f"step {decision.step}"))
                journal.append(*events)
                await append_seal(journal, reader, row.number)
                await journal.flush()
            resumed = row.run_id
        return await _reopen(reader, path, wholes, row, decision.step) if wholes else resumed


async def _enclosing(reader: Reader, row: RunRow) -> tuple[RunRow, list[RunRow]]:
    """Return the outermost run whose record contains the result of *row*, and the runs around that one.

    The first is *row* itself, unless it is a nested run that is not an independent part.
    """
    outermost = (await runs_around(reader, row))[0]
    wholes = [outermost]
    while (whole := await reader.whole_of(wholes[-1].number)) is not None:
        if not await reader.is_independent(wholes[-1].number):
            raise UsageError(
                f"{whole.run_id} goes by the result of {wholes[-1].run_id}: settle a step of {whole.run_id} "
                "instead"
            )
        wholes.append(whole)
    return outermost, wholes[1:]


async def _reopen(reader: Reader, path: Path, wholes: Sequence[RunRow], part: RunRow, step: int) -> str:
    """Have the finished runs of a part wait for a resume; return the id of the outermost."""
    async with open_journal(path) as journal:
        for whole in wholes:
            if whole.status is RunStatus.FINISHED:
                journal.append(_waiting(whole, f"step {step} of {part.run_id}"))
                await append_seal(journal, reader, whole.number)
        await journal.flush()
    return wholes[-1].run_id


def _waiting(row: RunRow, settled: str) -> RunEvent:
    why = f"waits to be resumed after {settled} was settled"
    return RunEvent(row.number, "stopped", why, data={"seconds": 0.0, "stop_cause": str(StopCause.OVERRIDE)})


async def find_step(reader: Reader, row: RunRow, step: int | str) -> tuple[RunRow, int]:
    """Return the run and the number of a step: a number of *row*'s own steps, or a key in it or its parts."""
    if isinstance(step, int):
        return row, step
    if step.startswith(_BY_NUMBER) and step.removeprefix(_BY_NUMBER).isdecimal():
        return row, int(step.removeprefix(_BY_NUMBER))
    everywhere = await reader.rows("steps_called", row.number, step.removeprefix(_BY_KEY))
    own = [number for run, _, number in everywhere if run == row.number]
    if step.isdecimal() and own in ([], [int(step)]):
        return row, int(step)
    if step.isdecimal():
        raise UsageError(
            f"{step} is a number, and the key of step {own[0]}: write {_BY_NUMBER}{step} or {_BY_KEY}{step}"
        )
    if len(own) == 1:
        return row, own[0]
    if own or not everywhere:
        many = "several steps" if own else "no step"
        which = f": give the number of one, {', '.join(map(str, own))}" if own else ""
        raise UsageError(f"{row.run_id} has {many} with the key {step!r:.80}{which}")
    if len(everywhere) > 1:
        named = ", ".join(f"{run_id} {number}" for _, run_id, number in everywhere[:_SHOWN])
        raise UsageError(
            f"{len(everywhere)} parts of {row.run_id} have a step with the key {step!r:.80}: name one by its "
            f"run and number, such as {named}"
        )
    [(run, _, number)] = everywhere
    return await reader.numbered(run), number


async def _settle(reader: Reader, journal: Writer, row: RunRow, task: Task, decision: ManualDecision) -> None:
    config = await config_of(reader, row, task)
    if isinstance(task, Chain):
        chain = ChainPolicy(task, config, journal)
        chain.begin(await resume_point(reader, row.number, as_it_ended=True))
        chain.settle_by_hand(*decision)
        return
    assert isinstance(task, Process)
    point = await process_point(reader, row.number, as_it_ended=True)
    if decision.step not in {recorded.opened.step for recorded in point.openings}:
        raise not_undecided(decision.step)
    policy = process_policy(task, config, Muted())
    policy.begin(point)
    await ask_again(reader, row, task, policy, lambda: policy.is_asked(decision.step))
    policy.decider.journal = journal
    policy.settle_by_hand(*decision)
