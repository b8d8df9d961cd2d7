"""Run a process through its decided steps, changing nothing, until it asks for a given step."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn

import anyio

from mdap.engine.account import account_of
from mdap.engine.asking import ProcessContext, answer_process
from mdap.engine.config import RunConfig
from mdap.engine.process import ProcessPolicy, identify
from mdap.engine.voting import Race
from mdap.journal.reader import Reader, RunRow
from mdap.records import Fact, Identity, Recorded, RunStatus
from mdap.rules.canonical import canonical
from mdap.rules.parameters import version_of
from mdap.rules.parts import could_be, used_already
from mdap.rules.schedule import schedule_of, tiers_of
from mdap.settings import VotingSettings
from mdap.tasks import Process, Step, Task

_OPEN: Final = 4_096


class Muted:
    """A journal that drops all facts: a search must change nothing."""

    behind = False

    def append(self, *facts: Fact) -> None:
        """Drop *facts*."""

    async def wait_for_room(self) -> None:
        """Wait for nothing."""

    async def flush(self) -> None:
        """Wait for nothing."""


class Gathered(ProcessPolicy):
    """Collect every step that a process asks for, by its identity."""

    def __init__(self, task: Process[Any], config: RunConfig) -> None:
        super().__init__(task, replace(config, account=None), Muted())
        self.steps: dict[Identity, Step[Any]] = {}

    def race(self, step: Step[Any]) -> Race:
        """Return a race for *step*, and keep the step."""
        race = super().race(step)
        self.steps[identify(step, race)] = step
        return race


async def config_of(reader: Reader, row: RunRow, task: Task) -> RunConfig:
    """Return the recorded configuration of a run of *task*."""
    voting = VotingSettings.recorded(row.settings)
    tiers = tiers_of(row.provider["models"], row.provider["escalate_to"])[1]
    return RunConfig(
        run=row.number,
        voting=voting,
        schedule=schedule_of(voting, tiers),
        account=account_of(row.number, voting.robust, await reader.paid(row.number)),
        absences=await reader.absences(row.number),
        record_prompts=voting.records_prompts(process=isinstance(task, Process)),
        task=row.task,
    )


async def ask_again(
    reader: Reader,
    row: RunRow,
    task: Process[Any],
    policy: ProcessPolicy,
    there: Callable[[], bool],
    patience: float = 10.0,
) -> None:
    """Run the function of a process on its record until *there* is true or it gets stuck.

    It is stuck after *patience*, in seconds, without a request while all earlier steps are decided.
    """
    asked = anyio.Event()
    asked.set()

    async def recall(step: int) -> Recorded:
        asked.set()
        return await reader.recorded(row.number, step)

    context = ProcessContext(
        run_id=row.run_id,
        journal=Muted(),
        recall=recall,
        solve=_never,
        open_steps=_OPEN,
        begun=partial(begun_before, reader),
        withhold=_never,
    )
    policy.decider.news = lambda: asked.set()
    async with anyio.create_task_group() as group:
        group.start_soon(answer_process, task, policy, context)
        while asked.is_set() and not there() and policy.decider.status is RunStatus.RUNNING:
            asked = anyio.Event()
            with anyio.move_on_after(patience):
                await asked.wait()
        group.cancel_scope.cancel()


async def _never(*about: Any, **how: Any) -> NoReturn:
    """Wait for what only a resume does: undecided steps, and outside effects."""
    await anyio.sleep_forever()
    raise AssertionError


async def runs_around(reader: Reader, row: RunRow) -> list[RunRow]:
    """Return the runs that record the result of *row*, up to an independent part, *row* itself last."""
    line = [row]
    while not await reader.is_independent(line[0].number):
        whole = await reader.whole_of(line[0].number)
        if whole is None:
            break
        line.insert(0, whole)
    return line


async def begun_before(reader: Reader, name: str, task: Task) -> bool:
    """Return whether an earlier session began a nested *task* under a name.

    Raises:
        ValueError: it began another one under that name.
    """
    row = await reader.run(name)
    if row is None or not could_be(row.task, type(task)):
        return False
    if row.task_version == version_of(task) and row.params != json.loads(canonical(task)):
        raise used_already(name.rpartition("/")[2])
    return True
