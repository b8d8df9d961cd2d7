"""Draw the plots of the documentation: ``python docs/plots.py``, the same each time."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from mdap.rules.certificate import error_upper_bound
from mdap.rules.ledger import Ledger
from mdap.rules.ledger import law as law_of
from mdap.rules.scaling import minimal_k
from mdap.settings import Robust

IMAGES: Final = Path(__file__).parent / "images"
COLOURS: Final = ("#00897b", "#f57c00", "#5e6bd8", "#d81b60", "#8a8a8a")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 70, 130, 20, 50


class Axis(NamedTuple):
    name: str
    low: float
    high: float
    ticks: Sequence[float]
    logarithmic: bool = False
    label: Callable[[float], str] = "{:g}".format

    def place(self, value: float) -> float:
        """Return where *value* stands, from 0 to 1."""
        low, high, here = (
            math.log10(number) if self.logarithmic else number for number in (self.low, self.high, value)
        )
        return (here - low) / (high - low)


class Line(NamedTuple):
    name: str
    points: list[tuple[float, float]]
    dots: bool = False


# -- the laws, and races to hold against them ------------------------------------------------------


def wrong(p: float, k: int) -> float:
    """Return the chance that a race is won by a wrong answer."""
    return 1 / (1 + (p / (1 - p)) ** k)


def votes(p: float, k: int) -> float:
    """Return the votes that a race takes on average."""
    return k if p == 0.5 else k * (1 - 2 * wrong(p, k)) / (2 * p - 1)


def least_k(error_rate: float, steps: float, target: float = 0.95) -> int:
    """Return the smallest margin at which all *steps* are right with the chance *target*."""
    each = -math.expm1(math.log(target) / steps)
    return max(1, math.ceil(math.log(each / (1 - each)) / math.log(error_rate / (1 - error_rate))))


def race(chances: Sequence[float], k: int, draw: random.Random) -> bool:
    """Return whether the right answer wins; samples take turns through *chances*."""
    lead, number = 0, draw.randrange(len(chances))
    while abs(lead) < k:
        lead += 1 if draw.random() < chances[number % len(chances)] else -1
        number += 1
    return lead > 0


def share_wrong(kinds: Sequence[tuple[float, Sequence[float]]], k: int, races: int = 10_000) -> float:
    """Return the share of wrong decisions over steps of several kinds: share of the steps, chances."""
    draw = random.Random(k)
    lost = 0
    for share, chances in kinds:
        runs = round(races * share)
        lost += sum(not race(chances, k, draw) for _ in range(runs))
    return lost / races


# -- the plots -------------------------------------------------------------------------------------


def law() -> str:
    rates = [0.5 - number / 200 for number in range(0, 100)]
    lines = [Line(f"k = {k}", [(rate, wrong(1 - rate, k)) for rate in rates]) for k in (1, 3, 5, 9)]
    across = Axis("chance that one vote is wrong, 1 - p", 0, 0.5, [0, 0.1, 0.2, 0.3, 0.4, 0.5])
    up = Axis("chance that a decision is wrong", 1e-9, 1, [1e-9, 1e-6, 1e-3, 1], True, _power)
    return drawn("What a lead of k buys", across, up, lines)


def margins() -> str:
    steps = [10 ** (number / 10) for number in range(0, 91)]
    lines = [
        Line(f"1 - p = {rate:g}", [(count, least_k(rate, count)) for count in steps])
        for rate in (0.3, 0.2, 0.1, 0.05, 0.01)
    ]
    across = Axis("steps of the run", 1, 1e9, [1, 1e3, 1e6, 1e9], True, _power)
    return drawn("The k for 95 % that no decision is wrong", across, Axis("k", 0, 30, [0, 10, 20, 30]), lines)


def cost() -> str:
    rates = [number / 100 for number in range(1, 46)]
    lines = [Line(f"k = {k}", [(rate, votes(1 - rate, k)) for rate in rates]) for k in (9, 5, 3, 1)]
    across = Axis("chance that one vote is wrong, 1 - p", 0, 0.45, [0, 0.1, 0.2, 0.3, 0.4])
    return drawn("What a decision costs", across, Axis("votes", 0, 50, [0, 10, 20, 30, 40, 50]), lines)


def correlated() -> str:
    margins = range(1, 16)
    hard = [(0.05, [0.2]), (0.95, [0.9895])]
    # One prompt in twenty is hard, and a step has three of them.
    views = [(0.0071, [0.2, 0.2, 0.9895]), (0.1354, [0.2, 0.9895, 0.9895]), (0.8575, [0.9895])]
    lines = [Line("independent", [(k, wrong(0.95, k)) for k in margins])]
    for name, kinds in {"on hard prompts": hard, "the same, three views": views}.items():
        lines.append(Line(name, [(k, share_wrong(kinds, k)) for k in margins], dots=True))
    across = Axis("k", 1, 15, [1, 3, 5, 7, 9, 11, 13, 15])
    up = Axis("share of wrong decisions", 1e-6, 1, [1e-6, 1e-4, 1e-2, 1], True, _power)
    return drawn("Five votes in a hundred wrong, in three ways", across, up, lines)


RUNS: Final = 60
SHARES: Final = [10 ** (-3 + number / 2) for number in range(5)]


def mixed(share: float, draw: random.Random) -> list[float]:
    """Return 1,000 steps, of which a share is right with 0.6 and the others with 0.999."""
    return [0.6 if draw.random() < share else 0.999 for _ in range(1000)]


def fixed_run(steps: Sequence[float], k: int) -> tuple[float, float]:
    """Return the chance of a wrong decision, and the votes that all steps take on average."""
    return 1 - math.prod(1 - wrong(p, k) for p in steps), sum(votes(p, k) for p in steps)


def auto_run(steps: Sequence[float], draw: random.Random) -> tuple[float, float]:
    """Choose k as -k auto does, by a pilot of 400 votes at a lead of 8."""
    against = cast = 0
    for p in steps:
        lead = 0
        while abs(lead) < 8:
            right = draw.random() < p
            lead, cast, against = lead + (1 if right else -1), cast + 1, against + (not right)
        if cast >= 400:
            break
    return fixed_run(steps, minimal_k(min(error_upper_bound(against, cast), 0.499), len(steps), 0.95))


def robust_run(steps: Sequence[float], draw: random.Random) -> tuple[float, float]:
    """Draw which steps pay; given that, the chance of a wrong decision is known."""
    ledger = Ledger(Robust(length=len(steps)))
    right, taken = 1.0, 0.0
    for place, p in enumerate(steps):
        rung = ledger.rung(place)
        at = law_of(rung, p)
        taken += at.votes
        if draw.random() < at.contested:
            ledger.pay(rung.price)
            right *= 1 - at.lost
        else:
            right *= 1 - at.wrong / (1 - at.contested)
    return 1 - right, taken


@lru_cache
def mixtures() -> dict[str, list[tuple[float, float, float]]]:
    """Return by rule, for each share of hard steps, the share of wrong runs and votes a step."""
    rules: dict[str, Callable[[Sequence[float], random.Random], tuple[float, float]]] = {
        "k = 3": lambda steps, draw: fixed_run(steps, 3),
        "auto": auto_run,
        "robust": robust_run,
    }
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, rule in rules.items():
        for share in SHARES:
            draw = random.Random(f"{name} {share}")
            runs = [rule(mixed(share, draw), draw) for _ in range(RUNS)]
            lost, taken = sum(run[0] for run in runs) / RUNS, sum(run[1] for run in runs) / RUNS / 1000
            found.setdefault(name, []).append((share, lost, taken))
    return found


def guarantee() -> str:
    lines = [Line(name, [(share, lost) for share, lost, _ in row], True) for name, row in mixtures().items()]
    lines.append(Line("1 - target", [(SHARES[0], 0.05), (SHARES[-1], 0.05)]))
    across = Axis("share of steps that are right with 0.6", 1e-3, 0.1, [1e-3, 1e-2, 0.1], True)
    return drawn("Wrong runs", across, Axis("wrong runs", 0, 1, [0, 0.25, 0.5, 0.75, 1]), lines)


def guarantee_votes() -> str:
    lines = [Line(name, [(share, each) for share, _, each in row], True) for name, row in mixtures().items()]
    across = Axis("share of steps that are right with 0.6", 1e-3, 0.1, [1e-3, 1e-2, 0.1], True)
    return drawn("Votes a step", across, Axis("votes a step", 0, 25, [0, 5, 10, 15, 20, 25]), lines)


def _power(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value <= 1e3 else f"1e{round(math.log10(value))}"


# -- drawing ---------------------------------------------------------------------------------------


def drawn(title: str, across: Axis, up: Axis, lines: Iterable[Line]) -> str:
    """Return a plot as SVG that can be read on light and on dark."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="13" fill="#808080"><title>{title}</title>'
    ]
    for tick in across.ticks:
        x = _x(across, tick)
        parts.append(f'<path d="M{x} {TOP}V{HEIGHT - BOTTOM}" stroke="#808080" stroke-opacity=".25"/>')
        label = across.label(tick)
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    for tick in up.ticks:
        y = _y(up, tick)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#808080" stroke-opacity=".25"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{up.label(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{across.name}</text>')
    half = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 16 {half})"'
    parts.append(f'<text x="16" y="{half}" text-anchor="middle" {turned}>{up.name}</text>')
    for number, line in enumerate(lines):
        parts += _line(across, up, line, number)
    return "\n".join([*parts, "</svg>\n"])


def _line(across: Axis, up: Axis, line: Line, number: int) -> list[str]:
    colour = COLOURS[number]
    inside = [(x, y) for x, y in line.points if up.low <= y <= up.high and across.low <= x <= across.high]
    at = [(_x(across, x), _y(up, y)) for x, y in inside]
    path = "M" + "L".join(f"{x} {y}" for x, y in at)
    parts = [f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    if line.dots:
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in at]
    y = TOP + 18 + 22 * number
    parts.append(f'<circle cx="{WIDTH - RIGHT + 12}" cy="{y - 4}" r="5" fill="{colour}"/>')
    words = line.name.split(", ")
    for place, word in enumerate(words):
        parts.append(f'<text x="{WIDTH - RIGHT + 22}" y="{y + 15 * place}" font-size="11">{word}</text>')
    return parts


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM), 1)


PLOTS: Final = {
    "law": law,
    "margins": margins,
    "cost": cost,
    "correlated": correlated,
    "guarantee": guarantee,
    "guarantee-votes": guarantee_votes,
}


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name, plot in PLOTS.items():
        (IMAGES / f"{name}.svg").write_text(plot(), encoding="utf-8")
