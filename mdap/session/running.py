"""Drive one run: begin or resume it, decide its task, and record its end."""

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

import anyio

from mdap.engine.account import account_of
from mdap.engine.asking import ProcessContext, answer_process
from mdap.engine.chain import ChainPolicy
from mdap.engine.config import RunConfig
from mdap.engine.ordered import process_policy
from mdap.engine.process import ProcessPolicy
from mdap.engine.scheduler import Beside, decide
from mdap.errors import RAISED, PluginError, UsageError
from mdap.journal.reader import Reader
from mdap.journal.runs import RunStart
from mdap.plugins import task_name, unfindable
from mdap.records import ProcessPoint, ResumePoint, RunEvent, RunStatus, Solution, StopCause
from mdap.rules.canonical import canonical
from mdap.rules.certificate import recorded, said_by
from mdap.rules.declared import check_methods
from mdap.rules.drift import Baseline, Drift
from mdap.rules.parameters import as_resumed
from mdap.rules.parts import RecordedPart, content_of, content_of_row, renamed
from mdap.rules.rungs import exact
from mdap.session.ending import Ending
from mdap.session.identity import RunSpec, check_same, run_columns
from mdap.session.promising import promising
from mdap.session.resources import SessionResources
from mdap.session.results import read_solution, solution_of
from mdap.session.seeking import begun_before
from mdap.session.taking import take_rulings
from mdap.session.turns import driving, take_turn
from mdap.settings import OnDead, VotingSettings
from mdap.tasks import Chain, Process, Task
from mdap.tracing import RunTrace

WITHHELD: Final = "which a pilot must not bring about"
"""Part of the reason of a pilot that cannot continue."""

_LOG: Final = logging.getLogger("mdap")


async def run_task(resources: SessionResources, task: Task, spec: RunSpec) -> Solution:
    """Run *task* until it is finished, undecided, stopped or failed, and return its solution.

    If another caller in this process is driving the run, wait for it and return its solution. If that caller
    is cancelled, continue the run.
    """
    task = _checked(resources, task, spec)
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
        columns = run_columns(task, spec, resources.models.about)
        start = await resources.runs.begin(
            columns,
            known=spec.row is not None or spec.known,
            process=isinstance(task, Process),
            effects=spec.effects and isinstance(task, Chain) and type(task).effects is not Chain.effects,
        )
        turn.tell()
        if start.record is None:
            solution = await _Run(resources, task, replace(spec, row=start.row), start).drive(columns)
        else:
            check_same(start.record.row, columns, task)
            solution = solution_of(start.record)
        turn.ended, turn.error = True, solution.error
    return solution


def _checked(resources: SessionResources, task: Task, spec: RunSpec) -> Task:
    """Return *task* as a resume has it; refuse one that the session cannot run."""
    if spec.voting.robust is not None and resources.setup.on_dead is OnDead.CONTINUE:
        raise UsageError(
            "-k robust cannot go with --on-dead continue: without one of its models, the later samples of a "
            "step would not be drawn as the earlier ones were"
        )
    check_methods(type(task), type(task).__qualname__)
    task = as_resumed(task)
    resources.lane.check(task, spec.voting)
    return task


class _Run:
    """A run that a session works on."""

    def __init__(self, resources: SessionResources, task: Task, spec: RunSpec, start: RunStart) -> None:
        self._resources = resources
        self._task = task
        self._spec = spec
        self._start = start
        self._number = start.number
        self._trace: RunTrace | None = None
        self._ended = Ending(resources, start, spec.name)

    async def drive(self, columns: dict[str, Any]) -> Solution:
        """Decide the task, if the recorded run is the one in *columns*; return its solution."""
        resources, spec, ended = self._resources, self._spec, self._ended
        with self._traced() as self._trace:
            async with ended.recorded(self._trace):
                self._check_taken_up(columns)
                try:
                    await self._decide()
                finally:
                    if spec.pilot is not None:
                        spec.pilot.forget(self._number)
        if spec.listener is not None:
            await spec.listener.end(resources, self._number, ended.error)
        assert ended.record is not None
        return replace(solution_of(ended.record), error=ended.error)

    def _traced(self) -> AbstractContextManager[RunTrace | None]:
        tracing, spec = self._resources.tracing, self._spec
        name = type(self._task).__qualname__
        return nullcontext() if tracing is None else tracing.run(spec.name, name, spec.voting.k)

    def _check_taken_up(self, columns: dict[str, Any]) -> None:
        row = self._start.row
        if row is not None:
            check_same(row, columns, self._task)
        if self._start.is_half:
            raise UsageError(
                f"run {self._spec.name} was cut while it took over another run: give `mdap decide` again, "
                "and resume the run that it names"
            )

    async def _decide(self) -> None:
        resources, ended = self._resources, self._ended
        refusal = await self._begin()
        if refusal is not None:
            ended.stop(refusal, StopCause.PROVIDER)
            return
        # Only now are the temperatures and the maximum number of replies per request known.
        policy, beside = self._policy(self._config())
        provider = await resources.lane.provider(self._number, resources.models.provider)
        if self._trace is not None:
            provider = self._trace.provider(provider, resources.models.names)
        try:
            limits = resources.lane.limits()
            await decide(policy, provider, limits, resources.writer, resources.budget_guard, beside)
            ended.take(policy)
            pilot = self._spec.pilot
            if policy.decider.status is RunStatus.FINISHED and not (pilot is not None and pilot.full):
                # Without waiting, since the session may be closed at any moment that waits.
                ended.data |= self._came_to(policy)
                if isinstance(policy, ProcessPolicy):
                    [[undecided]] = await resources.reader.rows("undecided_in_parts", self._number)
                    ended.data["undecided"] += undecided
        finally:
            ended.data["in_flight"] = policy.decider.in_flight
            self._spec.progress.in_flight -= policy.decider.in_flight

    async def _begin(self) -> str | None:
        """Record that this session works on the run; return why it cannot go on with its models, if so."""
        resources, spec, start, number = self._resources, self._spec, self._start, self._number
        if start.row is not None:
            await resources.lane.check_waiting(number)
            if spec.listener is not None:
                await spec.listener.begin(resources, number)
        self._ended.begin(independent=spec.independent)
        self._ended.data["in_flight"] = 0
        if spec.parent is None:
            await resources.charge_earlier(start, spec.name)
        self._note()
        resources.limit_changes.running.add(number)
        return await resources.endpoint_probe.pass_on(number, start.options, part=spec.parent is not None)

    def _note(self) -> None:
        """Count what earlier sessions recorded, and record all known facts before the first request."""
        resources, spec, start = self._resources, self._spec, self._start
        if spec.parent is None:  # whose totals include those of its parts
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
        waits = resources.setup.limits.wait_for_person > 0 or start.has_rulings
        return RunConfig(
            run=self._number,
            run_id=spec.name,
            voting=spec.voting,
            speculation=resources.lane.speculation(),
            max_n=resources.models.provider.max_n,
            models=resources.models.names,
            schedule=resources.models.schedule(spec.voting),
            account=account_of(self._number, spec.voting.robust, start.paid),
            presence=spec.presence,
            on_dead=resources.setup.on_dead,
            absences=start.absences,
            effects=spec.effects,
            drift=start.drift or self._fresh_drift(),
            record_prompts=spec.voting.records_prompts(process=isinstance(self._task, Process)),
            pilot=spec.pilot,
            patient=spec.pilot is None and waits,
            warm_cache=self._warms_cache(),
            task=task_name(self._task) if start.row is None else start.row.task,
            progress=spec.progress,
        )

    def _warms_cache(self) -> bool:
        chosen = self._resources.setup.limits.warm_cache
        if self._resources.lane.batched:  # the others would wait for the first one's wave
            return False
        return isinstance(self._task, Process) if chosen is None else chosen

    def _fresh_drift(self) -> Drift | None:
        """Return the drift detector of the run."""
        baselines = [data for kind, _, data in self._spec.notes if kind == "baseline"]
        return Drift(Baseline(**baselines[0]), self._spec.voting.k, frozenset()) if baselines else None

    def _policy(self, config: RunConfig) -> tuple[ChainPolicy | ProcessPolicy, list[Beside]]:
        """Return the policy of the task, started from its resume point, and what runs beside it."""
        resources, point, spec, trace = self._resources, self._start.point, self._spec, self._trace
        journal = resources.writer if trace is None else trace.journal(resources.writer)
        policy: ChainPolicy | ProcessPolicy
        beside: list[Beside] = []
        if trace is not None:
            trace.reopened(point.openings)
        if isinstance(self._task, Chain):
            assert isinstance(point, ResumePoint)
            policy = ChainPolicy(self._task, config, journal)
            if spec.parent is None:
                spec.progress.length = policy.length
            policy.owe(self._start.owed)
            policy.begin(point)
        else:
            assert isinstance(self._task, Process)
            assert isinstance(point, ProcessPoint)
            policy = process_policy(self._task, config, journal)
            policy.begin(point)
            beside.append(partial(answer_process, self._task, policy, self._context(policy)))
        if spec.listener is not None:
            beside.append(partial(spec.listener.listen, resources, self._number, policy))
        if config.patient:
            beside.append(partial(take_rulings, resources, self._number, policy))
        return policy, beside

    def _context(self, process: ProcessPolicy) -> ProcessContext:
        resources, spec = self._resources, self._spec
        return ProcessContext(
            run_id=spec.name,
            journal=resources.writer,
            recall=partial(resources.reader.recorded, self._number),
            solve=self._solve_part,
            open_steps=resources.runs_at_once,
            dry_run=not spec.effects,
            recorded=None if spec.row is None else partial(_recorded_part, resources.reader, self._number),
            begun=None if spec.row is None else partial(begun_before, resources.reader),
            withhold=None if spec.effects else partial(_withheld, process),
        )

    async def _solve_part(
        self, task: Task, name: str, share: Fraction | None, *, independent: bool = False
    ) -> Solution:
        """Run or resume a nested task; see `SolvePart`."""
        resources, whole = self._resources, self._spec
        most = resources.setup.limits.max_nesting
        if whole.depth >= most:
            raise UsageError(
                f"part {name}: tasks are nested more than {most} deep: let each ask for a smaller problem "
                "than its own, or raise --max-nesting"
            )
        row = None
        if whole.row is not None or not independent:
            await resources.writer.flush()
            row = await resources.reader.run(name)
        part = replace(
            whole,
            name=name,
            voting=_voting_of_part(whole.voting, share, task),
            row=row,
            known=row is not None,
            kind=whole.kind if row is None else row.kind,
            parent=self._number,
            depth=whole.depth + 1,
            independent=independent,
            notes=(),
            listener=None,
        )
        if resources.dealer is not None and whole.pilot is None:
            return await resources.dealer.solve(task, part)
        solution = await run_task(resources, task, part)
        if whole.pilot is not None and whole.pilot.full:
            await anyio.sleep_forever()  # it may have ended early: wait until the whole pilot is over
        return solution

    def _came_to(self, policy: ChainPolicy | ProcessPolicy) -> dict[str, Any]:
        """Return the record of a finished run; a pilot ends before its task and gets no verdict."""
        if isinstance(policy, ProcessPolicy):
            found = {"result": policy.result, "undecided": policy.undecided_steps}
        else:
            found = {"result": self._result_of(policy)}
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

    def _result_of(self, policy: ChainPolicy) -> Any:
        assert isinstance(self._task, Chain)
        try:
            return json.loads(canonical(self._task.result(policy.state)))
        except RAISED as error:
            raise PluginError(f"task {type(self._task).__name__}", "giving its result", error) from error


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


async def _withheld(process: ProcessPolicy, key: str) -> None:
    refused = UsageError(f"it calls ask.once with the key {key!r}, {WITHHELD}")
    process.end(RunStatus.FAILED, refused)
    await anyio.sleep_forever()  # until the run is over


def _voting_of_part(voting: VotingSettings, share: Fraction | None, task: Task) -> VotingSettings:
    """Return the settings of a nested task; without a *share* of the error budget, it has one of its own."""
    if voting.robust is None:
        return voting
    spent = 1 - exact(voting.robust.target) if share is None else share
    return promising(voting, {"target": float(1 - spent), "length": task.length()})
