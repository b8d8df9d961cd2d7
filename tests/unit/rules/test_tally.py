"""First-to-ahead-by-k: the defects of peers (D1, ... of reference/peers.md), the order theorem, the law."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, cycle, islice, product
from math import sqrt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdap.rules.rungs import Ladder, Rung, exact
from mdap.rules.tally import RobustTally, Tally

Outcome = str | None  # a candidate, or None for a red flag
Outcomes = Callable[[int], Outcome]

TRIALS = 20_000
STANDARD_ERRORS = 4

candidates = st.sampled_from("ABCDEFGH")
races = st.lists(candidates, max_size=60) | st.lists(st.sampled_from("AB"), max_size=60)
margins = st.integers(1, 8)


def counted(k: int, votes: Iterable[str]) -> Tally:
    tally = Tally(k)
    for vote in votes:
        tally.add(vote)
    return tally


def naive_lead(votes: Iterable[str]) -> int:
    (_, first), (_, second) = [*Counter(votes).most_common(2), ("", 0), ("", 0)][:2]
    return first - second


# --- the stop rule, by example


def test_an_unopened_race_has_no_winner() -> None:
    """Before any vote there is no leader, no lead, and all of k is missing."""
    tally = Tally(3)
    assert (tally.winner, tally.leader, tally.lead, tally.shortfall) == (None, None, 0, 3)
    assert tally.votes == {}


def test_d1_first_to_k_does_not_decide() -> None:
    """D1: three votes are not a lead of three; A,B,A,B,A at k = 3 is undecided, and two more A decide it."""
    tally = counted(3, "ABABA")
    assert (tally.winner, tally.leader, tally.lead, tally.shortfall) == (None, "A", 1, 2)
    assert counted(3, "ABABAA").winner is None
    assert counted(3, "ABABAAA").winner == "A"


@pytest.mark.parametrize("votes", ["ABABAB", "AABBAB", "AABABB", "BAABBA"])
def test_d2_a_tie_does_not_decide(votes: str) -> None:
    """D2: three against three at k = 3 is undecided, with the whole margin still missing."""
    tally = counted(3, votes)
    assert tally.votes == {"A": 3, "B": 3}
    assert tally.winner is None
    assert (tally.lead, tally.shortfall) == (0, 3)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 10, 11, 100])
def test_d3_unanimity_decides_at_exactly_k(k: int) -> None:
    """D3 and D13: k equal votes decide, k - 1 do not, and no k is lowered to a ceiling."""
    almost, decided = counted(k, "A" * (k - 1)), counted(k, "A" * k)
    assert (almost.winner, almost.shortfall) == (None, 1)
    assert (decided.winner, decided.shortfall) == ("A", 0)
    assert decided.k == k


@given(st.integers(2, 20), st.data())
def test_d5_fewer_than_k_votes_never_decide(k: int, data: st.DataObject) -> None:
    """D5: no fast path accepts a race of fewer than k votes, of one kind or of several."""
    votes = data.draw(st.lists(candidates, max_size=k - 1) | st.integers(0, k - 1).map(lambda n: ["A"] * n))
    assert counted(k, votes).winner is None


@pytest.mark.parametrize("k", [0, -1, -100])
def test_a_margin_below_one_is_refused(k: int) -> None:
    """D13: a margin that cannot be used is refused, not raised to one that can."""
    with pytest.raises(ValueError, match=f"^the margin k must be at least 1, not {k}$"):
        Tally(k)


def test_the_lead_is_over_every_other_candidate() -> None:
    """Whichever other candidate is best holds the leader back: the newest, the oldest, or a third."""
    assert counted(2, "AAB").lead == 1
    assert counted(9, "AAABCCC").lead == 0
    assert counted(9, "AAABCCCCC").lead == 2
    assert counted(9, "AAABCCCCCBBB").lead == 1


def test_scattered_votes_do_not_hold_the_leader_back() -> None:
    """Ten wrong answers of one vote each are one vote's worth of opposition, not ten."""
    votes = ["A", *map(str, range(10)), "A", "A"]
    assert counted(3, votes).winner is None
    assert counted(3, [*votes, "A"]).winner == "A"


def test_the_loser_of_the_first_votes_can_win() -> None:
    """The lead counts at the end: B overtakes A and wins by k."""
    assert counted(3, "AABBBBB").winner == "B"
    assert counted(3, "AABBBB").winner is None


def test_among_equals_the_first_to_get_there_leads() -> None:
    """A level candidate does not take the lead; one more vote does."""
    tally = counted(5, "ABBA")
    assert tally.leader == "B"
    tally.add("A")
    assert tally.leader == "A"


def test_any_string_is_a_candidate() -> None:
    """The empty answer, and one that reads like none, are counted as any other."""
    assert counted(2, ["", ""]).winner == ""
    assert counted(2, ["None", "", "None", "None"]).winner == "None"
    assert counted(1, ["\ud800"]).votes == {"\ud800": 1}


# --- the stop rule, against a recount


@given(margins, races)
def test_a_race_is_what_a_recount_says(k: int, votes: list[str]) -> None:
    """At every prefix: same counts, same lead, same winner, and the leader is among those with most votes."""
    tally = Tally(k)
    for length, vote in enumerate(votes, 1):
        tally.add(vote)
        recount = Counter(votes[:length])
        assert tally.votes == recount
        assert tally.lead == naive_lead(votes[:length])
        assert tally.shortfall == k - tally.lead
        assert tally.leader is not None
        assert recount[tally.leader] == max(recount.values())
        assert tally.winner == (recount.most_common(1)[0][0] if tally.lead >= k else None)


@given(st.lists(st.integers(0, 200).map(str), max_size=300), margins)
def test_many_candidates_are_what_a_recount_says(votes: list[str], k: int) -> None:
    """Hundreds of candidates change nothing."""
    tally = counted(k, votes)
    assert tally.votes == Counter(votes)
    assert tally.lead == naive_lead(votes)


@given(races)
def test_one_vote_changes_the_lead_by_at_most_one(votes: list[str]) -> None:
    """The step on which the order theorem rests."""
    tally = Tally(5)
    before = 0
    for vote in votes:
        tally.add(vote)
        assert abs(tally.lead - before) <= 1
        before = tally.lead


@given(races, st.randoms(use_true_random=False))
def test_the_lead_does_not_depend_on_the_order(votes: list[str], rng: random.Random) -> None:
    """A race is judged by what was counted, not by when it came."""
    shuffled = rng.sample(votes, len(votes))
    one, other = counted(3, votes), counted(3, shuffled)
    assert (one.votes, one.lead, one.winner) == (other.votes, other.lead, other.winner)


# --- the order theorem (docstring of Tally)


def sequential(k: int, outcome: Outcomes) -> tuple[int, str]:
    """Take one sample after the other, recounting from scratch; return how many it took, and the winner."""
    votes: list[str] = []
    for ordinal in count():
        vote = outcome(ordinal)
        if vote is not None:
            votes.append(vote)
            if naive_lead(votes) >= k:
                return ordinal + 1, Counter(votes).most_common(1)[0][0]
    raise AssertionError


def concurrent(k: int, outcome: Outcomes, choose: Callable[[int], int]) -> tuple[list[int], str, list[int]]:
    """Keep as many samples in flight as the race is short of; `choose` says which of n comes next.

    Returns:
        The ordinals counted in the order they came, the winner, and the ordinals still in flight.
    """
    tally = Tally(k)
    in_flight: list[int] = []
    order: list[int] = []
    issued = 0
    while tally.winner is None:
        assert len(in_flight) <= tally.shortfall
        while len(in_flight) < tally.shortfall:
            in_flight.append(issued)
            issued += 1
        order.append(in_flight.pop(choose(len(in_flight))))
        vote = outcome(order[-1])
        if vote is not None:
            tally.add(vote)
    return order, tally.winner, in_flight


def then_unanimous(start: list[Outcome]) -> Outcomes:
    return lambda ordinal: start[ordinal] if ordinal < len(start) else "A"


def assert_order_does_not_matter(k: int, outcome: Outcomes, choose: Callable[[int], int]) -> None:
    samples, winner = sequential(k, outcome)
    order, same_winner, wasted = concurrent(k, outcome, choose)
    assert sorted(order) == list(range(samples))
    assert same_winner == winner
    assert wasted == []


@pytest.mark.slow
@given(
    margins,
    st.lists(st.sampled_from(["A", "B", "C", None]), max_size=40)
    | st.lists(st.none() | candidates, max_size=40),
    st.lists(st.integers(0, 7), max_size=60),
)
@example(3, ["B", "A", None, "B", "A"], [2, 2, 2, 0, 1])
def test_the_order_of_arrival_does_not_matter(k: int, start: list[Outcome], picks: list[int]) -> None:
    """Counted samples and winner are those of the sequential race; none is wasted, whatever comes first."""
    pick = chain(picks, cycle([0, 5, 1, 7]))
    assert_order_does_not_matter(k, then_unanimous(start), lambda n: next(pick) % n)


@given(margins, st.lists(st.sampled_from(["A", "B", None]), max_size=40), st.data())
def test_the_last_issued_may_always_come_first(k: int, start: list[Outcome], data: st.DataObject) -> None:
    """The two extreme orders: newest first, which starves the oldest as long as can be, and a mix by coin."""
    assert_order_does_not_matter(k, then_unanimous(start), lambda n: n - 1)
    coin = data.draw(st.randoms(use_true_random=False))
    assert_order_does_not_matter(k, then_unanimous(start), lambda n: coin.choice([0, n - 1]))


def all_orders(
    k: int, outcome: Outcomes, script: tuple[int, ...] = ()
) -> Iterator[tuple[list[int], str, list[int]]]:
    """Run the race once for every order of arrival that begins with the picks of *script*."""
    among: list[int] = []

    def choose(n: int) -> int:
        among.append(n)
        return script[len(among) - 1] if len(among) <= len(script) else 0

    yield concurrent(k, outcome, choose)
    for position in range(len(script), len(among)):
        zeros = (0,) * (position - len(script))
        for pick in range(1, among[position]):
            yield from all_orders(k, outcome, (*script, *zeros, pick))


@pytest.mark.parametrize(("k", "length"), [(1, 4), (2, 5), (3, 4)])
def test_every_order_of_every_short_race(k: int, length: int) -> None:
    """Exhaustive where Hypothesis samples: every outcome of the first samples, every order of arrival."""
    for start in product(["A", "B", None], repeat=length):
        outcome = then_unanimous(list(start))
        samples, winner = sequential(k, outcome)
        seen = set()
        for order, same_winner, wasted in all_orders(k, outcome):
            assert (sorted(order), same_winner, wasted) == (list(range(samples)), winner, [])
            seen.add(tuple(order))
        # While k samples are in flight, any of them may be the next to come.
        assert len(seen) >= k


# --- the law


def race(k: int, draw: Iterator[str]) -> tuple[str, int]:
    """Vote until there is a winner; return it and the number of votes."""
    tally = Tally(k)
    add = tally.add
    for votes in count(1):
        add(next(draw))
        if tally.winner is not None:
            return tally.winner, votes
    raise AssertionError


def draws(p: float, wrong: list[str], seed: int) -> Iterator[str]:
    """Draw independent votes: right with chance p, else one of *wrong* (D15: never the right ones first)."""
    rng = random.Random(seed)
    while True:
        yield "right" if rng.random() < p else rng.choice(wrong)


def law(p: float, k: int) -> float:
    return 1 / (1 + (p / (1 - p)) ** k)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("p", [0.6, 0.7, 0.8, 0.9])
def test_d4_and_d15_two_candidates_obey_the_law(p: float, k: int) -> None:
    """D4, D15: measured errors and votes of 20,000 races are within four standard errors of the formulas."""
    draw = draws(p, ["wrong"], seed=1000 * k + round(100 * p))
    winners, votes = zip(*(race(k, draw) for _ in range(TRIALS)), strict=True)

    error = law(p, k)
    measured = winners.count("wrong") / TRIALS
    assert abs(measured - error) <= STANDARD_ERRORS * sqrt(error * (1 - error) / TRIALS)

    expected = k * (1 - 2 * error) / (2 * p - 1)
    mean = sum(votes) / TRIALS
    variance = sum((n - mean) ** 2 for n in votes) / (TRIALS - 1)
    assert abs(mean - expected) <= STANDARD_ERRORS * sqrt(variance / TRIALS) + 1e-9


@pytest.mark.parametrize(
    "wrong",
    [list("BC"), list("BCDEFG"), list("BBBBBBBBCD")],
    ids=["two alike", "six alike", "one common, two rare"],
)
@pytest.mark.parametrize(("p", "k"), [(0.6, 2), (0.6, 3), (0.7, 2), (0.8, 2), (0.8, 3)])
def test_several_wrong_candidates_err_no_more_than_the_law(p: float, k: int, wrong: list[str]) -> None:
    """Wrong votes that scatter can only help: the law's single alternative is the worst case."""
    draw = draws(p, wrong, seed=7000 * k + round(100 * p) + len(wrong))
    errors = sum(race(k, draw)[0] != "right" for _ in range(TRIALS))
    error = law(p, k)
    assert errors / TRIALS <= error + STANDARD_ERRORS * sqrt(error * (1 - error) / TRIALS)


def test_wrong_answers_that_never_repeat_never_win() -> None:
    """With k = 2 and every wrong answer new, even a model that is mostly wrong decides rightly."""
    rng = random.Random(11)
    fresh = map(str, count())
    draw = ("right" if rng.random() < 0.3 else next(fresh) for _ in count())
    assert {race(2, draw)[0] for _ in range(2_000)} == {"right"}


def test_the_votes_drawn_here_are_not_right_first() -> None:
    """D15: the measure above would prove nothing if right votes came before wrong ones."""
    draw = list(islice(draws(0.7, ["wrong"], seed=3), TRIALS))
    first, second = draw[: TRIALS // 2].count("right"), draw[TRIALS // 2 :].count("right")
    assert abs(first - second) < STANDARD_ERRORS * sqrt(0.21 * TRIALS)


# --- the rule of -k robust

RUNGS = [
    Ladder(exact(floor), exact(budget), votes_decide=decides).first
    for floor, budget, decides in [(0.6, 0.05, True), (0.7, 0.3, True), (0.8, 0.1, True), (0.6, 0.05, False)]
]
ladder = Ladder(exact(0.7), exact(0.3), votes_decide=True)


def robust(rung: Rung, votes: Iterable[str]) -> RobustTally:
    tally = RobustTally(rung)
    for vote in votes:
        tally.add(vote)
    return tally


def test_every_vote_against_the_leader_counts_three_times() -> None:
    """m = 5: five votes decide; with one against it takes eight, with four 17; a fifth contests the step."""
    rung = RUNGS[0]
    assert rung[:3] == (5, 17, 5)
    for against, needed in ((0, 5), (1, 8), (4, 17)):
        tally = robust(rung, "B" * against + "A" * (needed - 1))
        assert (tally.winner, tally.shortfall) == (None, 1)
        tally.add("A")
        assert (tally.winner, tally.smooth, tally.contested) == ("A", True, False)
    tally = robust(rung, "BCDEF" + "A" * 17)
    assert (tally.winner, tally.contested, tally.shortfall) == (None, True, 1)
    tally.add("A")
    assert (tally.winner, tally.smooth) == ("A", False)


def test_a_contested_step_is_left_to_others_where_votes_do_not_decide_it() -> None:
    tally = robust(RUNGS[3], "AAABBBBB")
    assert (tally.stuck, tally.shortfall) == (False, 2)
    tally = robust(RUNGS[3], "AAABBBBB" + "AA")
    assert (tally.stuck, tally.winner, tally.shortfall) == (True, None, 0)
    assert "contested" in tally.no_winner(7, 10)


@given(st.sampled_from(RUNGS), st.lists(st.sampled_from("AAAAB"), max_size=60) | races)
def test_no_vote_brings_the_end_nearer_than_by_one(rung: Rung, votes: list[str]) -> None:
    """The shortfall is the fewest further votes that end the race, so in flight there is none too many."""
    tally = RobustTally(rung)
    for vote in votes:
        before = tally.shortfall
        tally.add(vote)
        assert tally.shortfall >= before - 1
        assert (tally.winner is not None or tally.stuck) == (tally.shortfall <= 0)
        if tally.shortfall <= 0:
            break


@given(st.sampled_from(RUNGS[:3]), st.lists(st.sampled_from("AAAAAAB"), max_size=40))
def test_the_shortfall_is_exact(rung: Rung, votes: list[str]) -> None:
    """So many votes for the leader end the race, and no fewer votes of any kind do."""
    tally = RobustTally(rung)
    for vote in votes:
        tally.add(vote)
        if tally.winner:
            return
    missing = tally.shortfall
    leader = tally.leader or "A"
    assert robust(rung, votes + [leader] * missing).winner == leader
    assert robust(rung, votes + [leader] * (missing - 1)).winner is None


@given(st.sampled_from([ladder.cheapest(exact(0.3) / 3**n) for n in range(1, 5)]), st.randoms(), races)
def test_arrival_and_the_time_of_a_raise_decide_nothing(
    rung: Rung, chance: random.Random, votes: list[str]
) -> None:
    """Sampled at the first rung, in any order, raised at any time: the same samples, the same winner."""
    votes = [*votes, *["A"] * 200]
    in_turn = RobustTally(rung)
    taken = 0
    while in_turn.winner is None:
        in_turn.add(votes[taken])
        taken += 1
    assert raced(ladder.first, rung, votes, chance) == (in_turn.votes, in_turn.winner, taken)


def raced(
    first: Rung, last: Rung, votes: list[str], chance: random.Random
) -> tuple[dict[str, int], str | None, int]:
    """Race with as many samples in flight as the shortfall allows, arriving at random."""
    tally, flying, asked, raised = RobustTally(first), list[int](), 0, False
    while True:
        if not raised and (chance.random() < 0.1 or (tally.winner and not flying)):
            tally.go_on_at(last)
            raised = True
        while len(flying) < tally.shortfall and chance.random() < 0.8:
            flying.append(asked)
            asked += 1
        if flying:
            tally.add(votes[flying.pop(chance.randrange(len(flying)))])
        elif tally.winner is not None and raised:
            return tally.votes, tally.winner, asked
