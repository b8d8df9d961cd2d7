"""The runs of a log, kept in memory so that a page can sort and filter them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mdap.journal.reader import Reader
from mdap.viewer.counting import RunCounts
from mdap.viewer.listing import Listed, count_up, listed

__all__ = ["SORTS", "Catalog", "RunFilter"]

_MOST: Final = 20_000  # the newest runs, which the list can sort
_AT_ONCE: Final = 500
_COUNTING: Final = 0.08
_COUNTING_ALL: Final = 0.3
_LONGEST: Final = 200

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
    """The filter, order and page of the list, from the query.

    Attributes:
        outcome: an outcome, or a status; empty for all.
        task: a part of the task's name.
        model: a part of the models.
        k: the margin, as text.
        sort: a column; with a minus in front, the largest first.
        page: from 1.
    """

    outcome: str = ""
    task: str = ""
    model: str = ""
    k: str = ""
    sort: str = "-begun"
    page: int = 1

    @classmethod
    def of(cls, request: Request) -> "RunFilter":
        """Parse the query of a request.

        Raises:
            HTTPException: there is no such column or page.
        """
        asked = {name: request.query_params.get(name, "")[:_LONGEST].strip() for name in cls.__slots__}
        sort, page = asked["sort"] or "-begun", asked["page"] or "1"
        if sort.removeprefix("-") not in SORTS:
            raise HTTPException(400, f"sort must be one of {', '.join(SORTS)}, with - in front or not.")
        if not (page.isascii() and page.isdigit() and 0 < len(page) < 9 and int(page)):
            raise HTTPException(400, "page must be a whole number from 1 on.")
        return cls(asked["outcome"], asked["task"], asked["model"], asked["k"], sort, int(page))

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
        """Return the rows of a page of the list.

        Args:
            source: the log.
            counts: the counts of long runs.
            wanted: the filter, order and page.
            size: runs per page.
        """
        async with self._lock:
            await self._look(source)
            runs = list(self._runs.values())
            if wanted.outcome or wanted.sort.removeprefix("-") in _COUNTED:
                await count_up(source, counts, runs, _COUNTING_ALL)
            found = _sorted([run for run in runs if wanted.fits(run)], wanted.sort)
            start = (wanted.page - 1) * size
            shown = found[start : start + size]
            shown = await self._renewed(source, shown)
            await count_up(source, counts, shown, _COUNTING)
        return {
            "listed": shown,
            "found": len(found),
            "all": len(runs),
            "most": _MOST,
            "uncounted": sum(not run.counted for run in runs) if self._needs(wanted) else 0,
            "wanted": wanted,
            "sorts": {name: head for name, (head, _) in SORTS.items()},
            "more": len(found) > start + size,
            "words": sorted({run.word for run in runs} | {run.status for run in runs}),
            "models": sorted({run.models for run in runs})[:_LONGEST],
            "tasks": sorted({run.task for run in runs})[:_LONGEST],
        }

    def _needs(self, wanted: RunFilter) -> bool:
        return bool(wanted.outcome) or wanted.sort.removeprefix("-") in _COUNTED

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
