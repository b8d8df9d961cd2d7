"""The constants of `-k robust` are proved here, and what a rung promises is counted exactly."""

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise, product
from math import comb

import pytest

from mdap.errors import UsageError
from mdap.rules.rungs import FLOORS, Ladder, Rung, advantage, exact, paths

MARGINS = [2, 3, 4, 5, 6, 7, 8, 12, 20]  # benchmarks/robust.py proves all of them


def bernstein(terms: list[tuple[int, int, Fraction]], floor: Fraction) -> list[Fraction]:
    """Return the Bernstein coefficients, on [floor, 1], of a sum of ``w p^a (1 - p)^b`` for (a, b, w).

    The sum lies between the least and the greatest of them wherever p is in that interval.
    """
    degree = max(a + b for a, b, _ in terms)
    found = [Fraction(0)] * (degree + 1)
    for a, b, weight in terms:
        # p = floor (1 - t) + t and 1 - p = (1 - floor)(1 - t), with 1 = (1 - t) + t to fill up the degree.
        fill = degree - a - b
        for i in range(a + 1):
            share = weight * comb(a, i) * floor ** (a - i) * (1 - floor) ** b
            for j in range(fill + 1):
                found[i + j] += share * comb(fill, j)
    return found


def is_proved(floor: Fraction, margin: int, dissent: int) -> bool:
    """Whether not smooth minus c times smoothly wrong is at least 0 for every p from *floor* to 1."""
    c = advantage(floor, margin, dissent)
    terms = [(0, 0, Fraction(1))]
    for against, ways in enumerate(paths(margin, dissent)):
        votes = margin + 3 * against
        terms += [(votes, against, Fraction(-ways)), (against, votes, -(1 + c) * ways)]
    return min(bernstein(terms, floor)) >= 0


@pytest.mark.parametrize("floor", FLOORS, ids=str)
def test_no_chance_above_the_floor_has_a_smaller_ratio_than_the_constant(floor: Fraction) -> None:
    """c is proved in exact rationals, over the whole interval from the floor to 1."""
    for margin, dissent in product(MARGINS, range(2, 7)):
        if dissent <= margin:
            assert is_proved(floor, margin, dissent), (margin, dissent)


def test_the_constants_are_the_largest_to_within_a_hundredth() -> None:
    """At the floor itself the ratio is c, but for rounding; and known values come out."""
    known = {(0.6, 5, 5): 65, (0.6, 6, 6): 166, (0.6, 6, 5): 167, (0.6, 7, 6): 414, (0.7, 4, 4): 63}
    known |= {(0.7, 5, 5): 232, (0.8, 4, 4): 161}
    for (floor, margin, dissent), c in known.items():
        assert int(advantage(exact(floor), margin, dissent)) == c
    assert not is_proved_with(Fraction(3, 5), 5, 5, advantage(Fraction(3, 5), 5, 5) + Fraction(1, 50))


def is_proved_with(floor: Fraction, margin: int, dissent: int, c: Fraction) -> bool:
    right, wrong = floor, 1 - floor
    ways = list(enumerate(paths(margin, dissent)))
    smooth = [sum(w * p ** (margin + 3 * a) * (1 - p) ** a for a, w in ways) for p in (right, wrong)]
    return 1 - sum(smooth) >= c * smooth[1]


def test_a_floor_between_two_proved_ones_rounds_down() -> None:
    assert advantage(exact(0.64), 6, 6) == advantage(exact(0.6), 6, 6)


def test_the_first_rungs() -> None:
    """m, K and D of a run with target .95, as the reference has them."""
    first = [Ladder(exact(floor), exact(0.05), votes_decide=True).first[:3] for floor in (0.6, 0.7, 0.8)]
    assert first == [(5, 17, 5), (4, 13, 4), (4, 13, 4)]
    assert Ladder(exact(0.6), exact(0.05), votes_decide=True).samples_allowed == 780


def test_rungs_nest() -> None:
    """A higher rung is no easier in any way, has the same D, and costs less."""
    ladder = Ladder(exact(0.6), exact(0.05), votes_decide=True)
    rungs = [ladder.cheapest(exact(0.025) / 3**n) for n in range(20)]
    for lower, higher in pairwise(rungs):
        assert higher.margin >= lower.margin
        assert higher.lead >= lower.lead
        assert higher.price <= lower.price
        assert higher.dissent == lower.dissent
    for rung in rungs:
        assert rung.lead >= rung.margin + 3 * (rung.dissent - 1)


@pytest.mark.parametrize(
    ("floor", "votes_decide", "said"),
    [(0.3, False, "--floor must be"), (0.5, True, "--contested stop"), (0.45, True, "--contested stop")],
)
def test_a_floor_that_cannot_work_is_refused(floor: float, votes_decide: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Ladder(exact(floor), exact(0.05), votes_decide=votes_decide)


def test_a_target_beyond_all_proved_margins_is_refused() -> None:
    with pytest.raises(UsageError, match="lower --target"):
        Ladder(exact(0.6), Fraction(1, 10**40), votes_decide=True)


def ends(rung: Rung, chances: list[float]) -> tuple[float, float]:
    """Return how likely a race ends with a wrong winner, and how likely it is not smooth.

    The first of *chances* is that of the right answer. What is open when hardly anything is counts as wrong.
    """
    wrong = not_smooth = 0.0
    layer = {(0,) * len(chances): 1.0}
    while sum(layer.values()) > 1e-13:
        following: dict[tuple[int, ...], float] = defaultdict(float)
        for state, weight in layer.items():
            for answer, chance in enumerate(chances):
                following[*state[:answer], state[answer] + 1, *state[answer + 1 :]] += weight * chance
        layer = {}
        for state, weight in following.items():
            most = max(state)
            against, second = sum(state) - most, sorted(state)[-2]
            dissent = against >= rung.dissent
            won = most - second >= rung.lead if dissent else most >= rung.margin + 3 * against
            if won:
                wrong += weight * (state[0] < most)
                not_smooth += weight * dissent
            else:
                layer[state] = weight
    rest = sum(layer.values())
    return wrong + rest, not_smooth + rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "chances",
    [
        [0.7, 0.3],
        [0.8, 0.2],
        [0.97, 0.03],
        [0.7, 0.15, 0.15],
        [0.7, 0.29, 0.01],
        [0.9, 0.06, 0.04],
        [0.9, 0.04, 0.03, 0.03],
    ],
    ids=str,
)
def test_a_step_is_wrong_no_more_often_than_it_pays_for(chances: list[float]) -> None:
    """With two, three and four answers: P(wrong) is at most the price times P(not smooth), at every p."""
    rung = Ladder(exact(0.7), exact(0.3), votes_decide=True).first
    wrong, not_smooth = ends(rung, chances)
    assert wrong <= float(rung.price) * not_smooth + 1e-12
    # It is no bound that anything would keep: below the floor it fails.
    below = [0.5, 0.5]
    assert ends(rung, below)[0] > float(rung.price) * ends(rung, below)[1]
