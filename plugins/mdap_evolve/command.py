"""``mdap evolve``: train a better local model on the decisions of runs."""

from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from mdap import UsageError
from mdap.cli import completing
from mdap.cli.options import as_json, database, target_option, task_param
from mdap.cli.output import Exit, complain, print_json, say
from mdap.journal.evolutions import EvolutionRow, create_evolution, read_evolution
from mdap.plugins import make_task, read_params, task_name
from mdap.session.identity import new_name
from mdap.settings import explain
from mdap_evolve.evolving import About, evolve, load_base, study_of
from mdap_evolve.gathering import gather
from mdap_evolve.recipe import ALPHA, STRENGTH, Recipe
from mdap_evolve.replaying import check_free, replay, share
from mdap_evolve.showing import PLOT, describe, drift_plot, watching
from mdap_local import LocalModel


@click.command("evolve")
@click.argument("task", required=False, shell_complete=completing.tasks)
@task_param("Set a parameter of the task whose k and cost are reported.")
@click.option(
    "--model", metavar="local/NAME", shell_complete=completing.models, help="The model that learns."
)
@click.option(
    "--from",
    "runs",
    multiple=True,
    metavar="RUN",
    shell_complete=completing.runs,
    help="A run of TASK to learn from; may be repeated.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="TASK[?NAME=VALUE&...]",
    help="A task that must not get worse, such as 'multiply?style=compact'; may be repeated.",
)
@click.option("--out", metavar="DIR", help="Folder to write the new model to.")
@click.option(
    "--method",
    type=click.Choice(["es", "sft"]),
    default="es",
    show_default=True,
    help="Evolution strategies, which need no gradient, or supervised fine-tuning with Adam.",
)
@click.option("--iterations", type=int, default=120, show_default=True, help="Updates of the weights.")
@click.option("--population", type=int, default=30, show_default=True, help="Perturbations an iteration.")
@click.option("--sigma", type=float, default=0.004, show_default=True, help="Size of a perturbation.")
@click.option(
    "--alpha", type=float, help=f"Step size. [default: {ALPHA['es']:g} for es, {ALPHA['sft']:g} for sft]"
)
@click.option(
    "--anchor",
    type=click.Choice(["l2", "l1", "none"]),
    default="l2",
    show_default=True,
    help="How each update pulls the weights back to the base model: Anchored Weight Decay.",
)
@click.option(
    "--anchor-strength",
    type=float,
    metavar="LAMBDA",
    help="Strength of the anchor; an update pulls by alpha times this. [default: by method and anchor]",
)
@click.option("--batch", type=int, default=32, show_default=True, help="Prompts an iteration.")
@click.option(
    "--contested", type=int, default=24, show_default=True, help="How many of these from contested steps."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of perturbations and batches.")
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Percentage points of P(right) that a kept task may lose, beyond two standard errors.",
)
@target_option(", for which k and cost are reported")
@click.option("--own-votes", is_flag=True, help="Learn even if no other model voted in any of the runs.")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that compute."
)
@click.option("--evolution-id", metavar="ID", help="Name of the evolution. [default: a new one]")
@click.option("--resume", metavar="ID", help="Resume an interrupted evolution.")
@click.option(
    "--replay", metavar="ID|FILE", help="Rebuild the model of an evolution from the base and the record."
)
@database
@as_json
def command(**given: Any) -> Exit:
    """Train a local model on the decisions of runs.

    The model learns the replies that won their votes. Before and after, the command measures p, v, k and
    cost on prompts that are held out, and on each kept task. It refuses to write a model that lost more than
    --max-loss on a kept task, and exits with 1. To resume an interrupted evolution, pass --resume.
    """
    db = Path(given["db"])
    if given["replay"] is not None:
        return _replay(db, given)
    row = _begun(db, given) if given["resume"] is None else _resumed(db, given)
    study = study_of(db, row)
    try:
        with watching(study, quiet=given["json"]) as watch:
            report = evolve(db, study, given["workers"], watch)
    except KeyboardInterrupt:
        complain(f"{row.evolution_id} can be resumed: mdap evolve --resume {row.evolution_id} --db {db}")
        raise
    if report.out is not None:
        folder = Path(report.out)
        share(db, row.evolution_id, folder)
        (folder / PLOT).write_text(drift_plot(read_evolution(db, row.evolution_id).iterations))
    if given["json"]:
        print_json(report._asdict())
    else:
        describe(report, study)
    if report.refusal is None:
        return Exit.FINISHED
    complain(f"no model was written: {report.refusal}; raise --anchor-strength, or lower --alpha")
    return Exit.FAILED


def _begun(db: Path, given: dict[str, Any]) -> EvolutionRow:
    """Record a new evolution.

    Raises:
        UsageError: an option is missing or out of range, or the runs cannot teach.
    """
    for name, value in (("TASK", "task"), ("--model", "model"), ("--from", "runs"), ("--out", "out")):
        if not given[value]:
            raise UsageError(f"name {name}, or continue an evolution with --resume ID")
    recipe = _recipe(given)
    task = make_task(given["task"], read_params(given["task"], given["params"]))
    out = Path(given["out"])
    check_free(out)
    model = _learner(given["model"])
    lessons = gather(db, given["runs"], task_name(task), model)
    if not lessons.helped and not given["own_votes"]:
        raise UsageError(
            f"all votes in {', '.join(lessons.runs)} are of {model.name} itself, and a model's own votes "
            "hardly teach it what it does not know: run the task with a stronger --model beside it, or with "
            "--escalate-to, or try with --own-votes"
        )
    about = About(
        task=task_name(task),
        params=task.model_dump(mode="json"),
        runs=lessons.runs,
        keep=given["keep"],
        lessons=lessons.digest,
        max_loss=given["max_loss"],
        target=given["target"],
        out=str(out.absolute()),
        own_votes=not lessons.helped,
    )
    columns = {
        "evolution_id": given["evolution_id"] or new_name("evolve"),
        "model": model.name,
        "weights": model.digest,
        "recipe": recipe.model_dump(),
        "about": about._asdict(),
    }
    return create_evolution(db, columns)


def _learner(model: str) -> LocalModel:
    provider, _, name = model.partition("/")
    if provider != "local" or not name:
        raise UsageError(f"--model {model}: only a model in this process can learn: name local/NAME")
    return load_base(name)


def _resumed(db: Path, given: dict[str, Any]) -> EvolutionRow:
    """Return the record of an evolution that can be resumed."""
    if any(given[name] for name in ("task", "params", "model", "runs", "keep")):
        raise UsageError("--resume takes all from the record: pass no other option than --workers")
    row = read_evolution(db, given["resume"])
    if row.ended is not None:
        raise UsageError(f"{row.evolution_id} has {row.ended[0]} already: start another one")
    return row


def _recipe(given: dict[str, Any]) -> Recipe:
    values = {name: given[name] for name in Recipe.model_fields if name in given}
    values["alpha"] = ALPHA[given["method"]] if given["alpha"] is None else given["alpha"]
    strength = given["anchor_strength"]
    default = STRENGTH.get((given["method"], given["anchor"]), 0.0)
    values["strength"] = default if strength is None else strength
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise UsageError(explain("option", error)) from None


def _replay(db: Path, given: dict[str, Any]) -> Exit:
    if not given["out"]:
        raise UsageError("--replay needs --out DIR: the folder to write the model to")
    made = replay(db, given["replay"], Path(given["out"]))
    if given["json"]:
        print_json(made)
    else:
        say("{evolution_id}: made again, {iterations} iterations, weights {weights}".format(**made))
    return Exit.FINISHED
