"""Samples from a recorded run: no network, no cost, and the same decisions again.

Replay finds a sample by its step, its prompt and its number within the step. It never invents a missing
sample.
"""

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError

from mdap.errors import UnavailableError, UsageError
from mdap.journal.reader import Reader, open_log
from mdap.records import Reply, SampleRequest, SampleTaken
from mdap.rules.parameters import read_values
from mdap.settings import explain

_NAME: Final = "replay"
_STEPS_A_PAGE: Final = 64
_PAGES: Final = 32
_TOGETHER: Final = 1024

_Page = dict[tuple[str, str], dict[int, SampleTaken]]


class ReplaySettings(BaseModel):
    """Options of a replay; *db* is the database with the run, if that is not the session's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    db: str | None = None


class Replay:
    """A `mdap.protocols.Provider` over the samples of one run and its parts."""

    nonblocking: Final = True
    max_n: Final = _TOGETHER

    def __init__(self, run_id: str, path: Path) -> None:
        self.name: Final = f"{_NAME}/{run_id}"
        self._run_id = run_id
        self._path = path
        self._stack = AsyncExitStack()
        self._opening = anyio.Lock()
        self._log: tuple[Reader, int] | None = None
        self._pages: OrderedDict[tuple[Any, ...], _Page] = OrderedDict()

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Return the recorded replies for the requested ordinals, up to the first missing one."""
        recorded = await self._recorded(request)
        replies: list[Reply] = []
        for ordinal in request.ordinals:
            sample = recorded.get(ordinal)
            if sample is None or sample.view != request.view or not _fits(sample, request):
                break
            replies.append(sample.reply())
        if not replies:
            raise UnavailableError(self._missing(request, recorded), kind="not_recorded")
        return replies

    def describe(self) -> dict[str, Any]:
        """Return the name of the run."""
        return {"run": self._run_id}

    async def aclose(self) -> None:
        """Close the database."""
        self._log = None
        await self._stack.aclose()

    async def _recorded(self, request: SampleRequest) -> dict[int, SampleTaken]:
        """Return the recorded samples of the requested step, by ordinal."""
        wanted = request.key, request.step_digest or request.prompt_digest
        found: dict[int, SampleTaken] = {}
        if request.key.isdecimal():  # a chain's step: requests for the next ones follow soon
            first = int(request.key) // _STEPS_A_PAGE * _STEPS_A_PAGE
            page = await self._page("replay_steps", first, first + _STEPS_A_PAGE - 1)
            found = page.get(wanted, {})
        # A step of a process, or of a chain nested in one.
        return found or (await self._page("replay_step", *wanted)).get(wanted, {})

    async def _page(self, statement: str, *values: Any) -> _Page:
        key = (statement, *values)
        page = self._pages.pop(key, None)
        if page is None:
            reader, run = await self._opened()
            page = _paged(await reader.rows(statement, run, *values))
        self._pages[key] = page
        if len(self._pages) > _PAGES:
            self._pages.popitem(last=False)
        return page

    async def _opened(self) -> tuple[Reader, int]:
        async with self._opening:
            if self._log is None:
                reader = await self._stack.enter_async_context(open_log(self._path))
                self._log = reader, (await reader.find(self._run_id)).number
        return self._log

    def _missing(self, request: SampleRequest, recorded: Mapping[int, SampleTaken]) -> str:
        ordinal = request.ordinals[0]
        what = f"run {self._run_id} has no sample {ordinal} of step {request.key}"
        if not recorded:
            return f"{what}: it was never asked this, so its decisions before differ, or its task does"
        sample = recorded.get(ordinal)
        if sample is None:
            return (
                f"{what}: it decided on {len(recorded)}; replay it with a k that is no greater than its own"
            )
        if not _fits(sample, request):
            return f"{what} at temperature {request.temperature:g}: replay it with its own --temperatures"
        return f"{what} in view {request.view}: replay it with as many models as it had"


def _fits(sample: SampleTaken, request: SampleRequest) -> bool:
    """Return whether a recorded sample has the requested temperature, or none."""
    return sample.temperature is None or sample.temperature == request.temperature


def _paged(rows: Sequence[sqlite3.Row]) -> _Page:
    page: _Page = {}
    for row in rows:
        # Rows of decided openings come first; later rows do not replace them.
        *columns, key, digest = row
        sample = SampleTaken(*columns)
        page.setdefault((key, digest), {}).setdefault(sample.ordinal, sample)
    return page


def create(model: str, options: dict[str, Any]) -> Replay:
    """Replay a run: the factory behind ``--model replay/<run>``; for the options see `ReplaySettings`."""
    if not model:
        raise UsageError("replay needs the name of a run, as in --model replay/hanoi-20260101-...")
    try:
        settings = ReplaySettings(**options)
    except ValidationError as error:
        raise UsageError(explain("replay option", error, ReplaySettings.model_fields)) from None
    return Replay(model, Path(settings.db or os.environ.get("MDAP_DB") or "mdap.db"))


create.settings = ReplaySettings  # type: ignore[attr-defined] # `mdap models` lists them


# -- a session's models ------------------------------------------------------------------------------


def is_replay(spec: str) -> bool:
    """Return whether *spec* names a recorded run."""
    return spec.partition("?")[0].partition("/")[0] == _NAME


async def as_recorded(
    models: tuple[str, ...], escalate_to: tuple[str, ...], options: Mapping[str, Any], path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the models of a session with recorded runs named in full.

    A replay without other models takes all places of its original models, since the places determine the view
    and the temperature of each sample.
    """
    if not any(map(is_replay, (*models, *escalate_to))):
        return models, escalate_to
    full: dict[str, tuple[str, dict[str, Any]]] = {}
    for spec in dict.fromkeys((*models, *escalate_to)):
        full[spec] = await _in_full(spec, options, path) if is_replay(spec) else (spec, {})
    if len(models) == 1 and not escalate_to:
        spec, recorded = full[models[0]]
        return (spec,) * len(recorded["models"]), (spec,) * len(recorded["escalate_to"])
    return tuple(full[spec][0] for spec in models), tuple(full[spec][0] for spec in escalate_to)


async def _in_full(spec: str, options: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    place, mark, query = spec.partition("?")
    own = read_values(tuple(part for part in query.split("&") if part), f"--model {place}")
    run_id = place.partition("/")[2]
    if not run_id:
        create("", {})
    async with open_log(Path(own.get("db") or options.get("db") or path)) as reader:
        row = await reader.find(run_id)
    return f"{_NAME}/{row.run_id}{mark}{query}", row.provider
