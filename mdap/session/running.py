"""One run from its row to its end: claimed, begun or resumed, decided, and its ending recorded."""

import json
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

import anyio

from mdap.engine.account import account_of
from mdap.engine.asking import ProcessContext, answer_process
from mdap.engine.budget_guard import BudgetGuard
from mdap.engine.chain import ChainRace
from mdap.engine.decider import Decider
from mdap.engine.ordered import process_race
from mdap.engine.process import ProcessRace
from mdap.engine.recording import RunConfig
from mdap.engine.run import decide
from mdap.errors import RAISED, DatabaseError, PluginError, UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader, RunRow
from mdap.journal.sealing import Sealer
from mdap.journal.writer import Writer
from mdap.plugins import task_name, unfindable
from mdap.protocols import Journal, Provider
from mdap.records import RunEvent, RunStatus, Solution, StopCause
from mdap.rules.canonical import canonical
from mdap.rules.methods import check_methods
from mdap.rules.outcomes import recorded, said_by
from mdap.rules.parameters import as_resumed
from mdap.rules.parts import could_be
from mdap.session.ending import Ending
from mdap.session.endpoint_probe import EndpointProbe
from mdap.session.identity import RunSpec, check_same, run_columns, solution_of
from mdap.session.limit_changes import LimitChangeRecorder
from mdap.session.models import Models
from mdap.session.promising import with_share
from mdap.session.steering import drift_of, known_presence
from mdap.session.taking import take_rulings, waits_for_people
from mdap.session.turns import Turn, driving, take_turn
from mdap.settings import Budget, Limits, OnDead, Speculate, Speculation
from mdap.tasks import Chain, Process, Task
from mdap.tracing import RunTrace, Tracing

__all__ = ["WITHHELD", "SessionResources", "begin_or_find", "run_task"]

WITHHELD: Final = "which a pilot must not bring about"
"""In the reason of a pilot that cannot go on."""

_LOG: Final = logging.getLogger("mdap")
_VOTE_DEPTH: Final = 16
_LEAST_OPEN: Final = 64


@dataclass(slots=True, kw_only=True)
class SessionResources:
    """What all runs of a session share.

    Attributes:
        models: who is asked.
        budget_guard: what pays.
        writer: where facts go.
        reader: where they are found again.
        sealer: what seals runs when they end.
        claims: which runs this process has taken.
        limits: how often and how long to try.
        budget: what may be spent.
        speculate: how far chains are sampled ahead.
        on_dead: what to do when one of several models is gone.
        limit_changes: where changes of limits are recorded from.
        endpoint_probe: what finds out what the endpoints are like.
        named: the ids of the runs that are going on, by number.
        tracing: what makes spans of runs; None for nothing.
        unfindable: classes of which was said already that `mdap resume` cannot find them.
        known_spending: runs whose earlier samples are paid for out of the budget already.
    """

    models: Models
    budget_guard: BudgetGuard
    writer: Writer
    reader: Reader
    sealer: Sealer
    claims: Claims
    limits: Limits
    budget: Budget
    speculate: Speculate
    on_dead: OnDead
    limit_changes: LimitChangeRecorder
    endpoint_probe: EndpointProbe
    named: dict[int, str]
    tracing: Tracing | None = None
    known_spending: set[int] = field(default_factory=set)
    unfindable: set[type] = field(default_factory=set)

    @property
    def breadth(self) -> int:
        """How many runs of a batch, or steps of a process, may be open at once, so that no slot is idle."""
        return max(_LEAST_OPEN, 2 * self.models.most)

    def speculation(self) -> Speculation:
        """Return how far a chain is to be sampled ahead."""
        if self.models.provider.nonblocking or self.speculate is Speculate.OFF:
            return Speculation()
        if self.speculate is Speculate.GUESS:
            return Speculation(mode=Speculate.GUESS, depth=self.models.most)
        return Speculation(mode=Speculate.VOTE, depth=_VOTE_DEPTH)

    async def count_earlier_spending(self, run: int) -> None:
        """Charge what *run* spent in earlier sessions to the budget, once."""
        if self.budget_guard.limited and run not in self.known_spending:
            self.known_spending.add(run)
            usage = (await self.reader.totals(run)).usage
            usd = await self.reader.cost(run)
            self.budget_guard.spent_before(usd or 0.0, usage.input_tokens + usage.output_tokens)

    def about(self) -> dict[str, Any]:
        """Return what the record says of a session that takes up a run."""
        return {
            "limits": self.limits.model_dump(),
            "budget": self.budget.model_dump(),
            "prices": self.models.known_prices(),
            "folder": _here(),
        }


def _here() -> str | None:
    """Return the folder that relative names in a task's parameters are looked up in."""
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return None


async def run_task(resources: SessionResources, task: Task, spec: RunSpec) -> Solution:
    """Run *task* until it is finished, undecided, stopped or failed, and return its solution.

    If another caller in this process is driving the run, wait for it and return its solution. If that caller
    is cancelled, drive the run on.

    Raises:
        UsageError: the run exists and was started otherwise, or parameters do not come back from the record.
        RunBusyError: another process is working on it.
        DatabaseError: the database cannot be written any more.
    """
    if spec.voting.robust is not None and resources.on_dead is OnDead.CONTINUE:
        raise UsageError(
            "-k robust cannot go with --on-dead continue: without one of its models, the later samples of a "
            "step would not be drawn as the earlier ones were"
        )
    check_methods(type(task), type(task).__qualname__)
    task = as_resumed(task)
    columns = run_columns(task, spec, resources.models.about)
    row, turn = spec.row, None
    while True:
        if row is not None:
            check_same(row, columns, task)
            if turn is not None and turn.ended:
                return replace(await solution_of(resources.reader, row), error=turn.error)
        turn, mine = take_turn(resources.writer.path, spec.name)
        if mine:
            break
        await turn.news()
        row = await resources.reader.run(spec.name)
    with driving(turn):
        # Somebody else may have driven it since it was looked up.
        row = await resources.reader.run(spec.name)
        solution = await _run_in_turn(resources, task, replace(spec, row=row), columns, turn)
        turn.ended, turn.error = True, solution.error
    return solution


async def begin_or_find(resources: SessionResources, columns: dict[str, Any]) -> tuple[int, RunRow | None]:
    """Begin a run; return its number, and its row if somebody else began it at the same moment."""
    try:
        return await resources.writer.begin_run(columns), None
    except DatabaseError:
        row = await resources.reader.run(columns["run_id"])
        if row is None:
            raise
        return row.number, row


async def _run_in_turn(
    resources: SessionResources, task: Task, spec: RunSpec, columns: dict[str, Any], turn: Turn
) -> Solution:
    row = spec.row
    if row is None:
        number, row = await begin_or_find(resources, columns)
        turn.tell()
    if row is not None:
        number = row.number
        check_same(row, columns, task)
        if row.status is RunStatus.FINISHED:
            await resources.sealer.sealed(
                number
            )  # its process may have been killed between its end and its seal
            return await solution_of(resources.reader, row)
        if await resources.reader.rows("half_override", number):
            raise UsageError(
                f"run {row.run_id} was cut while it took over another run: give `mdap decide` again, and "
                "resume the run that it names"
            )
    resources.claims.take(number, spec.name)
    resources.named[number] = spec.name
    try:
        await resources.count_earlier_spending(number)
        if spec.row is not None and spec.parent is None:
            spec.progress.add(await resources.reader.totals(number))
        if row is not None and spec.listener is not None:
            await spec.listener.begin((resources.reader, resources.writer), number)
        resources.writer.append(
            RunEvent(number, "started" if row is None else "resumed", data=resources.about())
        )
        if row is None:
            _tell_if_unfindable(resources, number, task, spec)
        for kind, reason, data in spec.notes:
            resources.writer.append(RunEvent(number, kind, reason, data=data))
        if spec.notes:
            await resources.writer.flush()  # what follows reads them back
        rules = await _rules(resources, number, task, spec)
        with _traced(resources, task, spec) as trace:
            error = await _drive(resources, columns["task"], task, rules, spec, trace)
        await resources.writer.flush()
        if spec.listener is not None:
            await spec.listener.end((resources.reader, resources.writer), number, error)
        solution = await solution_of(resources.reader, await resources.reader.find(spec.name))
        return solution if error is None else replace(solution, error=error)
    finally:
        # Whoever takes the run up next must find all of it.
        with anyio.CancelScope(shield=True), suppress(DatabaseError):
            await resources.writer.flush()
        resources.claims.drop(number)
        del resources.named[number]


def _tell_if_unfindable(resources: SessionResources, number: int, task: Task, spec: RunSpec) -> None:
    """Say at the start, on standard error and on record, if nobody else can resume the run."""
    why = unfindable(task)
    if why is None or type(task) in resources.unfindable:
        return
    resources.unfindable.add(type(task))
    sentence = (
        f"class {type(task).__qualname__} {why}, where mdap cannot find it: only this program can resume "
        f"{spec.name}, and none can verify it; define the class at the top level of a file"
    )
    resources.writer.append(RunEvent(number, "warning", sentence))
    _LOG.warning(sentence)


async def _rules(resources: SessionResources, number: int, task: Task, spec: RunSpec) -> RunConfig:
    return RunConfig(
        run=number,
        run_id=spec.name,
        voting=spec.voting,
        speculation=resources.speculation(),
        max_n=resources.models.provider.max_n,
        models=resources.models.names,
        schedule=resources.models.schedule(spec.voting),
        open_steps=resources.breadth,
        account=account_of(number, spec.voting.robust, await resources.reader.paid(number)),
        presence=spec.presence,
        on_dead=resources.on_dead,
        absences=await known_presence(resources.reader, number, spec, resources.models),
        effects=spec.effects,
        drift=await drift_of(resources.reader, number, spec.voting.k),
        record_prompts=spec.voting.records_prompts(process=isinstance(task, Process)),
        pilot=spec.pilot,
        patient=spec.pilot is None and await waits_for_people(resources, number),
    )


def _traced(
    resources: SessionResources, task: Task, spec: RunSpec
) -> AbstractContextManager[RunTrace | None]:
    if resources.tracing is None:
        return nullcontext()
    return resources.tracing.run(spec.name, type(task).__qualname__, spec.voting.k)


async def _drive(
    resources: SessionResources,
    name: str,
    task: Task,
    rules: RunConfig,
    spec: RunSpec,
    trace: RunTrace | None,
) -> Exception | None:
    """Decide *task*, and record how it ended, whatever ends it; return the error that ended it, if any."""
    resources.limit_changes.running.add(rules.run)
    ended = Ending()
    race: Decider | None = None
    try:
        refusal = await resources.endpoint_probe.pass_on(rules.run, part=spec.parent is not None)
        if refusal is not None:
            ended.stop(refusal, StopCause.PROVIDER)
            return None
        # Only now it is known which temperatures are sent.
        rules = replace(rules, schedule=resources.models.schedule(spec.voting))
        race, beside = await _begun(resources, name, task, rules, spec, trace)
        if spec.listener is not None:
            listen = partial(spec.listener.listen, (resources.reader, resources.writer), rules.run, race)
            beside = _together(listen, beside)
        if rules.patient:
            beside = _together(partial(take_rulings, resources, rules.run, race), beside)
        provider: Provider = resources.models.provider
        if trace is not None:
            provider = trace.provider(provider, resources.models.names)
        with anyio.move_on_after(resources.budget.seconds) as clock:
            await decide(race, provider, resources.limits, resources.writer, resources.budget_guard, beside)
        ended.take(race)
        if clock.cancelled_caught:
            ended.stop(f"the {resources.budget.seconds:g} seconds allowed are over", StopCause.DEADLINE)
        if race.status is RunStatus.FINISHED and not (spec.pilot is not None and spec.pilot.full):
            ended.data |= _came_to(resources, race, rules.run, task, judged=spec.kind == "run")
    except PluginError as error:
        ended.fail(error)
    except Exception as error:
        ended.crash(error)
        raise
    finally:
        resources.limit_changes.tell()
        resources.limit_changes.running.discard(rules.run)
        if spec.pilot is not None:
            spec.pilot.forget(rules.run)
        if trace is not None:
            trace.ended(ended.status, ended.cause)
        ended.data["in_flight"] = 0 if race is None else race.in_flight
        if resources.writer.usable:
            resources.writer.append(ended.event(rules.run))
            # Whether this could be written, the next flush tells.
            with suppress(DatabaseError):
                await resources.sealer.seal(rules.run)
    return ended.error


def _together(
    listen: Callable[[], Awaitable[None]], beside: Callable[[], Awaitable[None]] | None
) -> Callable[[], Awaitable[None]]:
    async def both() -> None:
        async with anyio.create_task_group() as group:
            if beside is not None:
                group.start_soon(_awaited, beside)
            await listen()

    return both


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def _begun(
    resources: SessionResources,
    name: str,
    task: Task,
    rules: RunConfig,
    spec: RunSpec,
    trace: RunTrace | None,
) -> tuple[Decider, Callable[[], Awaitable[None]] | None]:
    """Return the race of *task*, begun where its rows end, and what runs beside it."""
    journal: Journal = resources.writer if trace is None else trace.journal(resources.writer)
    if isinstance(task, Chain):
        chain = ChainRace(name, task, rules, journal, spec.progress)
        if spec.parent is None:
            spec.progress.length = chain.length
        if chain.has_effects:
            chain.owe(await resources.reader.without_effect(rules.run))
        left = await resources.reader.resume_point(rules.run)
        if trace is not None:
            trace.reopened(left.openings)
        chain.begin(left)
        return chain, None
    assert isinstance(task, Process)
    process = process_race(name, task, rules, journal, spec.progress)
    point = await resources.reader.process_point(rules.run)
    if trace is not None:
        trace.reopened(point.openings)
    process.begin(point)
    around = ProcessContext(
        run_id=spec.name,
        journal=resources.writer,
        recall=partial(resources.reader.recorded, rules.run),
        solve=partial(_solve_part, resources, spec, rules.run),
        open_steps=rules.open_steps,
        begun=None if spec.row is None else partial(_begun_before, resources),
        withhold=None if spec.effects else partial(_withheld, process),
    )
    return process, partial(answer_process, task, process, around)


async def _begun_before(resources: SessionResources, name: str, task: Task) -> bool:
    row = await resources.reader.run(name)
    return row is not None and could_be(row.task, type(task))


async def _withheld(process: ProcessRace, key: str) -> None:
    refused = UsageError(f"it calls ask.once with the key {key!r}, {WITHHELD}")
    process.end(RunStatus.FAILED, refused)
    await anyio.sleep_forever()  # until the run is over


async def _solve_part(
    resources: SessionResources, whole: RunSpec, parent: int, task: Task, name: str, share: Fraction | None
) -> Solution:
    """Run a task that is a part of a process, or take it up again."""
    if whole.depth >= resources.limits.max_nesting:
        raise UsageError(
            f"part {name}: tasks are nested more than {resources.limits.max_nesting} deep: let each ask "
            "for a smaller problem than its own, or raise --max-nesting"
        )
    await resources.writer.flush()
    row = await resources.reader.run(name)
    part = RunSpec(
        name=name,
        voting=whole.voting if share is None else with_share(whole.voting, share, task.length()),
        row=row,
        kind=whole.kind if row is None else row.kind,
        parent=parent,
        depth=whole.depth + 1,
        moved=whole.moved,
        effects=whole.effects,
        pilot=whole.pilot,
        progress=whole.progress,
        presence=whole.presence,
    )
    solution = await run_task(resources, task, part)
    if whole.pilot is not None and whole.pilot.full:
        await anyio.sleep_forever()  # it may have ended early: until the whole pilot is over
    return solution


def _came_to(
    resources: SessionResources, race: Decider, run: int, task: Task, *, judged: bool
) -> dict[str, Any]:
    """Return what is recorded of a finished race; a pilot ends before its task, and is not *judged*."""
    found: dict[str, Any] = {"result": _result(race, task)}
    if isinstance(race, ProcessRace):
        found["undecided"] = race.undecided_steps
    if judged:
        found["outcome"] = _outcome(resources, run, task, found["result"])
    return found


def _outcome(resources: SessionResources, run: int, task: Task, result: Any) -> str | None:
    """Return what *task* says of its result, as it is recorded; that it fails takes nothing from the run."""
    try:
        return recorded(said_by(task_name(task), task, result))
    except PluginError as error:
        resources.writer.append(RunEvent(run, "warning", str(error)))
        return None


def _result(race: Decider, task: Task) -> Any:
    if isinstance(race, ProcessRace):
        return race.result
    assert isinstance(race, ChainRace)
    assert isinstance(task, Chain)
    try:
        return json.loads(canonical(task.result(race.state)))
    except RAISED as error:
        raise PluginError(f"task {type(task).__name__}", "giving its result", error) from error
