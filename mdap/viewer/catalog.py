"""The runs of a log as rows of a table, kept in memory so that a page can sort, filter and count them."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from sqlite3 import Row
from time import monotonic
from typing import Any, Final
from urllib.parse import urlencode

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mdap.journal.reader import Reader
from mdap.journal.rows import prices_of, status_of
from mdap.records import Certificate, TallyShape
from mdap.rules.certificate import JUDGED, certify, outcome_of
from mdap.rules.money import Tokens, cost_of, saved_in_batches
from mdap.settings import Price
from mdap.viewer.about import about, verdicts
from mdap.viewer.counting import SHORT, RunCounts, few_steps
from mdap.viewer.guard import whole_number

_MOST: Final = 20_000  # the newest runs, which the list can sort
_AT_ONCE: Final = 500
_COUNTING: Final = 0.08
_COUNTING_ALL: Final = 0.3
_LONGEST: Final = 200


@dataclass(slots=True)
class Listed:
    """A run in the list; *counted* says whether its votes, cost and their effect on its outcome are known."""

    number: int
    run_id: str
    kind: str
    task: str
    params: dict[str, Any]
    models: str
    k: int
    status: str
    said: str | None
    undecided: int
    escalated: int
    decided: int
    opened: int
    children: int
    created_at: str
    seconds: float | None
    prices: dict[str, Price]
    turn: int
    outcome: str | None = None
    counted: bool = False
    votes: int = 0
    cost_usd: float | None = None

    @property
    def length(self) -> int:
        """The number of its steps so far."""
        return max(self.decided, self.opened)

    @property
    def word(self) -> str:
        """The outcome, or else the status, for display and filters."""
        return self.outcome or self.status

    def judge(self, certificate: Certificate | None) -> None:
        """Set whether the result is good."""
        if self.status == "finished" and self.kind in JUDGED:
            self.outcome = outcome_of(self.said, certificate, self.undecided)


SORTS: Final[dict[str, tuple[str, Callable[[Listed], Any]]]] = {
    "run": ("Run", lambda run: run.run_id),
    "outcome": ("Outcome", lambda run: run.word),
    "task": ("Task", lambda run: run.task),
    "model": ("Model", lambda run: run.models),
    "k": ("k", lambda run: run.k),
    "steps": ("Steps", lambda run: run.decided),
    "votes": ("Votes", lambda run: run.votes if run.counted else None),
    "cost": ("Cost", lambda run: run.cost_usd if run.counted else None),
    "duration": ("Duration", lambda run: run.seconds),
    "begun": ("Begun", lambda run: run.number),
}
"""The columns of the list, each with its heading and sort key."""

_COUNTED: Final = frozenset({"votes", "cost", "outcome"})


@dataclass(frozen=True, slots=True)
class RunFilter:
    """The filter, order and page of the list, from the query; with a minus, *sort* puts the largest first."""

    outcome: str = ""
    task: str = ""
    model: str = ""
    k: str = ""
    sort: str = "-begun"
    page: int = 1

    @classmethod
    def of(cls, request: Request) -> "RunFilter":
        """Parse the query of a request; raise HTTPException for an unknown column or page."""
        asked = {name: request.query_params.get(name, "")[:_LONGEST].strip() for name in cls.__slots__}
        sort, page = asked["sort"] or "-begun", whole_number(asked["page"] or "1")
        if sort.removeprefix("-") not in SORTS:
            raise HTTPException(400, f"sort must be one of {', '.join(SORTS)}, with - in front or not.")
        if page is None or not 0 < page < 10**8:
            raise HTTPException(400, "page must be a whole number from 1 on.")
        return cls(asked["outcome"], asked["task"], asked["model"], asked["k"], sort, page)

    @property
    def filtered(self) -> bool:
        """Whether it filters the list."""
        return bool(self.outcome or self.task or self.model or self.k)

    def link(self, **changed: Any) -> str:
        """Return the address of the list with *changed* query values."""
        values = {name: getattr(self, name) for name in self.__slots__} | {"page": 1} | changed
        told = {name: value for name, value in values.items() if value not in ("", "-begun", 1)}
        return f"/?{urlencode(told)}" if told else "/"

    def sorted_by(self, column: str) -> str:
        """Return the address of the list sorted by *column*, reversed if it already is."""
        first = f"-{column}" if column in ("begun", "votes", "cost", "steps", "duration") else column
        other = column if first.startswith("-") else f"-{column}"
        return self.link(sort=other if self.sort == first else first)

    def direction(self, column: str) -> str | None:
        """Return the ARIA sort direction of *column*; None if the list has another order."""
        if self.sort.removeprefix("-") != column:
            return None
        return "descending" if self.sort.startswith("-") else "ascending"

    def fits(self, run: Listed) -> bool:
        """Return whether *run* passes the filter."""
        return (
            self.outcome in ("", run.word, run.status)
            and self.task.casefold() in run.task.casefold()
            and self.model.casefold() in run.models.casefold()
            and self.k in ("", str(run.k))
        )


class Catalog:
    """The top-level runs of a log.

    Each read takes only runs that are new or changed since the last one.
    """

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._runs: dict[int, Listed] = {}
        self._newest = 0
        self._event = 0

    async def page(self, source: Reader, counts: RunCounts, wanted: RunFilter, size: int) -> dict[str, Any]:
        """Return the rows of a page of the list."""
        async with self._lock:
            await self._look(source)
            runs = list(self._runs.values())
            needed = bool(wanted.outcome) or wanted.sort.removeprefix("-") in _COUNTED
            if needed:
                await count_up(source, counts, runs, _COUNTING_ALL)
            found = _sorted([run for run in runs if wanted.fits(run)], wanted.sort)
            start = (wanted.page - 1) * size
            shown = await self._renewed(source, found[start : start + size])
            await count_up(source, counts, shown, _COUNTING)
        return {
            "listed": shown,
            "found": len(found),
            "all": len(runs),
            "most": _MOST,
            "uncounted": sum(not run.counted for run in runs) if needed else 0,
            "wanted": wanted,
            "sorts": {name: head for name, (head, _) in SORTS.items()},
            "more": len(found) > start + size,
            "words": sorted({run.word for run in runs} | {run.status for run in runs}),
            "models": sorted({run.models for run in runs})[:_LONGEST],
            "tasks": sorted({run.task for run in runs})[:_LONGEST],
        }

    async def _look(self, source: Reader) -> None:
        """Add new runs and update changed ones."""
        event = (await source.rows("newest_event"))[0][0]
        turned = await source.rows("view_turned", self._event, _MOST) if self._runs else []
        fresh = await source.rows("view_roots", self._newest, _MOST)
        numbers = sorted({row["id"] for row in (*turned, *fresh)})
        for start in range(0, len(numbers), _AT_ONCE):
            for run in await listed(source, numbers[start : start + _AT_ONCE]):
                self._runs[run.number] = run
        self._event = event or 0
        self._newest = max([self._newest, *numbers])
        for number in sorted(self._runs)[:-_MOST]:
            del self._runs[number]

    async def _renewed(self, source: Reader, shown: Sequence[Listed]) -> list[Listed]:
        """Return *shown* with the current state of running runs."""
        moving = [run.number for run in shown if run.status == "running"]
        now = {run.number: run for run in await listed(source, moving)} if moving else {}
        self._runs |= now
        return [now.get(run.number, run) for run in shown]


def _sorted(runs: list[Listed], sort: str) -> list[Listed]:
    """Return *runs* in the requested order: unknown values last, newest first among equals."""
    _, by = SORTS[sort.removeprefix("-")]
    runs.sort(key=lambda run: -run.number)
    known = [run for run in runs if by(run) is not None]
    known.sort(key=by, reverse=sort.startswith("-"))
    return known + [run for run in runs if by(run) is None]


@lru_cache(maxsize=1024)
def _models(text: str) -> str:
    return " + ".join(json.loads(text).get("models", ()))


def _listed(row: Row) -> Listed:
    given = dict(row)
    params, prices = json.loads(given.pop("params")), prices_of(given.pop("prices"))
    models, status = _models(given.pop("provider")), status_of(given.pop("last_event"))
    run = Listed(**given, params=params, prices=prices, models=models, status=status)
    run.judge(None)
    return run


async def listed(source: Reader, numbers: Sequence[int]) -> list[Listed]:
    """Return the runs of these *numbers*, in their order, without counts."""
    rows = await source.rows("view_listed", json.dumps(numbers))
    found = {row["number"]: _listed(row) for row in rows}
    return [found[number] for number in numbers if number in found]


async def count_up(source: Reader, counts: RunCounts, runs: Sequence[Listed], seconds: float) -> None:
    """Count *runs* while there is time, short ones first and many per query."""
    deadline = monotonic() + seconds
    waiting = sorted((one for one in runs if not one.counted), key=lambda one: one.length)
    short = [one for one in waiting if not one.children and one.length <= SHORT]
    while short and monotonic() < deadline:
        some = few_steps(short, lambda one: one.length)
        await _count_short(source, some, deadline)
        del short[: len(some)]
    for one in waiting:
        if one.children or one.length > SHORT:
            await _count_long(source, counts, one, deadline)


async def _count_short(source: Reader, runs: Sequence[Listed], deadline: float) -> None:
    wanted = json.dumps([one.number for one in runs])
    decisions, samples, batches, beside = [
        _by_run(await source.rows(name, wanted))
        for name in ("sums_of_decisions", "sums_of_samples", "sums_of_batches", "sums_beside")
    ]
    for one in runs:
        # Run the slow query only if needed: most tasks give a verdict on their result.
        if one.said is None and one.status == "finished" and one.kind in JUDGED and not one.escalated:
            if monotonic() > deadline:
                return
            shapes = [
                TallyShape(row["votes"], row["votes"] - row["margin"], row["total"], row["decisions"])
                for row in decisions[one.number]
                if row["total"]
            ]
            one.judge(certify(shapes))
        usage = [*samples[one.number], *beside[one.number]]
        one.cost_usd = _cost(usage, batches[one.number], one.prices)
        one.votes, one.counted = sum(row["votes"] for row in samples[one.number]), True


def _by_run(rows: Iterable[Row]) -> Mapping[int, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        found[row["run"]].append(row)
    return found


def _cost(usage: Sequence[Row], batched: Sequence[Row], prices: Mapping[str, Price]) -> float | None:
    if not usage or any(row["model"] not in prices for row in usage):
        return None
    saved = sum(saved_in_batches(prices[row["model"]], Tokens.of(row)) for row in batched)
    return sum(cost_of(prices[row["model"]], Tokens.of(row)) for row in usage) - saved


async def _count_long(source: Reader, counts: RunCounts, one: Listed, deadline: float) -> None:
    known = counts.known(one.number, one.turn)
    if known is None and monotonic() < deadline:
        run = await about(source, one.number)
        if run is None:
            return
        count = counts.of(run)
        await count.go_on(source, run, deadline - monotonic())
        if count.whole:
            found = verdicts(count.with_parts(run), count.summary)
            known = (count.summary.verdicts["vote"], found.cost_usd, found.outcome)
            if one.status != "running":
                counts.note(one.number, one.turn, known)
    if known is not None:
        one.counted, (one.votes, one.cost_usd, one.outcome) = True, known
