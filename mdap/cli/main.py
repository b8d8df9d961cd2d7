"""The command ``mdap``: its commands, and what becomes of an error."""

import os
import sys
from collections.abc import Sequence

import click

from mdap._version import __version__
from mdap.cli.auditing import audit
from mdap.cli.calibrating import calibrate
from mdap.cli.listing import models, runs, show, tasks
from mdap.cli.output import Exit, complain, exit_code_of, print_json
from mdap.cli.planning import plan
from mdap.cli.running import decide, resume, run
from mdap.cli.scaffolding import new
from mdap.cli.serving import serve
from mdap.errors import MdapError

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mdap")
def cli() -> None:
    """Decide long LLM work step by step, by first-to-ahead-by-k voting.

    Every sample, vote and decision is recorded in a SQLite database, and a run that was cut short can
    be resumed. Exit codes: 0 finished; 1 undecided or failed; 2 wrong use; 3 stopped, resumable;
    130 interrupted, resumable.
    """


for command in (run, resume, decide, calibrate, runs, show, audit, serve, plan, tasks, models, new):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        argv: the arguments; None for those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=arguments, prog_name="mdap", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = Exit.USAGE
    except click.ClickException as error:
        code = _refuse(error.format_message(), Exit.USAGE, arguments)
    except click.Abort:
        code = _refuse("interrupted", Exit.INTERRUPTED, arguments)
    except KeyboardInterrupt:
        code = _refuse("interrupted twice: what was recorded is safe", Exit.INTERRUPTED, arguments)
    except MdapError as error:
        code = _refuse(str(error), exit_code_of(error), arguments)
    except BrokenPipeError:
        # Whoever read our output has had enough; do not complain to nobody at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.FINISHED
    except Exception as error:
        if os.environ.get("MDAP_TRACEBACK"):
            raise
        sentence = f"unexpected {type(error).__name__}: {error}; this is a bug: MDAP_TRACEBACK=1 shows where"
        code = _refuse(sentence, Exit.FAILED, arguments)
    sys.exit(int(code or 0))


def _refuse(sentence: str, code: Exit, arguments: Sequence[str]) -> Exit:
    complain(sentence)
    if "--json" in arguments:
        print_json({"error": sentence, "exit_code": int(code)})
    return code
