"""A person overrides a decided step: a new run takes over what came before it, and goes on from there.

Nothing on record is changed. The new run notes each decision before the step as one that it took from the
old run, with its digest, and the person's decision of the step; resumed, it votes on all that follows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdap.engine.authored import Authored
from mdap.errors import UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader, RunRow, open_log
from mdap.journal.sealing import Sealer
from mdap.journal.writer import Writer, open_journal
from mdap.records import NOTED, Decided, RunEvent, StepOpened, StopCause
from mdap.rules.digests import CHAIN_START, chain_digest
from mdap.rules.ledger import ledger_after
from mdap.settings import VotingSettings
from mdap.tasks import Chain

__all__ = ["Ruling", "override_step"]

_COPIED: Final = (
    "kind",
    "task",
    "task_version",
    "params",
    "settings",
    "provider",
    "k",
    "mdap_version",
)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a person decides.

    Attributes:
        step: the step.
        answer: the answer, as JSON.
        author: who decides.
        reason: why so.
    """

    step: int
    answer: str
    author: str
    reason: str


async def override_step(path: Path, row: RunRow, task: Chain[Any, Any], ruling: Ruling) -> str:
    """Begin a run that goes on from a decided step with a person's answer; return its id.

    Args:
        path: the database.
        row: the run that decided the step.
        task: its task.
        ruling: what the person decides.

    Raises:
        UsageError: the answer cannot be one of the step.
    """
    async with open_log(path) as reader, open_journal(path) as journal:
        authored = Authored(row.task, task)
        winner = await _checked(reader, row, authored, ruling)
        name = await _free_name(reader, row.run_id)
        columns = {**await reader.run_columns(row.number, _COPIED), "run_id": name, "parent": None}
        claims = Claims(path)
        number = await journal.begin_run(columns)
        claims.take(number, name)
        try:
            await _take_over(reader, journal, (row, number), ruling, winner)
            await Sealer(journal, reader).seal(number)
            await journal.flush()
        finally:
            claims.close()
    return name


async def _checked(reader: Reader, row: RunRow, authored: Authored, ruling: Ruling) -> str:
    """Return the person's answer in canonical JSON."""
    spelled = await reader.input_at(row.number, ruling.step)
    state = authored.state(ruling.step, spelled)
    step = authored.step(ruling.step, state)
    if step is None:
        raise UsageError(f"the task has no step {ruling.step} any more: its code has changed since the run")
    return authored.spelled(ruling.step, authored.checked_answer(step, ruling.answer))


async def _free_name(reader: Reader, run_id: str) -> str:
    number = 1
    while await reader.run(f"{run_id}-override-{number}") is not None:
        number += 1
    return f"{run_id}-override-{number}"


async def _take_over(
    reader: Reader, journal: Writer, runs: tuple[RunRow, int], ruling: Ruling, winner: str
) -> None:
    old, new = runs
    about = {"overrides": old.run_id, "step": ruling.step}
    journal.append(RunEvent(new, "started", f"step {ruling.step} of {old.run_id} was overridden", data=about))
    terms = VotingSettings.recorded(old.settings).robust
    if terms is not None:
        ledger = ledger_after(terms, await reader.paid(old.number))
        # What came after the step was spent, too.
        inherited = {"why": "inherited", "step": -1, "price": str(ledger.spent), "payments": ledger.payments}
        journal.append(RunEvent(new, "paid", data=inherited))
    digest = CHAIN_START
    async for row in reader.decided(old.number):
        opened = StepOpened(new, row["step"], 0, row["key"], row["input"], row["prompt_digest"])
        reason = f"run {old.run_id}, digest {row['digest']}"
        draft = Decided(new, row["place"], row["step"], 0, row["winner"], "{}", 0, 0, NOTED, reason, "")
        if row["step"] == ruling.step:
            draft = draft._replace(winner=winner, author=ruling.author, reason=ruling.reason)
        digest = chain_digest(digest, opened, [], draft)
        journal.append(opened)
        journal.append(draft._replace(digest=digest))
        await journal.settle()
        if row["step"] == ruling.step:
            break
    journal.append(RunEvent(new, "settled", ruling.reason, ruling.author, {"step": ruling.step}))
    # The old run has brought about what its decisions called for, but not what this one does.
    journal.append(RunEvent(new, "effect", data={"step": ruling.step - 1}))
    waiting = {"seconds": 0.0, "stop_cause": str(StopCause.OVERRIDE)}
    journal.append(RunEvent(new, "stopped", "waits to be resumed after an override", data=waiting))
