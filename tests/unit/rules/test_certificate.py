"""The certificate: what the votes say of how many decisions are wrong, and of which."""

import math

import numpy as np
import pytest

from mdap.records import TallyShape
from mdap.rules.certificate import certify, doubts, error_upper_bound
from mdap.rules.scaling import expected_votes, race_length, run_success
from tests.laws import races, shapes_of, spread_races


def test_no_votes_and_no_margin_say_nothing() -> None:
    assert certify([]) is None
    assert certify([TallyShape(1, 0, 1, 1000)]) is None


def test_many_votes_leave_the_law_at_their_rate() -> None:
    """With a million steps hardly any doubt is left of p, and the certificate is the law."""
    rng = np.random.default_rng(1)
    _, votes = races(rng, np.full(1_000_000, 0.01), 3)
    made = certify(shapes_of(votes, 3))
    assert made is not None
    assert made.error_rate_low < 0.01 < made.error_rate_high
    assert made.p_zero_errors == pytest.approx(run_success(made.error_rate, 3, 1_000_000), abs=0.02)
    assert made.expected_errors == pytest.approx(-math.log(made.p_zero_errors), rel=0.05)
    assert made.p_hard < 0.01
    assert made.dispersion == pytest.approx(1, abs=0.05)
    assert made.warnings == ()


def test_few_votes_leave_doubt() -> None:
    """Where no vote was ever against a winner, a few steps prove less than many."""
    few, many = certify([TallyShape(3, 0, 3, 30)]), certify([TallyShape(3, 0, 3, 30_000)])
    assert few is not None
    assert many is not None
    assert many.error_rate_high < few.error_rate_high / 100
    assert few.p_zero_errors < 0.999
    # Per step, that is: the long run has a thousand times as many.
    assert many.expected_errors / 30_000 < few.expected_errors / 30 / 100


@pytest.mark.slow
def test_the_certificate_is_calibrated() -> None:
    """Of runs that are certified with a chance, that share has no error, and no certificate is too bold."""
    rng = np.random.default_rng(2)
    claimed, happened = [], []
    for _ in range(400):
        rate = rng.choice([0.05, 0.1, 0.2])
        k = int(rng.choice([2, 3, 4]))
        wrong, votes = races(rng, np.full(300, rate), k)
        made = certify(shapes_of(votes, k))
        assert made is not None
        claimed.append(made.p_zero_errors)
        happened.append(not wrong.any())
    bins = np.digitize(claimed, [0.2, 0.5, 0.8])
    for part in range(4):
        inside = bins == part
        said, seen = np.mean(np.array(claimed)[inside]), np.mean(np.array(happened)[inside])
        spread = 3 * math.sqrt(0.25 / inside.sum())
        assert abs(said - seen) < spread + 0.05, (part, said, seen)
    assert np.mean(claimed) < np.mean(happened) + 0.03
    # Always claiming the average would score 0.25 or little less.
    assert np.mean((np.array(claimed) - np.array(happened)) ** 2) < 0.17


@pytest.mark.slow
def test_hard_steps_are_found_and_widen_it() -> None:
    """With one step in fifty hard, almost every run is warned of, and hardly any is called faultless."""
    found = []
    errors = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        hard = rng.random(1000) < 0.02
        wrong, votes = races(rng, np.where(hard, 0.4, 0.01), 5)
        made = certify(shapes_of(votes, 5))
        assert made is not None
        found.append(made)
        errors += int(wrong.sum())
    assert sum("hard" in "".join(made.warnings) for made in found) >= 17
    assert 0.01 < np.mean([made.hard_share for made in found]) < 0.03
    assert np.mean([made.p_zero_errors for made in found]) < 0.15
    assert sum(made.expected_errors for made in found) < 5 * errors
    assert min(made.dispersion or 0 for made in found) > 1.15
    assert sum(made.expected_errors for made in found) > errors / 5


@pytest.mark.parametrize(
    ("steps", "share", "hard", "easy", "k"),
    [
        (2000, 0.005, 0.3, 0.0022, 3),
        (1000, 0.02, 0.4, 0.001, 5),
        (300, 0.02, 0.45, 0.001, 8),
        (500, 0, 0, 0.1, 4),
    ],
)
def test_it_claims_no_more_than_is_so_where_each_step_is_right_more_often_than_wrong(
    steps: int, share: float, hard: float, easy: float, k: int
) -> None:
    claimed, true = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rates = np.where(rng.random(steps) < share, hard, easy)
        _, votes = races(rng, rates, k)
        made = certify(shapes_of(votes, k))
        assert made is not None
        claimed.append(made.p_zero_errors)
        true.append(math.exp(-np.log1p((rates / (1 - rates)) ** k).sum()))
    assert np.mean(claimed) < np.mean(true) + 0.05


def hidden(easy: list[TallyShape], k: int, p: float) -> float:
    """The mean claim where one more step is right with *p* only, over how its votes may fall."""
    lead, lengths = np.zeros(2 * k + 1), []
    lead[k] = 1.0
    for votes in range(1, 200 * k):
        lead[1:-1], lead[0], lead[-1] = p * lead[:-2] + (1 - p) * lead[2:], (1 - p) * lead[1], p * lead[-2]
        if (ended := lead[0] + lead[-1]) > 1e-4:
            lengths.append((votes, ended))
        lead[[0, -1]] = 0.0
    claims = 0.0
    for votes, chance in lengths:
        made = certify([*easy, *shapes_of(np.array([votes]), k)])
        assert made is not None
        claims += chance * made.p_zero_errors
    return claims


@pytest.mark.parametrize("p", [0.51, 0.6, 0.8])
@pytest.mark.parametrize(
    ("easy", "k"),
    [
        ([TallyShape(3, 0, 3, 9)], 3),
        ([TallyShape(3, 0, 3, 970), TallyShape(4, 1, 5, 28), TallyShape(5, 2, 7, 1)], 3),
        ([TallyShape(4, 0, 4, 95), TallyShape(5, 1, 6, 4)], 4),
    ],
)
def test_a_single_hard_step_is_not_claimed_too_much_for(easy: list[TallyShape], k: int, p: float) -> None:
    """However hard it is above 1/2, and though it often looks like the others."""
    assert hidden(easy, k, p) < 1 / (1 + ((1 - p) / p) ** k) + 0.05


def test_a_step_that_stands_out_takes_the_claim_with_it() -> None:
    """Three votes against the winner at k = 3, where the others have none; a long uneven run expects them."""
    easy = [TallyShape(3, 0, 3, 299)]
    calm, divided = certify(easy), certify([*easy, TallyShape(6, 3, 9, 1)])
    assert calm is not None
    assert divided is not None
    assert calm.p_zero_errors > 0.99
    assert divided.p_zero_errors < 0.01
    assert "1 step is far more divided than the others" in divided.warnings[-1]
    _, votes = races(np.random.default_rng(1), np.full(1000, 0.1), 3)
    uneven = certify(shapes_of(votes, 3))
    assert uneven is not None
    assert uneven.warnings == ()
    assert uneven.p_zero_errors == pytest.approx(run_success(0.1, 3, 1000), abs=0.1)


@pytest.mark.parametrize(("steps", "k", "floor"), [(300, 3, 0.5), (10_000, 3, 0.55), (10_000, 6, 0.5)])
def test_it_says_from_which_p_on_it_claims_not_too_much(steps: int, k: int, floor: float) -> None:
    """Above 1/2 where a step at p = 1/2 can hide: in a long run, at a small k."""
    _, votes = races(np.random.default_rng(1), np.full(steps, 0.01), k)
    made = certify(shapes_of(votes, k))
    assert made is not None
    assert made.floor == pytest.approx(floor)
    if floor > 0.5:
        assert made.condition == "if every step is right in at least 0.55 of its valid samples"


def test_it_cannot_see_a_step_that_is_wrong_more_often_than_right() -> None:
    """What its warning says: with right and wrong exchanged, the same tallies are as likely."""
    shapes = [TallyShape(3, 0, 3, 990), TallyShape(4, 1, 5, 10)]
    made = certify(shapes)
    assert made is not None
    assert made.p_zero_errors > 0.5  # though all ten may be steps on which most votes are wrong


@pytest.mark.slow
def test_independent_errors_are_seldom_called_hard() -> None:
    warned = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, votes = races(rng, np.full(500, [0.01, 0.1, 0.3][seed % 3]), 4)
        made = certify(shapes_of(votes, 4))
        assert made is not None
        warned += "hard" in "".join(made.warnings)
    assert warned <= 4  # 2 %


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_wrong_votes_that_differ_are_no_sign_of_hard_steps(rate: float) -> None:
    for seed in range(5):
        errors, shapes = spread_races(np.random.default_rng(seed), 400, (rate, 0.0), 5)
        made = certify(shapes)
        assert made is not None
        assert errors == 0
        assert made.warnings == ()
        assert made.p_zero_errors > 0.85
        assert made.error_rate == pytest.approx(rate, rel=0.35)


def test_wrong_votes_that_agree_where_others_differ_are_one() -> None:
    """With a vote of twenty wrong, steps on which wrong votes agree stand out all the same."""
    warned = 0
    for seed in range(6):
        errors, shapes = spread_races(np.random.default_rng(seed), 1000, (0.05, 0.02), 5)
        made = certify(shapes)
        assert made is not None
        assert errors > 5
        assert made.p_zero_errors < 0.95
        warned += bool(made.warnings)
    assert warned >= 3


def test_the_doubtful_tallies_hold_the_errors() -> None:
    """Among the most doubtful 5 % of steps are far more of the true errors than 5 %."""
    found = every = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        hard = rng.random(1000) < 0.02
        wrong, votes = races(rng, np.where(hard, 0.8, 0.01), 3)
        doubt = {shape.total: p_wrong for shape, p_wrong in doubts(shapes_of(votes, 3))}
        order = np.argsort([-doubt[int(total)] for total in votes], kind="stable")[:50]
        found += wrong[order].sum()
        every += wrong.sum()
    assert found > 0.3 * every


def test_doubts_come_in_order_and_add_up() -> None:
    shapes = [TallyShape(3, 0, 3, 900), TallyShape(4, 1, 5, 90), TallyShape(9, 6, 15, 1)]
    made, found = certify(shapes), doubts(shapes)
    assert made is not None
    assert [shape.total for shape, _ in found] == [15, 5, 3]
    assert sum(shape.steps * p_wrong for shape, p_wrong in found) == pytest.approx(made.expected_errors)


def test_a_known_answer_leaves_no_two_readings() -> None:
    """Where the truth is known, a majority for the wrong answer is a wrong majority."""
    from mdap.rules.hardness import posterior

    belief = posterior([TallyShape(8, 0, 8, 98, known=True), TallyShape(0, 8, 8, 2, known=True)])
    assert belief.p_hard > 0.999
    assert 0.005 < belief.hard_share < 0.1
    assert belief.error_rate(0.025)[0] < 0.02 < belief.error_rate(0.975)[0]


def test_several_wrong_answers_count_as_against() -> None:
    """A tally of three answers is read with all but the winner wrong, or all but the runner-up."""
    spread, one = certify([TallyShape(5, 2, 9, 100)]), certify([TallyShape(5, 2, 7, 100)])
    assert spread is not None
    assert one is not None
    assert spread.error_rate > one.error_rate


@pytest.mark.parametrize(("wrong", "votes"), [(0, 100), (3, 400), (50, 100)])
def test_the_upper_bound_is_clopper_and_pearsons(wrong: int, votes: int) -> None:
    from scipy.stats import binom

    assert binom.cdf(wrong, votes, error_upper_bound(wrong, votes)) == pytest.approx(0.05)


def test_all_wrong_has_no_upper_bound() -> None:
    assert error_upper_bound(4, 4) == 1.0


@pytest.mark.parametrize(("rate", "k"), [(0.0, 3), (0.05, 3), (0.3, 4), (0.49999, 5), (0.5, 5)])
def test_the_length_of_a_race_has_the_moments_of_the_law(rate: float, k: int) -> None:
    _, votes = races(np.random.default_rng(5), np.full(50_000, rate), k)
    mean, variance = race_length(rate, k)
    assert mean == expected_votes(rate, k)
    assert votes.mean() == pytest.approx(mean, rel=0.02)
    assert votes.var() == pytest.approx(variance, rel=0.04, abs=1e-9)
