"""Options that several commands share."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from pydantic import ValidationError

from mdap.cli import completing
from mdap.cli.output import complain
from mdap.errors import MdapError, UsageError
from mdap.journal.database import migrate
from mdap.journal.integrity import check_log
from mdap.journal.logfile import SCHEMA
from mdap.plugins import in_full, read_values
from mdap.settings import Budget, Cluster, Lane, Limits, OnDead, Waves, explain
from mdap.tasks import Chain, Task

__all__ = [
    "MARGIN",
    "NUMBERS",
    "as_json",
    "budget_of",
    "budget_options",
    "cluster_of",
    "cluster_options",
    "database",
    "lane_of",
    "lane_options",
    "limit_options",
    "limits_of",
    "moved_task",
    "on_dead",
    "task_with_params",
    "waiting",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Margin(click.ParamType[Any]):
    name = "margin"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return *value* as an integer of at least 1, or the word auto or robust."""
        if value in ("auto", "robust") or isinstance(value, int):
            return value
        try:
            margin = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto or robust", param, ctx)
        if margin < 1:
            self.fail(f"the margin k must be at least 1, not {margin}", param, ctx)
        return margin


class _Numbers(click.ParamType[Any]):
    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return numbers that are set apart by commas as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 0,0.1", param, ctx)


class _Duration(click.ParamType[Any]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a time such as 90, 30m, 6h or 1d in seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no time such as 90s, 30m, 6h or 1d", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
MARGIN: Final = _Margin()
DURATION: Final = _Duration()
NUMBERS: Final = _Numbers()


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


def as_json(command: F) -> F:
    """Add ``--json``."""
    return click.option("--json", is_flag=True, help="Print one JSON object on standard output.")(command)


def verbose(command: F) -> F:
    """Add ``-v``."""
    shown = "Also show the estimates behind P(no errors), what k promises, digest and seal."
    return click.option("-v", "--verbose", is_flag=True, help=shown)(command)


def fail_unsolved(command: F) -> F:
    """Add ``--fail-unsolved``."""
    return click.option(
        "--fail-unsolved", is_flag=True, help="Exit with 1 if the outcome is not solved or doubtful."
    )(command)


def task_with_params(command: F) -> F:
    """Add the argument TASK, and ``-p``."""
    command = click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        shell_complete=completing.params,
        help="Set a parameter of the task.",
    )(command)
    return click.argument("task", shell_complete=completing.tasks)(command)


def moved_task(command: F) -> F:
    """Add ``--task``."""
    return click.option(
        "--task",
        metavar="TASK",
        shell_complete=completing.tasks,
        callback=lambda context, option, name: None if name is None else in_full(name),
        help="Task of RUN, if it has moved to another file, module or name.",
    )(command)


def limit_options(command: F) -> F:
    """Add the options that set `Limits`."""
    default = Limits()
    for option in (
        click.option(
            "--max-attempts",
            type=int,
            default=default.max_attempts,
            show_default=True,
            help="Attempts at one sample before the run stops.",
        ),
        click.option(
            "--max-nesting",
            type=int,
            default=default.max_nesting,
            show_default=True,
            metavar="N",
            help="Maximum depth of nested tasks.",
        ),
        click.option(
            "--timeout",
            type=float,
            default=default.attempt_timeout,
            show_default=True,
            metavar="SECONDS",
            help="Timeout of one attempt.",
        ),
        click.option(
            "--warm-cache/--no-warm-cache",
            default=None,
            show_default="for processes",
            help="Send one of several similar requests first, so that the others can read the cache.",
        ),
        click.option(
            "--no-probe",
            is_flag=True,
            help="Skip the small test requests that detect which options each endpoint supports.",
        ),
        click.option(
            "--reserve-max-tokens",
            is_flag=True,
            help="Count the maximum reply length against --tpm, as some endpoints do.",
        ),
        click.option(
            "--tpm",
            type=int,
            metavar="N",
            help="Maximum tokens a minute, prompts and replies. [default: from the endpoint's headers]",
        ),
        click.option(
            "--rpm",
            type=int,
            metavar="N",
            help="Maximum requests a minute. [default: from the endpoint's headers]",
        ),
        click.option(
            "--concurrency",
            type=int,
            metavar="N",
            help="Maximum concurrent requests to each model. [default: learned from the endpoint]",
        ),
    ):
        command = option(command)
    return command


def on_dead(command: F) -> F:
    """Add ``--on-dead``."""
    return click.option(
        "--on-dead",
        type=click.Choice([str(what) for what in OnDead]),
        default=str(OnDead.STOP),
        show_default=True,
        help="Stop when one of several models is gone, or continue without it.",
    )(command)


def lane_options(command: F) -> F:
    """Add ``--lane`` and the options that make up `Waves`."""
    for option in (
        click.option(
            "--wave",
            multiple=True,
            metavar="NAME=VALUE",
            help="With --lane batch: set quiet, poll, settle, width or queued_tokens of mdap.Waves.",
        ),
        click.option(
            "--max-waves",
            type=click.IntRange(min=1),
            default=Waves().max_waves,
            show_default=True,
            help="With --lane batch: waves that a step may be part of, before ordinary requests decide it.",
        ),
        click.option(
            "--max-wait",
            type=DURATION,
            metavar="TIME",
            help="With --lane batch: cancel a job after so long, such as 6h, and send what it did not answer "
            "as ordinary requests.",
        ),
        click.option(
            "--detach",
            is_flag=True,
            help="With --lane batch: stop once all samples wait in jobs; `mdap resume` collects them.",
        ),
        click.option(
            "--lane",
            type=click.Choice([str(lane) for lane in Lane]),
            show_default="requests; of a resumed run, its own",
            help="batch: collect what all open steps want in jobs of the vendor's batch API, at half the "
            "price and in hours. Steps are sampled ahead on guesses only, and not hedged.",
        ),
    ):
        command = option(command)
    return command


def lane_of(given: dict[str, Any], recorded: str | None = None) -> dict[str, Any]:
    """Return the arguments of a `Session` that say how samples travel.

    Args:
        given: the options.
        recorded: the lane of the run to resume.
    """
    lane = Lane(given["lane"] or recorded or Lane.REQUESTS)
    if lane is Lane.REQUESTS and (given["detach"] or given["max_wait"] is not None):
        raise UsageError("--detach and --max-wait go with --lane batch")
    named = {name: given[name] for name in ("max_wait", "max_waves", "detach")}
    try:
        return {"lane": lane, "waves": Waves(**{**named, **read_values(given["wave"], "--wave")})}
    except ValidationError as error:
        raise UsageError(explain("setting of waves", error)) from None


def waiting(command: F) -> F:
    """Add ``--wait-for-person``."""
    return click.option(
        "--wait-for-person",
        type=float,
        default=Limits().wait_for_person,
        metavar="SECONDS",
        help="How long an undecided step waits for a person before the run ends undecided.",
    )(command)


def cluster_options(command: F) -> F:
    """Add the options that make up `Cluster`."""
    for option in (
        click.option(
            "--insecure-cluster", is_flag=True, help="Use a Ray cluster that has no token authentication."
        ),
        click.option(
            "--cluster",
            metavar="ADDRESS",
            help="With --workers: work on the cases in actors of Ray; local starts a Ray cluster on this "
            "machine, auto takes the one that this machine is a part of.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, 1000),
            metavar="N",
            help="Work on the cases of --inputs, or on the nested tasks of a process, in N processes, which "
            "share database, limits and budget.",
        ),
    ):
        command = option(command)
    return command


def cluster_of(given: dict[str, Any], task: Task | None) -> Cluster | None:
    """Return the workers that the options ask for, for a task or many; None for this process alone."""
    if given["workers"] is None:
        if given["cluster"] is not None or given["insecure_cluster"]:
            raise UsageError(
                "--cluster and --insecure-cluster go with --workers: say how many there are to be"
            )
        return None
    if isinstance(task, Chain):
        raise UsageError(
            "--workers goes with --inputs or with a process: the steps of a chain depend on each other, so "
            "that one process decides them"
        )
    if given["insecure_cluster"] and given["cluster"] is None:
        raise UsageError("--insecure-cluster goes with --cluster: processes of this machine need no token")
    address = {} if given["cluster"] is None else {"address": given["cluster"]}
    try:
        return Cluster(workers=given["workers"], insecure=given["insecure_cluster"], **address)
    except ValidationError as error:
        raise UsageError(explain("option", error)) from None


def budget_options(command: F) -> F:
    """Add the options that make up `Budget`, and prices."""
    for option in (
        click.option("--prices", metavar="FILE", help="JSON file with prices by model."),
        click.option("--max-seconds", type=float, metavar="S", help="Stop after S seconds."),
        click.option("--budget-tokens", type=int, metavar="N", help="Stop before using more than N tokens."),
        click.option("--budget-usd", type=float, metavar="X", help="Stop before spending more than X USD."),
    ):
        command = option(command)
    return command


def budget_of(given: dict[str, Any]) -> Budget:
    """Return the budget that the options give."""
    try:
        return Budget(usd=given["budget_usd"], tokens=given["budget_tokens"], seconds=given["max_seconds"])
    except ValidationError as error:
        raise UsageError(explain("budget", error)) from None


def limits_of(given: dict[str, Any]) -> Limits:
    """Return the limits that the options give."""
    try:
        return Limits(
            concurrency=given["concurrency"],
            requests_per_minute=given["rpm"],
            tokens_per_minute=given["tpm"],
            reserve_max_tokens=given["reserve_max_tokens"],
            warm_cache=given["warm_cache"],
            probe=not given["no_probe"],
            attempt_timeout=given["timeout"],
            max_attempts=given["max_attempts"],
            max_nesting=given["max_nesting"],
            wait_for_person=given.get("wait_for_person", 0.0),
        )
    except ValidationError as error:
        raise UsageError(explain("limit", error)) from None
