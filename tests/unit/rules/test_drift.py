"""The drift alarm: silent where nothing has changed, and soon heard where something has."""

import numpy as np
import pytest

from mdap.rules.drift import Baseline, Drift


def _first_alarm(
    rng: np.random.Generator, baseline: Baseline, rates: tuple[float, float], steps: int
) -> dict[str, int]:
    """Run steps of four votes, and return at which step each kind of alarm came."""
    drift, found = Drift(baseline, 3), {}
    against = rng.binomial(4, rates[0], steps)
    flags = rng.binomial(4, rates[1], steps)
    for step in range(steps):
        for kind, _ in drift.hear(int(against[step]), 4, int(flags[step])):
            found[kind] = step
    return found


def _calibrated(rng: np.random.Generator, error_rate: float, flag_rate: float) -> Baseline:
    return Baseline(
        "c", int(rng.binomial(1000, error_rate)), 1000, int(rng.binomial(1000, flag_rate)), 1000 + 100
    )


@pytest.mark.slow
def test_false_alarms_are_rare() -> None:
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        error_rate = [0.02, 0.1, 0.3][seed % 3]
        baseline = Baseline("c", int(rng.binomial(800, error_rate)), 800, int(rng.binomial(1000, 0.05)), 1000)
        # Of votes and flags together, 0.05 are flags.
        alarms += bool(_first_alarm(rng, baseline, (error_rate, 0.0526), 600))
    assert alarms <= 3


def test_a_worse_model_is_noticed_within_some_hundred_votes() -> None:
    rng = np.random.default_rng(1)
    found = _first_alarm(rng, Baseline("c", 20, 1000, 10, 1000), (0.12, 0.01), 2000)
    assert found["disagreement"] < 150
    assert "red flags" not in found


def test_more_and_fewer_red_flags_are_noticed() -> None:
    rng = np.random.default_rng(2)
    baseline = Baseline("c", 20, 1000, 100, 1000)
    assert _first_alarm(rng, baseline, (0.02, 0.4), 2000)["red flags"] < 150
    assert _first_alarm(rng, baseline, (0.02, 0.01), 2000)["red flags"] < 400


def test_much_more_agreement_than_expected_is_noticed_too() -> None:
    rng = np.random.default_rng(3)
    assert _first_alarm(rng, Baseline("c", 200, 1000, 0, 1000), (0.02, 0.0), 2000)["disagreement"] < 150


def test_each_kind_is_said_once_and_in_words() -> None:
    drift = Drift(Baseline("before", 10, 1000, 0, 1000), 3)
    [(kind, sentence)] = drift.hear(300, 1000, 0)
    assert kind == "disagreement"
    assert sentence.startswith("drift: 30.00% of the votes are against the winner so far, where before ")
    assert drift.hear(300, 1000, 0) == []
    again = Drift(Baseline("before", 10, 1000, 0, 1000), 3, frozenset({"disagreement"}))
    assert again.hear(300, 1000, 0) == []


def test_a_baseline_without_any_of_a_kind_still_serves() -> None:
    drift = Drift(Baseline("c", 0, 400, 0, 400), 1)
    assert drift.hear(0, 10_000, 0) == []
    assert [kind for kind, _ in drift.hear(4000, 10_000, 3000)] == ["disagreement", "red flags"]
