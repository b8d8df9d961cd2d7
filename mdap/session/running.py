"""Drive one run: begin or resume it, decide its task, and record its end."""

import json
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

import anyio

from mdap.engine.account import account_of
from mdap.engine.asking import ProcessContext, answer_process
from mdap.engine.chain import ChainRace
from mdap.engine.ordered import process_race
from mdap.engine.process import ProcessRace
from mdap.engine.recording import RunConfig
from mdap.engine.run import decide
from mdap.errors import RAISED, PluginError, UsageError
from mdap.journal.reader import Reader
from mdap.journal.runs import RunStart
from mdap.plugins import task_name, unfindable
from mdap.records import ProcessPoint, ResumePoint, RunEvent, RunStatus, Solution, StopCause
from mdap.rules.canonical import canonical
from mdap.rules.drift import Baseline, Drift
from mdap.rules.methods import check_methods
from mdap.rules.outcomes import recorded, said_by
from mdap.rules.parameters import as_resumed
from mdap.rules.parts import RecordedPart, content_of, content_of_row, could_be, renamed
from mdap.rules.rungs import exact
from mdap.session.ending import Ending, work_on
from mdap.session.identity import RunSpec, check_same, run_columns
from mdap.session.promising import with_share
from mdap.session.resources import SessionResources
from mdap.session.results import read_solution, solution_of
from mdap.session.taking import take_rulings
from mdap.session.turns import Turn, driving, take_turn
from mdap.settings import OnDead, VotingSettings
from mdap.tasks import Chain, Process, Task
from mdap.tracing import RunTrace

__all__ = ["WITHHELD", "run_task"]

WITHHELD: Final = "which a pilot must not bring about"
"""Part of the reason of a pilot that cannot continue."""

_LOG: Final = logging.getLogger("mdap")


async def run_task(resources: SessionResources, task: Task, spec: RunSpec) -> Solution:
    """Run *task* until it is finished, undecided, stopped or failed, and return its solution.

    If another caller in this process is driving the run, wait for it and return its solution. If that caller
    is cancelled, continue the run.

    Raises:
        UsageError: the run started with other settings, or its recorded parameters do not convert back.
        RunBusyError: another process is working on it.
        DatabaseError: the database can no longer be written.
    """
    if spec.voting.robust is not None and resources.on_dead is OnDead.CONTINUE:
        raise UsageError(
            "-k robust cannot go with --on-dead continue: without one of its models, the later samples of a "
            "step would not be drawn as the earlier ones were"
        )
    check_methods(type(task), type(task).__qualname__)
    task = as_resumed(task)
    resources.lane.check(task, spec.voting, resources.speculate)
    row, turn = spec.row, None
    while True:
        if row is not None:
            check_same(row, run_columns(task, spec, resources.models.about), task)
            if turn is not None and turn.ended:
                return replace(await read_solution(resources.reader, row), error=turn.error)
        turn, mine = take_turn(resources.place, spec.name)
        if mine:
            break
        await turn.news()
        row = await resources.reader.run(spec.name)
    with driving(turn):
        solution = await _run_in_turn(resources, task, spec, turn)
        turn.ended, turn.error = True, solution.error
    return solution


async def _run_in_turn(resources: SessionResources, task: Task, spec: RunSpec, turn: Turn) -> Solution:
    columns = run_columns(task, spec, resources.models.about)
    start = await resources.runs.begin(
        columns,
        known=spec.row is not None or spec.known,
        process=isinstance(task, Process),
        effects=spec.effects and isinstance(task, Chain) and type(task).effects is not Chain.effects,
    )
    turn.tell()
    spec = replace(spec, row=start.row)
    if start.record is not None:
        check_same(start.record.row, columns, task)
        return solution_of(start.record)
    with _traced(resources, task, spec) as trace:
        async with work_on(resources, start.number, spec.name, trace) as ended:
            if start.row is not None:
                _check_taken_up(start, columns, task)
            try:
                await _Run(resources, task, spec, start, trace).drive(ended)
            finally:
                if spec.pilot is not None:
                    spec.pilot.forget(start.number)
    if spec.listener is not None:
        await spec.listener.end((resources.reader, resources.writer), start.number, ended.error)
    assert ended.record is not None
    return replace(solution_of(ended.record), error=ended.error)


def _check_taken_up(start: RunStart, columns: dict[str, Any], task: Task) -> None:
    assert start.row is not None
    check_same(start.row, columns, task)
    if start.is_half:
        raise UsageError(
            f"run {start.row.run_id} was cut while it took over another run: give `mdap decide` again, and "
            "resume the run that it names"
        )


def _traced(
    resources: SessionResources, task: Task, spec: RunSpec
) -> AbstractContextManager[RunTrace | None]:
    if resources.tracing is None:
        return nullcontext()
    return resources.tracing.run(spec.name, type(task).__qualname__, spec.voting.k)


class _Run:
    """A run that a session works on.

    Args:
        resources: the resources that all runs of the session share.
        task: the task.
        spec: the specification of the run.
        start: its state at the start of the session.
        trace: its spans; None for none.
    """

    def __init__(
        self, resources: SessionResources, task: Task, spec: RunSpec, start: RunStart, trace: RunTrace | None
    ) -> None:
        self._resources = resources
        self._task = task
        self._spec = spec
        self._start = start
        self._trace = trace
        self._number = start.number

    async def drive(self, ended: Ending) -> None:
        """Decide the task, and return its end."""
        resources, spec, seconds = self._resources, self._spec, self._resources.budget.seconds
        log = (resources.reader, resources.writer)
        if self._start.row is not None:
            await resources.lane.check_waiting(self._number)
        if self._start.row is not None and spec.listener is not None:
            await spec.listener.begin(log, self._number)
        ended.begin(resources, self._start, independent=spec.independent)
        ended.data["in_flight"] = 0
        self._note()
        resources.limit_changes.running.add(self._number)
        refusal = await resources.endpoint_probe.pass_on(
            self._number, self._start.options, part=spec.parent is not None
        )
        if refusal is not None:
            ended.stop(refusal, StopCause.PROVIDER)
            return
        # Only now are the temperatures and the maximum number of replies per request known.
        config = self._config()
        race, beside = self._race(config)
        if spec.listener is not None:
            beside.append(partial(spec.listener.listen, log, self._number, race))
        if config.patient:
            beside.append(partial(take_rulings, resources, self._number, race))
        provider = await resources.lane.provider(self._number, resources.models.provider)
        if self._trace is not None:
            provider = self._trace.provider(provider, resources.models.names)
        try:
            with anyio.move_on_after(seconds) as clock:
                limits = resources.lane.limits(resources.limits)
                await decide(race, provider, limits, resources.writer, resources.budget_guard, beside)
            ended.take(race)
            if clock.cancelled_caught:
                ended.stop(f"the {seconds:g} seconds allowed are over", StopCause.DEADLINE)
            if race.decider.status is RunStatus.FINISHED and not (spec.pilot is not None and spec.pilot.full):
                ended.data |= self._came_to(race)
                if isinstance(race, ProcessRace):
                    [[undecided]] = await resources.reader.rows("undecided_in_parts", self._number)
                    ended.data["undecided"] += undecided
        finally:
            ended.data["in_flight"] = race.decider.in_flight

    def _note(self) -> None:
        """Count the spending of earlier sessions, and record all known facts before the first request."""
        resources, spec, start = self._resources, self._spec, self._start
        resources.charge_earlier(start)
        if spec.parent is None:
            spec.progress.add(start.totals)
        if start.tiers:
            spec.presence.answered.update(range(len(resources.models.names)))
            spec.presence.voted.update(start.tiers)
        known = spec.presence.absences
        known += [absence for absence in start.absences if absence not in known]
        if start.row is None:
            self._tell_if_unfindable()
        for kind, reason, data in spec.notes:
            resources.writer.append(RunEvent(self._number, kind, reason, data=data))

    def _tell_if_unfindable(self) -> None:
        """Warn at the start, on standard error and in the log, if no other program can resume the run."""
        kind, said = type(self._task), self._resources.unfindable
        why = unfindable(self._task)
        if why is None or kind in said:
            return
        said.add(kind)
        sentence = (
            f"class {kind.__qualname__} {why}, where mdap cannot find it: only this program can resume "
            f"{self._spec.name}, and none can verify it; define the class at the top level of a file"
        )
        self._resources.writer.append(RunEvent(self._number, "warning", sentence))
        _LOG.warning(sentence)

    def _config(self) -> RunConfig:
        resources, spec, start = self._resources, self._spec, self._start
        waits = resources.limits.wait_for_person > 0 or start.has_rulings
        return RunConfig(
            run=self._number,
            run_id=spec.name,
            voting=spec.voting,
            speculation=resources.speculation(),
            max_n=resources.models.provider.max_n,
            models=resources.models.names,
            schedule=resources.models.schedule(spec.voting),
            open_steps=resources.breadth,
            account=account_of(self._number, spec.voting.robust, start.paid),
            presence=spec.presence,
            on_dead=resources.on_dead,
            absences=start.absences,
            effects=spec.effects,
            drift=start.drift or self._fresh_drift(),
            record_prompts=spec.voting.records_prompts(process=isinstance(self._task, Process)),
            pilot=spec.pilot,
            patient=spec.pilot is None and waits,
            warm_cache=self._warms_cache(),
        )

    def _warms_cache(self) -> bool:
        chosen = self._resources.limits.warm_cache
        if self._resources.lane.batched:  # the others would wait for the first one's wave
            return False
        return isinstance(self._task, Process) if chosen is None else chosen

    def _fresh_drift(self) -> Drift | None:
        """Return the drift detector of the run."""
        baselines = [data for kind, _, data in self._spec.notes if kind == "baseline"]
        return Drift(Baseline(**baselines[0]), self._spec.voting.k, frozenset()) if baselines else None

    def _race(
        self, config: RunConfig
    ) -> tuple[ChainRace | ProcessRace, list[Callable[[], Coroutine[Any, Any, None]]]]:
        """Return the race of the task, started from its resume point, and its companion functions."""
        writer, spec, point = self._resources.writer, self._spec, self._start.point
        task, row = self._task, self._start.row
        name = task_name(task) if row is None else row.task
        journal = writer if self._trace is None else self._trace.journal(writer)
        if self._trace is not None:
            self._trace.reopened(point.openings)
        if isinstance(task, Chain):
            assert isinstance(point, ResumePoint)
            chain = ChainRace(name, task, config, journal, spec.progress)
            if spec.parent is None:
                spec.progress.length = chain.length
            chain.owe(self._start.owed)
            chain.begin(point)
            return chain, []
        assert isinstance(task, Process)
        assert isinstance(point, ProcessPoint)
        process = process_race(name, task, config, journal, spec.progress)
        process.begin(point)
        return process, [partial(answer_process, task, process, self._context(process))]

    def _context(self, process: ProcessRace) -> ProcessContext:
        resources, spec = self._resources, self._spec
        return ProcessContext(
            run_id=spec.name,
            journal=resources.writer,
            recall=partial(resources.reader.recorded, self._number),
            solve=self._solve_part,
            open_steps=resources.runs_at_once,
            dry_run=not spec.effects,
            recorded=None if spec.row is None else partial(_recorded_part, resources.reader, self._number),
            begun=None if spec.row is None else partial(_begun_before, resources),
            withhold=None if spec.effects else partial(_withheld, process),
        )

    async def _solve_part(
        self, task: Task, name: str, share: Fraction | None, *, independent: bool = False
    ) -> Solution:
        """Run or resume a nested task; see `SolvePart`."""
        resources, whole = self._resources, self._spec
        if whole.depth >= resources.limits.max_nesting:
            raise UsageError(
                f"part {name}: tasks are nested more than {resources.limits.max_nesting} deep: let each ask "
                "for a smaller problem than its own, or raise --max-nesting"
            )
        row = None
        if whole.row is not None or not independent:
            await resources.writer.flush()
            row = await resources.reader.run(name)
        part = RunSpec(
            name=name,
            voting=_voting_of_part(whole.voting, share, task),
            row=row,
            known=row is not None,
            kind=whole.kind if row is None else row.kind,
            parent=self._number,
            depth=whole.depth + 1,
            independent=independent,
            moved=whole.moved,
            effects=whole.effects,
            pilot=whole.pilot,
            progress=whole.progress,
            presence=whole.presence,
        )
        if resources.dealer is not None and whole.pilot is None:
            return await resources.dealer.solve(task, part)
        solution = await run_task(resources, task, part)
        if whole.pilot is not None and whole.pilot.full:
            await anyio.sleep_forever()  # it may have ended early: wait until the whole pilot is over
        return solution

    def _came_to(self, race: ChainRace | ProcessRace) -> dict[str, Any]:
        """Return the record of a finished race; a pilot ends before its task and gets no verdict."""
        if isinstance(race, ProcessRace):
            found = {"result": race.result, "undecided": race.undecided_steps}
        else:
            found = {"result": self._result_of(race)}
        if self._spec.kind == "run":
            found["outcome"] = self._outcome(found["result"])
        return found

    def _outcome(self, result: Any) -> str | None:
        """Return the task's verdict on its result for the record; a failure of it does not affect the run."""
        try:
            return recorded(said_by(task_name(self._task), self._task, result))
        except PluginError as error:
            self._resources.writer.append(RunEvent(self._number, "warning", str(error)))
            return None

    def _result_of(self, race: ChainRace) -> Any:
        assert isinstance(self._task, Chain)
        try:
            return json.loads(canonical(self._task.result(race.state)))
        except RAISED as error:
            raise PluginError(f"task {type(self._task).__name__}", "giving its result", error) from error


async def _begun_before(resources: SessionResources, name: str, task: Task) -> bool:
    row = await resources.reader.run(name)
    return row is not None and could_be(row.task, type(task))


async def _recorded_part(reader: Reader, parent: int, name: str, task: Task) -> RecordedPart:
    """Return the run of a nested task in the record, or the id for a new one."""
    content = content_of(task)
    for each in (name, renamed(name, content)):
        found = await reader.rows("ended_part", parent, each)
        for row in found:
            if content_of_row(row["task_version"], row["params"]) == content:
                ended = row["ended"] if row["sealed"] else None
                result = json.loads(ended or "{}").get("result")
                return RecordedPart(row["run_id"], ended is not None, result)
        if not found:
            break
    return RecordedPart(each)


async def _withheld(process: ProcessRace, key: str) -> None:
    refused = UsageError(f"it calls ask.once with the key {key!r}, {WITHHELD}")
    process.end(RunStatus.FAILED, refused)
    await anyio.sleep_forever()  # until the run is over


def _voting_of_part(voting: VotingSettings, share: Fraction | None, task: Task) -> VotingSettings:
    """Return the settings of a nested task; without a *share* of the error budget, it has one of its own."""
    if voting.robust is None:
        return voting
    whole = 1 - exact(voting.robust.target)
    return with_share(voting, whole if share is None else share, task.length())
