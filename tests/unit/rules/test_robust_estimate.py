"""What a run of `-k robust` will take, beside races drawn vote by vote."""

import random

import pytest

from mdap.rules.ledger import estimate, law
from mdap.rules.rungs import Ladder, exact
from mdap.rules.tally import RobustTally
from mdap.settings import Robust


@pytest.mark.parametrize("p", [0.6, 0.8, 0.3, 0.5])
def test_the_law_is_that_of_races(p: float) -> None:
    rung = Ladder(exact(0.7), exact(0.3), votes_decide=True).first
    chance, runs = random.Random(int(100 * p)), 4000
    votes = contested = wrong = 0
    for _ in range(runs):
        tally = RobustTally(rung)
        while tally.winner is None:
            tally.add("right" if chance.random() < p else "wrong")
            votes += 1
        contested += tally.contested
        wrong += tally.winner == "wrong"
    expected = law(rung, p)
    spread = 4 / (4 * runs) ** 0.5
    assert votes / runs == pytest.approx(expected.votes, rel=0.05)
    assert contested / runs == pytest.approx(expected.contested, abs=spread)
    assert wrong / runs == pytest.approx(expected.wrong + expected.contested * expected.lost, abs=spread)


def test_the_papers_run() -> None:
    """A million steps at an error rate of 0.0022 take 5.04 votes each, where k = 3 takes 3.01."""
    made = estimate(Robust(length=2**20 - 1), 2**20 - 1, 0.0022)
    assert (made.m, made.dissent, made.lead, made.covered) == (5, 5, 17, 3)
    assert made.votes_per_step == pytest.approx(5.04, abs=0.005)


def test_where_votes_do_not_decide_contested_steps() -> None:
    made = estimate(Robust(floor=0.45, target=0.5, contested="stop"), 100, 0.01)
    assert made.lead == 0
    assert 3 < made.votes_per_step < 8
