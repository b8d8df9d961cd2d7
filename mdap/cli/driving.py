"""Drive one run, show its progress, and report its end."""

import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from mdap.cli.display import Show, configure_log, shown
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
from mdap.cli.summary import Rows, first, how_sure, rest, where_to_look
from mdap.engine.config import Progress
from mdap.records import RunStatus, Solution
from mdap.session import Session

__all__ = ["go"]


async def go(
    session: Session, run_id: str, act: Callable[[Session, Progress], Awaitable[Solution]], show: Show
) -> int:
    """Let *act* work on a run in *session*, show its progress, report its end, and return the exit code."""
    if show.display == "log":
        configure_log()
    with interruptible(as_json=show.as_json) as scope:
        return await _done(session, run_id, act, show, scope)


async def _done(
    session: Session,
    run_id: str,
    act: Callable[[Session, Progress], Awaitable[Solution]],
    show: Show,
    scope: anyio.CancelScope,
) -> int:
    progress = Progress()
    async with session:
        solution: Solution | None = None
        with scope:
            async with shown(show.display, run_id, progress):
                solution = await act(session, progress)
        if solution is None or scope.cancel_called:
            solution = await session.find(run_id)
        # Inside the session: a reader that closes the log last leaves SQLite's -wal and -shm files beside it.
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
    say(first(solution))
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
    guarantee = solution.guarantee
    if guarantee is None:
        return f"each by a lead of k = {solution.k}"
    return f"{number(guarantee.contested)} of them contested; k is robust, from m = {solution.k}"
