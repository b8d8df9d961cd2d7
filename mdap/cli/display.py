"""Progress while a run goes on: on standard error, at most four times a second."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mdap.engine.config import Progress as Counters
from mdap.groups import gathered
from mdap.rules.hidden import plain

_RICH_SECONDS: Final = 0.25
_PLAIN_SECONDS: Final = 2.0
_ALWAYS: Final = ("votes", "flags")


@dataclass(frozen=True, slots=True)
class Show:
    """The display of a run, and whether an unsolved one fails."""

    display: str
    as_json: bool
    verbose: bool
    fail_unsolved: bool

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Show":
        """Return the settings that a command's options give; set up the log if it is the display."""
        usual = "none" if given["json"] else "rich" if sys.stderr.isatty() else "plain"
        display = given["display"] or usual
        if display == "log":
            _configure_log()
        return cls(display, given["json"], given["verbose"], given["fail_unsolved"])


def _configure_log() -> None:
    """Make structlog write one JSON object a line on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


@asynccontextmanager
async def shown(display: str, name: str, counters: Counters) -> AsyncIterator[None]:
    """Show the *counters* of a run or batch, which are only read here, until the block ends."""
    if display == "rich":
        with _bar() as bar:
            lines = {name: bar.add_task(name, total=None, tallies="")}
            async with _every(_RICH_SECONDS, lambda: _move(bar, lines, name, counters)):
                yield
    elif display == "plain":
        async with _every(_PLAIN_SECONDS, lambda: _write(name, counters)):
            yield
    else:
        yield


@asynccontextmanager
async def _every(seconds: float, act: Callable[[], None]) -> AsyncIterator[None]:
    async def repeat() -> None:
        while True:
            await anyio.sleep(seconds)
            act()

    async with gathered() as group:
        group.start_soon(repeat)
        yield
        group.cancel_scope.cancel()
    act()


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[tallies]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        refresh_per_second=4,
    )


def _move(bar: Progress, lines: dict[str, TaskID], name: str, counters: Counters) -> None:
    for gone in lines.keys() - counters.workers.keys() - {name}:
        bar.remove_task(lines.pop(gone))
    for each, counted in {name: counters, **counters.workers}.items():
        if each not in lines:
            lines[each] = bar.add_task(each, total=None, tallies="")
        bar.update(lines[each], completed=counted.steps, total=counted.length, tallies=_tallies(counted))


def _tallies(counters: Counters) -> str:
    counted = {
        "votes": counters.votes,
        "flags": counters.red_flags,
        "void": counters.void,
        "failed attempts": counters.failed_attempts,
        "in flight": counters.in_flight,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counted.items() if count or what in _ALWAYS)


def _write(name: str, counters: Counters) -> None:
    of = f" of {counters.length:,}" if counters.length else ""
    sys.stderr.write(f"{plain(name)}: step {counters.steps:,}{of}, {_tallies(counters)}\n")
    for worker, counted in counters.workers.items():
        sys.stderr.write(f"  {worker}: step {counted.steps:,}, {_tallies(counted)}\n")
    sys.stderr.flush()
