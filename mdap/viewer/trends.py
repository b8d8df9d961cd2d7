"""The cost and the disagreement of a run, from its first step to its last."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from mdap.rules.money import cost_of
from mdap.settings import Price
from mdap.viewer.plots import Axis, Figure, Line, ceiling, chart, compact
from mdap.viewer.summary import Bin, Summary
from mdap.viewer.wording import percent, seconds, usd

__all__ = ["cost_of_bin", "disagreement", "progress", "spending"]

_POINTS: Final = 64
_ROWS: Final = 16


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


def disagreement(summary: Summary) -> Figure | None:
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


def cost_of_bin(part: Bin, prices: Mapping[str, Price]) -> float | None:
    """Return the cost of a stretch's samples in USD; None if a model has no price."""
    if any(model not in prices for model in part.models):
        return None
    return sum(cost_of(prices[model], use) for model, use in part.models.items())


def spending(summary: Summary, prices: Mapping[str, Price]) -> Figure | None:
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
