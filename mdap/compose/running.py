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

from mdap.compose.bulletin import Bulletin
from mdap.compose.crew import Crew
from mdap.compose.ending import Ending
from mdap.compose.identity import Start, check_same, run_columns, solution_of
from mdap.compose.inspection import Inspection
from mdap.compose.promising import with_share
from mdap.compose.steering import drift_of, known_presence
from mdap.compose.taking import take_rulings, waits_for_people
from mdap.compose.turns import Turn, driving, take_turn
from mdap.engine.account import account_of
from mdap.engine.asking import Surroundings, answer_process
from mdap.engine.chain import ChainRace
from mdap.engine.decider import Decider
from mdap.engine.ordered import process_race
from mdap.engine.process import ProcessRace
from mdap.engine.purse import Purse
from mdap.engine.recording import Rules
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
from mdap.settings import Budget, Limits, OnDead, Speculate, Speculation
from mdap.tasks import Chain, Process, Task
from mdap.tracing import RunTrace, Tracing

__all__ = ["WITHHELD", "Workshop", "begin_or_find", "run_task"]

WITHHELD: Final = "which a pilot must not bring about"
"""In the reason of a pilot that cannot go on."""

_LOG: Final = logging.getLogger("mdap")
_VOTE_DEPTH: Final = 16
_LEAST_OPEN: Final = 64


@dataclass(slots=True, kw_only=True)
class Workshop:
    """What all runs of a session share.

    Attributes:
        crew: who is asked.
        purse: what pays.
        writer: where facts go.
        reader: where they are found again.
        sealer: what seals runs when they end.
        claims: which runs this process has taken.
        limits: how often and how long to try.
        budget: what may be spent.
        speculate: how far chains are sampled ahead.
        on_dead: what to do when one of several models is gone.
        bulletin: where changes of limits are recorded from.
        inspection: what finds out what the endpoints are like.
        named: the ids of the runs that are going on, by number.
        tracing: what makes spans of runs; None for nothing.
        unfindable: classes of which was said already that `mdap resume` cannot find them.
        known_spending: runs whose earlier samples are paid for out of the budget already.
    """

    crew: Crew
    purse: Purse
    writer: Writer
    reader: Reader
    sealer: Sealer
    claims: Claims
    limits: Limits
    budget: Budget
    speculate: Speculate
    on_dead: OnDead
    bulletin: Bulletin
    inspection: Inspection
    named: dict[int, str]
    tracing: Tracing | None = None
    known_spending: set[int] = field(default_factory=set)
    unfindable: set[type] = field(default_factory=set)

    @property
    def breadth(self) -> int:
        """How many runs of a batch, or steps of a process, may be open at once, so that no slot is idle."""
        return max(_LEAST_OPEN, 2 * self.crew.most)

    def speculation(self) -> Speculation:
        """Return how far a chain is to be sampled ahead."""
        if self.crew.provider.instant or self.speculate is Speculate.OFF:
            return Speculation()
        if self.speculate is Speculate.GUESS:
            return Speculation(mode=Speculate.GUESS, depth=self.crew.most)
        return Speculation(mode=Speculate.VOTE, depth=_VOTE_DEPTH)

    async def count_earlier_spending(self, run: int) -> None:
        """Charge what *run* spent in earlier sessions to the budget, once."""
        if self.purse.limited and run not in self.known_spending:
            self.known_spending.add(run)
            usage = (await self.reader.totals(run)).usage
            usd = await self.reader.cost(run)
            self.purse.spent_before(usd or 0.0, usage.input_tokens + usage.output_tokens)

    def about(self) -> dict[str, Any]:
        """Return what the record says of a session that takes up a run."""
        return {
            "limits": self.limits.model_dump(),
            "budget": self.budget.model_dump(),
            "prices": self.crew.known_prices(),
            "folder": _here(),
        }


def _here() -> str | None:
    """Return the folder that relative names in a task's parameters are looked up in."""
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return None


async def run_task(shop: Workshop, task: Task, start: Start) -> Solution:
    """Run *task* until it is finished, undecided, stopped or failed, and return its solution.

    If another caller in this process is driving the run, wait for it and return its solution. If that caller
    is cancelled, drive the run on.

    Raises:
        UsageError: the run exists and was started otherwise, or parameters do not come back from the record.
        RunBusyError: another process is working on it.
        DatabaseError: the database cannot be written any more.
    """
    if start.voting.robust is not None and shop.on_dead is OnDead.CONTINUE:
        raise UsageError(
            "-k robust cannot go with --on-dead continue: without one of its models, the later samples of a "
            "step would not be drawn as the earlier ones were"
        )
    check_methods(type(task), type(task).__qualname__)
    task = as_resumed(task)
    columns = run_columns(task, start, shop.crew.about)
    row, turn = start.row, None
    while True:
        if row is not None:
            check_same(row, columns, task)
            if turn is not None and turn.ended:
                return replace(await solution_of(shop.reader, row), error=turn.error)
        turn, mine = take_turn(shop.writer.path, start.name)
        if mine:
            break
        await turn.news()
        row = await shop.reader.run(start.name)
    with driving(turn):
        # Somebody else may have driven it since it was looked up.
        row = await shop.reader.run(start.name)
        solution = await _run_in_turn(shop, task, replace(start, row=row), columns, turn)
        turn.ended, turn.error = True, solution.error
    return solution


async def begin_or_find(shop: Workshop, columns: dict[str, Any]) -> tuple[int, RunRow | None]:
    """Begin a run; return its number, and its row if somebody else began it at the same moment."""
    try:
        return await shop.writer.begin_run(columns), None
    except DatabaseError:
        row = await shop.reader.run(columns["run_id"])
        if row is None:
            raise
        return row.number, row


async def _run_in_turn(
    shop: Workshop, task: Task, start: Start, columns: dict[str, Any], turn: Turn
) -> Solution:
    row = start.row
    if row is None:
        number, row = await begin_or_find(shop, columns)
        turn.tell()
    if row is not None:
        number = row.number
        check_same(row, columns, task)
        if row.status is RunStatus.FINISHED:
            await shop.sealer.sealed(number)  # its process may have been killed between its end and its seal
            return await solution_of(shop.reader, row)
        if await shop.reader.rows("half_override", number):
            raise UsageError(
                f"run {row.run_id} was cut while it took over another run: give `mdap decide` again, and "
                "resume the run that it names"
            )
    shop.claims.take(number, start.name)
    shop.named[number] = start.name
    try:
        await shop.count_earlier_spending(number)
        if start.row is not None and start.parent is None:
            start.progress.add(await shop.reader.totals(number))
        if row is not None and start.listener is not None:
            await start.listener.begin((shop.reader, shop.writer), number)
        shop.writer.append(RunEvent(number, "started" if row is None else "resumed", data=shop.about()))
        if row is None:
            _tell_if_unfindable(shop, number, task, start)
        for kind, reason, data in start.notes:
            shop.writer.append(RunEvent(number, kind, reason, data=data))
        if start.notes:
            await shop.writer.flush()  # what follows reads them back
        rules = await _rules(shop, number, task, start)
        with _traced(shop, task, start) as trace:
            error = await _drive(shop, columns["task"], task, rules, start, trace)
        await shop.writer.flush()
        if start.listener is not None:
            await start.listener.end((shop.reader, shop.writer), number, error)
        solution = await solution_of(shop.reader, await shop.reader.find(start.name))
        return solution if error is None else replace(solution, error=error)
    finally:
        # Whoever takes the run up next must find all of it.
        with anyio.CancelScope(shield=True), suppress(DatabaseError):
            await shop.writer.flush()
        shop.claims.drop(number)
        del shop.named[number]


def _tell_if_unfindable(shop: Workshop, number: int, task: Task, start: Start) -> None:
    """Say at the start, on standard error and on record, if nobody else can resume the run."""
    why = unfindable(task)
    if why is None or type(task) in shop.unfindable:
        return
    shop.unfindable.add(type(task))
    sentence = (
        f"class {type(task).__qualname__} {why}, where mdap cannot find it: only this program can resume "
        f"{start.name}, and none can verify it; define the class at the top level of a file"
    )
    shop.writer.append(RunEvent(number, "warning", sentence))
    _LOG.warning(sentence)


async def _rules(shop: Workshop, number: int, task: Task, start: Start) -> Rules:
    return Rules(
        run=number,
        run_id=start.name,
        voting=start.voting,
        speculation=shop.speculation(),
        max_n=shop.crew.provider.max_n,
        models=shop.crew.names,
        casting=shop.crew.casting(start.voting),
        open_steps=shop.breadth,
        account=account_of(number, start.voting.robust, await shop.reader.paid(number)),
        presence=start.presence,
        on_dead=shop.on_dead,
        absences=await known_presence(shop.reader, number, start, shop.crew),
        effects=start.effects,
        drift=await drift_of(shop.reader, number, start.voting.k),
        record_prompts=start.voting.records_prompts(process=isinstance(task, Process)),
        pilot=start.pilot,
        patient=start.pilot is None and await waits_for_people(shop, number),
    )


def _traced(shop: Workshop, task: Task, start: Start) -> AbstractContextManager[RunTrace | None]:
    if shop.tracing is None:
        return nullcontext()
    return shop.tracing.run(start.name, type(task).__qualname__, start.voting.k)


async def _drive(
    shop: Workshop, name: str, task: Task, rules: Rules, start: Start, trace: RunTrace | None
) -> Exception | None:
    """Decide *task*, and record how it ended, whatever ends it; return the error that ended it, if any."""
    shop.bulletin.running.add(rules.run)
    ended = Ending()
    race: Decider | None = None
    try:
        refusal = await shop.inspection.pass_on(rules.run, part=start.parent is not None)
        if refusal is not None:
            ended.stop(refusal, StopCause.PROVIDER)
            return None
        # Only now it is known which temperatures are sent.
        rules = replace(rules, casting=shop.crew.casting(start.voting))
        race, beside = await _begun(shop, name, task, rules, start, trace)
        if start.listener is not None:
            listen = partial(start.listener.listen, (shop.reader, shop.writer), rules.run, race)
            beside = _together(listen, beside)
        if rules.patient:
            beside = _together(partial(take_rulings, shop, rules.run, race), beside)
        provider: Provider = shop.crew.provider
        if trace is not None:
            provider = trace.provider(provider, shop.crew.names)
        with anyio.move_on_after(shop.budget.seconds) as clock:
            await decide(race, provider, shop.limits, shop.writer, shop.purse, beside)
        ended.take(race)
        if clock.cancelled_caught:
            ended.stop(f"the {shop.budget.seconds:g} seconds allowed are over", StopCause.DEADLINE)
        if race.status is RunStatus.FINISHED and not (start.pilot is not None and start.pilot.full):
            ended.data |= _came_to(shop, race, rules.run, task, judged=start.kind == "run")
    except PluginError as error:
        ended.fail(error)
    except Exception as error:
        ended.crash(error)
        raise
    finally:
        shop.bulletin.tell()
        shop.bulletin.running.discard(rules.run)
        if start.pilot is not None:
            start.pilot.forget(rules.run)
        if trace is not None:
            trace.ended(ended.status, ended.cause)
        ended.data["in_flight"] = 0 if race is None else race.in_flight
        if shop.writer.usable:
            shop.writer.append(ended.event(rules.run))
            # Whether this could be written, the next flush tells.
            with suppress(DatabaseError):
                await shop.sealer.seal(rules.run)
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
    shop: Workshop, name: str, task: Task, rules: Rules, start: Start, trace: RunTrace | None
) -> tuple[Decider, Callable[[], Awaitable[None]] | None]:
    """Return the race of *task*, begun where its rows end, and what runs beside it."""
    journal: Journal = shop.writer if trace is None else trace.journal(shop.writer)
    if isinstance(task, Chain):
        chain = ChainRace(name, task, rules, journal, start.progress)
        if start.parent is None:
            start.progress.length = chain.length
        if chain.has_effects:
            chain.owe(await shop.reader.without_effect(rules.run))
        left = await shop.reader.resume_point(rules.run)
        if trace is not None:
            trace.reopened(left.openings)
        chain.begin(left)
        return chain, None
    assert isinstance(task, Process)
    process = process_race(name, task, rules, journal, start.progress)
    point = await shop.reader.process_point(rules.run)
    if trace is not None:
        trace.reopened(point.openings)
    process.begin(point)
    around = Surroundings(
        run_id=start.name,
        journal=shop.writer,
        recall=partial(shop.reader.recorded, rules.run),
        solve=partial(_solve_part, shop, start, rules.run),
        open_steps=rules.open_steps,
        begun=None if start.row is None else partial(_begun_before, shop),
        withhold=None if start.effects else partial(_withheld, process),
    )
    return process, partial(answer_process, task, process, around)


async def _begun_before(shop: Workshop, name: str, task: Task) -> bool:
    row = await shop.reader.run(name)
    return row is not None and could_be(row.task, type(task))


async def _withheld(process: ProcessRace, key: str) -> None:
    refused = UsageError(f"it calls ask.once with the key {key!r}, {WITHHELD}")
    process.end(RunStatus.FAILED, refused)
    await anyio.sleep_forever()  # until the run is over


async def _solve_part(
    shop: Workshop, whole: Start, parent: int, task: Task, name: str, share: Fraction | None
) -> Solution:
    """Run a task that is a part of a process, or take it up again."""
    if whole.depth >= shop.limits.max_nesting:
        raise UsageError(
            f"part {name}: tasks are nested more than {shop.limits.max_nesting} deep: let each ask for a "
            "smaller problem than its own, or raise --max-nesting"
        )
    await shop.writer.flush()
    row = await shop.reader.run(name)
    part = Start(
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
    solution = await run_task(shop, task, part)
    if whole.pilot is not None and whole.pilot.full:
        await anyio.sleep_forever()  # it may have ended early: until the whole pilot is over
    return solution


def _came_to(shop: Workshop, race: Decider, run: int, task: Task, *, judged: bool) -> dict[str, Any]:
    """Return what is recorded of a finished race; a pilot ends before its task, and is not *judged*."""
    found: dict[str, Any] = {"result": _result(race, task)}
    if isinstance(race, ProcessRace):
        found["undecided"] = race.undecided_steps
    if judged:
        found["outcome"] = _outcome(shop, run, task, found["result"])
    return found


def _outcome(shop: Workshop, run: int, task: Task, result: Any) -> str | None:
    """Return what *task* says of its result, as it is recorded; that it fails takes nothing from the run."""
    try:
        return recorded(said_by(task_name(task), task, result))
    except PluginError as error:
        shop.writer.append(RunEvent(run, "warning", str(error)))
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
