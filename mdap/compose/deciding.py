"""A person settles a step: one that voting left undecided, or one that it decided."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import anyio

from mdap.compose.overriding import Ruling, override_step
from mdap.engine.account import account_of
from mdap.engine.asking import Surroundings, answer_process
from mdap.engine.chain import ChainRace
from mdap.engine.opening import Progress
from mdap.engine.ordered import process_race
from mdap.engine.recording import Rules
from mdap.errors import UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader, RunRow, open_log
from mdap.journal.sealing import Sealer
from mdap.journal.writer import Writer, open_journal
from mdap.plugins import make_recorded, make_task
from mdap.records import Recorded, RunEvent, RunStatus, Solution, encodable
from mdap.rules.casting import casting_of, lineups_of
from mdap.rules.parts import could_be
from mdap.settings import VotingSettings
from mdap.tasks import Chain, Process, Task

__all__ = ["settle_step"]

# How long a process may ask nothing on its way to the step, with everything before it decided.
_PATIENCE: Final = 10.0


async def settle_step(  # noqa: PLR0913 - the public face: keywords, each of them named
    db: str | Path, run_id: str, step: int, *, answer: str, author: str, reason: str, moved: str | None = None
) -> str:
    """Record a person's decision of a step; resuming the run goes on from there.

    An undecided step is settled in its run. A decided step of a chain is overridden by a new run, which takes
    over what was decided before it; nothing on record is changed.

    Args:
        db: path of the database.
        run_id: the run's id, a unique beginning of it, or ``latest``.
        step: the step.
        answer: the answer, as JSON.
        author: who decides.
        reason: why so.
        moved: the run's task, where that has moved to another file, module or name.

    Returns:
        The full id of the run to resume.

    Raises:
        UsageError: there is no such run, the step was never asked, or the answer cannot be one of it.
    """
    path = Path(db)
    async with open_log(path) as reader:
        row = await reader.find(run_id)
        if row.kind != "run":
            raise UsageError(f"{row.run_id} is a {row.kind}, which has no steps of its own to settle")
        task = make_recorded(row.task, row.params) if moved is None else make_task(moved, row.params)
        ruling = Ruling(step, answer, encodable(author), encodable(reason))
        if isinstance(task, Chain) and 0 <= step < await reader.count_decisions(row.number):
            return await override_step(path, row, task, ruling)
        claims = Claims(path)
        claims.take(row.number, row.run_id)
        try:
            async with open_journal(path) as journal:
                await _settle(reader, journal, row, task, ruling)
                journal.append(RunEvent(row.number, "settled", ruling.reason, ruling.author, {"step": step}))
                await Sealer(journal, reader).seal(row.number)
                await journal.flush()
        finally:
            claims.close()
    return row.run_id


async def _settle(reader: Reader, journal: Writer, row: RunRow, task: Task, ruling: Ruling) -> None:
    voting = VotingSettings.recorded(row.settings)
    lineups = lineups_of(row.provider["models"], row.provider["escalate_to"])[1]
    casting = casting_of(voting, lineups)
    account = account_of(row.number, voting.robust, await reader.paid(row.number))
    absences = await reader.absences(row.number)
    rules = Rules(
        run=row.number,
        voting=voting,
        casting=casting,
        account=account,
        absences=absences,
        record_prompts=voting.records_prompts(process=isinstance(task, Process)),
    )
    if isinstance(task, Chain):
        chain = ChainRace(row.task, task, rules, journal, Progress())
        chain.begin(await reader.resume_point(row.number, as_it_ended=True))
        chain.settle_by_hand(ruling.step, ruling.answer, ruling.author, ruling.reason)
    elif isinstance(task, Process):
        await _settle_process(reader, journal, row, task, rules, ruling)


async def _settle_process(
    reader: Reader, journal: Writer, row: RunRow, task: Process[Any], rules: Rules, ruling: Ruling
) -> None:
    """Let the process ask again for all that is decided, until it comes to the step that is not."""
    point = await reader.process_point(row.number, as_it_ended=True)
    if ruling.step not in {recorded.opened.step for recorded in point.openings}:
        raise UsageError(f"step {ruling.step} is not one that voting left undecided")
    race = process_race(row.task, task, rules, journal, Progress())
    race.begin(point)
    asked = anyio.Event()
    asked.set()

    def look() -> None:
        asked.set()

    race.news = look

    async def recall(step: int) -> Recorded:
        asked.set()
        return await reader.recorded(row.number, step)

    async def solve(part: Task, name: str, share: Fraction | None) -> Solution:
        await anyio.sleep_forever()  # what is not decided yet cannot be decided here
        raise AssertionError

    async def begun(name: str, part: Task) -> bool:
        found = await reader.run(name)
        return found is not None and could_be(found.task, type(part))

    async def withhold(key: str) -> None:
        await anyio.sleep_forever()  # deciding brings nothing about: resuming does

    around = Surroundings(
        run_id=row.run_id,
        journal=journal,
        recall=recall,
        solve=solve,
        open_steps=rules.open_steps,
        begun=begun,
        withhold=withhold,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(answer_process, task, race, around)
        while asked.is_set() and not race.is_asked(ruling.step) and race.status is RunStatus.RUNNING:
            asked = anyio.Event()
            with anyio.move_on_after(_PATIENCE):
                await asked.wait()
        group.cancel_scope.cancel()
    race.settle_by_hand(ruling.step, ruling.answer, ruling.author, ruling.reason)
