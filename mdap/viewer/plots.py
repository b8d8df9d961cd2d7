"""Plots as SVG strings, without scripts or inline styles.

Colours come from the page's style sheet, by class, so that a plot follows light, dark and print.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from mdap.rules.hidden import plain

_WIDTH: Final = 520
_HEIGHT: Final = 256
_LEFT: Final = 64
_RIGHT: Final = 14
_TOP: Final = 30
_BOTTOM: Final = 44
_ROW: Final = 30


def compact(value: float) -> str:
    """Return a number with few characters: 1.2k, 3M, 0.004."""
    size = abs(value)
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def ceiling(value: float) -> float:
    """Return a round number slightly above *value*, for the end of an axis."""
    size = 10.0 ** math.floor(math.log10(max(value, 1e-12)))
    return next(
        (size * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8) if size * step >= value * 1.02), size * 10
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a plot, linear or logarithmic; *show* formats the value at a tick."""

    label: str
    low: float
    high: float
    log: bool = False
    show: Callable[[float], str] = compact

    def share(self, value: float) -> float:
        """Return the position of *value* between the ends, from 0 to 1."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return min(max((at - low) / (high - low), 0.0), 1.0) if high > low else 0.0

    def ticks(self) -> list[float]:
        """Return a few round values between the ends."""
        return _decades(self.low, self.high) if self.log else _round_steps(self.low, self.high)


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first) / 5))
    return [10.0**power for power in range(first, last + 1, stride)]


def _round_steps(low: float, high: float) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    raw = span / 7
    size = 10.0 ** math.floor(math.log10(raw))
    stride = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / stride - 1e-9)
    count = int((high - first * stride) / stride + 1e-6) + 1
    return [float(f"{stride * (first + index):.12g}") for index in range(count)]


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; `kind` is a class of the style sheet: measured, theory, flags."""

    kind: str
    points: Sequence[tuple[float, float]]
    area: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot: its message in a sentence, the numbers that it shows, and class and meaning of each line."""

    title: str
    svg: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[str, str], ...] = ()


def chart(title: str, x: Axis, y: Axis, lines: Sequence[Line] = (), marks: str = "") -> str:
    """Return a plot of *lines* and ready-made *marks*, from `bars` on the same axes, over two axes.

    *title* describes it in a sentence, for screen readers.
    """
    drawn = "".join(_path(line, x, y) for line in lines)
    return _svg(title, _HEIGHT, f"{_grid(x, y)}{marks}{drawn}")


def _svg(title: str, height: int, inside: str) -> str:
    said = escape(plain(title))
    box = f"0 0 {_WIDTH} {height}"
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{said}">{inside}</svg>'


def bars(x: Axis, y: Axis, values: Sequence[tuple[float, float, float, str]]) -> str:
    """Return bars on two axes, from left edge, right edge, height and text of each."""
    drawn = []
    for left, right, height, said in values:
        start, end, top = _x(x, left), _x(x, right), _y(y, height)
        wide = max(end - start - 1, 1.0)
        tall = max(_HEIGHT - _BOTTOM - top, 0.0)
        drawn.append(
            f'<rect class="bar" x="{start + 0.5:.1f}" y="{top:.1f}" width="{wide:.1f}" '
            f'height="{tall:.1f}"><title>{escape(said)}</title></rect>'
        )
    return "".join(drawn)


def ranked(title: str, values: Sequence[tuple[str, int]]) -> str:
    """Return horizontal bars with a name and a count each; *title* describes them in a sentence."""
    most = max((count for _, count in values), default=1) or 1
    height = _ROW * max(len(values), 1) + 8
    rows = "".join(_ranked_row(index, name, count, most) for index, (name, count) in enumerate(values))
    return _svg(title, height, rows)


def _ranked_row(index: int, text: str, count: int, most: int) -> str:
    top, name = index * _ROW + 4, plain(text)
    shown = name if len(name) <= 28 else f"{name[:27]}…"
    wide = max((_WIDTH - 270) * count / most, 2.0)
    return (
        f'<text class="name" x="190" y="{top + 16}" text-anchor="end">{escape(shown)}</text>'
        f'<rect class="bar" x="200" y="{top + 3}" width="{wide:.1f}" height="18" rx="2">'
        f"<title>{escape(name)}: {count:,}</title></rect>"
        f'<text class="tick" x="{200 + wide + 8:.1f}" y="{top + 16}">{count:,}</text>'
    )


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of a staircase that keeps each value until the next."""
    corners: list[tuple[float, float]] = []
    for at, value in points:
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    return corners


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _path(line: Line, x: Axis, y: Axis) -> str:
    if not line.points:
        return ""
    places = [f"{_x(x, at):.1f} {_y(y, value):.1f}" for at, value in line.points]
    path = "M" + "L".join(places)
    drawn = f'<path class="line {line.kind}" d="{path}"/>'
    if line.area:
        floor = _HEIGHT - _BOTTOM
        first, last = _x(x, line.points[0][0]), _x(x, line.points[-1][0])
        drawn = f'<path class="area {line.kind}" d="{path}L{last:.1f} {floor}L{first:.1f} {floor}Z"/>' + drawn
    return drawn


def _grid(x: Axis, y: Axis) -> str:
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in y.ticks():
        at = _y(y, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>')
        parts.append(_tick(_LEFT - 8, at + 4, "end", y.show(value)))
    parts.extend(_tick(_x(x, value), floor + 17, "middle", x.show(value)) for value in x.ticks())
    parts.append(f'<path class="axis" d="M{_LEFT} {floor}H{right}"/>')
    middle = (_LEFT + right) / 2
    place = f'x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle"'
    parts.append(f'<text class="label" {place}>{escape(x.label)}</text>')
    parts.append(f'<text class="label" x="0" y="13">{escape(y.label)}</text>')
    return "".join(parts)


def _tick(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
