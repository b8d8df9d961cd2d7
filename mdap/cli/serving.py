"""``mdap serve`` and ``decide``: look at the log in a browser, and settle its steps."""

import getpass
import os
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
import click

from mdap.audit.review import Ruling
from mdap.cli.options import as_json, database, moved_task, run_argument
from mdap.cli.output import print_json, say
from mdap.cli.places import at_home
from mdap.errors import UsageError
from mdap.journal.reader import open_log
from mdap.session.desk import Desk
from mdap.session.prompting import shown

_PORT: Final = 6327  # "mdap" on a telephone


@click.command()
@database
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_PORT,
    show_default=True,
    metavar="N",
    help="Port on 127.0.0.1; 0 for any that is free.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="Also load this task, named as in its runs, to show its prompts; loading runs its code.",
)
@click.option(
    "--allow-decide",
    is_flag=True,
    help="Let people settle steps on the pages; the address then has a secret token.",
)
def serve(**given: Any) -> None:
    """Browse the runs in a web browser, until Ctrl-C.

    It serves this machine only, and a run that goes on can be watched. Nothing can be changed there unless
    you pass --allow-decide.
    """
    with suppress(KeyboardInterrupt):  # how one ends it
        anyio.run(_serve, given)


def needs_viewer(what: str) -> UsageError:
    """Return the error for *what* where the extra is not installed."""
    return UsageError(f"{what} needs more packages: pip install 'mdap[viewer]'")


async def _serve(given: dict[str, Any]) -> None:
    try:
        from mdap.viewer.app import create_app, server
        from mdap.viewer.guard import Key
    except ModuleNotFoundError as error:
        raise needs_viewer("mdap serve") from error
    path = Path(given["db"])
    async with open_log(path):
        pass  # so that a file that cannot be read is refused here, and not on every page
    with _listening(given["port"]) as listener:
        port = listener.getsockname()[1]
        hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        decide = given["allow_decide"]
        token = secrets.token_urlsafe(32)
        app = create_app(
            shown(path, given["tasks"], decide=decide), hosts, Key(token, port) if decide else None
        )
        address = f"http://127.0.0.1:{port}/" + (f"?token={token}" if decide else "")
        say(f"{path} is shown at {address} until Ctrl-C")
        sys.stdout.flush()
        await server(app).serve(sockets=[listener])


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise UsageError(f"port {port} cannot be used ({why}): name another with --port") from error


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
    about = (given["run_id"], given["step"], ruling, given["task"])
    settled = at_home(given, lambda given: anyio.run(Desk(Path(given["db"])).settle, *about))
    if given["json"]:
        step = int(given["step"]) if given["step"].isdecimal() else given["step"]
        print_json({"run_id": settled.run_id, "step": step, "author": given["author"]})
    elif settled.goes_on:
        say(f"step {given['step']} is settled; {settled.run_id} goes on with it")
    else:
        say(f"step {given['step']} is settled; go on with: mdap resume {settled.run_id} --db {given['db']}")
