"""A chain's window of races, driven by hand: whatever comes when, the decisions are those of a queue."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdap.engine.chain import ChainPolicy
from mdap.engine.config import RunConfig
from mdap.engine.recording import Opening, OpeningStatus
from mdap.engine.scheduler import Came, Failed, GaveUp
from mdap.errors import PluginError, RejectedError, TransientError, UnavailableError
from mdap.records import (
    AttemptFailed,
    Decided,
    Fact,
    Reply,
    ResumePoint,
    RunEvent,
    RunStatus,
    SampleRequest,
    SampleTaken,
    StepOpened,
    StepResolved,
)
from mdap.settings import Speculate, Speculation, VotingSettings
from mdap.tasks import RedFlag, Step
from tests.driving import Choices, Drive
from tests.helpers import NEW, Log, Model, Walk, recount, resume_point, rows_of

OFF = Speculation()
EXAMPLES = 150


schedules = st.lists(st.integers(0, 39), max_size=120)


class Case(NamedTuple):
    model: Model
    voting: VotingSettings
    speculation: Speculation
    max_n: int
    choices: list[int]

    def drive(self, journal: Log | None = None, choices: Sequence[int] | None = None) -> Drive:
        rules = RunConfig(1, self.voting, self.speculation, self.max_n)
        chosen = Choices(self.choices if choices is None else choices)
        return Drive(self.model, rules, chosen, journal if journal is not None else Log())

    def sequential(self) -> Drive:
        """The same task without speculation, one request a sample, replies in the order of asking."""
        return Drive(self.model, RunConfig(1, self.voting, OFF), Choices([]))


@st.composite
def cases(draw: st.DrawFn, rejecting: bool = True) -> Case:
    seed = draw(st.integers(0, 10**6))
    task = Walk(steps=draw(st.integers(1, 7)), seed=seed, counted_beforehand=draw(st.booleans()))
    model = Model(
        task,
        right=draw(st.sampled_from([0.95, 0.7, 0.5])),
        flagged=draw(st.sampled_from([0.0, 0.1, 0.4])),
        rejected=draw(st.sampled_from([0.0, 0.0, 0.05])) if rejecting else 0.0,
    )
    k = draw(st.integers(1, 4))
    most = draw(st.sampled_from([None, None, None, k, 2 * k + 2]))
    mode = draw(st.sampled_from(Speculate))
    depth = 0 if mode is Speculate.OFF else draw(st.sampled_from([1, 2, 3, 16]))
    return Case(
        model,
        VotingSettings(k=k, max_samples=most),
        Speculation(mode=mode, depth=depth),
        draw(st.sampled_from([1, 1, 2, 5])),
        draw(schedules),
    )


# --- whatever the schedule


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(cases())
def test_no_schedule_and_no_speculation_changes_what_is_decided(case: Case) -> None:
    """Winners, tallies, counted samples, digests and how the run ends are those of the sequential run."""
    plain, driven = case.sequential(), case.drive()
    expected, policy = plain.run(), driven.run()

    assert recount(driven.journal.facts, case.voting.k) == recount(plain.journal.facts, case.voting.k)
    assert (policy.decider.status, policy.decider.reason) == (
        expected.decider.status,
        expected.decider.reason,
    )
    if policy.decider.status is RunStatus.FINISHED:
        assert policy.state == expected.state
    if not driven.failures:  # how many attempts a sample took is part of the record
        assert policy.decider.digest == expected.decider.digest
    assert policy.decider.progress.steps == len(rows_of(driven.journal.facts).decisions)


def place_of(sample: SampleTaken) -> tuple[int, int, int]:
    return sample.step, sample.opening, sample.ordinal


def assert_each_sample_has_one_row(driven: Drive, policy: ChainPolicy) -> None:
    taken = driven.journal.of(SampleTaken)
    assert Counter(map(place_of, (fact for fact in taken if fact.text is not None))) == driven.came
    assert Counter(map(place_of, (fact for fact in taken if fact.text is None))) == driven.given_up
    assert {1} == {*driven.came.values(), *driven.given_up.values(), 1}
    assert not driven.came.keys() & driven.given_up.keys()
    assert len(driven.journal.of(AttemptFailed)) == driven.failures == policy.decider.progress.failed_attempts
    rows = rows_of(driven.journal.facts)
    assert sum(len(samples) for samples in (*rows.samples.values(), *rows.pending.values())) == len(taken)
    if policy.decider.status is RunStatus.FINISHED:
        assert not any(rows.pending.values())
        assert not driven.flight
        samples = [sample for samples in rows.samples.values() for sample in samples]
        verdicts = Counter(sample.verdict for sample in samples if sample.text is not None)
        counters = (policy.decider.progress.votes, policy.decider.progress.red_flags)
        assert counters == (verdicts["vote"], verdicts["flag"])
        assert driven.rules.voting.hedge or policy.decider.progress.void == verdicts["void"]


@settings(max_examples=EXAMPLES, deadline=None)
@given(cases())
def test_every_sample_that_came_has_one_row(case: Case) -> None:
    """P2: one fact for each sample that came or was given up once sent, none for one that never was."""
    driven = case.drive()
    assert_each_sample_has_one_row(driven, driven.run())


@settings(max_examples=EXAMPLES, deadline=None)
@given(cases(), st.integers(1, 3))
def test_hedging_keeps_the_rule_and_the_record(case: Case, hedge: int) -> None:
    """With more in flight than needed, a lead of k still decides, and what was surplus is on record."""
    hedged = case._replace(voting=VotingSettings(**{**case.voting.model_dump(), "hedge": hedge}))
    driven = hedged.drive()
    policy = driven.run()

    assert_each_sample_has_one_row(driven, policy)
    decisions = recount(driven.journal.facts, case.voting.k, hedged=True)
    assert len(decisions) == policy.decider.progress.steps


@settings(max_examples=EXAMPLES, deadline=None)
@given(cases())
def test_every_guess_is_resolved_once(case: Case) -> None:
    """An opening on a guessed input is confirmed or voided once; only confirmed ones are decided."""
    driven = case.drive()
    policy = driven.run()

    facts = driven.journal.facts
    resolved = Counter(fact[1:3] for fact in driven.journal.of(StepResolved))
    guessed = {fact[1:3] for fact in driven.journal.of(SampleTaken) if fact.tentative}
    assert set(resolved.values()) <= {1}
    if policy.decider.status is RunStatus.FINISHED:
        assert guessed <= set(resolved)
    wrong = {fact[1:3] for fact in driven.journal.of(StepResolved) if not fact.confirmed}
    decided = {(fact.step, fact.opening) for fact in driven.journal.of(Decided)}
    assert not wrong & decided
    # A resolution is final: afterwards, samples of a confirmed input count, those of a wrong one are void.
    settled: dict[tuple[int, int], bool] = {}
    for fact in facts:
        if isinstance(fact, StepResolved):
            settled[fact.step, fact.opening] = fact.confirmed
        elif isinstance(fact, SampleTaken) and (fact.step, fact.opening) in settled:
            assert not fact.tentative
            assert (fact.verdict == "void") is (not settled[fact.step, fact.opening])
            assert (fact.counted is None) is (fact.verdict == "void")
            assert (fact.text is not None) or fact.verdict == "void"
    if case.speculation.depth == 0:
        assert not resolved
        assert not guessed
        assert "void" not in {fact.verdict for fact in driven.journal.of(SampleTaken)}


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(cases(), st.lists(st.tuples(st.integers(0, 10**4), schedules), max_size=3))
def test_a_run_that_is_cut_anywhere_ends_as_if_it_was_not(
    case: Case, cuts: list[tuple[int, list[int]]]
) -> None:
    """P3: keep the facts up to any commit, lose what is in flight, go on: the same decisions, none twice."""
    expected = case.sequential()
    end = expected.run()
    kept: list[Fact] = []
    choices = case.choices
    for cut, later in cuts:
        driven = case.drive(Log(kept), choices)
        driven.run(resume_point(kept))
        kept = driven.kept(cut)
        choices = later
    last = case.drive(Log(kept), choices)
    policy = last.run(resume_point(kept))

    assert recount(last.journal.facts, case.voting.k) == recount(expected.journal.facts, case.voting.k)
    assert (policy.decider.status, policy.decider.reason) == (end.decider.status, end.decider.reason)
    if not any(isinstance(fact, AttemptFailed) for fact in last.journal.facts):
        assert policy.decider.digest == end.decider.digest
    decided = len(rows_of(last.journal.facts).decisions) - len(rows_of(kept).decisions)
    assert policy.decider.progress.steps == decided
    if policy.decider.status is RunStatus.FINISHED:
        rows = rows_of(last.journal.facts)
        assert policy.state == end.state
        assert not any(rows.pending.values())
        verdicts = Counter(sample.verdict for samples in rows.samples.values() for sample in samples)
        counted = [len(decision.samples) for decision in recount(last.journal.facts, case.voting.k)]
        assert verdicts["vote"] + verdicts["flag"] == sum(counted)


@settings(max_examples=100, deadline=None)
@given(cases(rejecting=False), st.integers(0, 200))
def test_a_resumed_run_asks_again_only_for_what_it_lost(case: Case, cut: int) -> None:
    """P3: samples whose rows were committed are not bought twice."""
    first = case.drive()
    first.run()
    kept = first.kept(cut)
    second = case.drive(Log(kept), [])
    second.run(resume_point(kept))

    was = {place_of(fact) for fact in kept if isinstance(fact, SampleTaken)}
    assert not was & set(second.came)


# --- one thing at a time


class Count(Walk):
    """Counts up from 0: the right answer to every step is 1, and a state tells what was decided."""

    def step(self, state: tuple[int, int]) -> Step[int] | None:
        return Step(user=f"{state}", parse=self.read)

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        return (state[0] + 1, state[1] * 10 + answer)

    def guess(self, state: tuple[int, int]) -> int | None:
        return 1


class Hand:
    """A policy driven reply by reply: `say` answers the oldest request of a step."""

    def __init__(self, task: Walk, *, k: int = 2, mode: str = "off", depth: int = 2, **rules: Any) -> None:
        self.log = Log()
        speculation = Speculation(mode=Speculate(mode), depth=0 if mode == "off" else depth)
        told = RunConfig(1, VotingSettings(k=k), speculation, models=("toy",), task="count", **rules)
        self.policy = ChainPolicy(task, told, self.log)
        self.flight: list[tuple[Opening, SampleRequest]] = []

    def begin(self, point: ResumePoint = NEW) -> "Hand":
        self.policy.begin(point)
        self.ask()
        return self

    def ask(self, sent: bool = True) -> None:
        for opening, request in self.policy.decider.wanted():
            request.trace.sent = sent
            self.flight.append((opening, request))

    def oldest(self, step: int) -> tuple[Opening, SampleRequest]:
        asked = next(
            asked
            for asked in self.flight
            if asked[0].opened.step == step and asked[0].status is not OpeningStatus.VOID
        )
        self.flight.remove(asked)
        return asked

    def say(self, step: int, *texts: str) -> None:
        for text in texts:
            opening, request = self.oldest(step)
            self.policy.decider.take(Came(opening, request, [Reply(text, "toy")] * request.n, 1))
            self.ask()

    def refuse(self, step: int) -> None:
        """Every request for *step* is refused."""
        for _ in [
            asked
            for asked in self.flight
            if asked[0].opened.step == step and asked[0].status is not OpeningStatus.VOID
        ]:
            self.policy.decider.take(GaveUp(*self.oldest(step), RejectedError("no such prompt")))
        self.ask()

    def opened(self) -> list[tuple[int, int, str]]:
        return [(fact.step, fact.opening, fact.input) for fact in self.log.of(StepOpened)]

    def resolved(self) -> list[tuple[int, int, bool]]:
        return [(fact.step, fact.opening, fact.confirmed) for fact in self.log.of(StepResolved)]

    def decided(self) -> list[str]:
        return [fact.winner for fact in self.log.of(Decided)]


def test_without_speculation_one_step_is_open_at_a_time() -> None:
    """A step opens on the decision before it, and no request asks for a second step."""
    hand = Hand(Count(steps=2)).begin()
    assert hand.opened() == [(0, 0, "[0,0]")]
    hand.say(0, "1")
    assert hand.opened() == [(0, 0, "[0,0]")]
    hand.say(0, "1")
    assert hand.opened() == [(0, 0, "[0,0]"), (1, 0, "[1,1]")]
    hand.say(1, "1", "1")
    assert (hand.policy.decider.status, hand.policy.state) == (RunStatus.FINISHED, (2, 11))
    assert hand.flight == []


def test_the_first_vote_opens_the_next_step() -> None:
    """A step opens on the leader of the one before, as deep as allowed, and no deeper."""
    hand = Hand(Count(steps=9), mode="vote", depth=2).begin()
    hand.say(0, "1")
    hand.say(1, "1")
    hand.say(2, "1")
    assert hand.opened() == [(0, 0, "[0,0]"), (1, 0, "[1,1]"), (2, 0, "[2,11]")]
    hand.say(0, "1")
    assert hand.decided() == ["1"]
    assert hand.opened()[3:] == [(3, 0, "[3,111]")]
    assert hand.resolved() == [(1, 0, True)]


def test_guesses_open_steps_before_any_vote() -> None:
    """Speculating on guesses, all steps within the depth are open from the start."""
    hand = Hand(Count(steps=9), mode="guess", depth=3).begin()
    assert hand.opened() == [(0, 0, "[0,0]"), (1, 0, "[1,1]"), (2, 0, "[2,11]"), (3, 0, "[3,111]")]
    assert len(hand.flight) == 8


def test_earlier_steps_go_first() -> None:
    """A request's priority is its step's distance from the first undecided step."""
    hand = Hand(Count(steps=9), mode="guess", depth=2).begin()
    assert [request.priority for _, request in hand.flight] == [0, 0, 1, 1, 2, 2]
    hand.say(0, "1", "1")
    assert {int(request.key): request.priority for _, request in hand.flight}[3] == 2


def test_a_new_leader_voids_at_once_what_stands_on_the_old_one() -> None:
    """When the leader of an open step changes, steps behind it are void before anything else happens."""
    hand = Hand(Count(steps=9), k=3, mode="vote", depth=3).begin()
    hand.say(0, "2")
    hand.say(1, "1", "1")
    hand.say(0, "1")
    assert hand.resolved() == []
    hand.say(0, "1")
    assert hand.resolved() == [(2, 0, False), (1, 0, False)]
    assert hand.opened()[-1] == (1, 1, "[1,1]")
    hand.say(0, "1", "1")
    assert hand.decided() == ["1"]
    assert hand.resolved()[-1] == (1, 1, True)
    assert [sample.verdict for sample in rows_of(hand.log.facts).samples[1, 0]] == ["void", "void"]


def test_what_comes_for_a_void_step_is_recorded_and_never_counted() -> None:
    """P2: a sample of a void step was paid for, so it has a row, and no other effect."""
    hand = Hand(Count(steps=9), k=3, mode="vote", depth=1).begin()
    hand.say(0, "2")
    late = hand.oldest(1)
    hand.say(0, "1", "1")
    assert late[0].status is OpeningStatus.VOID
    hand.policy.decider.take(Came(*late, [Reply("3", "toy")], 1))
    sample = hand.log.of(SampleTaken)[-1]
    assert (sample.step, sample.verdict, sample.counted, sample.tentative) == (1, "void", None, False)
    assert sample.text == "3"
    assert late[0].race.tally.votes == {}
    assert hand.policy.decider.progress.void == 1


def test_what_was_never_sent_for_a_void_step_is_withdrawn() -> None:
    """A request that waits for a slot costs nothing yet: it is dropped with its step, without a row."""
    hand = Hand(Count(steps=9), k=3, mode="vote", depth=1).begin()
    hand.say(0, "2")
    void = hand.flight[-3:]
    assert {opening.opened.step for opening, _ in void} == {1}
    for _, request in void[1:]:
        request.trace.sent = False
    hand.say(0, "1", "1")
    assert hand.policy.decider.dropped() == [request.trace for _, request in void[1:]]
    assert hand.policy.decider.dropped() == []
    assert [sample for sample in hand.log.of(SampleTaken) if sample.opening == 0 and sample.step == 1] == []


def test_a_red_flag_on_a_guessed_step_voids_nothing() -> None:
    """Steps opened on a guess stay open until a vote speaks against it; a flag is no vote."""
    hand = Hand(Count(steps=9), mode="guess", depth=3).begin()
    hand.say(1, "no digit")
    assert hand.resolved() == []
    assert len(hand.opened()) == 4


def test_a_refused_prompt_matters_only_if_its_input_comes_true() -> None:
    """A prompt made of a wrong guess may be nonsense: its refusal goes with it, or is the step's fate."""
    wrong = Hand(Count(steps=9), mode="vote", depth=1).begin()
    wrong.say(0, "2")
    wrong.refuse(1)
    assert wrong.policy.decider.status is RunStatus.RUNNING
    wrong.say(0, "1", "1", "1")
    assert wrong.decided() == ["1"]
    assert wrong.policy.decider.status is RunStatus.RUNNING

    right = Hand(Count(steps=9), mode="vote", depth=1).begin()
    right.say(0, "1")
    right.refuse(1)
    assert right.policy.decider.status is RunStatus.RUNNING
    right.say(0, "1")
    assert right.decided() == ["1"]
    ended = (RunStatus.UNDECIDED, "step 1 was refused by toy: no such prompt")
    assert (right.policy.decider.status, right.policy.decider.reason) == ended
    assert [fact.data["step"] for fact in right.log.of(RunEvent) if fact.kind == "refused"] == [1]


@pytest.mark.parametrize("step", [0, 1])
def test_a_dead_provider_stops_the_run_whatever_it_was_asked(step: int) -> None:
    """P5: no attempt can work until a person acts: stopped and resumable, not failed."""
    hand = Hand(Count(steps=9), mode="guess", depth=2).begin()
    hand.policy.decider.take(GaveUp(*hand.oldest(step), UnavailableError("no key")))
    assert (hand.policy.decider.status, hand.policy.decider.reason) == (RunStatus.STOPPED, "no key")


def test_a_failed_attempt_is_a_fact_and_nothing_else() -> None:
    """D9: it is no vote, no flag and no sample, and it changes nothing that is wanted."""
    hand = Hand(Count(steps=9)).begin()
    opening, request = hand.flight[0]
    hand.policy.decider.take(Failed(opening, request, 1, TransientError("reset by peer", kind="connection")))
    assert hand.policy.decider.wanted() == []
    failed = AttemptFailed(1, 0, 0, 0, 1, "connection", "reset by peer", model="toy")
    assert hand.log.facts[1:] == [failed]
    assert (opening.race.counted, opening.race.in_flight) == (0, 2)
    assert (hand.policy.decider.progress.failed_attempts, hand.policy.decider.progress.in_flight) == (1, 2)


def test_an_undecided_step_is_no_plurality() -> None:
    """D6: 4 to 3 at k = 2 after all allowed samples is undecided, says so, and decides nothing."""
    log = Log()
    rules = RunConfig(1, VotingSettings(k=2, max_samples=7))
    hand = Hand(Count(steps=9))
    hand.policy, hand.log = ChainPolicy(Count(steps=9), rules, log), log
    hand.begin().say(0, "1", "2", "1", "2", "1", "2", "1")
    assert hand.policy.decider.status is RunStatus.UNDECIDED
    assert hand.policy.decider.reason == (
        "step 0 has no winner after 7 samples: its best answer leads by 1, and k is 2"
    )
    assert log.of(Decided) == []
    assert hand.flight == []


@pytest.mark.parametrize("mode", ["off", "guess"])
def test_what_comes_after_the_end_is_recorded_and_changes_nothing(mode: str) -> None:
    """A run stays what its end made it: late replies have their rows, late failures are not its reason."""
    hand = Hand(Count(steps=9), k=3, mode=mode, depth=1).begin()
    ended = (RunStatus.STOPPED, "no model")
    hand.policy.decider.take(GaveUp(*hand.oldest(0), UnavailableError("no model")))
    assert (hand.policy.decider.status, hand.policy.decider.reason) == ended
    hand.policy.decider.take(Came(*hand.oldest(0), [Reply("1", "toy")], 1))
    assert len(hand.log.of(SampleTaken)) == 1
    hand.policy.decider.take(GaveUp(*hand.oldest(0), UnavailableError("no key")))
    assert (hand.policy.decider.status, hand.policy.decider.reason) == ended
    assert hand.policy.decider.wanted() == []


def test_a_step_that_ends_the_task_early_ends_the_run() -> None:
    """A chain of unknown length ends where it gives no further step, also if it was foreseen on a guess."""

    class Short(Count):
        def length(self) -> None:
            return None

        def step(self, state: tuple[int, int]) -> Step[int] | None:
            return None if state[0] == 2 else super().step(state)

    hand = Hand(Short(steps=9), mode="guess", depth=8).begin()
    hand.say(1, "1", "1")
    hand.say(0, "1", "1")
    assert (hand.policy.decider.status, hand.policy.state) == (RunStatus.FINISHED, (2, 11))


def test_a_chain_of_no_steps_is_finished_at_once() -> None:
    """Length 0: nothing is asked."""
    hand = Hand(Count(steps=0), mode="guess").begin()
    assert (hand.policy.decider.status, hand.policy.state, hand.flight) == (RunStatus.FINISHED, (0, 0), [])


# --- the task's own code


class Fussy(Count):
    """Raises wherever it meets what a wrong answer leads to; without speculation it never does."""

    at: str

    def _look(self, at: str, state: tuple[int, int]) -> None:
        if self.at == at and set(str(state[1])) - {"1", "0"}:
            raise ValueError("not a legal state")

    def step(self, state: tuple[int, int]) -> Step[int] | None:
        self._look("step", state)
        return super().step(state)

    def advance(self, state: tuple[int, int], answer: int) -> tuple[int, int]:
        after = super().advance(state, answer)
        self._look("advance", after)
        return after

    def guess(self, state: tuple[int, int]) -> int | None:
        self._look("guess", state)
        return 1

    def read(self, text: str) -> int:
        if self.at == "parse" and text == "boom":
            raise KeyError(text)
        return super().read(text)


@pytest.mark.parametrize("mode", ["off", "vote", "guess"])
@pytest.mark.parametrize("at", ["advance", "step", "guess"])
def test_code_that_fails_on_a_wrong_guess_does_not_fail_the_run(at: str, mode: str) -> None:
    """Speculation changes nothing about a run: an answer that never wins may be one the task cannot take."""
    hand = Hand(Fussy(steps=2, at=at), mode=mode).begin()
    hand.say(0, "2", "1", "1", "1")
    hand.say(1, "1", "1")
    assert hand.decided() == ["1", "1"]
    assert hand.policy.decider.status is RunStatus.FINISHED


@pytest.mark.parametrize("at", ["advance", "step"])
def test_code_that_fails_on_a_decided_answer_is_named(at: str) -> None:
    """A plugin's exception names the plugin and the step; the decision before it is on record."""
    hand = Hand(Fussy(steps=2, at=at)).begin()
    hand.say(0, "2")
    said = r"task count failed while .* step [01]: test_chain_policy.py:\d+ in _look: ValueError: not a legal"
    with pytest.raises(PluginError, match=said):
        hand.say(0, "2")
    assert hand.decided() == ["2"]


@pytest.mark.parametrize("max_n", [1, 4])
def test_a_reply_at_which_the_parser_fails_is_on_record(max_n: int) -> None:
    """P2: every reply that came was paid for and has a row, whatever the parser does at one of them."""
    hand = Hand(Fussy(steps=2, at="parse"), k=5, max_n=max_n).begin()
    hand.say(0, "1")
    opening, request = hand.oldest(0)
    replies = [Reply(text, "toy") for text in ("boom", "1", "1", "1")[:max_n]]
    with pytest.raises(PluginError, match=r"step 0: test_chain_policy.py:\d+ in read: KeyError"):
        hand.policy.decider.take(Came(opening, request, replies, 1))
    failed = hand.log.of(SampleTaken)[1]
    assert (failed.text, failed.verdict, failed.counted) == ("boom", "cancelled", None)
    assert failed.flag_reason == "parser error: KeyError"
    assert [sample.ordinal for sample in hand.log.of(SampleTaken)] == list(range(1 + max_n))


# --- going on


def test_a_reopened_step_takes_a_number_of_its_own() -> None:
    """P3: after a kill, no opening gets the number of one that has rows already, void ones included."""
    hand = Hand(Count(steps=9), k=2, mode="vote", depth=2).begin()
    hand.say(0, "2")
    hand.say(1, "1")
    hand.say(2, "1")
    hand.say(0, "1", "1")
    assert hand.resolved() == [(2, 0, False), (1, 0, False)]
    resumed = Hand(Count(steps=9), k=2, mode="vote", depth=2)
    resumed.log.facts.extend(hand.log.facts)
    resumed.begin(resume_point(hand.log.facts))
    resumed.say(1, "1")
    places = [place[:2] for place in resumed.opened()]
    assert len(set(places)) == len(places)


def test_a_confirmed_input_that_reads_otherwise_is_refused() -> None:
    """A task whose start or prompt changed since the run began must not be counted with the old votes."""
    hand = Hand(Count(steps=9)).begin()
    hand.say(0, "1")

    class Changed(Count):
        def step(self, state: tuple[int, int]) -> Step[int] | None:
            return Step(user=f"Now: {state}", parse=self.read)

    with pytest.raises(PluginError, match="opening step 0 again: ValueError: its input or prompt"):
        Hand(Changed(steps=9)).begin(resume_point(hand.log.facts))


def test_a_changed_parser_is_refused_on_resume() -> None:
    """A recorded vote that now reads otherwise is an error, not a recount under other rules."""
    hand = Hand(Count(steps=9)).begin()
    hand.say(0, "1")

    class Changed(Count):
        def read(self, text: str) -> int:
            if text == "1":
                raise RedFlag("too small")
            return 1

    with pytest.raises(PluginError, match="the recorded sample 0 of step 0 again"):
        Hand(Changed(steps=9)).begin(resume_point(hand.log.facts))
