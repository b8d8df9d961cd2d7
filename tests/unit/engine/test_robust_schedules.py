"""What `-k robust` promises whatever the schedule: rungs, payments and decisions that follow from the steps.

`benchmarks/fire/schedules.py` runs the same properties over many thousands of schedules.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdap.engine.account import account_of
from mdap.engine.config import RunConfig
from mdap.records import Fact, RunStatus, SampleTaken
from mdap.rules.ledger import Ledger
from mdap.rules.tally import RobustTally
from mdap.settings import Robust, Speculate, Speculation, VotingSettings
from tests.driving import Choices, Drive
from tests.helpers import Log, Model, Walk, resume_point, rows_of
from tests.process_driving import Plan, ProcessDrive, process_point

EXAMPLES = 60

schedules = st.lists(st.integers(0, 39), max_size=300)
cuttings = st.lists(st.tuples(st.integers(0, 10**4), schedules), max_size=3)


def paid(facts: Sequence[Fact]) -> list[dict[str, Any]]:
    return [event.data or {} for event in rows_of(facts).events if event.kind == "paid"]


def rules_of(voting: VotingSettings, facts: Sequence[Fact], depth: int = 0, max_n: int = 1) -> RunConfig:
    speculation = Speculation(mode=Speculate.VOTE if depth else Speculate.OFF, depth=depth)
    account = account_of(1, voting.robust, paid(facts))
    return RunConfig(1, voting, speculation, max_n=max_n, account=account)


def voting_of(terms: Robust) -> VotingSettings:
    ladder = Ledger(terms).ladder
    return VotingSettings(k=ladder.first.margin, max_samples=300, temperatures=(0.1,), robust=terms)


def check_payments(facts: Sequence[Fact], terms: Robust) -> None:
    """Recount each race at the rung that follows from what was paid before its step, and each payment."""
    rows, payments = rows_of(facts), sorted(paid(facts), key=lambda one: int(one["step"]))
    steps = [one["step"] for one in payments]
    assert len(set(steps)) == len(steps), "nothing is paid twice"
    why = {one["step"]: one["why"] for one in payments}
    for decided in rows.decisions:
        rung = _ledger(terms, payments[: bisect_left(steps, decided.step)]).rung(decided.step)
        tally = RobustTally(rung)
        counted = [taken for taken in rows.samples[decided.step, decided.opening] if taken.counted]
        for taken in sorted(counted, key=lambda one: one.counted or 0):
            assert tally.winner is None, "counted after the decision"
            if taken.verdict == "vote":
                assert taken.text is not None
                tally.add(taken.text)
        assert (tally.winner, tally.votes) == (decided.winner, json.loads(decided.tally))
        assert tally.smooth or decided.step in why, "a step that is not smooth has paid"
        assert not tally.smooth or why.get(decided.step) in (None, "abandoned")
    for place, one in enumerate(payments):
        rung = _ledger(terms, payments[:place]).rung(one["step"])
        assert (one["price"], one["m"]) == (str(rung.price), rung.margin)
    assert _ledger(terms, payments).spent <= 1 - Fraction(repr(terms.target))


def _ledger(terms: Robust, payments: Sequence[dict[str, Any]]) -> Ledger:
    ledger = Ledger(terms)
    for one in payments:
        ledger.pay(Fraction(one["price"]))
    return ledger


models = st.builds(
    lambda seed, right, flagged: Model(Walk(seed=seed, steps=5), right=right, flagged=flagged),
    st.integers(0, 10**6),
    st.sampled_from([0.95, 0.8, 0.65]),
    st.sampled_from([0.0, 0.2]),
)


class Votes(NamedTuple):
    """What may depend on no schedule."""

    input: str
    winner: str
    tally: str
    samples: tuple[tuple[int, str | None], ...]


def votes(facts: Sequence[Fact]) -> list[Votes]:
    rows = rows_of(facts)
    found = []
    for decided in rows.decisions:
        place = (decided.step, decided.opening)
        counted = sorted((one.ordinal, one.text) for one in rows.samples[place] if one.counted)
        found.append(Votes(rows.steps[place].input, decided.winner, decided.tally, tuple(counted)))
    return found


def without_opening(payments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which opening of a step is right depends on what was guessed."""
    return [{**one, "opening": None} for one in payments]


# --- chains


def check_chain(
    model: Model, terms: Robust, choices: list[int], cuts: Sequence[tuple[int, list[int]]]
) -> None:
    """In any order, however far ahead, cut anywhere: the samples, decisions and payments of the plain run."""
    voting = voting_of(terms)
    plain = Drive(model, rules_of(voting, []), Choices([]))
    plain.run()
    kept: list[Fact] = []
    for cut, later in [*cuts, (-1, [])]:
        driven = Drive(model, rules_of(voting, kept, depth=3), Choices(choices), Log(kept))
        race = driven.run(resume_point(kept))
        kept = driven.kept(cut) if cut >= 0 else driven.journal.facts
        choices = later
    assert race.decider.status is RunStatus.FINISHED
    assert votes(kept) == votes(plain.journal.facts)
    assert without_opening(paid(kept)) == without_opening(paid(plain.journal.facts))
    check_payments(kept, terms)


terms = st.builds(Robust, target=st.sampled_from([0.5, 0.8]), length=st.sampled_from([5, None]))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(models, terms, schedules, cuttings)
def test_no_schedule_changes_what_a_chain_decides_and_pays(
    model: Model, terms: Robust, choices: list[int], cuts: list[tuple[int, list[int]]]
) -> None:
    check_chain(model, terms, choices, cuts)


# --- processes


def check_process(
    model: Model, terms: Robust, nodes: int, choices: list[int], cuts: Sequence[tuple[int, list[int]]]
) -> Counter[str]:
    """Whoever leaves and asks again, cut anywhere: it ends, within its budget, each rung as it must be."""
    voting = voting_of(terms)
    kept: list[Fact] = []
    for cut, later in [*cuts, (-1, [])]:
        rules = rules_of(voting, kept)
        driven = ProcessDrive(model, rules, Choices(choices), Log(kept), plan=Plan(nodes, model.task.seed))
        race = driven.solve(process_point(kept))
        kept = driven.kept(cut) if cut >= 0 else driven.journal.facts
        choices = later
    assert race.decider.status is RunStatus.FINISHED
    taken = Counter((fact.step, fact.opening, fact.ordinal) for fact in kept if isinstance(fact, SampleTaken))
    assert set(taken.values()) <= {1}
    check_payments(kept, terms)
    return Counter(one["why"] for one in paid(kept))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(models, terms, st.integers(1, 8), schedules, cuttings)
def test_a_process_keeps_its_budget_whatever_the_schedule(
    model: Model, terms: Robust, nodes: int, choices: list[int], cuts: list[tuple[int, list[int]]]
) -> None:
    check_process(model, terms, nodes, choices, cuts)


@pytest.mark.slow
def test_who_leaves_a_step_with_votes_makes_it_pay() -> None:
    """Among many schedules in which askers leave, some steps pay because nobody waits for them."""
    whys: Counter[str] = Counter()
    for seed in range(15):
        model = Model(Walk(seed=seed), right=0.7)
        choices = [(seed * 7919 + place * 104729) % 40 for place in range(400)]
        whys += check_process(model, Robust(target=0.5), 8, choices, [(seed * 31, choices[::-1])])
    assert whys["abandoned"] > 0
    assert whys["contested"] > 0


@pytest.mark.parametrize("nodes", [8])
def test_what_nobody_asked_for_again_is_passed_over(nodes: int) -> None:
    """A resumed process whose plan is shorter does not wait for the steps that it had asked before."""
    model, terms = Model(Walk(seed=3), right=0.7), Robust(target=0.5)
    voting = voting_of(terms)
    first = ProcessDrive(model, rules_of(voting, []), Choices([5] * 60), Log(), plan=Plan(nodes, 3))
    first.solve()
    kept = first.kept(30)
    rules = rules_of(voting, kept)
    again = ProcessDrive(model, rules, Choices([]), Log(kept), plan=Plan(nodes - 5, 3))
    assert again.solve(process_point(kept)).decider.status is RunStatus.FINISHED
    check_payments(again.journal.facts, terms)
