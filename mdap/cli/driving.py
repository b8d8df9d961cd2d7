"""Drive a run, or the runs of a batch, show the progress, and report the end."""

import json
import shlex
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from mdap.cli.display import Show, shown
from mdap.cli.files import Written, lines_of
from mdap.cli.output import (
    NOT_GOOD,
    Exit,
    complain,
    fields,
    finish_code,
    hinted,
    number,
    print_json,
    reveal,
    say,
)
from mdap.cli.stopping import interruptible
from mdap.cli.summary import Rows, first_line, how_sure, rest, where_to_look
from mdap.engine.config import Progress
from mdap.errors import PluginError, UsageError
from mdap.plugins import make_task
from mdap.records import Outcome, RunStatus, Solution
from mdap.session import Session
from mdap.session.batch import Batch, Case


async def go(
    session: Session, run_id: str, act: Callable[[Session, Progress], Awaitable[Solution]], show: Show
) -> int:
    """Let *act* work on a run in *session*, show its progress, report its end, and return the exit code."""
    progress = Progress()
    solution: Solution | None = None
    with interruptible(as_json=show.as_json) as scope:
        async with session:
            with scope:
                async with shown(show.display, run_id, progress):
                    solution = await act(session, progress)
            if solution is None or scope.cancel_called:
                solution = await session.find(run_id)
            # Inside the session: a reader that closes the log last leaves SQLite's -wal and -shm beside it.
            places = [] if solution is None or show.as_json else await where_to_look(session.path, solution)
        interrupted = scope.cancel_called and (solution is None or solution.status is not RunStatus.FINISHED)
        return _report(solution, places, session.path, show, run_id, interrupted=interrupted)


def _report(
    solution: Solution | None, places: Rows, path: Path, show: Show, run_id: str, *, interrupted: bool
) -> Exit:
    if solution is None:
        sentence = f"interrupted before the run began: give the same command again, with --run-id {run_id}"
        if show.as_json:
            print_json({"error": sentence, "exit_code": int(Exit.INTERRUPTED)})
        complain(sentence)
        return Exit.INTERRUPTED
    if show.as_json:
        print_json(solution.to_dict())
    else:
        _describe(solution, path, places, verbose=show.verbose)
    again = f"mdap resume {shlex.quote(solution.run_id)} --db {shlex.quote(str(path))}"
    if interrupted:
        complain(f"interrupted; resume with: {again}")
        return Exit.INTERRUPTED
    reveal(solution.traceback)
    if solution.status is RunStatus.STOPPED:
        complain(f"stopped: {solution.reason}; resume with: {again}")
    elif solution.status is not RunStatus.FINISHED:
        sentence = f"{solution.status}: {solution.reason}"
        complain(hinted(sentence) if solution.traceback else sentence)
    elif show.fail_unsolved and solution.outcome in NOT_GOOD:
        complain(f"{solution.outcome}: --fail-unsolved makes that a failure")
    return finish_code(solution, fail_unsolved=show.fail_unsolved)


def _describe(solution: Solution, path: Path, places: Rows, *, verbose: bool) -> None:
    totals = solution.totals
    left = f" and {number(solution.undecided)} undecided" if solution.undecided else ""
    say(first_line(solution))
    rows = [
        *how_sure(solution),
        *places,
        ("steps", f"{number(totals.steps)} decided{left}, {_how(solution)}"),
        ("votes", f"{number(totals.votes)} of {number(totals.samples)} samples"),
        ("red flags", number(totals.red_flags)),
    ]
    if totals.failed_attempts:
        rows.append(("failed attempts", number(totals.failed_attempts)))
    if verbose:
        rows += rest(solution)
    rows += [
        ("time", f"{solution.seconds:.1f} s"),
        ("log", f"{path.absolute()}, run {solution.run_id}"),
    ]
    fields([*rows, *(("warning", warning) for warning in solution.warnings)])


def _how(solution: Solution) -> str:
    if solution.guarantee is None:
        return f"each by a lead of k = {solution.k}"
    return f"{number(solution.guarantee.contested)} of them contested; k is robust, from m = {solution.k}"


def cases_of(task: str, common: dict[str, Any], path: Path, name: str) -> Iterator[Case]:
    """Yield the task of each line of *path*, or why there is none; *name* is what the user calls the file.

    A line is a JSON object of parameters, which come before the *common* ones.
    """
    try:
        for place, line in enumerate(lines_of(path), start=1):
            if line is None or line.strip():
                yield _case(task, common, line, f"{name}, line {place}")
    except OSError as error:
        raise UsageError(f"--inputs {name} cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"--inputs {name} is not UTF-8 text") from None


def _case(task: str, common: dict[str, Any], line: str | None, where: str) -> Case:
    if line is None:
        return UsageError(f"{where} is too long: give the case a file instead")
    try:
        own = json.loads(line)
        if not isinstance(own, dict):
            raise ValueError("it is not an object")
        return make_task(task, {**common, **own})
    except (ValueError, RecursionError) as error:
        return UsageError(f"{where} is not a JSON object of parameters: {error}")
    except (UsageError, PluginError) as error:
        told = UsageError(f"{where}: {error}")
        told.__cause__ = error
        return told


async def run_inputs(
    session: Session,
    batch_of: Callable[[Progress], Awaitable[Batch]],
    name: str,
    out: Path | None,
    show: Show,
) -> int:
    """Solve every case, write each solution as a JSON line of *out* in the order of the cases, and report."""
    progress = Progress()
    ended: tuple[Exit, Solution | None] = (Exit.FINISHED, None)
    batch: Batch | None = None
    async with AsyncExitStack() as stack:
        scope = stack.enter_context(interruptible(as_json=show.as_json))
        file = None if out is None else stack.enter_context(_kept(out, name))
        await stack.enter_async_context(session)
        with scope:
            async with shown(show.display, name, progress):
                batch = await batch_of(progress)
                ended = await _solve_all(batch, file, show)
        if scope.cancel_called:
            ended = (Exit.INTERRUPTED, None)
            if batch is not None:
                with anyio.CancelScope(shield=True):
                    await batch.aclose()
        summary = await session.find(name)
    if summary is not None and summary.result is None and batch is not None:
        summary = replace(summary, result=batch.counts.result())  # of a batch that has not ended
    return _report_batch(summary, session.path, name, ended, show)


async def _solve_all(batch: Batch, file: Written | None, show: Show) -> tuple[Exit, Solution | None]:
    """Solve and write every case; return the worst exit code, and the first case that did not finish."""
    worst, first = Exit.FINISHED, None
    async for solution in batch:
        code = finish_code(solution, fail_unsolved=show.fail_unsolved)
        worst = Exit.STOPPED if Exit.STOPPED in (worst, code) else max(worst, code)
        if first is None and solution.status in (RunStatus.FAILED, RunStatus.UNDECIDED):
            first = solution
        if file is not None:
            file.write(json.dumps(solution.to_dict(), ensure_ascii=True) + "\n")
    if file is not None and worst is not Exit.STOPPED:
        file.keep()
    return worst, first


@contextmanager
def _kept(out: Path, name: str) -> Iterator[Written]:
    """Open *out*; replace its earlier contents only by a finished batch, or by more of the same batch."""
    file = Written("--out", out)
    try:
        yield file
    finally:
        if not file.kept and not file.lines:
            file.drop()
        elif not file.kept and not file.keep_if_it_extends(f'{{"run_id": {json.dumps(name)[:-1]}/'):
            complain(f"{out} stays as it was: what this command solved is in {file.beside}")


def _report_batch(
    summary: Solution | None, path: Path, run_id: str, ended: tuple[Exit, Solution | None], show: Show
) -> int:
    worst, first = ended
    result = (summary.result if summary is not None else None) or {"cases": 0, "finished": 0}
    if show.as_json and summary is not None:
        print_json(summary.to_dict())
    elif summary is not None:
        totals = summary.totals
        came = [f"{result[outcome.name.lower()]:,} {outcome}" for outcome in _outcomes(result)]
        say(", ".join([f"{result['finished']:,} of {result['cases']:,} cases finished", *came]))
        rows = [
            *how_sure(summary),
            ("look at", f"mdap runs --of {run_id} --db {shlex.quote(str(path))}"),
            ("steps", number(totals.steps)),
            ("votes", f"{number(totals.votes)} of {number(totals.samples)} samples"),
            ("red flags", number(totals.red_flags)),
        ]
        fields([*rows, ("run", run_id), *(("warning", warning) for warning in summary.warnings)])
    again = f"to go on, give the same command again with --run-id {run_id}"
    if worst is Exit.INTERRUPTED:
        complain(f"interrupted; {again}")
    elif worst is Exit.STOPPED:
        why = f": {summary.reason}" if summary is not None and summary.reason else ""
        complain(f"stopped{why}; {again}")
    elif worst is Exit.FAILED:
        failed, undecided = result["cases"] - result["finished"], result.get("mostly_undecided", 0)
        parts = [f"{failed:,} {'case' if failed == 1 else 'cases'} did not finish"] if failed else []
        parts += [f"{undecided:,} left most of their steps undecided"] if undecided else []
        if show.fail_unsolved:
            counts = [(result[name.name.lower()], name) for name in _outcomes(result, good=False)]
            parts += [f"{count:,} came out {name}" for count, name in counts]
        told = " and ".join(parts)
        if first is not None:
            reveal(first.traceback)
            told += f"; the first, {first.run_id}, {first.status}: {first.reason}"
        complain(f"{told}; `mdap runs --of {run_id}` lists all, and a file given with --out says why")
    return worst


def _outcomes(result: dict[str, Any], *, good: bool = True) -> list[Outcome]:
    """Return the outcomes of a batch's cases; those that are *good* only if wanted."""
    wanted = tuple(Outcome) if good else NOT_GOOD
    return [outcome for outcome in wanted if outcome.name.lower() in result]
