"""What the engines promise whatever the schedule: voting, processes, and all schedules of a small chain.

`benchmarks/fire/schedules.py` runs the same properties over many thousands of schedules.
"""

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdap.engine.config import RunConfig
from mdap.engine.voting import Race
from mdap.records import AttemptFailed, Decided, Fact, Reply, RunStatus, SampleTaken
from mdap.settings import VotingSettings
from mdap.tasks import RedFlag, Step
from tests.driving import Choices
from tests.helpers import Log, Model, Walk, mostly_slow, rows_of
from tests.model_check import explored
from tests.process_driving import Plan, ProcessDrive, process_point, recount_process, winners

EXAMPLES = 150

schedules = st.lists(st.integers(0, 39), max_size=160)


# --- voting


def read_letter(text: str) -> str:
    if text == "!":
        raise RedFlag("no letter")
    return text


def law(answers: list[str], k: int, most: int) -> str | None:
    """First-to-ahead-by-k, as the paper has it: the winner among the replies in the order of counting."""
    tally: Counter[str] = Counter()
    for answer in answers[:most]:
        if answer != "!":
            tally[answer] += 1
            first, second = [*(count for _, count in tally.most_common(2)), 0, 0][:2]
            if first - second >= k:
                return tally.most_common(1)[0][0]
    return None


def check_voting(k: int, most: int, coming: list[tuple[int, str]]) -> None:
    """P1 and P5: the winner is that of the law over what was counted, or there is none, visibly."""
    config = RunConfig(1, VotingSettings(k=k, max_samples=most), task="letters")
    race = Race(config, 0, Step("?", read_letter), None)
    flight: list[int] = []
    counted: list[str] = []
    for place, answer in coming:
        flight += [ordinal for request in race.wanted(1, 0) for ordinal in request.ordinals]
        assert len(flight) == len(set(flight)) <= race.tally.shortfall
        if not flight:
            break
        ordinal = flight.pop(place % len(flight))
        if answer == "?":
            race.give_back((ordinal,))
            continue
        counted.append(answer)
        race.count(race.judge(Reply(answer, "toy")).answer)
        assert len(counted) <= most
        expected = law(counted, k, most)
        assert race.winner == (None if expected is None else f'"{expected}"')
        assert race.exhausted is (expected is None and len(counted) == most)
        if race.winner is not None or race.exhausted:
            assert race.wanted(1, 0) == []
            assert flight == [] or race.exhausted is False
            break


votings = st.tuples(
    st.integers(1, 5),
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("AABC!?")), max_size=60),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(votings)
def test_the_winner_of_a_race_is_that_of_the_law(voting: tuple[int, int, list[tuple[int, str]]]) -> None:
    """Whatever comes when, and is given back: first to ahead by k, never by less, never a plurality."""
    k, more, coming = voting
    check_voting(k, k + more, coming)


# --- processes


class Case(NamedTuple):
    model: Model
    plan: Plan
    voting: VotingSettings
    max_n: int
    choices: list[int]

    def drive(self, facts: list[Fact] | None = None, choices: list[int] | None = None) -> ProcessDrive:
        chosen = Choices(self.choices if choices is None else choices)
        rules = RunConfig(1, self.voting, max_n=self.max_n)
        return ProcessDrive(self.model, rules, chosen, Log(facts or []), plan=self.plan)

    def in_order(self) -> ProcessDrive:
        """The same, each reply in the order of asking, and nobody leaves."""
        return ProcessDrive(self.model, RunConfig(1, self.voting), Choices([]), plan=self.plan)


@st.composite
def cases(draw: st.DrawFn, *, most: bool = True) -> Case:
    seed, k = draw(st.integers(0, 10**6)), draw(st.integers(1, 4))
    model = Model(
        Walk(seed=seed),
        right=draw(st.sampled_from([0.95, 0.7, 0.5])),
        flagged=draw(st.sampled_from([0.0, 0.1, 0.4])),
        rejected=draw(st.sampled_from([0.0, 0.0, 0.05])) if most else 0.0,
    )
    allowed = draw(st.sampled_from([None, None, 2 * k + 2])) if most else None
    voting = VotingSettings(k=k, max_samples=allowed)
    plan = Plan(draw(st.integers(1, 8)), seed)
    return Case(model, plan, voting, draw(st.sampled_from([1, 1, 2, 5])), draw(schedules))


def check_process(case: Case) -> None:
    """P1, P2, P5: the decisions are those in order, each sample has one row, and none is beyond the bound."""
    plain, driven = case.in_order(), case.drive()
    expected, race = plain.solve(), driven.solve()

    k, facts = case.voting.k, driven.journal.facts
    first, second = recount_process(plain.journal.facts, k), recount_process(facts, k)
    assert race.decider.status is expected.decider.status
    if race.decider.status is RunStatus.FINISHED:
        assert second == first
        assert race.result == expected.result
    else:
        of = {vote.prompt: vote for vote in first}
        assert all(of.get(vote.prompt, vote) == vote for vote in second), "not the decision it has in order"
    taken = [fact for fact in facts if isinstance(fact, SampleTaken)]
    assert Counter((fact.step, fact.opening, fact.ordinal) for fact in taken) == driven.came
    assert set(driven.came.values()) <= {1}
    assert sum(isinstance(fact, AttemptFailed) for fact in facts) == driven.failures
    for samples in rows_of(facts).samples.values():
        assert len(samples) <= case.voting.samples_allowed


@settings(max_examples=EXAMPLES, deadline=None)
@given(cases())
def test_no_schedule_changes_what_a_process_decides(case: Case) -> None:
    """Whoever asks when, leaves and asks again; whatever comes when: the same answers on the same votes."""
    check_process(case)


def check_cut_process(case: Case, cuts: list[tuple[int, list[int]]]) -> None:
    """P3: cut at any commit and gone on with, it decides the same, nothing twice, and buys no row again."""
    end = case.in_order()
    expected = end.solve()
    kept: list[Fact] = []
    choices = case.choices
    for cut, later in [*cuts, (-1, [])]:
        driven = case.drive(kept, choices)
        race = driven.solve(process_point(kept))
        had = {fact[:3] for fact in kept if isinstance(fact, Decided)}
        places = {(fact.step, fact.opening, fact.ordinal) for fact in kept if isinstance(fact, SampleTaken)}
        assert not places & set(driven.came), "a sample on record was bought again"
        assert had <= {fact[:3] for fact in driven.journal.facts if isinstance(fact, Decided)}
        winners(driven.journal.facts)
        if cut >= 0:
            kept = driven.kept(cut)
        choices = later
    assert race.decider.status is expected.decider.status
    assert recount_process(driven.journal.facts, case.voting.k) == recount_process(
        end.journal.facts, case.voting.k
    )


cuttings = st.lists(st.tuples(st.integers(0, 10**4), schedules), max_size=3)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(cases(most=False), cuttings)
def test_a_process_that_is_cut_anywhere_ends_as_if_it_was_not(
    case: Case, cuts: list[tuple[int, list[int]]]
) -> None:
    """Kept up to any commit, with what was in flight lost, again and again."""
    check_cut_process(case, cuts)


# --- every interleaving of a small chain


@pytest.mark.parametrize(("k", "steps", "mode", "most"), mostly_slow([(1, 3, "guess", 2), (2, 3, "vote", 3)]))
def test_speculation_commits_only_what_was_decided(k: int, steps: int, mode: str, most: int) -> None:
    """Whatever comes in whatever order, and wherever it is cut: no decision rests on a guess."""
    found = explored(k=k, steps=steps, mode=mode, most=most)

    assert found.ends > 100
    assert found.states > 300
    assert found.voided > 0
