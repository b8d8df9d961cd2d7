"""The plots of a run, each with the numbers it shows, for the pages and for the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from mdap.audit.plots import Axis, Line, bars, chart, compact, ranked, steps
from mdap.audit.summary import Bin, Summary
from mdap.rules.lengths import race_lengths
from mdap.rules.money import cost_of
from mdap.settings import Price

__all__ = ["Figure", "cost_so_far", "figures"]

_ROWS: Final = 16
_FLOOR: Final = 1e-12
_LATENCY_BINS: Final = 10
"""Bars of the latency plot in a factor of ten."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot.

    Attributes:
        title: its heading.
        svg: the plot.
        note: what one sees, in a sentence.
        heads: column heads of its numbers.
        rows: its numbers.
        legend: class and meaning of each line.
    """

    title: str
    svg: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[str, str], ...] = ()


def figures(summary: Summary, k: int, prices: Mapping[str, Price]) -> list[Figure]:
    """Return the plots of a run, as far as it is counted; those without anything to show are left out.

    Args:
        summary: what is counted.
        k: the margin of the run.
        prices: by model; the cost is shown if each model has one.
    """
    found: list[Figure | None] = [
        _convergence(summary, k),
        _votes(summary, k),
        _disagreement(summary),
        _spending(summary, prices),
        _latency(summary),
        _flags(summary),
    ]
    return [figure for figure in found if figure is not None]


_BOTH: Final = (("measured", "this run"), ("theory", "theory, two candidates"))


def _theory(summary: Summary, k: int, most: int) -> list[float]:
    """Return the chance that a race takes 0, 1, ... votes, at the share of votes against the winners."""
    return race_lengths(summary.against / summary.votes, k, most)


def _convergence(summary: Summary, k: int) -> Figure | None:
    lengths = summary.lengths()
    races = lengths.total()
    if not races or not summary.votes:
        return None
    most = max(lengths)
    ended = list(accumulate(lengths[votes] for votes in range(most + 1)))
    measured = [(votes, 1 - count / races) for votes, count in enumerate(ended)]
    foreseen = [(votes, 1 - share) for votes, share in enumerate(accumulate(_theory(summary, k, most)))]
    floor = 10.0 ** math.floor(math.log10(0.8 / races))
    x = Axis("votes counted in a step", 0, max(most, 1), show=_whole)
    y = Axis("steps still undecided", floor, 1, log=True, show=_percent)
    last = next(votes for votes, share in measured if share <= 0)
    note = f"After {k} votes {_percent(measured[min(k, most)][1])} of the steps are undecided; after {last}, none."
    lines = [
        Line("theory", steps([(at, max(share, floor / 2)) for at, share in foreseen])),
        Line("measured", steps([(at, max(share, floor / 2)) for at, share in measured])),
    ]
    rows = tuple(
        (f"{votes}", _percent(share), _percent(max(foreseen[votes][1], 0))) for votes, share in measured
    )
    heads = ("votes", "undecided", "theory")
    return Figure("Convergence", chart(note, x, y, lines), note, heads, rows, _BOTH)


def _votes(summary: Summary, k: int) -> Figure | None:
    lengths = summary.lengths()
    races = lengths.total()
    if not races or not summary.votes:
        return None
    most = max(lengths)
    foreseen = _theory(summary, k, most)
    floor = 10.0 ** math.floor(math.log10(0.8 / races))
    x = Axis("votes that a step took", k - 1, most + 1, show=_whole)
    y = Axis("steps", floor, 1, log=True, show=_percent)
    values = [
        (votes - 0.4, votes + 0.4, count / races, f"{votes} votes: {count:,} steps")
        for votes, count in sorted(lengths.items())
    ]
    dots = bars(x, y, values)
    lines = [
        Line("theory", [(votes - 0.5, chance), (votes + 0.5, chance)])
        for votes, chance in enumerate(foreseen)
        if chance > floor / 2
    ]
    note = (
        f"{summary.votes / races:.3f} votes a step on average; {_percent(lengths[k] / races)} took just {k}."
    )
    rows = tuple(
        (f"{votes}", f"{count:,}", f"{foreseen[votes] * races:,.1f}")
        for votes, count in sorted(lengths.items())
    )
    return Figure(
        "Votes per step", chart(note, x, y, lines, dots), note, ("votes", "steps", "theory"), rows, _BOTH
    )


def _disagreement(summary: Summary) -> Figure | None:
    parts = [part for part in summary.bins if part.votes or part.models]
    if not summary.votes:
        return None
    against = [part.against / part.votes if part.votes else 0.0 for part in summary.bins]
    flags = [_flag_share(part) for part in summary.bins]
    x = Axis("step", 0, max(summary.reached, 1))
    y = Axis("share", 0, _ceiling(max(*against, *flags, 0.001)), show=_percent)
    lines = [Line("flags", _middles(flags, summary)), Line("measured", _middles(against, summary), area=True)]
    whole = summary.against / summary.votes
    note = f"{_percent(whole)} of the votes were not for the winner, counted in {len(parts)} stretches of the run."
    rows = tuple(
        (
            _stretch(start, stop, summary),
            _percent(_mean(against[start:stop])),
            _percent(_mean(flags[start:stop])),
        )
        for start, stop in _groups(len(summary.bins))
    )
    legend = (("measured", "votes against the winner"), ("flags", "samples red-flagged"))
    heads = ("steps", "against", "red-flagged")
    return Figure("Disagreement along the run", chart(note, x, y, lines), note, heads, rows, legend)


def _flag_share(part: Bin) -> float:
    samples = sum(use.samples for use in part.models.values())
    return sum(use.red_flags for use in part.models.values()) / samples if samples else 0.0


def cost_so_far(part: Bin, prices: Mapping[str, Price]) -> float | None:
    """Return what the samples of a stretch cost, in USD; None if a model has no price."""
    if any(model not in prices for model in part.models):
        return None
    return sum(
        cost_of(prices[model], use.input_tokens, use.output_tokens, use.cached_tokens)
        for model, use in part.models.items()
    )


def _spending(summary: Summary, prices: Mapping[str, Price]) -> Figure | None:
    costs = [cost_so_far(part, prices) for part in summary.bins]
    known = [cost for cost in costs if cost is not None]
    priced = len(known) == len(costs) and sum(known) > 0
    tokens = [
        float(sum(use.input_tokens + use.output_tokens for use in part.models.values()))
        for part in summary.bins
    ]
    amounts = list(accumulate(known if priced else tokens))
    if not amounts or not amounts[-1]:
        return None
    unit, show = ("USD", _usd) if priced else ("tokens", compact)
    ends = [min((index + 1) * summary.width, summary.reached) for index in range(len(amounts))]
    x = Axis("step", 0, max(summary.reached, 1))
    y = Axis(unit, 0, _ceiling(amounts[-1]), show=show)
    line = Line("measured", [(0, 0), *zip(ends, amounts, strict=True)], area=True)
    what = "Cost" if priced else "Tokens"
    note = f"{show(amounts[-1])} {'in all' if priced else 'tokens in all, prompts and replies'}."
    rows = tuple(
        (_stretch(start, stop, summary), show(amounts[stop - 1])) for start, stop in _groups(len(amounts))
    )
    return Figure(
        f"{what} along the run", chart(note, x, y, [line]), note, ("steps", f"{unit} by then"), rows
    )


def _latency(summary: Summary) -> Figure | None:
    timed = {max(ms, 1): 0 for ms in summary.latencies}
    for ms, count in summary.latencies.items():
        timed[max(ms, 1)] += count
    if not timed or max(timed) <= 1:
        return None
    slots: dict[int, int] = {}
    for ms, count in timed.items():
        slot = math.floor(math.log10(ms) * _LATENCY_BINS + 1e-9)
        slots[slot] = slots.get(slot, 0) + count
    edges = {slot: (10 ** (slot / _LATENCY_BINS), 10 ** ((slot + 1) / _LATENCY_BINS)) for slot in slots}
    x = Axis("latency of a sample", edges[min(slots)][0], edges[max(slots)][1], log=True, show=_duration)
    if len(x.ticks()) < 2:
        x = Axis(
            x.label, 10 ** math.floor(math.log10(x.low)), 10 ** math.ceil(math.log10(x.high)), True, _duration
        )
    y = Axis("samples", 0, _ceiling(max(slots.values())))
    said = {slot: f"{_duration(edges[slot][0])} to {_duration(edges[slot][1])}" for slot in sorted(slots)}
    values = [(*edges[slot], float(slots[slot]), f"{said[slot]}: {slots[slot]:,}") for slot in said]
    middle, tail = _quantile(timed, 0.5), _quantile(timed, 0.99)
    note = f"Half of the samples took up to about {_duration(middle)}, 99 % up to about {_duration(tail)}."
    rows = tuple((said[slot], f"{slots[slot]:,}") for slot in said)
    return Figure("Latency", chart(note, x, y, marks=bars(x, y, values)), note, ("latency", "samples"), rows)


def _flags(summary: Summary) -> Figure | None:
    ordered = summary.flags.most_common()
    if not ordered:
        return None
    shown = ordered[: _ROWS - 1]
    rest = sum(count for _, count in ordered[_ROWS - 1 :])
    if rest:
        shown.append(("all other reasons", rest))
    whole = summary.flags.total()
    note = f"{whole:,} of {summary.samples:,} samples ({_percent(whole / summary.samples)}) were discarded."
    rows = tuple((name[:200], f"{count:,}") for name, count in shown)
    return Figure("Red flags by reason", ranked(note, shown), note, ("reason", "samples"), rows)


# --- numbers


def _middles(shares: Sequence[float], summary: Summary) -> list[tuple[float, float]]:
    """Return a point for each stretch of the run, at its middle; the first and the last reach to the ends."""
    width, end = summary.width, summary.reached
    points = [(min((index + 0.5) * width, end), share) for index, share in enumerate(shares)]
    return [(0, shares[0]), *points, (end, shares[-1])]


def _groups(count: int) -> list[tuple[int, int]]:
    """Return *count* bins in at most 16 groups, as their first and the one after their last."""
    borders = sorted({round(count * index / _ROWS) for index in range(_ROWS + 1)})
    return list(pairwise(borders))


def _stretch(start: int, stop: int, summary: Summary) -> str:
    return f"{start * summary.width:,} to {min(stop * summary.width, summary.reached) - 1:,}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _quantile(counts: Mapping[int, int], share: float) -> int:
    wanted, seen = share * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return max(counts)


def _ceiling(value: float) -> float:
    """Return a round number a little above *value*."""
    size = 10.0 ** math.floor(math.log10(max(value, _FLOOR)))
    return next(
        size * factor
        for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
        if size * factor >= value * 1.02 or factor == 10
    )


def _whole(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else ""


def _percent(share: float) -> str:
    if share <= 0:
        return "0 %"
    return f"{share * 100:.3g} %" if share >= 1e-5 else f"{share * 100:.0e} %"


def _usd(value: float) -> str:
    return f"${value:,.2f}" if value >= 1 else f"${value:.3g}"


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds < 999.5 else f"{milliseconds / 1000:.3g} s"
