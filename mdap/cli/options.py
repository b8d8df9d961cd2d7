"""Options that several commands share."""

import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial, reduce, wraps
from pathlib import Path
from typing import Any, Final

import anyio
import click

from mdap.cli import completing
from mdap.cli.output import complain
from mdap.errors import MdapError, UsageError
from mdap.journal.database import migrate
from mdap.journal.integrity import check_log
from mdap.journal.logfile import SCHEMA
from mdap.plugins import in_full
from mdap.rules.parameters import read_values
from mdap.settings import Budget, Cluster, Lane, Limits, OnDead, Speculate, Waves, validated
from mdap.tasks import Chain, Task

Decorator = Callable[[Any], Any]

_LIMITS: Final = Limits()


def database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--db``: migrate a log of an earlier schema, and look into the log after unexpected errors."""

    @wraps(command)
    def guarded(*args: Any, db: str, **options: Any) -> Any:
        if os.path.isfile(db) and (version := migrate(Path(db))):
            complain(f"{db} had schema {version} and is migrated to schema {SCHEMA}")
        try:
            return command(*args, db=db, **options)
        except (MdapError, click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:
            with suppress(UsageError):  # there is no log
                check_log(Path(db))
            raise

    return click.option(
        "--db",
        envvar="MDAP_DB",
        default="mdap.db",
        show_default=True,
        show_envvar=True,
        metavar="PATH",
        help="The SQLite database.",
    )(guarded)


def asynchronous(command: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Run an async *command* in an event loop of its own."""
    return wraps(command)(lambda **options: anyio.run(partial(command, **options)))


def _together(*options: Decorator) -> Decorator:
    """Return a decorator that adds *options*, which the help lists in this order."""

    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


as_json: Final = click.option("--json", is_flag=True, help="Print one JSON object on standard output.")

verbose: Final = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Also show the estimates behind P(no errors), what k promises, digest and seal.",
)

run_argument: Final = click.argument("run_id", metavar="RUN", shell_complete=completing.runs)


def task_param(shown: str) -> Decorator:
    """Return ``-p``, with this help."""
    return click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        shell_complete=completing.params,
        help=shown,
    )


task_with_params: Final = _together(
    click.argument("task", shell_complete=completing.tasks), task_param("Set a parameter of the task.")
)


def moved_task(shown: str = "Task of RUN, if it has moved to another file, module or name.") -> Decorator:
    """Return ``--task``, with this help."""
    return click.option(
        "--task",
        metavar="TASK",
        shell_complete=completing.tasks,
        callback=lambda context, option, name: None if name is None else in_full(name),
        help=shown,
    )


def model_option(shown: str) -> Decorator:
    """Return ``--model``, with this help."""
    return click.option(
        "--model",
        "models",
        multiple=True,
        default=("sim",),
        show_default="sim",
        metavar="PROVIDER[/MODEL]",
        shell_complete=completing.models,
        help=shown,
    )


def target_option(purpose: str = "", default: float | None = 0.95) -> Decorator:
    """Return ``--target``, whose help ends with its *purpose*."""
    return click.option(
        "--target",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=default,
        show_default="0.95" if default is None else True,
        help=f"Target probability that every decision is right{purpose}.",
    )


def speculate_option(shown: str) -> Decorator:
    """Return ``--speculate``, with this help."""
    return click.option(
        "--speculate",
        type=click.Choice([str(mode) for mode in Speculate]),
        default="vote",
        show_default=True,
        help=shown,
    )


stop_options: Final = _together(
    click.option(
        "--on-dead",
        type=click.Choice([str(what) for what in OnDead]),
        default=str(OnDead.STOP),
        show_default=True,
        help="Stop when one of several models is gone, or continue without it.",
    ),
    click.option(
        "--wait-for-person",
        type=float,
        default=_LIMITS.wait_for_person,
        metavar="SECONDS",
        help="How long an undecided step waits for a person before the run ends undecided.",
    ),
)


def _limit(option: str, name: str, shown: str, metavar: str | None = "N") -> Decorator:
    """Return the option that sets a field of `Limits`."""
    usual = getattr(_LIMITS, name)
    how = {"type": float if metavar == "SECONDS" else int, "default": usual, "metavar": metavar}
    return click.option(option, name, show_default=usual is not None, help=shown, **how)


_limits: Final = _together(
    _limit(
        "--concurrency",
        "concurrency",
        "Maximum concurrent requests to each model. [default: learned from the endpoint]",
    ),
    _limit(
        "--rpm",
        "requests_per_minute",
        "Maximum requests a minute. [default: from the endpoint's headers]",
    ),
    _limit(
        "--tpm",
        "tokens_per_minute",
        "Maximum tokens a minute, prompts and replies. [default: from the endpoint's headers]",
    ),
    click.option(
        "--reserve-max-tokens",
        is_flag=True,
        help="Count the maximum reply length against --tpm, as some endpoints do.",
    ),
    click.option(
        "--no-probe",
        is_flag=True,
        help="Skip the small test requests that detect which options each endpoint supports.",
    ),
    click.option(
        "--warm-cache/--no-warm-cache",
        default=None,
        show_default="for processes",
        help="Send one of several similar requests first, so that the others can read the cache.",
    ),
    _limit("--timeout", "attempt_timeout", "Timeout of one attempt.", "SECONDS"),
    _limit("--max-nesting", "max_nesting", "Maximum depth of nested tasks."),
    _limit("--max-attempts", "max_attempts", "Attempts at one sample before the run stops.", None),
)


def _duration(text: str) -> float:
    """Return the seconds of a time such as 90s or 6h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no time such as 90s, 30m, 6h or 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


_lane: Final = _together(
    click.option(
        "--lane",
        type=click.Choice([str(lane) for lane in Lane]),
        show_default="requests; of a resumed run, its own",
        help="batch: collect what all open steps want in jobs of the vendor's batch API, at half the "
        "price and in hours. Steps are sampled ahead on guesses only, and not hedged.",
    ),
    click.option(
        "--detach",
        is_flag=True,
        help="With --lane batch: stop once all samples wait in jobs; `mdap resume` collects them.",
    ),
    click.option(
        "--max-wait",
        type=_duration,
        metavar="TIME",
        help="With --lane batch: cancel a job after so long, such as 6h, and send what it did not answer "
        "as ordinary requests.",
    ),
    click.option(
        "--max-waves",
        type=click.IntRange(min=1),
        default=Waves().max_waves,
        show_default=True,
        help="With --lane batch: waves that a step may be part of, before ordinary requests decide it.",
    ),
    click.option(
        "--wave",
        multiple=True,
        metavar="NAME=VALUE",
        help="With --lane batch: set quiet, poll, settle, width or queued_tokens of mdap.Waves.",
    ),
)

_budget: Final = _together(
    click.option("--budget-usd", type=float, metavar="X", help="Stop before spending more than X USD."),
    click.option("--budget-tokens", type=int, metavar="N", help="Stop before using more than N tokens."),
    click.option("--max-seconds", type=float, metavar="S", help="Stop after S seconds."),
    click.option("--prices", metavar="FILE", help="JSON file with prices by model."),
)

cluster_options: Final = _together(
    click.option(
        "--workers",
        type=click.IntRange(1, 1000),
        metavar="N",
        help="Work on the cases of --inputs, or on the nested tasks of a process, in N processes, which "
        "share database, limits and budget.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="With --workers: work on the cases in actors of Ray; local starts a Ray cluster on this "
        "machine, auto takes the one that this machine is a part of.",
    ),
    click.option(
        "--insecure-cluster", is_flag=True, help="Use a Ray cluster that has no token authentication."
    ),
)

sampling_options: Final = _together(_lane, _limits, _budget, database)
"""How samples travel, `Limits`, `Budget` with prices, and the database."""

run_options: Final = _together(
    sampling_options,
    click.option(
        "--display",
        type=click.Choice(["rich", "plain", "log", "none"]),
        help="Progress display. [default: rich on a terminal, else plain]",
    ),
    click.option(
        "--fail-unsolved", is_flag=True, help="Exit with 1 if the outcome is not solved or doubtful."
    ),
    verbose,
    as_json,
)


def session_options(given: dict[str, Any], lane: str | None = None) -> dict[str, Any]:
    """Return the arguments of a `Session` that the options set; *lane* is that of the run to resume."""
    limits = {name: given[name] for name in Limits.model_fields if name in given}
    return {
        "db": given["db"],
        "limits": validated(Limits, "limit", probe=not given["no_probe"], **limits),
        "budget": budget_of(given),
        "log": given.get("display") == "log",
        **_lane_of(given, lane),
        **{name: given[name] for name in ("prices", "speculate", "on_dead") if name in given},
    }


def _lane_of(given: dict[str, Any], recorded: str | None) -> dict[str, Any]:
    lane = Lane(given["lane"] or recorded or Lane.REQUESTS)
    if lane is Lane.REQUESTS and (given["detach"] or given["max_wait"] is not None):
        raise UsageError("--detach and --max-wait go with --lane batch")
    named = {name: given[name] for name in ("max_wait", "max_waves", "detach")}
    waves = validated(Waves, "setting of waves", **{**named, **read_values(given["wave"], "--wave")})
    return {"lane": lane, "waves": waves}


def _is_pipe(value: object) -> bool:
    """Return whether a parameter names a file that only this process can read."""
    if not isinstance(value, str | Path):
        return False
    with suppress(OSError, ValueError):  # most texts are no names of files
        return str(value).startswith("/dev/") or Path(value).is_fifo()
    return False


def cluster_of(given: dict[str, Any], task: Task | None) -> Cluster | None:
    """Return the workers that the options ask for, for a task or many; None for this process alone."""
    if given["workers"] is None:
        if given["cluster"] is not None or given["insecure_cluster"]:
            raise UsageError("--cluster and --insecure-cluster go with --workers: give the number of workers")
        return None
    if isinstance(task, Chain):
        raise UsageError(
            "--workers goes with --inputs or with a process: the steps of a chain depend on each other, so "
            "that one process decides them"
        )
    if given["insecure_cluster"] and given["cluster"] is None:
        raise UsageError("--insecure-cluster goes with --cluster: processes of this machine need no token")
    for value in () if task is None else vars(task).values():
        if _is_pipe(value):
            raise UsageError(f"workers cannot read the pipe {value}: write its contents to a file")
    address = {} if given["cluster"] is None else {"address": given["cluster"]}
    return validated(
        Cluster, "--cluster", workers=given["workers"], insecure=given["insecure_cluster"], **address
    )


def budget_of(given: dict[str, Any]) -> Budget:
    """Return the budget that the options give."""
    usd, tokens, seconds = (given[name] for name in ("budget_usd", "budget_tokens", "max_seconds"))
    return validated(Budget, "budget", usd=usd, tokens=tokens, seconds=seconds)
