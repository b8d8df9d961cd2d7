"""The plots of a run, each with the numbers it shows, for the pages and for the report."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from mdap.audit.statistics import quantile
from mdap.rules.scaling import race_lengths
from mdap.settings import Price
from mdap.viewer.about import cost_of_bin
from mdap.viewer.plots import Axis, Figure, Line, bars, ceiling, chart, compact, ranked, steps
from mdap.viewer.summary import Bin, Summary
from mdap.viewer.wording import duration, percent, seconds, usd, whole

_ROWS: Final = 16
_POINTS: Final = 64
_LATENCY_BINS: Final = 10
"""Bars per factor of ten in the latency plot."""


def figures(summary: Summary, k: int, prices: Mapping[str, Price]) -> list[Figure]:
    """Return the plots of a run as counted so far, without empty ones; that of cost needs all prices."""
    k = summary.margins[0] if summary.margins else k
    others = (_disagreement(summary), _spending(summary, prices), _latency(summary), _flags(summary))
    return [*_race_figures(summary, k), *(figure for figure in others if figure is not None)]


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


def _race_figures(summary: Summary, k: int) -> list[Figure]:
    """Return the plots of how many votes the steps took, beside the theory."""
    lengths = summary.lengths()
    if not lengths or not summary.votes:
        return []
    theory = _theory(summary, max(lengths))
    floor = 10.0 ** math.floor(math.log10(0.8 / lengths.total()))
    return [_convergence(lengths, k, theory, floor), _votes(lengths, k, theory, floor)]


def _convergence(lengths: Counter[int], k: int, theory: Sequence[float], floor: float) -> Figure:
    races, most = lengths.total(), max(lengths)
    ended = accumulate(lengths[votes] for votes in range(most + 1))
    measured = [(votes, 1 - count / races) for votes, count in enumerate(ended)]
    estimate = [(votes, 1 - share) for votes, share in enumerate(accumulate(theory))]
    x = Axis("votes counted in a step", 0, max(most, 1), show=whole)
    y = Axis("steps still undecided", floor, 1, log=True, show=percent)
    last = next(votes for votes, share in measured if share <= 0)
    left = percent(measured[min(k, most)][1])
    note = f"After {k} votes {left} of the steps are undecided; after {last}, none."
    lines = [
        Line(kind, steps([(at, max(share, floor / 2)) for at, share in points]))
        for kind, points in (("theory", estimate), ("measured", measured))
    ]
    rows = tuple(
        (f"{votes}", percent(share), percent(max(estimate[votes][1], 0))) for votes, share in measured
    )
    heads = ("votes", "undecided", "theory")
    return Figure("Convergence", chart(note, x, y, lines), note, heads, rows, _BOTH)


def _votes(lengths: Counter[int], k: int, theory: Sequence[float], floor: float) -> Figure:
    races = lengths.total()
    x = Axis("votes that a step took", k - 1, max(lengths) + 1, show=whole)
    y = Axis("steps", floor, 1, log=True, show=percent)
    ordered = sorted(lengths.items())
    dots = bars(
        x, y, [(at - 0.4, at + 0.4, count / races, f"{at} votes: {count:,} steps") for at, count in ordered]
    )
    lines = [
        Line("theory", [(votes - 0.5, chance), (votes + 0.5, chance)])
        for votes, chance in enumerate(theory)
        if chance > floor / 2
    ]
    average = sum(votes * count for votes, count in ordered) / races
    note = f"{average:.3f} votes a step on average; {percent(lengths[k] / races)} took just {k}."
    rows = tuple((f"{votes}", f"{count:,}", f"{theory[votes] * races:,.1f}") for votes, count in ordered)
    heads = ("votes", "steps", "theory")
    return Figure("Votes per step", chart(note, x, y, lines, dots), note, heads, rows, _BOTH)


def _latency(summary: Summary) -> Figure | None:
    timed: Counter[int] = Counter()
    for ms, count in summary.latencies.items():
        timed[max(ms, 1)] += count
    if not timed or max(timed) <= 1:
        return None
    slots: Counter[int] = Counter()
    for ms, count in timed.items():
        slots[math.floor(math.log10(ms) * _LATENCY_BINS + 1e-9)] += count
    edges = {slot: (10 ** (slot / _LATENCY_BINS), 10 ** ((slot + 1) / _LATENCY_BINS)) for slot in slots}
    x = Axis("latency of a sample", edges[min(slots)][0], edges[max(slots)][1], log=True, show=duration)
    if len(x.ticks()) < 2:
        x = Axis(
            x.label, 10 ** math.floor(math.log10(x.low)), 10 ** math.ceil(math.log10(x.high)), True, duration
        )
    y = Axis("samples", 0, ceiling(max(slots.values())))
    said = {slot: f"{duration(edges[slot][0])} to {duration(edges[slot][1])}" for slot in sorted(slots)}
    values = [(*edges[slot], float(slots[slot]), f"{said[slot]}: {slots[slot]:,}") for slot in said]
    middle, tail = (quantile(sorted(timed.items()), share) for share in (0.5, 0.99))
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


class _Stretch(NamedTuple):
    """A part of the run: the steps from *start* to before *stop*, and their counts."""

    start: int
    stop: int
    part: Bin

    @property
    def name(self) -> str:
        return f"{self.start:,} to {self.stop - 1:,}"


def _stretches(summary: Summary, most: int) -> list[_Stretch]:
    """Return the run in a limited number of parts, in order."""
    each = -(-len(summary.bins) // most) or 1
    found = []
    for first in range(0, len(summary.bins), each):
        whole = Bin()
        for one in summary.bins[first : first + each]:
            whole.add(one)
        stop = min((first + each) * summary.width, summary.reached)
        found.append(_Stretch(first * summary.width, stop, whole))
    return found


def _disagreement(summary: Summary) -> Figure | None:
    """Return the shares of votes against the winners and of red flags along the run."""
    if not summary.votes or summary.mixed:
        return None
    parts = _stretches(summary, _POINTS)
    against = [(one.start, one.stop, _against(one.part)) for one in parts]
    flags = [(one.start, one.stop, _flagged(one.part)) for one in parts]
    x = Axis("step", 0, max(summary.reached, 1))
    y = Axis(
        "share", 0, ceiling(max(share for _, _, share in (*against, *flags, (0, 0, 0.001)))), show=percent
    )
    lines = [Line("flags", _through(flags)), Line("measured", _through(against), area=True)]
    share = percent(summary.against / summary.votes)
    each = parts[0].stop - parts[0].start
    points = "" if each == 1 else f" A point stands for {each:,} steps."
    note = f"{share} of the votes were not for the winner.{points}"
    rows = tuple(
        (one.name, percent(_against(one.part)), percent(_flagged(one.part)))
        for one in _stretches(summary, _ROWS)
    )
    legend = (("measured", "votes against the winner"), ("flags", "samples red-flagged"))
    heads = ("steps", "against", "red-flagged")
    return Figure("Disagreement along the run", chart(note, x, y, lines), note, heads, rows, legend)


def _through(shares: list[tuple[int, int, float]]) -> list[tuple[float, float]]:
    """Return points in the middle of each stretch; the first and the last value reach to the ends."""
    points = [((start + stop) / 2, share) for start, stop, share in shares]
    return [(shares[0][0], shares[0][2]), *points, (shares[-1][1], shares[-1][2])]


def _against(part: Bin) -> float:
    return part.against / part.votes if part.votes else 0.0


def _flagged(part: Bin) -> float:
    samples = sum(use.samples for use in part.models.values())
    return sum(use.red_flags for use in part.models.values()) / samples if samples else 0.0


def _spending(summary: Summary, prices: Mapping[str, Price]) -> Figure | None:
    """Return the spending up to each step: in USD if every model has a price, else in tokens."""
    if summary.mixed:
        return None
    priced = bool(cost_of_bin(Bin(models=summary.models), prices))

    def spent(part: Bin) -> float:
        if priced:
            return cost_of_bin(part, prices) or 0.0
        return float(sum(use.input_tokens + use.output_tokens for use in part.models.values()))

    parts = _stretches(summary, _POINTS)
    amounts = list(accumulate(spent(one.part) for one in parts))
    if not amounts or not amounts[-1]:
        return None
    unit, show = ("USD", usd) if priced else ("tokens", compact)
    x = Axis("step", 0, max(summary.reached, 1))
    y = Axis(unit, 0, ceiling(amounts[-1]), show=show)
    ends = [(float(one.stop), amount) for one, amount in zip(parts, amounts, strict=True)]
    line = Line("measured", [(0.0, 0.0), *ends], area=True)
    note = (
        f"{show(amounts[-1])} for the samples of steps."
        if priced
        else f"{show(amounts[-1])} tokens for the samples of steps, prompts and replies."
    )
    coarse = _stretches(summary, _ROWS)
    sums = accumulate(spent(one.part) for one in coarse)
    rows = tuple((one.name, show(amount)) for one, amount in zip(coarse, sums, strict=True))
    title = f"{'Cost' if priced else 'Tokens'} along the run"
    return Figure(title, chart(note, x, y, [line]), note, ("steps", f"{unit} by then"), rows)


def progress(summary: Summary) -> Figure | None:
    """Return the progress of the run over time; None without recorded times, or with parts."""
    if summary.mixed:
        return None
    timed = [(one, one.part.first, one.part.last) for one in _stretches(summary, _POINTS)]
    moments = [
        (one.stop, first, last) for one, first, last in timed if first is not None and last is not None
    ]
    if not moments:
        return None
    began = min(first for _, first, _ in moments)
    ends = list(accumulate((last for _, _, last in moments), max))
    took = (ends[-1] - began) / 1000
    if took <= 0:
        return None
    x = Axis("time since the first request", 0, took, show=seconds)
    y = Axis("steps", 0, ceiling(max(summary.reached, 1)), show=compact)
    points = [
        (0.0, 0.0),
        *(((end - began) / 1000, float(stop)) for (stop, *_), end in zip(moments, ends, strict=True)),
    ]
    note = f"{summary.reached:,} steps in {seconds(took)}, from the first request to the last reply."
    stride = -(-len(moments) // _ROWS)
    rows = tuple((f"{int(steps):,}", seconds(at)) for at, steps in points[1:][stride - 1 :: stride])
    lines = [Line("measured", points, area=True)]
    return Figure("Steps over time", chart(note, x, y, lines), note, ("steps", "done after"), rows)
