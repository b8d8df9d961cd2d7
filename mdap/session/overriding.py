"""Override a decided step: a new run copies the earlier decisions and continues from there.

The old record stays unchanged. The new run records each copied decision with its digest in the old run, and
the person's decision of the step. Once resumed, it votes on the undecided steps. A chain copies the decisions
before the step. A process identifies its steps by their content, so it copies all voted decisions; it repeats
later results without a vote, those of `once` and of nested runs.

If the step belongs to a nested run, mdap also copies the enclosing runs, without that run's result.
"""

import re
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from sqlite3 import Row
from typing import Any, Final, NamedTuple

from mdap.engine.guarded import GuardedTask
from mdap.engine.process import checked_answer
from mdap.engine.voting import Race
from mdap.errors import UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader, RunRow, open_log
from mdap.journal.resuming import process_point
from mdap.journal.runs import append_seal
from mdap.journal.writer import Writer, open_journal
from mdap.records import NOTED, Decided, RunEvent, StepOpened, StopCause
from mdap.rules.digests import CHAIN_START, chain_digest
from mdap.rules.ledger import ledger_after
from mdap.rules.parts import LONGEST_ID
from mdap.session.seeking import Gathered, ask_again, config_of, runs_around
from mdap.settings import VotingSettings
from mdap.tasks import Chain, Process, Task

_NUMBERED: Final = re.compile(r"-override-\d+$")
_SHORTENED: Final = re.compile(r"~[0-9a-f]{16}$")
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


class ManualDecision(NamedTuple):
    """A person's decision of a step: the answer as JSON, and that person's name and reason."""

    step: int
    answer: str
    author: str
    reason: str


class _Taken(NamedTuple):
    """A run to copy without *step*: the overridden one, or that of the nested run with it, if it has one."""

    row: RunRow
    step: int | None
    chain: bool


async def override_step(path: Path, row: RunRow, task: Task, decision: ManualDecision) -> str:
    """Begin a run that continues from a decided step with a person's answer; return its id."""
    async with open_log(path) as reader, open_journal(path) as journal:
        winner = await _checked(reader, row, task, decision)
        line = await _lineage(reader, row, task, decision.step)
        names = await _new_names(reader, [taken.row for taken in line])
        claims = Claims(path)
        numbers: list[int] = []
        try:
            for taken, own in zip(line, names, strict=True):
                [recorded] = await reader.rows("run_of", taken.row.number)
                columns = {name: recorded[name] for name in _COPIED}
                # An independent part stays a part of the run that it belongs to.
                parent = numbers[-1] if numbers else taken.row.parent
                numbers.append(await journal.begin_run({**columns, "run_id": own, "parent": parent}))
                claims.take(numbers[-1], own)
            for taken, number in zip(line, numbers, strict=True):
                over = None if taken is not line[-1] else (decision, winner)
                await _take_over(reader, journal, taken, number, over)
            await journal.flush()
            for number in numbers:
                await append_seal(journal, reader, number)
            await journal.flush()
        finally:
            claims.close()
    return names[0]


async def _checked(reader: Reader, row: RunRow, task: Task, decision: ManualDecision) -> str:
    """Return the person's answer in canonical JSON."""
    if isinstance(task, Chain):
        return await _checked_of_chain(reader, row, GuardedTask(row.task, task), decision)
    assert isinstance(task, Process)
    opened = await _opened(reader, row, decision.step)
    identity = (opened["key"], opened["prompt_digest"])
    policy = Gathered(task, await config_of(reader, row, task))
    policy.begin(await process_point(reader, row.number, as_it_ended=True))
    await ask_again(reader, row, task, policy, lambda: identity in policy.steps)
    if identity not in policy.steps:
        raise UsageError(
            f"{row.task} does not ask for step {decision.step} any more: its code has changed, or it was led "
            "elsewhere"
        )
    found = policy.race(policy.steps[identity])
    alike = await _voted_for(reader, row.number, decision.step, found)
    return checked_answer(task, found.step, decision.answer, alike)


async def _voted_for(reader: Reader, run: int, step: int, race: Race) -> list[Any]:
    """Return voted answers: they show the class of an answer."""
    if await reader.rows("winner", run, step):
        recorded = await reader.recorded(run, step)
        replies = recorded.votes if recorded.text is None else ((recorded.text, recorded.view or 0),)
    else:
        replies = tuple((row["body"], row["view"]) for row in await reader.rows("votes_of_step", run, step))
    return [race.prompts[view].parse(text) for text, view in replies]


async def _checked_of_chain(
    reader: Reader, row: RunRow, guarded: GuardedTask, decision: ManualDecision
) -> str:
    spelled = await reader.value("input_at", row.number, decision.step)
    state = guarded.state(decision.step, spelled)
    step = guarded.step(decision.step, state)
    if step is None:
        raise UsageError(f"the task has no step {decision.step} any more: its code has changed since the run")
    return guarded.spelled(decision.step, guarded.checked_answer(step, decision.answer))


async def _opened(reader: Reader, row: RunRow, step: int) -> Row:
    [opened] = await reader.rows("openings_of_step", row.number, step)
    noted = opened["author"] == NOTED and not await reader.taken_over(row.number, step)
    if noted:
        made = "a nested run: settle a step of that run" if opened["key"].startswith("solve:") else "`once`"
        raise UsageError(f"step {step} was not voted on: its result is that of {made}")
    return opened


async def _lineage(reader: Reader, row: RunRow, task: Task, step: int) -> list[_Taken]:
    """Return the run and its enclosing runs, outermost first."""
    line: list[_Taken] = []
    for whole, part in pairwise(await runs_around(reader, row)):
        if part.settings.get("robust"):
            raise UsageError(
                f"{row.run_id} is nested, and got a share of the error budget of -k robust: its decisions "
                "cannot be overridden"
            )
        line.append(_Taken(whole, await reader.value("step_of_part", whole.number, part.run_id), chain=False))
    return [*line, _Taken(row, step, chain=isinstance(task, Chain))]


async def _new_names(reader: Reader, runs: Sequence[RunRow]) -> list[str]:
    """Return names for the copies of *runs*, outermost first."""
    names = [run.run_id for run in runs]
    overrides = await reader.rows("source", runs[0].number)
    stem, number = _NUMBERED.sub("", names[0]) if overrides else names[0], 1
    while await reader.run(f"{stem}-override-{number}") is not None:
        number += 1
    found = [f"{stem}-override-{number}{name.removeprefix(names[0])}" for name in names]
    # The process shortens such a name, like the old one, so the names would collide.
    if any(len(name) > LONGEST_ID or _SHORTENED.search(name) for name in found):
        raise UsageError(
            f"the name of {names[-1]} is too long to override a step of it: name its run briefly"
        )
    return found


async def _take_over(
    reader: Reader, journal: Writer, taken: _Taken, new: int, over: tuple[ManualDecision, str] | None
) -> None:
    """Record the copied decisions, and the person's decision if it belongs to this run."""
    old, step = taken.row, taken.step
    about = {"overrides": old.run_id, "step": step}
    if await reader.is_independent(old.number):
        about["independent"] = True
    journal.append(RunEvent(new, "started", f"step {step} of {old.run_id} was overridden", data=about))
    await _inherit(reader, journal, old, new)
    place, digest = 0, CHAIN_START
    async for row in _decisions(reader, taken):
        if row["step"] != step:
            winner, author, reason = row["winner"], NOTED, f"run {old.run_id}, digest {row['digest']}"
        elif over is not None:
            winner, author, reason = over[1], over[0].author, over[0].reason
        else:
            continue
        opened = StepOpened(new, row["step"], 0, row["key"], row["input"], row["prompt_digest"])
        draft = Decided(new, place, row["step"], 0, winner, "{}", 0, 0, author, reason, "")
        digest = chain_digest(digest, opened, [], draft)
        journal.append(opened, draft._replace(digest=digest))
        place += 1
        await journal.wait_for_room()
    if over is not None:
        journal.append(RunEvent(new, "settled", over[0].reason, over[0].author, {"step": over[0].step}))
    if taken.chain and step is not None:
        # The old run has had the effects of its decisions, but not of this one.
        journal.append(RunEvent(new, "effect", data={"step": step - 1}))
    waiting = {"seconds": 0.0, "stop_cause": str(StopCause.OVERRIDE)}
    journal.append(RunEvent(new, "stopped", "waits to be resumed after an override", data=waiting))


async def _inherit(reader: Reader, journal: Writer, old: RunRow, new: int) -> None:
    terms = VotingSettings.recorded(old.settings).robust
    if terms is not None:
        ledger = ledger_after(terms, await reader.paid(old.number))
        # The old run also paid for the steps after this one.
        spent = {"price": str(ledger.spent), "payments": ledger.payments}
        journal.append(RunEvent(new, "paid", data={"why": "inherited", "step": -1, **spent}))


async def _decisions(reader: Reader, taken: _Taken) -> AsyncIterator[Row]:
    """Yield the decisions to copy, and the overridden step."""
    after = False
    async for row in reader.decided(taken.row.number):
        made = row["author"] == NOTED and row["key"].startswith(("once:", "solve:"))
        if not (after and made):
            yield row
        after = after or row["step"] == taken.step
        if after and taken.chain:
            return
    if not after and taken.step is not None:  # votes left it undecided
        for row in await reader.rows("openings_of_step", taken.row.number, taken.step):
            yield row
