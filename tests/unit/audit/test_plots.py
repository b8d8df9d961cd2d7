"""Plots: numbers in, a drawing out, whatever the numbers and names are."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.viewer.plots import Axis, Line, bars, ceiling, chart, compact, ranked, steps

NUMBERS = st.floats(1e-9, 1e12)


def drawn(svg: str) -> ElementTree.Element:
    """The drawing as XML, which it must be."""
    return ElementTree.fromstring(svg)


@given(low=NUMBERS, factor=st.floats(1.001, 1e9), log=st.booleans())
def test_ticks_are_few_and_within_the_axis(low: float, factor: float, log: bool) -> None:
    """An axis of any length gets a handful of ticks, in order, all of them on it."""
    axis = Axis("x", low, low * factor, log=log)
    ticks = axis.ticks()
    assert len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    assert all(-1e-6 <= axis.share(tick) <= 1 + 1e-6 for tick in ticks)
    assert all(tick <= axis.high * (1 + 1e-6) for tick in ticks)


@given(values=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=50), log=st.booleans())
def test_no_point_lies_outside_of_the_drawing(values: list[tuple[float, float]], log: bool) -> None:
    """Whatever is drawn stays in the box."""
    x = Axis("x", 1e-9, max(at for at, _ in values), log=log)
    y = Axis("y", 0, ceiling(max(value for _, value in values)))
    root = drawn(chart("a plot", x, y, [Line("measured", values, area=True)]))
    for path in root.iter("path"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
        assert all(0 <= number <= 520 for number in numbers)


@given(value=NUMBERS)
def test_an_axis_ends_a_little_above_its_highest_value(value: float) -> None:
    """Nothing touches the top, and not more than half of the height is empty."""
    assert value < ceiling(value) <= 2.1 * value


def test_names_are_text() -> None:
    """A name in a plot can be as hostile as a reply."""
    svg = ranked("reasons of </svg><script>", [("<script>alert(1)</script>\u202e\x1b", 3), ("&", 0)])
    root = drawn(svg)
    assert "script" not in {node.tag for node in root.iter()}
    assert "\u202e" not in svg
    assert "\x1b" not in svg
    assert [node.text for node in root.iter("text")][2] == "&"


def test_bars_say_what_they_are() -> None:
    """Each bar has a text of its own for those who point at it."""
    x, y = Axis("votes", 2, 6), Axis("steps", 0, 10)
    root = drawn(chart("votes", x, y, marks=bars(x, y, [(2.6, 3.4, 9, "3 votes: 9 steps")])))
    (bar,) = root.iter("rect")
    assert [node.text for node in bar] == ["3 votes: 9 steps"]
    assert root.attrib == {"class": "plot", "viewBox": "0 0 520 256", "role": "img", "aria-label": "votes"}


def test_a_staircase_keeps_each_value_until_the_next() -> None:
    """Between two points the value is that of the first."""
    assert steps([(0, 5), (2, 3), (3, 1)]) == [(0, 5), (2, 5), (2, 3), (3, 3), (3, 1)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0042, "0.0042"), (12, "12"), (1234, "1.23k"), (5e6, "5M"), (3.2e9, "3.2G")],
)
def test_numbers_at_ticks_are_short(value: float, text: str) -> None:
    """Large numbers get a letter."""
    assert compact(value) == text
