"""What the command line prints, and with which exit code it ends."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Final

from mdap.cli.streams import answer_stream
from mdap.errors import (
    DatabaseError,
    LockedError,
    MdapError,
    StoppedError,
    UnavailableError,
    UsageError,
)
from mdap.records import Outcome, RunStatus, Solution
from mdap.rules.hidden import plain

NOT_GOOD: Final = (Outcome.UNSOLVED, Outcome.DOUBTFUL)
"""The outcomes with which ``--fail-unsolved`` exits with 1."""


class Exit(IntEnum):
    """The exit codes, as the documentation promises them.

    Attributes:
        FINISHED: finished. The result may still be a wrong one: see the outcome, or give --fail-unsolved.
        FAILED: undecided, also if a finished run left most of its steps so; failed; with --fail-unsolved, not
            solved or doubtful; or an audit found what does not match.
        USAGE: wrong use: a bad option, parameter, task, file or run id; or a database or output that cannot
            be used.
        STOPPED: stopped: the provider is gone or out of quota, the budget is spent, or another program keeps
            the database locked; it can be resumed.
        INTERRUPTED: interrupted with Ctrl-C, SIGTERM or SIGHUP; it can be resumed.
    """

    FINISHED = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    INTERRUPTED = 130


def finish_code(solution: Solution, *, fail_unsolved: bool) -> Exit:
    """Return the exit code for a run that ended with *solution*."""
    failed = solution.mostly_undecided or (fail_unsolved and solution.outcome in NOT_GOOD)
    if solution.status is RunStatus.FINISHED and not failed:
        return Exit.FINISHED
    return Exit.STOPPED if solution.status is RunStatus.STOPPED else Exit.FAILED


def exit_code_of(error: MdapError) -> Exit:
    """Return the exit code for *error*."""
    if isinstance(error, StoppedError | UnavailableError | LockedError):
        return Exit.STOPPED
    if isinstance(error, UsageError | DatabaseError):
        return Exit.USAGE
    return Exit.FAILED


def say(text: str = "") -> None:
    """Print a line for people on standard output, one line whatever *text* holds."""
    sys.stdout.write(plain(text).replace("\n", "\ufffd") + "\n")


def complain(text: str) -> None:
    """Print one sentence on standard error."""
    sys.stderr.write(f"mdap: {plain(text)}\n".replace("\n", " ").rstrip() + "\n")


def hinted(sentence: str) -> str:
    """Return *sentence* with how to see the traceback behind it, unless that is shown already."""
    return sentence if _reveals() else f"{sentence}; MDAP_TRACEBACK=1 shows the traceback"


def reveal(trace: str | None) -> None:
    """Print a traceback on standard error if the user asks for such."""
    if trace and _reveals():
        sys.stderr.write(plain(trace) + "\n")


def _reveals() -> bool:
    return bool(os.environ.get("MDAP_TRACEBACK"))


class _Complaints(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "mdap":  # what is below it are facts of runs, which the record has anyway
            complain(record.getMessage())


@contextmanager
def complaints() -> Iterator[None]:
    """Print what mdap warns of within the block on standard error, as the command's own sentences."""
    log, handler = logging.getLogger("mdap"), _Complaints()
    log.addHandler(handler)
    log.propagate, before = False, log.propagate
    try:
        yield
    finally:
        log.propagate = before
        log.removeHandler(handler)


def print_json(value: Any) -> None:
    """Print *value* as the one JSON object on standard output."""
    answer_stream().write(json.dumps(value, ensure_ascii=True) + "\n")


def number(value: float | None, digits: int = 0) -> str:
    """Return a number as people read it; a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def chance(value: float | None) -> str:
    """Return a probability as people read it, which never says that something is certain."""
    if value is None:
        return "-"
    return "> 0.9999" if value > 0.9999 else f"{value:.4f}"


def fields(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"  {name:<{width}}  {value}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table."""
    cells = [list(heads), *[[plain(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
