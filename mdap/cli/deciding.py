"""``mdap decide``."""

import getpass
from typing import Any

import anyio
import click

from mdap.audit.queue import Ruling
from mdap.cli.options import as_json, database, moved_task, run_argument
from mdap.cli.output import print_json, say
from mdap.cli.places import at_home
from mdap.errors import UsageError
from mdap.session.desk import Desk

__all__ = ["decide"]


@click.command()
@run_argument
@click.argument("step")
@click.option(
    "--answer",
    required=True,
    metavar="JSON",
    help="Answer as JSON, or candidate:KEY for one that received votes.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Reason for the decision; recorded.")
@click.option("--author", default=getpass.getuser, show_default="you", help="Who decides; recorded.")
@moved_task()
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
