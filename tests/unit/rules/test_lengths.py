"""How many votes a race takes, by the theory."""

import random
from collections import Counter
from math import sqrt

import pytest

from mdap.rules.scaling import expected_votes, race_lengths
from mdap.rules.tally import Tally


@pytest.mark.parametrize(("error_rate", "k"), [(0.0, 3), (0.01, 3), (0.3, 1), (0.3, 4), (0.5, 2), (0.9, 3)])
def test_lengths_have_the_mean_of_the_law(error_rate: float, k: int) -> None:
    """All of it is there, and on average a race takes the expected votes."""
    chances = race_lengths(error_rate, k, 600)
    assert sum(chances) == pytest.approx(1)
    assert sum(votes * chance for votes, chance in enumerate(chances)) == pytest.approx(
        expected_votes(error_rate, k)
    )


def test_races_between_two_candidates_take_as_long() -> None:
    """20,000 races counted by the tally itself: each length within 4 standard errors."""
    draw, trials, found = random.Random(1), 20_000, Counter[int]()
    for _ in range(trials):
        tally, votes = Tally(3), 0
        while tally.winner is None:
            tally.add("wrong" if draw.random() < 0.3 else "right")
            votes += 1
        found[votes] += 1
    for votes, chance in enumerate(race_lengths(0.3, 3, 15)):
        assert abs(found[votes] / trials - chance) <= 4 * sqrt(chance * (1 - chance) / trials)


def test_a_sure_model_takes_k_votes() -> None:
    """Without errors there is one length."""
    assert race_lengths(0.0, 5, 7) == pytest.approx([0, 0, 0, 0, 0, 1, 0, 0])
