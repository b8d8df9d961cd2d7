"""Runs as rows of a table, with figures that may need counting first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from sqlite3 import Row
from time import monotonic
from typing import Any, Final

from mdap.journal.reader import Reader
from mdap.journal.rows import status_of
from mdap.records import Certificate, TallyShape
from mdap.rules.certificate import JUDGED, certify, outcome_of
from mdap.rules.money import Tokens, cost_of, saved_in_batches
from mdap.settings import Price
from mdap.viewer.about import about, verdicts
from mdap.viewer.counting import RunCounts

__all__ = ["Listed", "count_up", "listed"]

_SHORT: Final = 4_096  # steps to count in one query


@dataclass(slots=True)
class Listed:
    """A run in the list.

    Attributes:
        number: its key in the other tables.
        seconds: running time, over sessions that ended normally; None without one.
        counted: whether *votes*, *cost_usd* and the votes' effect on the outcome are known.
    """

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
    escalated: bool
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
    def word(self) -> str:
        """The outcome, or else the status, for display and filters."""
        return self.outcome or self.status

    def judge(self, certificate: Certificate | None) -> None:
        """Set whether the result is good."""
        if self.status == "finished" and self.kind in JUDGED:
            self.outcome = outcome_of(self.said, certificate, self.undecided)


@lru_cache(maxsize=1024)
def _prices(text: str) -> dict[str, Price]:
    return {model: Price(**price) for model, price in json.loads(text).items()}


@lru_cache(maxsize=1024)
def _models(text: str) -> str:
    return " + ".join(json.loads(text).get("models", ()))


def _listed(row: Row) -> Listed:
    run = Listed(
        number=row["id"],
        run_id=row["run_id"],
        kind=row["kind"],
        task=row["task"],
        params=json.loads(row["params"]),
        models=_models(row["provider"]),
        k=row["k"],
        status=status_of(row["last_event"]),
        said=row["outcome"],
        undecided=row["undecided"] or 0,
        escalated=bool(row["escalated"]),
        decided=row["steps"],
        opened=row["opened"],
        children=row["children"],
        created_at=row["created_at"],
        seconds=row["seconds"],
        prices=_prices(row["prices"] or "{}"),
        turn=row["last_turn"] or 0,
    )
    run.judge(None)
    return run


async def listed(source: Reader, numbers: Sequence[int]) -> list[Listed]:
    """Return the runs of these *numbers*, in their order, without counts."""
    rows = await source.rows("view_listed", json.dumps(numbers))
    found = {row["id"]: _listed(row) for row in rows}
    return [found[number] for number in numbers if number in found]


async def count_up(source: Reader, counts: RunCounts, runs: Sequence[Listed], seconds: float) -> None:
    """Count *runs* while there is time, short ones first and many per query."""
    deadline = monotonic() + seconds
    waiting = sorted((one for one in runs if not one.counted), key=lambda one: max(one.decided, one.opened))
    short = [one for one in waiting if not one.children and max(one.decided, one.opened) <= _SHORT]
    while short and monotonic() < deadline:
        some = _some(short)
        await _count_short(source, some, deadline)
        del short[: len(some)]
    done = {one.number for one in waiting if one.counted}
    for one in waiting:
        if one.number not in done and (one.children or max(one.decided, one.opened) > _SHORT):
            await _count_long(source, counts, one, deadline)


def _some(short: Sequence[Listed]) -> list[Listed]:
    """Return the first runs that together have few steps."""
    taken: list[Listed] = []
    steps = 0
    for one in short:
        steps += max(one.decided, one.opened) + 1
        if taken and steps > _SHORT:
            break
        taken.append(one)
    return taken


@dataclass(slots=True)
class _Sums:
    shapes: list[TallyShape] = field(default_factory=list)
    votes: int = 0
    usage: list[Row] = field(default_factory=list)
    batched: list[Row] = field(default_factory=list)


async def _count_short(source: Reader, runs: Sequence[Listed], deadline: float) -> None:
    wanted = json.dumps([one.number for one in runs])
    sums = {one.number: _Sums() for one in runs}
    for row in await source.rows("sums_of_decisions", wanted):
        won, margin, total = row["votes"], row["margin"], row["total"]
        if total:
            sums[row["run"]].shapes.append(TallyShape(won, won - margin, total, row["decisions"]))
    for row in await source.rows("sums_of_samples", wanted):
        sums[row["run"]].votes += row["votes"]
        sums[row["run"]].usage.append(row)
    for row in await source.rows("sums_of_batches", wanted):
        sums[row["run"]].batched.append(row)
    for row in await source.rows("sums_beside", wanted):
        sums[row["run"]].usage.append(row)
    for one in runs:
        found = sums[one.number]
        # Run the slow query only if needed: most tasks give a verdict on their result.
        if one.said is None and one.status == "finished" and one.kind in JUDGED and not one.escalated:
            if monotonic() > deadline:
                return
            one.judge(certify(found.shapes))
        one.votes, one.cost_usd, one.counted = found.votes, _cost(found, one.prices), True


def _cost(sums: _Sums, prices: Mapping[str, Price]) -> float | None:
    if not sums.usage or any(row["model"] not in prices for row in sums.usage):
        return None
    saved = sum(saved_in_batches(prices[row["model"]], Tokens.of(row)) for row in sums.batched)
    return sum(cost_of(prices[row["model"]], Tokens.of(row)) for row in sums.usage) - saved


async def _count_long(source: Reader, counts: RunCounts, one: Listed, deadline: float) -> None:
    known = counts.known(one.number, one.turn)
    if known is None and monotonic() < deadline:
        run = await about(source, one.number)
        if run is None:
            return
        count = counts.of(run)
        await count.go_on(source, run, deadline - monotonic())
        if count.whole:
            found = verdicts(count.told(run), count.summary)
            known = (found.votes, found.cost_usd, found.outcome)
            if one.status != "running":
                counts.note(one.number, one.turn, known)
    if known is not None:
        one.counted, (one.votes, one.cost_usd, one.outcome) = True, known
