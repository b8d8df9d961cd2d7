"""``mdap run`` and ``mdap resume``."""

import getpass
import shlex
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
from pydantic import ValidationError

from mdap.audit.queue import Ruling
from mdap.cli import completing
from mdap.cli.batching import cases_of, run_inputs
from mdap.cli.display import DISPLAYS, Show, configure_log, shown
from mdap.cli.files import check_apart, database_files, readable
from mdap.cli.options import (
    MARGIN,
    NUMBERS,
    as_json,
    budget_of,
    budget_options,
    cluster_of,
    cluster_options,
    database,
    fail_unsolved,
    lane_of,
    lane_options,
    limit_options,
    limits_of,
    moved_task,
    on_dead,
    task_with_params,
    verbose,
    waiting,
)
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
from mdap.cli.places import at_home
from mdap.cli.resuming import resume_all
from mdap.cli.stopping import interruptible
from mdap.cli.summary import Rows, first, how_sure, rest, where_to_look
from mdap.engine.opening import Progress
from mdap.errors import MdapError, UsageError
from mdap.journal.reader import RunRow, open_log
from mdap.plugins import load_task, make_task, read_params, read_values
from mdap.records import RunStatus, Solution
from mdap.session import Session, new_run_id
from mdap.session.batch import Batch, Case
from mdap.session.desk import Desk
from mdap.session.identity import new_name
from mdap.settings import Cluster, Robust, Speculate, VotingSettings, explain
from mdap.tasks import Task

__all__ = ["decide", "resume", "run"]


@click.command()
@task_with_params
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("sim",),
    show_default="sim",
    metavar="PROVIDER[/MODEL]",
    shell_complete=completing.models,
    help="Model to sample, such as openai/gpt-4.1-mini; `mdap models` lists providers. Several models take "
    "turns; append options of one, as in 'sim/a?seed=1'.",
)
@click.option(
    "--escalate-to",
    multiple=True,
    metavar="PROVIDER[/MODEL]",
    shell_complete=completing.models,
    help="Next model for steps that are undecided after --max-samples.",
)
@click.option(
    "-M", "options", multiple=True, metavar="NAME=VALUE", help="Set an option of the model's provider."
)
@click.option(
    "-k",
    "margin",
    type=MARGIN,
    default="3",
    show_default=True,
    metavar="N|auto|robust",
    help="Votes by which the winner must lead every other answer. auto: the smallest k that reaches --target "
    "if all steps are equally hard, from the newest matching calibration or a pilot. robust: keeps "
    "--target however hard the steps are, if --floor holds.",
)
@click.option(
    "--target",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Target probability that every decision is right; for -k auto and robust.",
)
@click.option(
    "--floor",
    type=float,
    show_default="0.6",
    metavar="P",
    help="With -k robust: lowest probability on any step that a valid sample is right.",
)
@click.option(
    "--contested",
    type=click.Choice(["decide", "stop"]),
    show_default="decide",
    help="With -k robust: decide contested steps by a wider lead, or leave them to --escalate-to or you.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    show_default="0",
    help="With -k robust: seed that draws each sample's model and view.",
)
@click.option(
    "--max-samples", type=int, help="Maximum samples of a step before it is undecided. [default: 100 + 20 k]"
)
@click.option(
    "--max-tokens",
    type=int,
    help="Maximum output tokens of a reply. [default: the step's own limit, or 750]",
)
@click.option(
    "--temperatures",
    type=NUMBERS,
    show_default="0,0.1; with -k robust 0.1",
    metavar="T,T,...",
    help="Temperatures of a step's samples, in order; the last one repeats.",
)
@click.option(
    "--hedge",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Extra samples in flight beyond those a step needs: faster, costs more, favours quick answers.",
)
@click.option("--run-id", metavar="ID", help="Name of the run; resumes it if it exists and is unfinished.")
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run TASK once for each line of FILE, a JSON object of parameters to add to -p; - reads "
    "standard input.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --inputs: write each result as one JSON line, in input order; FILE appears when the "
    "batch ends.",
)
@click.option(
    "--speculate",
    type=click.Choice([str(mode) for mode in Speculate]),
    default="vote",
    show_default=True,
    help="Start the next steps before a step is decided, from its leading answer or the task's guess.",
)
@click.option(
    "--record-prompts/--no-record-prompts",
    default=None,
    show_default="of processes",
    help="Store the text of every prompt in the log; not for confidential documents.",
)
@cluster_options
@on_dead
@waiting
@lane_options
@limit_options
@budget_options
@database
@click.option(
    "--display",
    type=click.Choice(DISPLAYS),
    help="Progress display. [default: rich on a terminal, else plain]",
)
@fail_unsolved
@verbose
@as_json
def run(**given: Any) -> int:
    """Run a task: vote on each step, and record everything.

    TASK is a plugin's name, package.module:Class, or path/file.py:Class.
    """
    voting = _voting(given)
    show = Show.of(given)
    session = _session(given, show, cluster_of(given))
    if given["inputs"] is not None:
        return _run_inputs(given, session, voting, show)
    if given["out"] is not None:
        raise UsageError("--out goes with --inputs: a single run prints what it came to, with --json as JSON")
    task = make_task(given["task"], read_params(given["task"], given["params"]))
    run_id = new_run_id(task) if given["run_id"] is None else given["run_id"]

    async def act(session: Session, progress: Progress) -> Solution:
        return await session.run(
            task,
            k=given["margin"],
            target=given["target"],
            floor=0.6 if given["floor"] is None else given["floor"],
            voting=voting,
            run_id=run_id,
            progress=progress,
        )

    return anyio.run(_go, session, run_id, act, show)


def _session(given: dict[str, Any], show: Show, cluster: Cluster | None) -> Session:
    return Session(
        given["models"],
        escalate_to=given["escalate_to"],
        db=given["db"],
        options=read_values(given["options"], "-M"),
        limits=limits_of(given),
        budget=budget_of(given),
        prices=given["prices"],
        speculate=given["speculate"],
        on_dead=given["on_dead"],
        record_prompts=given["record_prompts"],
        log=show.display == "log",
        cluster=cluster,
        **lane_of(given),
    )


def _run_inputs(given: dict[str, Any], session: Session, voting: VotingSettings, show: Show) -> int:
    if given["margin"] == "robust":
        raise UsageError("-k robust is for one run, not for --inputs: give k, or -k auto")
    load_task(given["task"])
    others = {"--inputs": given["inputs"], "--prices": given["prices"], **database_files(given["db"])}
    if given["out"] is not None:
        check_apart("--out", given["out"], others)
    with readable("--inputs", given["inputs"]) as inputs:
        cases = partial(
            cases_of, given["task"], read_params(given["task"], given["params"]), inputs, given["inputs"]
        )
        return _run_cases(given, session, voting, show, cases)


def _run_cases(
    given: dict[str, Any],
    session: Session,
    voting: VotingSettings,
    show: Show,
    cases: Callable[[], Iterator[Case]],
) -> int:
    margin = given["margin"]
    name = given["run_id"] or new_name("batch")
    first = next(cases(), None)  # a file that cannot be read is refused before there is a batch
    if first is None:
        raise UsageError(f"--inputs {given['inputs']} holds no case: give a JSON object of parameters a line")

    async def batch_of(progress: Progress) -> Batch:
        k = margin
        if k == "auto":
            if isinstance(first, MdapError):
                raise first  # before anything is spent
            tasks = (case for case in cases() if isinstance(case, Task))
            k = await session.choose_k(tasks, name, target=given["target"], voting=voting)
        return session.solve_all(cases(), k=k, voting=voting, run_id=name, progress=progress)

    return anyio.run(run_inputs, session, batch_of, name, given["out"], show)


@click.command()
@click.argument("run_id", metavar="RUN", required=False, shell_complete=completing.runs)
@click.option(
    "--all", "every", is_flag=True, help="Resume every interrupted or stopped run, one after the other."
)
@click.option(
    "--speculate",
    type=click.Choice([str(mode) for mode in Speculate]),
    default="vote",
    show_default=True,
    help="See `mdap run`.",
)
@on_dead
@waiting
@moved_task
@lane_options
@limit_options
@budget_options
@database
@click.option(
    "--display",
    type=click.Choice(DISPLAYS),
    help="Progress display. [default: rich on a terminal, else plain]",
)
@fail_unsolved
@verbose
@as_json
def resume(**given: Any) -> int:
    """Continue a run that was stopped, interrupted or settled.

    RUN is its id, a unique beginning of it, or `latest`; --all continues all. Task, parameters, models and
    voting stay as they were; limits, budget and speculation may change.
    """
    show = Show.of(given)
    if given["every"]:
        return _resume_all(given, show)
    if given["run_id"] is None:
        raise UsageError("name the RUN to resume, such as latest, or give --all")
    return at_home(
        given["db"], given["run_id"], given["task"], lambda db: anyio.run(_resume, db, given, show)
    )


def _resume_all(given: dict[str, Any], show: Show) -> int:
    if given["run_id"] is not None or given["task"] is not None:
        raise UsageError("--all resumes each run by its own task: give neither RUN nor --task with it")
    path = Path(given["db"]).absolute()
    budget = budget_of(given)
    act = partial(
        resume_all,
        path,
        lambda row: _session_again(path, row, given, show),
        show,
        limited=budget.usd is not None or budget.tokens is not None,
    )
    return anyio.run(act)


async def _resume(path: Path, given: dict[str, Any], show: Show) -> int:
    async with open_log(path) as reader:
        row = await reader.find(given["run_id"])
        lane = await reader.lane(row.number)

    async def act(session: Session, progress: Progress) -> Solution:
        return await session.resume(row.run_id, task=given["task"], progress=progress)

    return await _go(_session_again(path, row, given, show, lane), row.run_id, act, show)


def _session_again(
    path: Path, row: RunRow, given: dict[str, Any], show: Show, lane: str | None = None
) -> Session:
    """Return a session with the models of *row*, and its *lane* unless another is given."""
    return Session(
        row.provider["models"],
        escalate_to=row.provider["escalate_to"],
        db=path,
        options=row.provider["options"],
        limits=limits_of(given),
        budget=budget_of(given),
        prices=given["prices"],
        speculate=given["speculate"],
        on_dead=given["on_dead"],
        log=show.display == "log",
        **lane_of(given, lane),
    )


@click.command()
@click.argument("run_id", metavar="RUN", shell_complete=completing.runs)
@click.argument("step")
@click.option(
    "--answer",
    required=True,
    metavar="JSON",
    help="Answer as JSON, or candidate:KEY for one that received votes.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Reason for the decision; recorded.")
@click.option("--author", default=getpass.getuser, show_default="you", help="Who decides; recorded.")
@moved_task
@database
@as_json
def decide(**given: Any) -> None:
    """Settle a step yourself: one undecided, or decided wrongly.

    STEP is its number or its key; `mdap resume` goes on from there. If voting left the step undecided, RUN
    itself goes on, even if it was finished. If the step was decided, a new run takes over what else was
    decided, with your answer to the step; nothing on record is changed.
    """
    if not given["reason"].strip():
        raise UsageError("--reason must say why: it is what the record has to show for the decision")
    ruling = Ruling(given["answer"], given["author"], given["reason"])
    settled = at_home(
        given["db"],
        given["run_id"],
        given["task"],
        lambda db: anyio.run(Desk(db).settle, given["run_id"], given["step"], ruling, given["task"]),
    )
    if given["json"]:
        step = int(given["step"]) if given["step"].isdecimal() else given["step"]
        print_json({"run_id": settled.run_id, "step": step, "author": given["author"]})
    elif settled.goes_on:
        say(f"step {given['step']} is settled; {settled.run_id} goes on with it")
    else:
        say(f"step {given['step']} is settled; go on with: mdap resume {settled.run_id} --db {given['db']}")


def _voting(given: dict[str, Any]) -> VotingSettings:
    margin = given["margin"]
    chosen = {name: given[name] for name in ("contested", "seed") if given[name] is not None}
    if margin != "robust" and (chosen or given["floor"] is not None):
        raise UsageError("--floor, --contested and --seed go with -k robust")
    temperatures = {} if given["temperatures"] is None else {"temperatures": given["temperatures"]}
    try:
        return VotingSettings(
            k=margin if isinstance(margin, int) else 1,
            max_samples=given["max_samples"],
            **({} if given["max_tokens"] is None else {"max_tokens": given["max_tokens"]}),
            hedge=given["hedge"],
            robust=Robust(**chosen) if margin == "robust" else None,
            **temperatures,
        )
    except ValidationError as error:
        raise UsageError(explain("setting", error)) from None


async def _go(
    session: Session, run_id: str, act: Callable[[Session, Progress], Awaitable[Solution]], show: Show
) -> int:
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
        # While the session has the log open: whoever only reads it last leaves files of SQLite's beside it.
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
