"""Choose the steps of a task to sample for a calibration."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import anyio

from mdap.engine.calibrate import Subjects, Surveyed, steps_in
from mdap.engine.guarded import GuardedTask, TaskSubject, simulated
from mdap.errors import RAISED, PluginError, UsageError
from mdap.groups import first_of
from mdap.journal.reader import Reader, RunRow
from mdap.journal.resuming import process_point
from mdap.plugins import make_recorded, task_name
from mdap.rules.canonical import canonical
from mdap.session.margins import pilot_of
from mdap.session.resources import SessionResources
from mdap.session.seeking import Gathered, ask_again, config_of
from mdap.settings import VotingSettings
from mdap.tasks import Chain, Process, Step, Task, canonical_step
from mdap.testing.walking import OracleAsk, TooManyError

_MOST_WALKED: Final = 20_000
"""Maximum number of steps of a process to ask its oracle for."""

_PARTS: Final = 100
"""Maximum number of nested runs to read."""

_PATIENCE: Final = 1.0


async def subjects_of(
    resources: SessionResources, task: Task, request: tuple[str, int, int], voting: VotingSettings
) -> tuple[Subjects, str, bool]:
    """Return the steps to sample, their source, and whether the right answers are known.

    *request* is the calibration's name, its approximate number of samples, and its seed.
    """
    name, samples, seed = request
    if isinstance(task, Chain):
        oracle = _chain_has_oracle(task_name(task), task)
        own = states_of_task(task_name(task), task, seed)
        if own is not None:
            return steps_in(GuardedTask(task_name(task), task), own), "sample_state", oracle
    else:
        assert isinstance(task, Process)
        walked = await _walked(task)
        if walked is not None:
            return _drawn(walked, samples, seed), "oracle", True
        oracle = False
    found = await resources.reader.value("latest_of_task", task_name(task), canonical(task))
    if found is None:
        found = (await pilot_of(resources, task, name, voting)).run_id
    row = await resources.reader.find(found)
    steps = _drawn(await _steps_of_run(resources.reader, row, task, (samples, seed)), samples, seed)
    return steps, f"{row.kind} {found}", oracle


def known_steps(task: Task, most: int, seed: int) -> list[Surveyed]:
    """Return up to *most* random steps, answered by the task's oracle; none if it has no oracle."""
    if isinstance(task, Chain):
        name = task_name(task)
        states = states_of_task(name, task, seed) if _chain_has_oracle(name, task) else None
        chosen = itertools.islice(states or (), most)
        return list(steps_in(GuardedTask(name, task), chosen))
    assert isinstance(task, Process)
    found = anyio.run(_walked, task) or []
    return random.Random(seed).sample(found, min(most, len(found)))


def _drawn(found: Sequence[Surveyed], samples: int, seed: int) -> Subjects:
    """Yield the steps *found* in random order, repeatedly."""
    if not found:
        raise UsageError("there is no step to sample: the task asks for none")
    return itertools.cycle(random.Random(seed).sample(found, min(samples, len(found))))


# -- by the oracle's answers -----------------------------------------------------------------------


class _Walk(OracleAsk):
    """Walk a process along the oracle's answers and collect its steps, without calling `once` functions."""

    def __init__(self, task: Process[Any], most: int) -> None:
        super().__init__(task, most)
        self.found: list[Surveyed] = []

    async def __call__(self, step: Step[Any]) -> Any:
        """Return the oracle's answer to *step*."""
        before = len(self.asked)
        try:
            answer = await super().__call__(step)
        except NotImplementedError:
            raise TooManyError from None
        if len(self.asked) > before and not step.proposal:
            self.found.append(_surveyed(self._task, step))
        return answer

    async def solve(self, task: Task, key: str | None = None) -> Any:
        """Return the result of a nested task, and collect its steps, too."""
        left = self._most - len(self.asked)
        if isinstance(task, Process):
            nested = _Walk(task, left)
            try:
                return await task.solve(nested)
            finally:
                self.found += nested.found
                self.asked += nested.asked
        assert isinstance(task, Chain)
        states = _walked_states(task, left)
        self.found += list(steps_in(GuardedTask(task_name(task), task), iter(states[:-1])))
        return task.result(states[-1])

    async def once(self, function: Callable[[], Any], key: str) -> Any:
        """End the walk: a calibration must not have outside effects."""
        raise TooManyError


def _walked_states(task: Any, most: int) -> list[Any]:
    """Return the states of a chain decided by its oracle, including the last one."""
    states, length = [task.start()], task.length()
    while len(states) <= most:
        over = len(states) > length if length is not None else task.step(states[-1]) is None
        if over:
            return states
        states.append(task.advance(states[-1], task.canonical(task.oracle(states[-1]))))
    raise TooManyError


async def _walked(task: Process[Any]) -> list[Surveyed] | None:
    """Return the steps that a process asks for on the oracle's answers; None if it has no oracle."""
    walk = _Walk(task, _MOST_WALKED)
    try:
        await task.solve(walk)
    except TooManyError:
        pass
    except RAISED as error:
        first = first_of(error)
        if not isinstance(first, NotImplementedError):
            raise PluginError(
                f"task {task_name(task)}", "solving with its oracle's answers", first
            ) from error
    except BaseExceptionGroup as error:
        if not isinstance(first_of(error), TooManyError):
            raise
    return walk.found or None


def _surveyed(task: Process[Any], step: Step[Any]) -> Surveyed:
    about = canonical(step.user if step.input is None else step.input)
    subject = TaskSubject(task, step, step)
    return Surveyed(canonical_step(task, step), subject, about, partial(_truth, task, step))


def _truth(task: Process[Any], step: Step[Any]) -> str:
    return canonical(
        simulated(task, "canonical", task.canonical, simulated(task, "oracle", task.oracle, step))
    )


# -- of a run --------------------------------------------------------------------------------------


async def _steps_of_run(reader: Reader, row: RunRow, task: Task, request: tuple[int, int]) -> list[Surveyed]:
    """Rebuild and return steps of an earlier run and its nested runs from their rows."""
    samples, seed = request
    if isinstance(task, Chain):
        guarded, decided = GuardedTask(row.task, task), await reader.value("count_decisions", row.number)
        places = random.Random(seed).sample(range(decided), min(samples, decided))
        inputs = [await reader.value("input_at", row.number, place) for place in places]
        return list(steps_in(guarded, map(guarded.state, places, inputs)))
    assert isinstance(task, Process)
    race = Gathered(task, await config_of(reader, row, task))
    race.begin(await process_point(reader, row.number, as_it_ended=True))
    await ask_again(reader, row, task, race, lambda: len(race.steps) >= _MOST_WALKED, _PATIENCE)
    found = [_surveyed(task, step) for step in race.steps.values() if not step.proposal]
    for part, _ in await reader.parts(row.number, _PARTS):
        found += await _steps_of_run(reader, part, make_recorded(part.task, part.params), request)
    return found


# -- of a chain ------------------------------------------------------------------------------------


def _chain_has_oracle(name: str, task: Chain[Any, Any]) -> bool:
    try:
        task.oracle(task.start())
    except NotImplementedError:
        return False
    except RAISED as error:
        raise PluginError(f"task {name}", "giving its first right answer", error) from error
    return True


def states_of_task(name: str, task: Chain[Any, Any], seed: int) -> Iterator[Any] | None:
    """Return states that the task samples itself; None if it does not."""
    rng = random.Random(seed)

    def sampled() -> Any:
        try:
            return task.sample_state(rng)
        except RAISED as error:
            raise PluginError(f"task {name}", "sampling a state", error) from error

    first = sampled()
    return None if first is None else itertools.chain([first], iter(sampled, None))
