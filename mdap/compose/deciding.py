"""A person settles a step that voting left undecided."""

from pathlib import Path

from mdap.compose.crew import lineups_of
from mdap.engine.chain import ChainRace, Rules
from mdap.engine.opening import Progress
from mdap.errors import UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import open_log
from mdap.journal.writer import open_journal
from mdap.plugins import make_task
from mdap.records import RunEvent
from mdap.rules.casting import Casting
from mdap.settings import VotingSettings
from mdap.tasks import Chain

__all__ = ["settle_step"]


async def settle_step(
    db: str | Path, run_id: str, step: int, *, answer: str, author: str, reason: str
) -> str:
    """Record a person's decision of an undecided step; resuming the run goes on from there.

    Args:
        db: path of the database.
        run_id: the run's id, a unique beginning of it, or ``latest``.
        step: the undecided step.
        answer: the answer, as JSON.
        author: who decides.
        reason: why so.

    Returns:
        The full id of the run.

    Raises:
        UsageError: there is no such run, the step is not undecided, or the answer cannot be one of it.
    """
    path = Path(db)
    async with open_log(path) as reader:
        row = await reader.find(run_id)
        task = make_task(row.task, row.params)
        if not isinstance(task, Chain):
            raise UsageError(f"{row.task} is no chain any more")
        voting = VotingSettings(**row.settings)
        lineups = lineups_of(row.provider["models"], row.provider["escalate_to"])[1]
        casting = Casting(lineups, voting.temperatures, voting.samples_allowed)
        claims = Claims(path)
        claims.take(row.number, row.run_id)
        try:
            async with open_journal(path) as journal:
                rules = Rules(run=row.number, voting=voting, casting=casting)
                race = ChainRace(row.task, task, rules, journal, Progress())
                race.begin(await reader.resume_point(row.number))
                race.settle_by_hand(step, answer, author, reason)
                journal.append(RunEvent(row.number, "settled", reason, author, {"step": step}))
                await journal.flush()
        finally:
            claims.close()
    return row.run_id
