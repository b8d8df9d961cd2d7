"""The session: one set of models, one database and one set of limits for any number of runs."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

import anyio

from mdap.engine.config import Progress
from mdap.errors import PluginError, UsageError
from mdap.journal.reader import RunRow
from mdap.plugins import make_recorded, make_task
from mdap.records import Calibration, Event, RunStatus, Solution
from mdap.rules.parameters import as_resumed
from mdap.session.arguments import (
    Declaring,
    Model,
    RunSettings,
    check_cases,
    check_run,
    checked_goal,
    checked_task,
    setup_of,
)
from mdap.session.batch import Batch, Case
from mdap.session.calibrating import CalibrationRequest, calibrate_task
from mdap.session.following import Listener
from mdap.session.identity import RunSpec, as_begun, checked_run_id, new_name, new_run_id, not_alone
from mdap.session.margins import K, batch_margin, ended_without_result, with_k, with_margin
from mdap.session.opened import OpenSession, left, row_of
from mdap.session.results import with_typed_result
from mdap.session.running import run_task
from mdap.settings import Budget, Cluster, Lane, Limits, OnDead, Price, Speculate, VotingSettings, Waves
from mdap.tasks import Task

R = TypeVar("R")


class Session(OpenSession):
    """Decide tasks with one set of models, limits and one database, which all its runs share.

    Use it as ``async with mdap.Session(...) as session``, or call `open` and `close`. Any task of the same
    event loop may open, use and close it.

    Args:
        model: ``provider`` or ``provider/model``, such as ``openai/gpt-4.1-mini``; ``sim`` needs no key.
            Several vote together, taking turns; one that is named twice has twice the weight. A model may
            also be an object that is an `mdap.Provider`; you close it, not the session.
        escalate_to: next models for steps that are undecided after their allowed samples.
        db: path of the SQLite database; created if it does not exist.
        options: options of the models given by name, such as ``{"error_rate": 0.05}`` for ``sim``.
        limits: concurrency, rates, deadlines and attempts.
        budget: spending limits that stop runs resumably.
        prices: prices by model, or a JSON file of them; they override the installed price list.
        speculate: whether a chain's next step is sampled before the one before it is decided.
        on_dead: whether to stop when one of several models fails (out of quota, or without an answer), or
            to continue without it.
        record_prompts: whether the log keeps the text of every prompt, unless *voting* says; None keeps
            those of processes only, since mdap rebuilds a chain's from its inputs. A resumed run keeps
            its setting.
        log: whether recorded facts are events of structlog, as the program has configured it, instead of
            records of the standard library's logger ``mdap.run``.
        tracer_provider: an OpenTelemetry `TracerProvider`, for spans of runs, steps and attempts; None for
            the one that the program has set, if any.
        cluster: where mdap works on the cases of `solve_all` and on the nested tasks of processes, such as
            ``mdap.Cluster(workers=4)`` for four processes; None for this process, where all else stays.
        lane: `requests`, or `batch` to collect the samples of all runs in jobs of the vendors' batch APIs,
            which take hours and cost half. Speculation on votes is off there.
        waves: for `batch`: when such jobs leave, and how long mdap waits for them.

    Raises:
        UsageError: an argument is wrong.
        DatabaseError: the file is not an mdap database, or cannot be written.
    """

    def __init__(  # noqa: PLR0913 - public API, all keywords optional
        self,
        model: Model | Sequence[Model] = "sim",
        *,
        escalate_to: Model | Sequence[Model] = (),
        db: str | Path = "mdap.db",
        options: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        budget: Budget | None = None,
        prices: Mapping[str, Price] | str | Path | None = None,
        speculate: Speculate | str = Speculate.VOTE,
        on_dead: OnDead | str = OnDead.STOP,
        record_prompts: bool | None = None,
        log: bool = False,
        tracer_provider: Any = None,
        cluster: Cluster | None = None,
        lane: Lane | str = Lane.REQUESTS,
        waves: Waves | None = None,
    ) -> None:
        setup = setup_of(
            model,
            escalate_to,
            db=db,
            options=options,
            limits=limits,
            budget=budget,
            prices=prices,
            speculate=speculate,
            on_dead=on_dead,
            record_prompts=record_prompts,
            log=log,
            tracer_provider=tracer_provider,
            cluster=cluster,
            lane=lane,
            waves=waves,
        )
        super().__init__(setup)
        self._record_prompts = record_prompts

    @overload
    async def solve(self, task: Declaring[R], **settings: Unpack[RunSettings]) -> Solution[R]: ...
    @overload
    async def solve(self, task: Task, **settings: Unpack[RunSettings]) -> Solution[Any]: ...
    async def solve(self, task: Any, **settings: Unpack[RunSettings]) -> Solution[Any]:
        """Run *task* to its end and return its solution; a run that does not finish raises an error.

        Args:
            task: the task with its parameters.
            settings: the arguments of `run`.

        Raises:
            UsageError: an argument is wrong, or the run of that name was started with other settings.
            RunBusyError: another process is working on the run of that name.
            UndecidedError: a step found no winner within its allowed samples, or all models refused it.
            StoppedError: the provider failed, the run reached a limit, or the session was closed; solve it
                again to resume.
            FailedError: the task's own code failed, whose exception is the cause.
            PluginError: *on_event* failed when the run was over already.
            DatabaseError: the database can no longer be written.
        """
        solution: Solution[Any] = await self.run(task, **settings)
        if solution.status is not RunStatus.FINISHED:
            raise ended_without_result(solution, f"run {solution.run_id}")
        return solution

    @overload
    async def run(self, task: Declaring[R], **settings: Unpack[RunSettings]) -> Solution[R]: ...
    @overload
    async def run(self, task: Task, **settings: Unpack[RunSettings]) -> Solution[Any]: ...
    async def run(  # noqa: PLR0913 - public API, all keywords optional
        self,
        task: Any,
        *,
        k: K | None = None,
        target: float | None = None,
        floor: float | None = None,
        voting: VotingSettings | None = None,
        run_id: str | None = None,
        progress: Progress | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Solution[Any]:
        """Run *task*, and return its solution whatever its status; check its status and reason.

        Args:
            task: the task with its parameters.
            k: the margin; ``"auto"`` takes the smallest that reaches *target*, by the newest calibration that
                fits or else by a pilot, if all steps are equally hard; ``"robust"`` follows the votes and
                keeps *target* however hard the steps are, if *floor* holds; None takes that of *voting*.
            target: target probability that every decision is right, for ``"auto"`` and ``"robust"``. None
                is 0.95.
            floor: lowest probability on any step that a valid sample is right, for ``"robust"``. None is 0.6.
            voting: the voting settings.
            run_id: the run's name in the database. mdap resumes an unfinished run of that name, returns a
                finished one unchanged, and waits for one that this process is working on. None makes a new
                name.
            progress: counters, updated while this call drives the run.
            on_event: called with every fact that this call adds to the record, in order, once it is durable;
                see `events`. If it raises, the run stops, resumably.

        Raises:
            UsageError: an argument is wrong, or the run of that name was started with other settings.
            RunBusyError: another process is working on the run of that name.
            PluginError: *on_event* failed when the run was over already.
            DatabaseError: the database can no longer be written.
        """
        task = as_resumed(checked_task(task))
        goal = checked_goal(k, target, floor)
        check_run(k, voting, run_id, progress)
        name = new_run_id(task) if run_id is None else checked_run_id(run_id)
        listener = None if on_event is None else Listener(on_event)
        scope = anyio.CancelScope()
        with self._opened.visit(scope) as resources:
            with scope:
                row = None if run_id is None else await row_of(resources, name)
                how, begun = self._voting(voting, row), progress or Progress()
                spec = RunSpec(name=name, voting=how, row=row, progress=begun, listener=listener)
                spec = await with_margin(resources, task, spec, k, goal)
                return with_typed_result(task, await run_task(resources, task, spec))
            return await left(resources, name)

    def _voting(self, voting: VotingSettings | None, row: RunRow | None = None) -> VotingSettings:
        """Return the voting settings; if they leave `record_prompts` open, with the run's own."""
        voting = voting or VotingSettings()
        if voting.record_prompts is None:
            voting = voting.model_copy(update={"record_prompts": self._record_prompts})
        return as_begun(voting, row)

    async def choose_k(
        self,
        tasks: Iterable[Task],
        run_id: str,
        *,
        target: float = 0.95,
        voting: VotingSettings | None = None,
    ) -> int:
        """Return the smallest k at which every decision of a batch is right with probability *target*.

        Pilots of the first tasks, recorded as ``RUN_ID/0-pilot``, ..., bound the error rate.

        Args:
            tasks: all tasks of the batch, each of known length; gone through once.
            run_id: the batch's name; if it was begun before, its k stays.
            target: target probability that every decision of the batch is right.
            voting: the voting settings, without k.

        Raises:
            UsageError: a task does not know its length, or no k reaches the target.
        """
        check_run(None, voting, run_id, target=target)
        check_cases(tasks, None)
        name = checked_run_id(run_id)
        with self._visit() as resources:
            return await batch_margin(resources, tasks, name, self._voting(voting), target)

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
        """Solve many tasks concurrently: ``async for solution in session.solve_all(tasks)``.

        Every task is a run of its own, named ``RUN_ID/0``, ``RUN_ID/1``, ... and a part of the batch's run.
        A failed task does not stop the others; see each solution's status.

        Args:
            tasks: the tasks; mdap reads them only as fast as you read solutions.
            k: the margin; None takes that of *voting*.
            voting: the voting settings.
            run_id: the batch's name; mdap does not repeat tasks already solved under it and resumes the
                others. None makes a new one.
            in_order: whether solutions come in the order of the tasks, or as they finish.
            progress: counters, updated while the batch runs.

        Returns:
            An async iterator; the batch begins with the first iteration.

        Raises:
            UsageError: an argument is wrong.
        """
        check_run(k, voting, run_id, progress)
        voting = self._voting(voting)
        check_cases(tasks, k, voting)
        spec = RunSpec(
            name=new_name("batch") if run_id is None else checked_run_id(run_id),
            voting=voting if k is None else with_k(voting, k),
            progress=progress or Progress(),
        )
        return Batch(self._resources, self._begin, tasks, spec, in_order=in_order)

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
        """Sample random steps of *task* to estimate p, v, the smallest k for *target*, and the cost of a run.

        The task's `sample_state` draws the steps of a chain. A process with an oracle runs on the oracle's
        answers, and its questions are the steps. Otherwise mdap takes the steps of the newest run of the same
        task and parameters, or of a pilot. The oracle gives the right answers; without one, mdap takes the
        winners of races as right.

        Args:
            task: the task with its parameters.
            samples: about how many samples to take.
            target: target probability that every decision of a run is right.
            voting: reply length and temperatures; a calibration ignores the rest.
            seed: the seed for the choice of steps.
            run_id: the calibration's name in the database; None makes a new one.

        Returns:
            Rates with their intervals, k, a projection, and findings as sentences.

        Raises:
            UsageError: an argument is wrong.
            StoppedError: the pilot was stopped.
            PluginError: the task's own code failed.
            DatabaseError: the database can no longer be written.
        """
        task = checked_task(task)
        check_run(None, voting, run_id, target=target)
        if not isinstance(samples, int) or samples < 1:
            raise UsageError(f"samples takes a whole number of at least 1, not {samples!r:.60}")
        name = f"{new_run_id(task)}-calibration" if run_id is None else checked_run_id(run_id)
        request = CalibrationRequest(name, samples, target, seed)
        with self._visit() as resources:
            return await calibrate_task(resources, task, request, self._voting(voting))

    async def resume(
        self,
        run_id: str,
        *,
        task: str | None = None,
        progress: Progress | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Solution[Any]:
        """Resume the run *run_id*, with the settings it started with.

        Args:
            run_id: its id, a unique prefix of it, or ``latest``.
            task: its task's name, if it has moved to another file, module or name.
            progress: counters, updated while the run continues.
            on_event: see `run`.

        Returns:
            The solution whatever its status; check its status and reason.

        Raises:
            RunNotFoundError: there is no such run.
            RunBusyError: another process is working on it.
            UsageError: its task or model is no longer available.
        """
        check_run(None, None, run_id, progress)
        with self._visit() as resources:
            await resources.writer.flush()
            row = await resources.reader.find(run_id)
        if row.kind != "run":
            raise UsageError(not_alone(row))
        made = make_recorded(row.task, row.params) if task is None else make_task(task, row.params)
        spec = RunSpec(
            name=row.run_id,
            voting=VotingSettings.recorded(row.settings),
            row=row,
            moved=task is not None,
            progress=progress or Progress(),
            listener=None if on_event is None else Listener(on_event),
        )
        scope = anyio.CancelScope()
        with self._opened.visit(scope) as resources:
            with scope:
                return with_typed_result(made, await run_task(resources, made, spec))
            return await left(resources, row.run_id)

    async def resume_all(self, *, progress: Progress | None = None) -> AsyncIterator[Solution[Any]]:
        """Resume every interrupted or stopped run of the database in turn, oldest first.

        Each keeps the settings it started with. A run that cannot be resumed here stays unchanged, and its
        solution's *reason* says why: another task or other models, a batch, or another process working
        on it.

        Args:
            progress: counters, updated while the runs continue.

        Yields:
            The solution of each run, however it ended: see its status and reason.

        Raises:
            DatabaseError: the database can no longer be written.
        """
        with self._visit() as resources:
            await resources.writer.flush()
            rows = await resources.reader.unfinished()
        for row in rows:
            try:
                yield await self.resume(row.run_id, progress=progress)
            except (UsageError, PluginError) as error:
                found = await self.find(row.run_id)
                if found is not None:
                    yield replace(found, reason=str(error))
