"""Compare two runs: their figures, and the steps that they decided differently."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mdap.journal.reader import Reader
from mdap.viewer.about import About, Verdicts, verdicts
from mdap.viewer.catalog import Listed, listed
from mdap.viewer.counting import RunCounts
from mdap.viewer.guard import whole_number
from mdap.viewer.source import Found, walk
from mdap.viewer.summary import Summary
from mdap.viewer.wording import chance, number, seconds, share, usd, when

_COUNTING: Final = 0.06
_DIFFERENCES: Final = 50
_NAMED_MOST: Final = 50_000  # steps of a process to match by name
_ALIKE: Final = 20


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs."""

    run: About
    summary: Summary
    verdicts: Verdicts
    whole: bool


_ROWS: Final[dict[str, Callable[[Side], str]]] = {
    "Outcome": lambda side: str(side.verdicts.outcome or side.run.status),
    "Task": lambda side: f"{side.run.task}, version {side.run.task_version}",
    "Model": lambda side: side.run.models,
    "k": lambda side: str(side.run.k),
    "Steps decided": lambda side: number(side.summary.decisions if side.run.children else side.run.decided),
    "Votes": lambda side: number(side.summary.verdicts["vote"]),
    "Votes per step": lambda side: number(side.summary.votes_per_step, 3),
    "Votes against the winner": lambda side: _of(side.summary.against, side.summary.votes),
    "Divided steps": lambda side: _of(side.summary.divided, side.summary.decisions),
    "Red flags": lambda side: _of(side.summary.verdicts["flag"], side.summary.samples),
    "Settled by a person": lambda side: number(side.summary.settled),
    "Failed attempts": lambda side: number(side.run.failed_attempts),
    "P(no errors)": lambda side: chance(side.verdicts.p_zero_errors),
    "Tokens": lambda side: number(side.verdicts.input_tokens + side.verdicts.output_tokens),
    "Cost": lambda side: usd(side.verdicts.cost_usd),
    "Duration": lambda side: seconds(side.run.seconds or None),
    "Begun": lambda side: when(side.run.created_at),
}


def _of(part: int, whole: int) -> str:
    return f"{number(part)} ({share(part, whole)})"


async def compared(source: Reader, counts: RunCounts, runs: Sequence[About]) -> dict[str, Any]:
    """Return the figures of two runs, one row for each figure."""
    sides = []
    for run in runs:
        count = counts.of(run)
        await count.go_on(source, run, _COUNTING)
        told = count.with_parts(run)
        sides.append(Side(told, count.summary, verdicts(told, count.summary), count.whole))
    names = list(dict.fromkeys(name for one in sides for name in one.run.params))
    rows = [(name, *(of(one) for one in sides)) for name, of in _ROWS.items()]
    rows += [(name, *(str(one.run.params.get(name, "—")) for one in sides)) for name in names]
    return {"sides": sides, "rows": rows}


async def differences(source: Reader, runs: Sequence[About], start: int) -> dict[str, Any]:
    """Return the steps that two runs decided differently, from a decision or a step of the first run on."""
    one, other = runs
    by_name = any([await source.value("view_named", run.number) for run in runs])
    found = None
    if not by_name:
        bounds = (start, one.decided)
        found = await walk(source, "walk_differences", one.number, bounds, _DIFFERENCES, other.number)
    elif max(one.opened, other.opened) <= _NAMED_MOST:
        rows = await source.rows("differences_by_name", one.number, start, other.number, _DIFFERENCES + 1)
        more = len(rows) > _DIFFERENCES
        stop = rows[-1]["step"] if more else one.opened
        found = Found(list(rows[:_DIFFERENCES]), start, stop, more)
    return {"found": found, "most": _NAMED_MOST}


async def number_of(source: Reader, text: str) -> int | None:
    """Return the number of the run that *text* names, by its number or its id; None if there is none."""
    number = await source.value("run_called", text)
    return whole_number(text) if number is None else int(number)


async def alike(source: Reader, run: About) -> list[Listed]:
    """Return other runs of the same task, newest first."""
    rows = await source.rows("view_alike", run.task, run.number, _ALIKE)
    return await listed(source, [row["id"] for row in rows])
