"""``mdap run``: run a task, or every case of a batch."""

from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import click

from mdap.cli import completing, options
from mdap.cli.display import Show
from mdap.cli.driving import cases_of, go, run_inputs
from mdap.cli.files import check_apart, database_files, readable
from mdap.engine.config import Progress
from mdap.errors import MdapError, UsageError
from mdap.plugins import load_task, make_task, read_params
from mdap.records import Solution
from mdap.rules.parameters import read_values
from mdap.session import Session, new_run_id
from mdap.session.batch import Batch
from mdap.session.identity import new_name
from mdap.settings import Cluster, Robust, VotingSettings, validated
from mdap.tasks import Task

_VOTING: Final = ("max_samples", "max_tokens", "temperatures")


def _margin(text: str) -> int | str:
    """Return a margin k, or the name of a way to choose one."""
    if text in ("auto", "robust"):
        return text
    try:
        k = int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a whole number nor auto or robust") from None
    if k < 1:
        raise click.BadParameter(f"the margin k must be at least 1, not {k}")
    return k


def _numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list such as 0,0.1."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 0,0.1") from None


@click.command()
@options.task_with_params
@options.model_option(
    "Model to sample, such as openai/gpt-4.1-mini; `mdap models` lists providers. Several models take "
    "turns; append options of one, as in 'sim/a?seed=1'."
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
    type=_margin,
    default="3",
    show_default=True,
    metavar="N|auto|robust",
    help="Votes by which the winner must lead every other answer. auto: the smallest k that reaches --target "
    "if all steps are equally hard, from the newest matching calibration or a pilot. robust: keeps "
    "--target however hard the steps are, if --floor holds.",
)
@options.target_option("; for -k auto and robust", default=None)
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
    type=_numbers,
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
@options.speculate_option(
    "Start the next steps before a step is decided, from its leading answer or the task's guess."
)
@click.option(
    "--record-prompts/--no-record-prompts",
    default=None,
    show_default="of processes",
    help="Store the text of every prompt in the log; not for confidential documents.",
)
@options.cluster_options
@options.stop_options
@options.run_options
def run(**given: Any) -> int:
    """Run a task: vote on each step, and record everything.

    TASK is a plugin's name, package.module:Class, or path/file.py:Class.
    """
    voting = _voting(given)
    show = Show.of(given)
    if given["inputs"] is not None:
        return _run_inputs(given, _session(given, options.cluster_of(given, None)), voting, show)
    if given["out"] is not None:
        raise UsageError("--out goes with --inputs: a single run prints what it came to, with --json as JSON")
    task = make_task(given["task"], read_params(given["task"], given["params"]))
    session = _session(given, options.cluster_of(given, task))
    run_id = new_run_id(task) if given["run_id"] is None else given["run_id"]

    async def act(session: Session, progress: Progress) -> Solution:
        return await session.run(
            task,
            k=given["margin"],
            target=given["target"],
            floor=given["floor"],
            voting=voting,
            run_id=run_id,
            progress=progress,
        )

    return anyio.run(go, session, run_id, act, show)


def _session(given: dict[str, Any], cluster: Cluster | None) -> Session:
    return Session(
        given["models"],
        escalate_to=given["escalate_to"],
        options=read_values(given["options"], "-M"),
        record_prompts=given["record_prompts"],
        cluster=cluster,
        **options.session_options(given),
    )


def _run_inputs(given: dict[str, Any], session: Session, voting: VotingSettings, show: Show) -> int:
    if given["margin"] == "robust":
        raise UsageError("-k robust is for one run, not for --inputs: give k, or -k auto")
    load_task(given["task"])
    others = {"--inputs": given["inputs"], "--prices": given["prices"], **database_files(given["db"])}
    if given["out"] is not None:
        check_apart("--out", given["out"], others)
    name = given["run_id"] or new_name("batch")
    common = read_params(given["task"], given["params"])
    with readable("--inputs", given["inputs"]) as inputs:
        cases = partial(cases_of, given["task"], common, inputs, given["inputs"])
        first = next(cases(), None)  # a file that cannot be read is refused before there is a batch
        if first is None:
            raise UsageError(
                f"--inputs {given['inputs']} holds no case: give a JSON object of parameters a line"
            )

        async def batch_of(progress: Progress) -> Batch:
            k = given["margin"]
            if k == "auto":
                if isinstance(first, MdapError):
                    raise first  # before anything is spent
                tasks = (case for case in cases() if isinstance(case, Task))
                goal = {} if given["target"] is None else {"target": given["target"]}
                k = await session.choose_k(tasks, name, voting=voting, **goal)
            return session.solve_all(cases(), k=k, voting=voting, run_id=name, progress=progress)

        return anyio.run(run_inputs, session, batch_of, name, given["out"], show)


def _voting(given: dict[str, Any]) -> VotingSettings:
    k = given["margin"]
    chosen = {name: given[name] for name in ("contested", "seed") if given[name] is not None}
    if k != "robust" and (chosen or given["floor"] is not None):
        raise UsageError("--floor, --contested and --seed go with -k robust")
    if isinstance(k, int) and given["target"] is not None:
        raise UsageError("--target goes with -k auto and -k robust")
    return validated(
        VotingSettings,
        "setting",
        k=k if isinstance(k, int) else 1,
        hedge=given["hedge"],
        robust=Robust(**chosen) if k == "robust" else None,
        **{name: given[name] for name in _VOTING if given[name] is not None},
    )
