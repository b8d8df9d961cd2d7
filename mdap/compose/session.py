"""The session: one set of models, one database and one set of limits for any number of runs."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

import anyio
from anyio import AsyncContextManagerMixin
from pydantic import ValidationError

from mdap.compose.crew import Crew
from mdap.compose.identity import check_same, checked_run_id, new_run_id, run_columns, solution_of
from mdap.engine.chain import ChainRace, Rules
from mdap.engine.opening import Progress
from mdap.engine.purse import Purse
from mdap.engine.run import decide
from mdap.errors import (
    DatabaseError,
    FailedError,
    PluginError,
    RunError,
    StoppedError,
    UndecidedError,
    UsageError,
)
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader, RunRow, open_log
from mdap.journal.writer import Writer, open_journal
from mdap.observe import watch
from mdap.plugins import make_task
from mdap.providers.prices import read_prices
from mdap.records import Fact, RunEvent, RunStatus, Solution
from mdap.rules.canonical import canonical
from mdap.rules.certificate import error_upper_bound
from mdap.rules.scaling import minimal_k
from mdap.settings import Budget, Limits, Price, Speculate, Speculation, VotingSettings, explain
from mdap.tasks import Chain, Task

__all__ = ["Session", "solve", "solve_sync"]

K = int | Literal["auto"]

_PILOT_MARGIN: Final = 8
_PILOT_VOTES: Final = 400
_VOTE_DEPTH: Final = 16
_OF_SESSION: Final = ("escalate_to", "limits", "budget", "prices", "speculate", "log")

_ENDED: Final[dict[RunStatus, type[RunError]]] = {
    RunStatus.UNDECIDED: UndecidedError,
    RunStatus.STOPPED: StoppedError,
    RunStatus.FAILED: FailedError,
}


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
        log: whether every recorded fact is also a structlog event.

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
        log: bool = False,
    ) -> None:
        self.path = Path(db)
        self._models = (model,) if isinstance(model, str) else tuple(model)
        self._escalate_to = (escalate_to,) if isinstance(escalate_to, str) else tuple(escalate_to)
        self._options = dict(options or {})
        self._limits = limits or Limits()
        self._budget = budget or Budget()
        self._prices = read_prices(Path(prices)) if isinstance(prices, str | Path) else dict(prices or {})
        self._speculate = Speculate(speculate)
        self._watch: Callable[[Fact], None] | None = watch if log else None
        self._crew: Crew
        self._purse: Purse
        self._writer: Writer
        self._reader: Reader
        self._claims = Claims(self.path)
        self._known_spending: set[int] = set()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator["Session"]:
        self._crew = Crew.hire(self._models, self._escalate_to, self._options, self._limits, self._prices)
        self._crew.check_budget(self._budget)
        self._purse = Purse(self._budget, self._crew.prices)
        failure: BaseException | None = None
        try:
            async with (
                open_journal(self.path, self._watch) as self._writer,
                open_log(self.path) as self._reader,
                anyio.create_task_group() as group,
            ):
                for gate in self._crew.gates:
                    group.start_soon(gate.serve)
                # Raised after the group has closed, which would wrap it.
                try:
                    yield self
                except BaseException as error:
                    failure = error
                group.cancel_scope.cancel()
        finally:
            self._claims.close()
            with anyio.CancelScope(shield=True):
                await self._crew.provider.aclose()
        if failure is not None:
            raise failure

    # -- the face ----------------------------------------------------------------------------------

    async def solve(
        self,
        task: Task,
        *,
        k: K | None = None,
        target: float = 0.95,
        voting: VotingSettings | None = None,
        run_id: str | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Run *task* to its end and return what it came to.

        Args:
            task: the task with its parameters.
            k: the margin; ``"auto"`` takes a pilot and the smallest margin that reaches *target*; None
                takes that of *voting*.
            target: wanted chance that the whole run has no wrong decision; for ``"auto"``.
            voting: how steps are decided.
            run_id: the run's name in the database; an unfinished run of that name is resumed, a finished
                one is returned as it is. None makes up a new one.
            progress: counters that are kept while the run goes on.

        Raises:
            UsageError: an argument is wrong, or the run of that name was started with other settings.
            UndecidedError: a step found no winner within its allowed samples.
            StoppedError: the provider is gone, or a limit was reached; solve it again to resume.
            FailedError: the task's own code failed, or a prompt was rejected.
            DatabaseError: the database cannot be written any more.
        """
        solution = await self.run(task, k=k, target=target, voting=voting, run_id=run_id, progress=progress)
        kind = _ENDED.get(solution.status)
        if kind is not None:
            raise kind(f"run {solution.run_id}: {solution.reason}", solution)
        return solution

    async def run(
        self,
        task: Task,
        *,
        k: K | None = None,
        target: float = 0.95,
        voting: VotingSettings | None = None,
        run_id: str | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Run *task* like `solve`, but return however it ended: see the solution's status and reason."""
        if not isinstance(task, Chain):
            raise UsageError(
                f"{type(task).__name__} is not a task that can be run: derive it from mdap.Chain"
            )
        voting = voting or VotingSettings()
        name = new_run_id(task) if run_id is None else checked_run_id(run_id)
        row = await self._row(name)
        if k == "auto":
            voting = _with_k(voting, await self._margin(task, name, target, voting))
        elif k is not None:
            voting = _with_k(voting, k)
        return await self._run(task, name, voting, row=row, progress=progress)

    async def resume(self, run_id: str, *, progress: Progress | None = None) -> Solution:
        """Go on with the run called *run_id*, with the settings it was started with.

        Args:
            run_id: its id, a unique beginning of it, or ``latest``.
            progress: counters that are kept while the run goes on.

        Raises:
            UsageError: there is no such run, or its task or model is not to be had any more.
        """
        await self._writer.flush()
        row = await self._reader.find(run_id)
        if row.kind != "run":
            raise UsageError(f"{row.run_id} is a pilot: to go on, give the command of its run again")
        task = make_task(row.task, row.params)
        if not isinstance(task, Chain):
            raise UsageError(f"{row.task} is no chain any more")
        voting = VotingSettings(**row.settings)
        return await self._run(task, row.run_id, voting, row=row, progress=progress)

    async def find(self, run_id: str) -> Solution | None:
        """Return what the run whose id is exactly *run_id* came to so far, or None if there is none."""
        row = await self._row(run_id)
        return None if row is None else await solution_of(self._reader, row)

    async def _row(self, run_id: str) -> RunRow | None:
        # What a cancelled run of this session appended may not be committed yet.
        await self._writer.flush()
        return await self._reader.run(run_id)

    # -- one run -----------------------------------------------------------------------------------

    async def _margin(self, task: Chain[Any, Any], name: str, target: float, voting: VotingSettings) -> int:
        """Return the smallest margin that reaches *target*, at an error rate that a pilot rules out.

        The pilot decides the first steps of the task at a generous margin; votes against its winners
        count as wrong. The upper confidence bound of their rate stands for the error rate.
        """
        length = task.length()
        if length is None:
            raise UsageError("-k auto needs a task of known length: define length(), or give k")
        pilot = _with_k(voting.model_copy(update={"max_samples": None}), _PILOT_MARGIN)
        name = f"{name}-pilot"
        row = await self._row(name)
        solution = await self._run(task, name, pilot, row=row, kind="pilot")
        if solution.status is RunStatus.UNDECIDED:
            raise UsageError(
                f"no k can be chosen: in the pilot {solution.reason}; the model is right too seldom to vote"
            )
        if solution.status is not RunStatus.FINISHED:
            raise _ENDED[solution.status](f"the pilot {name}: {solution.reason}", solution)
        number = (await self._reader.find(name)).number
        votes = solution.totals.votes
        bound = error_upper_bound(votes - await self._reader.votes_for_winners(number), votes)
        return minimal_k(bound, length, target)

    async def _run(
        self,
        task: Chain[Any, Any],
        name: str,
        voting: VotingSettings,
        *,
        row: RunRow | None,
        kind: str = "run",
        progress: Progress | None = None,
    ) -> Solution:
        columns = run_columns(task, name, kind, voting, self._crew.about)
        if row is None:
            number = await self._writer.begin_run(columns)
        else:
            number = row.number
            check_same(row, columns)
            if row.status is RunStatus.FINISHED:
                return await solution_of(self._reader, row)
        self._claims.take(number, name)
        try:
            await self._count_earlier_spending(number)
            about = {"limits": self._limits.model_dump(), "budget": self._budget.model_dump()}
            about["prices"] = self._crew.known_prices()
            self._writer.append(RunEvent(number, "started" if row is None else "resumed", data=about))
            rules = Rules(
                run=number,
                voting=voting,
                speculation=self._speculation(),
                max_n=self._crew.provider.max_n,
                models=self._crew.names,
                casting=self._crew.casting(voting),
                votes_wanted=await self._votes_wanted(number) if kind == "pilot" else None,
            )
            progress = progress if progress is not None else Progress()
            await self._drive(ChainRace(columns["task"], task, rules, self._writer, progress), task, rules)
            await self._writer.flush()
            return await solution_of(self._reader, await self._reader.find(name))
        finally:
            # Whoever takes the run up next must find all of it.
            with anyio.CancelScope(shield=True), suppress(DatabaseError):
                await self._writer.flush()
            self._claims.drop(number)

    async def _count_earlier_spending(self, number: int) -> None:
        if self._purse.limited and number not in self._known_spending:
            self._known_spending.add(number)
            usage = (await self._reader.totals(number)).usage
            usd = await self._reader.cost(number)
            self._purse.spent_before(usd or 0.0, usage.input_tokens + usage.output_tokens)

    async def _votes_wanted(self, number: int) -> int:
        """Return how many votes a pilot still needs."""
        return _PILOT_VOTES - await self._reader.votes_decided(number)

    def _speculation(self) -> Speculation:
        if self._crew.provider.instant or self._speculate is Speculate.OFF:
            return Speculation()
        if self._speculate is Speculate.GUESS:
            return Speculation(mode=Speculate.GUESS, depth=self._limits.concurrency)
        return Speculation(mode=Speculate.VOTE, depth=_VOTE_DEPTH)

    async def _drive(self, race: ChainRace, task: Chain[Any, Any], rules: Rules) -> None:
        """Decide *race*, and record how it ended, whatever ends it."""
        started = time.monotonic()
        ended: dict[str, Any] = {}
        status, reason = "stopped", "interrupted"
        try:
            race.begin(await self._reader.resume_point(rules.run))
            with anyio.move_on_after(self._budget.seconds) as clock:
                await decide(race, self._crew.provider, self._limits, self._writer, self._purse)
            status, reason = str(race.status), race.reason or ""
            if clock.cancelled_caught:
                status, reason = "stopped", f"the {self._budget.seconds:g} seconds allowed are over"
            if race.status is RunStatus.FINISHED:
                ended["result"] = _result(race, task)
        except PluginError as error:
            status, reason = "failed", str(error)
        finally:
            ended["seconds"] = round(time.monotonic() - started, 3)
            ended["in_flight"] = race.progress.in_flight
            if self._writer.usable:
                self._writer.append(RunEvent(rules.run, status, reason or None, data=ended))


def _result(race: ChainRace, task: Chain[Any, Any]) -> Any:
    try:
        return json.loads(canonical(task.result(race.state)))
    except Exception as error:
        raise PluginError(f"task {type(task).__name__}", "giving its result", error) from error


def _with_k(voting: VotingSettings, k: int) -> VotingSettings:
    # Validated anew, so that a k which its samples can never reach is refused.
    try:
        return VotingSettings(**{**voting.model_dump(), "k": k})
    except ValidationError as error:
        raise UsageError(explain("setting", error)) from None


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
        k: the margin, or ``"auto"``.
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


def solve_sync(task: Task, **settings: Any) -> Solution:
    """Run one task to its end without an event loop of your own; the arguments are those of `solve`."""

    async def call() -> Solution:
        return await solve(task, **settings)

    return anyio.run(call)
