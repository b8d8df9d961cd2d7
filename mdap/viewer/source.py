"""What the pages need of a database: searches in the log, the prompts of its steps, and a desk."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from sqlite3 import Row
from time import monotonic
from typing import Any, Final, Protocol

import anyio.to_thread

from mdap.audit.review import Claim, Ruling, Settled, Waiting
from mdap.journal.reader import Reader, RunRow
from mdap.records import PromptSent
from mdap.rules.digests import prompt_digest, views_digest
from mdap.rules.schedule import tiers_of
from mdap.settings import VotingSettings

_NOT_ASKED: Final = ("solve:", "once:")

_FIRST_RANGE: Final = 500
_LONGEST_RANGE: Final = 16_000
_SECONDS: Final = 0.15  # about how long a search may take


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompts of a step, recorded or rebuilt; they are the *same* if their digest is the recorded one."""

    views: tuple[tuple[str, str], ...]
    same: bool
    max_tokens: int | None = None
    schema: Any = None
    recorded: bool = False


class Prompts(Protocol):
    """Rebuild the prompts of recorded steps, if the task's code is available."""

    def length(self, task: str, params: Mapping[str, Any]) -> int | None:
        """Return the number of steps of a task; None where unknown."""

    def render(
        self, task: str, params: Mapping[str, Any], step: int, text: str, digest: str
    ) -> Rendered | str:
        """Return the prompts of a step from its recorded input, or a sentence on why there are none."""


class Desk(Protocol):
    """A desk at which people settle steps."""

    async def waiting(self, run_id: str | None = None, most: int = 50) -> list[Waiting]:
        """Return the steps that wait for a person."""

    async def claim(self, run_id: str, step: int, author: str, claim: int | None = None) -> Claim:
        """Claim a step, or renew a claim on it."""

    async def release(self, run_id: str, step: int, author: str, claim: int | None = None) -> None:
        """Give a claimed step back."""

    async def settle(self, run_id: str, step: int, ruling: Ruling) -> Settled:
        """Settle a step."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A database to view; without a *desk*, read-only."""

    path: Path
    prompts: Prompts
    desk: Desk | None = None

    def resume_command(self, run_id: str) -> str:
        """Return the shell command that resumes a run."""
        return f"mdap resume {shlex.quote(run_id)} --db {shlex.quote(str(self.path))}"


async def prompts_of(source: Reader, prompts: Prompts, run: RunRow, opening: Row) -> Rendered | str:
    """Return the prompts of one opening of a step, or a sentence that explains why there are none."""
    rows = await source.rows("prompts_of_step", run.number, opening["step"], opening["opening"])
    if rows:
        return _recorded(list(map(PromptSent._make, rows)), opening["prompt_digest"])
    if opening["noted"] and opening["key"].startswith(_NOT_ASKED):
        return "no model was asked, since this is the result of a nested task or of code that runs once"
    about = (run.task, run.params, opening["step"], opening["input"], opening["prompt_digest"])
    made = await anyio.to_thread.run_sync(prompts.render, *about)
    if isinstance(made, str):
        return f"the decision was copied from {opening['reason']}" if opening["noted"] else made
    return replace(made, max_tokens=VotingSettings.recorded(run.settings).tokens_allowed(made.max_tokens))


def _recorded(sent: list[PromptSent], digest: str) -> Rendered:
    views = tuple((one.system or "", one.user or "") for one in sent)
    return Rendered(
        views,
        views_digest([prompt_digest(*view) for view in views]) == digest,
        sent[0].max_tokens,
        None if sent[0].schema is None else _read(sent[0].schema),
        recorded=True,
    )


def _read(schema: str) -> Any:
    """Return a recorded schema; its text if it is not valid JSON."""
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        return schema


async def merged_by(source: Reader, run: RunRow) -> tuple[str, ...]:
    """Return the models without system messages: theirs begins the user message instead."""
    about = run.provider["about"]
    specs, _ = tiers_of(run.provider["models"], run.provider["escalate_to"])
    names = [spec.partition("?")[0] for spec in specs]
    given = dict(zip(names, about.get("members", [about]), strict=False))
    found = {
        row["model"]: json.loads(row["options"]) for row in await source.rows("options_found", run.number)
    }
    return tuple(
        name
        for name in dict.fromkeys(names)
        if "user" in (given.get(name, {}).get("system_role"), found.get(name, {}).get("system_role"))
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What a search from *start* to before *stop* found, and whether there is *more* from there on."""

    rows: list[Row]
    start: int
    stop: int
    more: bool


async def walk(
    source: Reader,
    name: str,
    run: int,
    bounds: tuple[int, int],
    most: int,
    *values: Any,
) -> Found:
    """Search until there are *most* steps, no keys are left, or the time is up.

    Args:
        name: a statement of rows with a column *at*, for a run, a range of keys and a limit.
        bounds: the first key, and the one before which the search ends.
        most: steps per page.
        values: further values of the statement.
    """
    start, end = bounds
    rows: list[Row] = []
    at, size, began = start, _FIRST_RANGE, monotonic()
    deadline = began + _SECONDS
    while at < end and began < deadline:
        stop = min(at + size, end)
        rows += await source.rows(name, run, at, stop, most + 1 - len(rows), *values)
        if len(rows) > most:
            stop = int(rows[most]["at"])
            return Found(rows[:most], start, stop, more=True)
        at, took = stop, monotonic() - began
        began += took
        # Long enough for few queries, and short enough for the last one not to exceed the time by much.
        if took < _SECONDS / 8:
            size = min(size * 2, _LONGEST_RANGE)
        elif took > _SECONDS / 4:
            size = max(size // 2, _FIRST_RANGE)
    return Found(rows, start, at, more=at < end)
