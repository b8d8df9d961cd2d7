"""The plots of a run, each with the numbers it shows, for the pages and for the report."""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

from mdap.rules.scaling import race_lengths
from mdap.settings import Price
from mdap.viewer.plots import Axis, Figure, Line, bars, ceiling, chart, ranked, steps
from mdap.viewer.summary import Summary
from mdap.viewer.trends import disagreement, spending
from mdap.viewer.wording import duration, percent, whole

__all__ = ["figures"]

_ROWS: Final = 16
_LATENCY_BINS: Final = 10
"""Bars per factor of ten in the latency plot."""


def figures(summary: Summary, k: int, prices: Mapping[str, Price]) -> list[Figure]:
    """Return the plots of a run as counted so far, without empty ones.

    Args:
        summary: the counts.
        k: the margin of the run; if margins differ, the smallest one that decided a race.
        prices: prices by model; the plot of cost needs one for each model.
    """
    k = summary.margins[0] if summary.margins else k
    found: list[Figure | None] = [
        _convergence(summary, k),
        _votes(summary, k),
        disagreement(summary),
        spending(summary, prices),
        _latency(summary),
        _flags(summary),
    ]
    return [figure for figure in found if figure is not None]


_BOTH: Final = (("measured", "this run"), ("theory", "theory, two candidates"))


def _theory(summary: Summary, most: int) -> list[float]:
    """Return the probability that a race takes 0, 1, ... votes, at the measured share of wrong votes.

    If margins differ between steps, each weighs as much as it has races.
    """
    margins: Counter[int] = Counter()
    for (_, _, margin), count in summary.races.items():
        margins[margin] += count
    rate, races = summary.against / summary.votes, margins.total()
    each = [(race_lengths(rate, margin, most), count / races) for margin, count in margins.items()]
    return [sum(chances[votes] * share for chances, share in each) for votes in range(most + 1)]


def _convergence(summary: Summary, k: int) -> Figure | None:
    lengths = summary.lengths()
    races = lengths.total()
    if not races or not summary.votes:
        return None
    most = max(lengths)
    ended = list(accumulate(lengths[votes] for votes in range(most + 1)))
    measured = [(votes, 1 - count / races) for votes, count in enumerate(ended)]
    estimate = [(votes, 1 - share) for votes, share in enumerate(accumulate(_theory(summary, most)))]
    floor = 10.0 ** math.floor(math.log10(0.8 / races))
    x = Axis("votes counted in a step", 0, max(most, 1), show=whole)
    y = Axis("steps still undecided", floor, 1, log=True, show=percent)
    last = next(votes for votes, share in measured if share <= 0)
    left = percent(measured[min(k, most)][1])
    note = f"After {k} votes {left} of the steps are undecided; after {last}, none."
    lines = [
        Line("theory", steps([(at, max(share, floor / 2)) for at, share in estimate])),
        Line("measured", steps([(at, max(share, floor / 2)) for at, share in measured])),
    ]
    rows = tuple(
        (f"{votes}", percent(share), percent(max(estimate[votes][1], 0))) for votes, share in measured
    )
    heads = ("votes", "undecided", "theory")
    return Figure("Convergence", chart(note, x, y, lines), note, heads, rows, _BOTH)


def _votes(summary: Summary, k: int) -> Figure | None:
    lengths = summary.lengths()
    races = lengths.total()
    if not races or not summary.votes:
        return None
    most = max(lengths)
    estimate = _theory(summary, most)
    floor = 10.0 ** math.floor(math.log10(0.8 / races))
    x = Axis("votes that a step took", k - 1, most + 1, show=whole)
    y = Axis("steps", floor, 1, log=True, show=percent)
    values = [
        (votes - 0.4, votes + 0.4, count / races, f"{votes} votes: {count:,} steps")
        for votes, count in sorted(lengths.items())
    ]
    dots = bars(x, y, values)
    lines = [
        Line("theory", [(votes - 0.5, chance), (votes + 0.5, chance)])
        for votes, chance in enumerate(estimate)
        if chance > floor / 2
    ]
    note = (
        f"{summary.votes / races:.3f} votes a step on average; {percent(lengths[k] / races)} took just {k}."
    )
    rows = tuple(
        (f"{votes}", f"{count:,}", f"{estimate[votes] * races:,.1f}")
        for votes, count in sorted(lengths.items())
    )
    return Figure(
        "Votes per step", chart(note, x, y, lines, dots), note, ("votes", "steps", "theory"), rows, _BOTH
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
    x = Axis("latency of a sample", edges[min(slots)][0], edges[max(slots)][1], log=True, show=duration)
    if len(x.ticks()) < 2:
        x = Axis(
            x.label, 10 ** math.floor(math.log10(x.low)), 10 ** math.ceil(math.log10(x.high)), True, duration
        )
    y = Axis("samples", 0, ceiling(max(slots.values())))
    said = {slot: f"{duration(edges[slot][0])} to {duration(edges[slot][1])}" for slot in sorted(slots)}
    values = [(*edges[slot], float(slots[slot]), f"{said[slot]}: {slots[slot]:,}") for slot in said]
    middle, tail = _quantile(timed, 0.5), _quantile(timed, 0.99)
    note = f"Half of the samples took up to about {duration(middle)}, 99 % up to about {duration(tail)}."
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
    flags = summary.flags.total()
    share = percent(flags / summary.samples)
    note = f"{flags:,} of {summary.samples:,} samples ({share}) were discarded."
    rows = tuple((name[:200], f"{count:,}") for name, count in shown)
    return Figure("Red flags by reason", ranked(note, shown), note, ("reason", "samples"), rows)


def _quantile(counts: Mapping[int, int], share: float) -> int:
    wanted, seen = share * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return max(counts)
