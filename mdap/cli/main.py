"""The command ``mdap``: its commands, how it reports errors, and its exit codes."""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import click

from mdap._version import __version__
from mdap.cli.auditing import audit
from mdap.cli.calibrating import calibrate
from mdap.cli.completing import COMPLETE
from mdap.cli.domains import models, new, tasks
from mdap.cli.listing import batches, runs, show
from mdap.cli.output import Exit, complain, complaints, exit_code_of, hinted, print_json, reveal
from mdap.cli.planning import plan
from mdap.cli.prompting import prompts
from mdap.cli.resuming import resume
from mdap.cli.running import run
from mdap.cli.serving import decide, serve
from mdap.cli.stopping import terminable
from mdap.cli.streams import Steady, apart, steady
from mdap.errors import MdapError, PluginError, author_line, told, traceback_of
from mdap.journal.logfile import RAISE_FILES, TOO_MANY_FILES
from mdap.plugins import COMMANDS, installed, load_command


class _Commands(click.Group):
    """The commands of mdap, and those that installed packages add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names; of packages' commands, only those that load."""
        return sorted({*super().list_commands(ctx), *filter(_loads, installed(COMMANDS))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command called *cmd_name*; None if there is none."""
        found = super().get_command(ctx, cmd_name)
        return load_command(cmd_name) if found is None and cmd_name in installed(COMMANDS) else found


def _loads(name: str) -> bool:
    try:
        return bool(load_command(name))
    except MdapError as error:
        complain(str(error))
        return False


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="mdap")
def cli() -> None:
    """Decide long LLM work step by step, by first-to-ahead-by-k voting.

    Every sample, vote and decision is recorded in a SQLite database, and a run that was cut short can
    be resumed. Exit codes: 0 finished; 1 undecided or failed; 2 wrong use; 3 stopped, resumable;
    130 interrupted, resumable.
    """


for command in (
    run,
    resume,
    decide,
    calibrate,
    runs,
    show,
    batches,
    audit,
    serve,
    plan,
    prompts,
    tasks,
    models,
    new,
):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        argv: the arguments; None for those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if COMPLETE in os.environ:  # a shell asks, in words of click's own
        cli.main(args=arguments, prog_name="mdap", complete_var=COMPLETE)
    with steady() as out:
        with terminable(), complaints(), ExitStack() as stack:
            if "--json" in arguments:
                stack.enter_context(apart(out))
            code = _run(arguments)
        code = _written(out, code)
    sys.exit(int(code))


def _run(arguments: list[str]) -> int:
    """Run the command, report its errors, and return the exit code."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return _refuse("this folder was deleted: change to another one", Exit.USAGE, arguments)
    try:
        return int(cli.main(args=arguments, prog_name="mdap", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    except click.ClickException as error:
        return _refuse(error.format_message(), Exit.USAGE, arguments)
    except click.Abort:
        return _refuse("interrupted", Exit.INTERRUPTED, arguments)
    except KeyboardInterrupt:
        return _refuse("interrupted: what was recorded is safe", Exit.INTERRUPTED, arguments)
    except MdapError as error:
        reveal(traceback_of(error))
        sentence = hinted(str(error)) if isinstance(error, PluginError) else str(error)
        return _refuse(sentence, exit_code_of(error), arguments)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
            return _refuse(f"{error.strerror}: {RAISE_FILES}", Exit.STOPPED, arguments)
        reveal(traceback_of(error))
        return _refuse(hinted(_unexpected(error)), Exit.FAILED, arguments)


def _unexpected(error: BaseException) -> str:
    """Return the sentence for an unexpected error of mdap or of a task's code."""
    if isinstance(error, SystemExit) or author_line(error) is not None:
        return f"the task's code failed: {told(error)}"
    return f"unexpected {told(error)}; this is a bug"


def _written(out: Steady, code: int) -> int:
    """Say if standard output was lost, and return the exit code: a reader that left does not change it."""
    out.flush()
    if out.failure is None or (out.lacks_reader and out.failure.errno != errno.EBADF):
        return code
    why = out.failure.strerror or str(out.failure)
    if out.lacks_reader:
        complain("standard output is closed, so that nothing was printed; what mdap recorded is safe")
        return code
    complain(f"standard output cannot be written ({why}): make room and print it again; the log is safe")
    return code or Exit.USAGE


def _refuse(sentence: str, code: Exit, arguments: Sequence[str]) -> Exit:
    complain(sentence)
    if "--json" in arguments:
        print_json({"error": sentence, "exit_code": int(code)})
    return code
