"""The session: one set of models, one database and one set of limits for any number of runs."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup

from mdap.compose.batch import Batch, Case
from mdap.compose.bulletin import Bulletin
from mdap.compose.calibrating import Wish, calibrate_task
from mdap.compose.crew import Crew
from mdap.compose.following import follow
from mdap.compose.identity import Start, checked_run_id, new_name, new_run_id, solution_of
from mdap.compose.inspection import Inspection
from mdap.compose.listening import Listener
from mdap.compose.margins import K, batch_margin, ended_without_result, with_k, with_margin
from mdap.compose.replay import as_recorded
from mdap.compose.running import Workshop, run_task
from mdap.engine.opening import Progress
from mdap.engine.purse import Purse
from mdap.errors import UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import RunRow, open_log
from mdap.journal.sealing import Sealer
from mdap.journal.writer import open_journal
from mdap.observe import Watch
from mdap.plugins import make_recorded, make_task
from mdap.providers.prices import read_prices
from mdap.records import Calibration, Event, RunStatus, Solution
from mdap.rules.parameters import check_parameters
from mdap.settings import Budget, Limits, OnDead, Price, Speculate, VotingSettings
from mdap.tasks import Chain, Process, Task
from mdap.tracing import tracing

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["Session", "calibrate", "solve", "solve_sync"]


_OF_SESSION: Final = (
    "escalate_to",
    "limits",
    "budget",
    "prices",
    "speculate",
    "on_dead",
    "log",
    "tracer_provider",
)


class Session(AsyncContextManagerMixin):
    """Decide tasks with one model, one database and one set of limits, which all its runs share.

    Use it as ``async with mdap.Session(...) as session``.

    Args:
        model: ``provider`` or ``provider/model``, such as ``openai/gpt-4.1-mini``; ``sim`` needs no key.
            Several vote together, taking turns; one that is named twice has twice the weight.
        escalate_to: models to which a step goes that is undecided after its allowed samples.
        db: path of the SQLite database; created if it does not exist.
        options: options of the provider, such as ``{"error_rate": 0.05}`` for ``sim``.
        limits: concurrency, rates, deadlines and attempts.
        budget: what may be spent before runs stop, resumably.
        prices: prices by model, or a JSON file of them; the first of this and of the installed price list
            that knows a model counts.
        speculate: whether a chain's next step is sampled before the one before it is decided.
        on_dead: whether to stop when one of several models is gone (out of quota, or without an answer), or
            to continue without it.
        log: whether recorded facts are events of structlog, as the program has configured it, instead of
            records of the standard library's logger ``mdap.run``.
        tracer_provider: makes OpenTelemetry spans of runs, steps and attempts; None for the one that the
            program has set, if any.

    Raises:
        UsageError: an argument is wrong.
        DatabaseError: the file is not an mdap database, or cannot be written.
    """

    def __init__(  # noqa: PLR0913 - the public face: keywords, each of them optional
        self,
        model: str | Sequence[str] = "sim",
        *,
        escalate_to: str | Sequence[str] = (),
        db: str | Path = "mdap.db",
        options: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        budget: Budget | None = None,
        prices: Mapping[str, Price] | str | Path | None = None,
        speculate: Speculate | str = Speculate.VOTE,
        on_dead: OnDead | str = OnDead.STOP,
        log: bool = False,
        tracer_provider: "TracerProvider | None" = None,
    ) -> None:
        self.path = Path(db)
        self._models = (model,) if isinstance(model, str) else tuple(model)
        self._escalate_to = (escalate_to,) if isinstance(escalate_to, str) else tuple(escalate_to)
        self._options = dict(options or {})
        self._limits = limits or Limits()
        self._budget = budget or Budget()
        self._prices = read_prices(Path(prices)) if isinstance(prices, str | Path) else dict(prices or {})
        self._speculate = Speculate(speculate)
        self._on_dead = OnDead(on_dead)
        self._log = log
        self._tracer_provider = tracer_provider
        self._shop: Workshop
        self._group: TaskGroup

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator["Session"]:
        names = await as_recorded(self._models, self._escalate_to, self._options, self.path)
        crew = Crew.hire(*names, self._options, self._limits, self._prices, self.path)
        crew.check_budget(self._budget)
        claims = Claims(self.path)
        named: dict[int, str] = {}
        watch = Watch(named, configured=self._log)
        failure: BaseException | None = None
        try:
            async with (
                open_journal(self.path, watch, watch.every) as writer,
                open_log(self.path) as reader,
                open_log(self.path) as scanner,
                anyio.create_task_group() as group,
            ):
                bulletin = Bulletin(crew.names, crew.gates, writer)
                for place, gate in enumerate(crew.gates):
                    group.start_soon(gate.serve)
                    group.start_soon(bulletin.follow, place)
                purse = Purse(self._budget, crew.prices)
                self._shop = Workshop(
                    crew=crew,
                    purse=purse,
                    writer=writer,
                    reader=reader,
                    sealer=Sealer(writer, scanner),
                    claims=claims,
                    limits=self._limits,
                    budget=self._budget,
                    speculate=self._speculate,
                    on_dead=self._on_dead,
                    bulletin=bulletin,
                    inspection=Inspection(crew, purse, writer, reader, ask=self._limits.probe),
                    named=named,
                    tracing=tracing(self._tracer_provider),
                )
                self._group = group
                # Raised after the group has closed, which would wrap it.
                try:
                    yield self
                except BaseException as error:
                    failure = error
                group.cancel_scope.cancel()
        finally:
            claims.close()
            with anyio.CancelScope(shield=True):
                await crew.provider.aclose()
        if failure is not None:
            raise failure

    # -- the face ----------------------------------------------------------------------------------

    async def solve(  # noqa: PLR0913 - the public face: keywords, each of them optional
        self,
        task: Task,
        *,
        k: K | None = None,
        target: float = 0.95,
        floor: float = 0.6,
        voting: VotingSettings | None = None,
        run_id: str | None = None,
        progress: Progress | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Solution:
        """Run *task* to its end and return what it came to.

        Args:
            task: the task with its parameters.
            k: the margin; ``"auto"`` takes the smallest that reaches *target*, by the newest calibration that
                fits or else by a pilot, if all steps are equally hard; ``"robust"`` follows the votes and
                keeps *target* however hard the steps are, if *floor* holds; None takes that of *voting*.
            target: wanted chance that the whole run has no wrong decision; for ``"auto"`` and ``"robust"``.
            floor: the least chance that a valid sample is right, on any step; for ``"robust"``.
            voting: how steps are decided.
            run_id: the run's name in the database; an unfinished run of that name is resumed, a finished
                one is returned as it is. None makes up a new one.
            progress: counters that are kept while the run goes on.
            on_event: called with every fact that this call adds to the record, in order, once it is durable;
                see `events`. If it raises, the run stops, resumably.

        Raises:
            UsageError: an argument is wrong, or the run of that name was started with other settings.
            UndecidedError: a step found no winner within its allowed samples, or all models refused it.
            StoppedError: the provider is gone, or a limit was reached; solve it again to resume.
            FailedError: the task's own code failed.
            PluginError: *on_event* failed when the run was over already.
            DatabaseError: the database cannot be written any more.
        """
        solution = await self.run(
            task,
            k=k,
            target=target,
            floor=floor,
            voting=voting,
            run_id=run_id,
            progress=progress,
            on_event=on_event,
        )
        if solution.status is not RunStatus.FINISHED:
            raise ended_without_result(solution, f"run {solution.run_id}")
        return solution

    async def run(  # noqa: PLR0913 - as `solve`
        self,
        task: Task,
        *,
        k: K | None = None,
        target: float = 0.95,
        floor: float = 0.6,
        voting: VotingSettings | None = None,
        run_id: str | None = None,
        progress: Progress | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Solution:
        """Run *task*, and return however it ended: see the solution's status and reason.

        The arguments are those of `solve`; of its errors those that tell of the run are not raised.
        """
        if not isinstance(task, Chain | Process):
            raise UsageError(
                f"{type(task).__name__} is no task that can be run: derive it from mdap.Chain or mdap.Process"
            )
        check_parameters(task)
        voting = voting or VotingSettings()
        name = new_run_id(task) if run_id is None else checked_run_id(run_id)
        row = await self._row(name)
        listener = None if on_event is None else Listener(on_event)
        start = Start(name=name, voting=voting, row=row, progress=progress or Progress(), listener=listener)
        start = await with_margin(self._shop, task, start, k, (target, floor))
        return await run_task(self._shop, task, start)

    async def margin_for(
        self,
        tasks: Iterable[Task],
        run_id: str,
        *,
        target: float = 0.95,
        voting: VotingSettings | None = None,
    ) -> int:
        """Return the smallest k at which a whole batch has no wrong decision, with a chance of *target*.

        Pilots of the first tasks, recorded as ``RUN_ID/0-pilot``, ..., tell the error rate that can be ruled
        out.

        Args:
            tasks: all tasks of the batch, each of known length; gone through once.
            run_id: the batch's name; if it was begun before, its k stays.
            target: wanted chance that no decision of the whole batch is wrong.
            voting: how steps are decided, but for k.

        Raises:
            UsageError: a task does not know its length, or no k reaches the target.
        """
        name = checked_run_id(run_id)
        return await batch_margin(self._shop, tasks, name, voting or VotingSettings(), target)

    def solve_all(
        self,
        tasks: Iterable[Case],
        *,
        k: int | None = None,
        voting: VotingSettings | None = None,
        run_id: str | None = None,
        in_order: bool = True,
        progress: Progress | None = None,
    ) -> Batch:
        """Solve many tasks side by side: ``async for solution in session.solve_all(tasks)``.

        Every task is a run of its own, named ``RUN_ID/0``, ``RUN_ID/1``, ... and a part of the batch's run.
        None that fails keeps others from being solved; see each solution's status.

        Args:
            tasks: the tasks; only taken as fast as solutions are.
            k: the margin; None takes that of *voting*.
            voting: how steps are decided.
            run_id: the batch's name; tasks that were solved under it before are not solved again, others
                are resumed. None makes up a new one.
            in_order: whether solutions come in the order of the tasks, or as they are there.
            progress: counters that are kept while the batch goes on.

        Returns:
            What to iterate over; nothing is begun before that.

        Raises:
            UsageError: an argument is wrong.
        """
        voting = voting or VotingSettings()
        if voting.robust is not None:
            raise UsageError("-k robust is for one run, not for many: give k")
        start = Start(
            name=new_name("batch") if run_id is None else checked_run_id(run_id),
            voting=voting if k is None else with_k(voting, k),
            progress=progress or Progress(),
        )
        return Batch(self._shop, self._group, tasks, start, in_order=in_order)

    async def calibrate(
        self,
        task: Task,
        *,
        samples: int = 400,
        target: float = 0.95,
        voting: VotingSettings | None = None,
        seed: int = 0,
        run_id: str | None = None,
    ) -> Calibration:
        """Sample random steps of *task*, and tell p, v, the smallest k for *target*, and what a run takes.

        The steps are those of the task's own `sample_state`, or else of the newest run of the same task and
        parameters, or else of a pilot. The task's oracle says what is right; where there is none, the
        winners of races do.

        Args:
            task: the chain with its parameters.
            samples: about how many samples to take.
            target: wanted chance that a run of the task has no wrong decision.
            voting: how long a reply may be, and at which temperatures; the rest does not matter here.
            seed: which random steps.
            run_id: the calibration's name in the database; None makes up a new one.

        Returns:
            Rates with their intervals, k, a projection, and findings as sentences.

        Raises:
            UsageError: an argument is wrong.
            StoppedError: the pilot was stopped.
            PluginError: the task's own code failed.
            DatabaseError: the database cannot be written any more.
        """
        if samples < 1 or not 0 < target < 1:
            raise UsageError("a calibration takes 1 sample at least, and a target above 0 and below 1")
        name = f"{new_run_id(task)}-calibration" if run_id is None else checked_run_id(run_id)
        wish = Wish(name, samples, target, seed)
        return await calibrate_task(self._shop, task, wish, voting or VotingSettings())

    async def resume(
        self,
        run_id: str,
        *,
        task: str | None = None,
        progress: Progress | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Solution:
        """Go on with the run called *run_id*, with the settings it was started with.

        Args:
            run_id: its id, a unique beginning of it, or ``latest``.
            task: its task's name, where that has moved to another file, module or name.
            progress: counters that are kept while the run goes on.
            on_event: see `solve`.

        Returns:
            However it ended: see the solution's status and reason.

        Raises:
            UsageError: there is no such run, or its task or model is not to be had any more.
        """
        await self._shop.writer.flush()
        row = await self._shop.reader.find(run_id)
        if row.kind != "run":
            raise UsageError(f"{row.run_id} is a {row.kind}: to go on, give the command of its run again")
        voting = VotingSettings.recorded(row.settings)
        made = make_recorded(row.task, row.params) if task is None else make_task(task, row.params)
        start = Start(
            name=row.run_id,
            voting=voting,
            row=row,
            moved=task is not None,
            progress=progress or Progress(),
            listener=None if on_event is None else Listener(on_event),
        )
        return await run_task(self._shop, made, start)

    async def find(self, run_id: str) -> Solution | None:
        """Return what the run whose id is exactly *run_id* came to so far, or None if there is none."""
        row = await self._row(run_id)
        return None if row is None else await solution_of(self._shop.reader, row)

    def events(self, run_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """Follow a run: ``async for event in session.events(run_id)`` yields every recorded fact of it.

        Facts are read from the log, so a slow reader delays nothing. A step's samples come with its decision;
        those of a step without a decision come when the run ends, and that ends the iteration, too. The runs
        of cases and of nested tasks are followed by their own ids.

        Args:
            run_id: the run's id, exactly; it may be about to begin.
            after: the `cursor` of the last event that was read, to go on behind it; None for the beginning.

        Raises:
            UsageError: there is no such run, and none begins within 5 seconds; or *after* is no cursor.
        """
        return follow(self._shop, run_id, after)

    async def _row(self, run_id: str) -> RunRow | None:
        # What a cancelled run of this session appended may not be committed yet.
        await self._shop.writer.flush()
        return await self._shop.reader.run(run_id)


async def solve(
    task: Task,
    *,
    model: str | Sequence[str] = "sim",
    k: K | None = None,
    db: str | Path = "mdap.db",
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Solution:
    """Run one task in a session of its own; see `Session` and `Session.solve`.

    Args:
        task: the task with its parameters.
        model: ``provider`` or ``provider/model``, or several of them.
        k: the margin, ``"auto"`` or ``"robust"``.
        db: path of the SQLite database.
        options: options of the provider.
        settings: further arguments of `Session` (*escalate_to*, *limits*, *budget*, ...) and of
            `Session.solve` (*target*, *voting*, *run_id*, *progress*).

    Returns:
        What the task came to.
    """
    session_settings = {name: settings.pop(name) for name in _OF_SESSION if name in settings}
    async with Session(model, db=db, options=options, **session_settings) as session:
        return await session.solve(task, k=k, **settings)


async def calibrate(
    task: Task,
    *,
    model: str | Sequence[str] = "sim",
    db: str | Path = "mdap.db",
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Calibration:
    """Calibrate one task in a session of its own; see `Session` and `Session.calibrate`.

    Args:
        task: the chain with its parameters.
        model: ``provider`` or ``provider/model``; several are calibrated as one that takes turns.
        db: path of the SQLite database.
        options: options of the provider.
        settings: further arguments of `Session` (*limits*, *budget*, ...) and of `Session.calibrate`
            (*samples*, *target*, *voting*, *seed*, *run_id*).

    Returns:
        What the samples tell.
    """
    session_settings = {name: settings.pop(name) for name in _OF_SESSION if name in settings}
    async with Session(model, db=db, options=options, **session_settings) as session:
        return await session.calibrate(task, **settings)


def solve_sync(task: Task, **settings: Any) -> Solution:
    """Run one task to its end without an event loop of your own; the arguments are those of `solve`.

    Returns:
        What the task came to.
    """

    async def call() -> Solution:
        return await solve(task, **settings)

    return anyio.run(call)
