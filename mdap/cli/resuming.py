"""``mdap resume``: one run, or every run of a database that was interrupted or stopped."""

import json
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import click

from mdap.cli import completing, options
from mdap.cli.display import Show, shown
from mdap.cli.driving import go
from mdap.cli.output import Exit, complain, exit_code_of, finish_code, print_json, say
from mdap.cli.places import at_home, enter_home
from mdap.cli.stopping import interruptible
from mdap.cli.summary import standing
from mdap.engine.config import Progress
from mdap.errors import DatabaseError, MdapError, RunBusyError, UsageError
from mdap.journal.reader import RunRow, open_log
from mdap.plugins import make_recorded, make_task
from mdap.records import RunStatus, Solution
from mdap.session import Session
from mdap.tasks import Task

_SHOWN: Final = 200


@click.command()
@click.argument("run_id", metavar="RUN", required=False, shell_complete=completing.runs)
@click.option(
    "--all", "every", is_flag=True, help="Resume every interrupted or stopped run, one after the other."
)
@options.speculate_option("See `mdap run`.")
@options.cluster_options
@options.stop_options
@options.moved_task()
@options.run_options
def resume(**given: Any) -> int:
    """Continue a run that was stopped, interrupted or settled.

    RUN is its id, a unique beginning of it, or `latest`; --all continues all. Task, parameters, models and
    voting stay as they were; limits, budget, speculation and workers may change.
    """
    show = Show.of(given)
    if given["every"]:
        return _resume_all(given, show)
    if given["run_id"] is None:
        raise UsageError("name the RUN to resume, such as latest, or give --all")
    return at_home(given, lambda given: anyio.run(_resume, given, show))


def _resume_all(given: dict[str, Any], show: Show) -> int:
    if given["run_id"] is not None or given["task"] is not None:
        raise UsageError("--all resumes each run by its own task: give neither RUN nor --task with it")
    if given["workers"] is not None:
        raise UsageError("--workers does not go with --all: resume a process by its id to spread it")
    return anyio.run(_resume_each, {**given, "db": Path(given["db"]).absolute()}, show)


async def _resume(given: dict[str, Any], show: Show) -> int:
    async with open_log(Path(given["db"])) as reader:
        row = await reader.find(given["run_id"])
        lane = await reader.value("lane", row.number)

    async def act(session: Session, progress: Progress) -> Solution:
        return await session.resume(row.run_id, task=given["task"], progress=progress)

    return await go(_session_again(row, given, lane), row.run_id, act, show)


def _task_of(row: RunRow, moved: str | None) -> Task | None:
    """Return the task of a run; None for a part of another, which no session resumes by itself."""
    if row.kind != "run":
        return None
    return make_recorded(row.task, row.params) if moved is None else make_task(moved, row.params)


def _session_again(row: RunRow, given: dict[str, Any], lane: str | None = None) -> Session:
    """Return a session with the models of *row*, and its *lane* unless another is given."""
    return Session(
        row.provider["models"],
        escalate_to=row.provider["escalate_to"],
        options=row.provider["options"],
        cluster=options.cluster_of(given, None if given["workers"] is None else _task_of(row, given["task"])),
        **options.session_options(given, lane),
    )


async def _resume_each(given: dict[str, Any], show: Show) -> int:
    """Resume all runs in turn, those of the same models in one session; return the worst exit code."""
    budget = options.budget_of(given)
    async with open_log(given["db"]) as reader:
        rows = await reader.unfinished()
    groups: dict[str, list[RunRow]] = {}
    for row in rows:
        models = [row.provider[name] for name in ("models", "escalate_to", "options")]
        groups.setdefault(json.dumps(models, sort_keys=True), []).append(row)
    if len(groups) > 1 and (budget.usd is not None or budget.tokens is not None):
        raise UsageError(
            f"the runs to resume have {len(groups)} different sets of models, and a budget is that of one "
            "session: resume them one by one, or give no budget"
        )
    work = _Resuming(show)
    with interruptible(as_json=show.as_json) as scope, scope:
        for group in groups.values():
            await work.resume(group, partial(_session_again, group[0], given))
    if scope.cancel_called:
        work.codes.append(Exit.INTERRUPTED)
    return work.report(given["db"])


class _Resuming:
    """The runs resumed so far."""

    def __init__(self, show: Show) -> None:
        self.codes: list[Exit] = []
        self._show = show
        self._results: list[dict[str, Any]] = []

    async def resume(self, rows: list[RunRow], make_session: Callable[[], Session]) -> None:
        """Resume runs of the same models."""
        todo = list(rows)
        try:
            async with make_session() as session:
                while todo:
                    await self._resume_one(session, todo[0])
                    del todo[0]
        except DatabaseError:
            raise
        except MdapError as error:  # the models are not available
            for row in todo:
                self._skipped(row, error)

    async def _resume_one(self, session: Session, row: RunRow) -> None:
        try:
            self._ended(await self._resumed(session, row))
        except DatabaseError:
            raise
        except anyio.get_cancelled_exc_class():
            self._tell(f"{row.run_id}: interrupted")
            raise
        except MdapError as error:
            self._skipped(row, error)

    async def _resumed(self, session: Session, row: RunRow) -> Solution[Any]:
        progress = Progress()
        async with shown(self._show.display, row.run_id, progress):
            try:
                return await session.resume(row.run_id, progress=progress)
            except UsageError:
                with chdir("."):  # and come back here
                    if await enter_home(session.path, row.run_id, None) is None:
                        raise
                    return await session.resume(row.run_id, progress=progress)

    def _ended(self, solution: Solution[Any]) -> None:
        self.codes.append(finish_code(solution, fail_unsolved=self._show.fail_unsolved))
        self._results.append(solution.to_dict())
        finished = solution.status is RunStatus.FINISHED
        told = f"result {json.dumps(solution.result)}" if finished else str(solution.reason)
        self._tell(f"{solution.run_id}: {standing(solution)}, {told:.{_SHOWN}}")

    def _skipped(self, row: RunRow, error: MdapError) -> None:
        # Another process is working on it and will finish it.
        self.codes.append(Exit.FINISHED if isinstance(error, RunBusyError) else exit_code_of(error))
        self._results.append({"run_id": row.run_id, "error": str(error)})
        self._tell(f"{row.run_id}: skipped, {error}")

    def _tell(self, line: str) -> None:
        if not self._show.as_json:
            say(line)

    def report(self, path: Path) -> int:
        """Print what is left to say; return the worst exit code."""
        worst = max(self.codes, default=Exit.FINISHED)
        if self._show.as_json:
            print_json({"runs": self._results, "exit_code": int(worst)})
        elif not self.codes:
            say(f"no run in {path} is to be resumed")
        if worst is Exit.INTERRUPTED:
            complain("interrupted; go on with the same command")
        return worst
