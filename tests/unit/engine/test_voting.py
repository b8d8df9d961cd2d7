"""One step being decided: what a race asks for, what it makes of a reply, and when it is over."""

import json
from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdap.engine.config import RunConfig
from mdap.engine.prompts import Judgement
from mdap.engine.voting import Race
from mdap.errors import PluginError
from mdap.records import Reply, SampleRequest, SampleTaken
from mdap.rules.canonical import canonical
from mdap.rules.reading import json_schema
from mdap.settings import VotingSettings
from mdap.tasks import RedFlag, Step, View

MANY = 10**6


def read_letter(text: str) -> str:
    """The answer is what follows the last colon; nothing else about the text matters."""
    _, colon, answer = text.rpartition(":")
    if not colon:
        raise RedFlag("no colon")
    return answer.strip()


def race(step: Step[Any] | None = None, **voting: Any) -> Race:
    step = step or Step(user="Which letter?", system="Say it.", parse=read_letter)
    return Race(RunConfig(1, VotingSettings(**voting), task="letters"), 7, step, None)


def asked(requests: Iterable[SampleRequest]) -> list[tuple[int, ...]]:
    return [request.ordinals for request in requests]


def vote(race: Race, *answers: str) -> None:
    """Let one reply come for each answer, `!` standing for a reply that cannot be read."""
    for answer in answers:
        race.count(race.judge(Reply("!" if answer == "!" else f"I say: {answer}", "toy")).answer)


def run(race: Race, answers: Sequence[str]) -> int:
    """Ask and answer one by one until the race is over or the answers are; return how many were taken."""
    waiting: list[int] = []
    for taken, answer in enumerate(answers):
        waiting += [ordinal for request in race.wanted(1, 0) for ordinal in request.ordinals]
        if not waiting:
            return taken
        waiting.pop(0)
        vote(race, answer)
    return len(answers)


# --- what is asked


@settings(max_examples=300)
@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("AABC!?")), max_size=80),
)
def test_in_flight_is_the_shortfall(k: int, max_n: int, coming: list[tuple[int, str]]) -> None:
    """After every wish, just as many samples are in flight as the leader still needs votes: never more."""
    step = race(k=k)
    flight: list[int] = []
    seen: set[int] = set()
    for place, answer in coming:
        for request in step.wanted(max_n, 0):
            assert request.n <= max_n
            flight.extend(request.ordinals)
            seen.update(request.ordinals)
        assert len(flight) == len(set(flight)) == step.in_flight == step.tally.shortfall
        assert step.wanted(max_n, 0) == []
        if not flight:
            assert step.winner is not None
            break
        ordinal = flight.pop(place % len(flight))
        if answer == "?":
            step.give_back((ordinal,))
        else:
            vote(step, answer)
        assert len(flight) == step.in_flight <= step.tally.shortfall
    assert seen == set(range(len(seen)))


def test_the_first_sample_is_drawn_colder() -> None:
    """Temperatures go by ordinal: 0 for the first sample of a step, 0.1 for all others (paper, section 4)."""
    requests = race(k=4).wanted(1, 0)
    assert asked(requests) == [(0,), (1,), (2,), (3,)]
    assert [request.temperature for request in requests] == [0.0, 0.1, 0.1, 0.1]

    step = race(k=3, temperatures=(1.5, 0.7))
    assert [request.temperature for request in step.wanted(8, 0)] == [1.5, 0.7]
    vote(step, "A", "B", "B")
    step.give_back(())
    assert [request.temperature for request in step.wanted(8, 0)] == [0.7]


def test_samples_are_asked_for_together_where_the_provider_can() -> None:
    """Requests hold up to max_n samples; the first sample goes alone, since it has its own temperature."""
    assert asked(race(k=9).wanted(4, 0)) == [(0,), (1, 2, 3, 4), (5, 6, 7, 8)]
    assert asked(race(k=1).wanted(4, 0)) == [(0,)]


def test_a_request_says_what_the_step_says() -> None:
    """Messages, limits, schema and priority are the step's, or the run's where it says nothing."""
    schema = {"type": "string"}
    step = Step(user="u", system="s", parse=read_letter, schema=schema, max_tokens=9)
    [request] = Race(RunConfig(1, VotingSettings(k=1)), 7, step, None).wanted(1, 5)
    assert (request.system, request.user, int(request.key), request.priority) == ("s", "u", 7, 5)
    assert (request.max_tokens, request.schema, request.subject) == (9, schema, None)

    [plain] = race(k=1, max_tokens=123).wanted(1, 0)
    assert (plain.max_tokens, plain.schema) == (123, None)
    assert json_schema(int) == {"type": "integer"}


def test_what_is_given_back_is_drawn_again() -> None:
    """A sample that was lost keeps its ordinal, so its temperature and its draw; lost ones come first."""
    step = race(k=3)
    step.wanted(1, 0)
    step.give_back((1,))
    step.give_back((0,))
    requests = step.wanted(8, 0)
    assert asked(requests) == [(0,), (1,)]
    assert [request.temperature for request in requests] == [0.0, 0.1]
    vote(step, "A", "B", "B")
    assert asked(step.wanted(8, 0)) == [(3, 4)]


@given(st.integers(2, 6), st.lists(st.sampled_from(["A", "B", "!", "?"]), max_size=60))
def test_d11_all_samples_see_the_same_prompt(k: int, coming: list[str]) -> None:
    """D11: whatever came before, votes, flags or losses, every request carries byte-identical messages."""
    step = race(k=k)
    prompts = set()
    for answer in coming:
        for request in step.wanted(2, 0):
            prompts.add((request.system.encode(), request.user.encode(), request.prompt_digest))
        if not step.in_flight:
            break
        if answer == "?":
            step.give_back((0,))
        else:
            vote(step, answer)
    assert prompts <= {(b"Say it.", b"Which letter?", step.prompt_digest)}


def test_d11_the_samples_of_a_view_see_the_same_prompt() -> None:
    """D11: views rotate by ordinal alone; within each, messages are byte-identical, and its parser reads."""

    def view(place: int) -> View[str]:
        return View(f"View {place}", lambda text: f"{place} {read_letter(text)}", "s")

    views = (view(1), view(2))
    step = race(Step(user="View 0", system="s", parse=read_letter, views=views), k=9)
    prompts: dict[int, set[tuple[bytes, bytes, str]]] = {0: set(), 1: set(), 2: set()}
    for answer in ("", *"AB!AB!AB!"):
        for request in step.wanted(4, 0):
            assert {ordinal % 3 for ordinal in request.ordinals} == {request.view}
            prompt = (request.system.encode(), request.user.encode(), request.prompt_digest)
            prompts[request.view].add(prompt)
        if answer:
            vote(step, answer)
    assert [{user for _, user, _ in prompts[view]} for view in range(3)] == [
        {b"View 0"},
        {b"View 1"},
        {b"View 2"},
    ]
    assert all(len(seen) == 1 for seen in prompts.values())
    read = [step.judge(Reply("I say: A", "toy"), view).answer for view in range(3)]
    assert read == ['"A"', '"1 A"', '"2 A"']


# --- what decides


def test_d1_first_to_k_does_not_decide() -> None:
    """D1: A, B, A, B, A at k = 3 has three votes for A and no winner; the race asks on."""
    step = race(k=3)
    assert run(step, "ABABA") == 5
    assert step.winner is None
    assert step.in_flight == step.tally.shortfall == 2
    vote(step, "A", "A")
    assert step.winner == '"A"'


def test_d2_a_tie_is_undecided() -> None:
    """D2 and D6: 3 to 3 at k = 3 after all allowed samples is exhausted, without a winner."""
    step = race(k=3, max_samples=6)
    assert run(step, "AABBABBB") == 6
    assert step.tally.votes == {'"A"': 3, '"B"': 3}
    assert (step.winner, step.exhausted) == (None, True)


@pytest.mark.parametrize("k", [1, 2, 3, 11, 40])
def test_d3_unanimity_decides_at_exactly_k(k: int) -> None:
    """D3, D5 and D13: k equal votes decide, k - 1 do not, and no more than k samples are ever asked for."""
    step = race(k=k)
    assert len(asked(step.wanted(1, 0))) == k
    vote(step, *"A" * (k - 1))
    assert (step.winner, step.tally.k) == (None, k)
    vote(step, "A")
    assert step.winner == '"A"'
    assert step.wanted(1, 0) == []


def test_d6_a_step_without_a_winner_is_exhausted() -> None:
    """D6: with all allowed samples counted, a leader by less than k is not made a winner."""
    step = race(k=3, max_samples=5)
    assert run(step, "ABAAA") == 5
    assert step.tally.lead == 3
    lagging = race(k=3, max_samples=5)
    assert run(lagging, "ABABAA") == 5
    assert (lagging.winner, lagging.tally.leader, lagging.tally.lead) == (None, '"A"', 1)
    assert lagging.exhausted
    assert not step.exhausted


def test_a_race_is_not_exhausted_while_samples_are_out() -> None:
    """What is in flight or was lost may still decide."""
    step = race(k=2, max_samples=2)
    step.wanted(1, 0)
    assert not step.exhausted
    vote(step, "!")
    step.give_back((1,))
    assert (step.in_flight, step.exhausted) == (0, False)
    assert asked(step.wanted(1, 0)) == [(1,)]
    vote(step, "!")
    assert step.exhausted


def test_flags_use_up_samples_and_decide_nothing() -> None:
    """A red flag is a sample and no vote: a race of nothing but flags ends undecided."""
    step = race(k=2, max_samples=9)
    assert run(step, "!" * 20) == 9
    assert (step.counted, step.tally.votes, step.exhausted) == (9, {}, True)


# --- what a reply comes to


def judged(step: Race, text: str, finish: str = "stop", tokens: int | None = None) -> Judgement:
    return step.judge(Reply(text, "toy", finish, output_tokens=tokens))


@pytest.mark.parametrize(
    ("text", "finish", "tokens", "reason"),
    [
        ("all fine: A", "stop", 11, "too long"),
        (":A" * 64 * 11, "stop", None, "too long"),
        ("all fine: A", "length", 10, "truncated"),
        ("all fine: A", "max_tokens", None, "truncated"),
        ("all fine: A", "content_filter", None, "ended by content_filter"),
        ("", "stop", 0, "empty"),
        (" \n\t ", "stop", 3, "empty"),
        ("no answer", "stop", 3, "no colon"),
    ],
)
def test_a_suspicious_reply_is_flagged(text: str, finish: str, tokens: int | None, reason: str) -> None:
    """Overlong, cut, filtered, empty or refused by the parser: a flag with its reason, and no answer."""
    judgement = judged(race(max_tokens=10), text, finish, tokens)
    assert (judgement.flag_reason, judgement.answer, judgement.answer_key) == (reason, None, None)


@pytest.mark.parametrize("finish", ["stop", "end_turn", "eos"])
def test_a_complete_reply_votes(finish: str) -> None:
    """A reply within its limits, ended by the model itself, votes for its answer."""
    judgement = judged(race(max_tokens=10), "all fine: A", finish, 10)
    assert (judgement.flag_reason, judgement.answer, judgement.text) == (None, '"A"', "all fine: A")


def test_flags_are_never_parsed() -> None:
    """What is flagged before parsing never reaches the parser."""
    parsed: list[str] = []

    def parse(text: str) -> str:
        parsed.append(text)
        return text

    step = race(Step(user="?", parse=parse), max_tokens=2)
    for finish, tokens in [("length", 1), ("stop", 3), ("content_filter", 1)]:
        assert judged(step, "text", finish, tokens).flag_reason is not None
    judged(step, "", "stop", 0)
    judged(step, "x" * 1000, "stop", None)
    assert parsed == []


def test_equal_texts_that_ended_otherwise_are_told_apart() -> None:
    """What is remembered of a text goes by how it ended and how long it was, too."""
    step = race(max_tokens=10)
    seen = [
        judged(step, "say: A", *how).flag_reason
        for how in [("stop", 5), ("length", 10), ("stop", 11), ("stop", None), ("length", 10), ("stop", 5)]
    ]
    assert seen == [None, "truncated", "too long", None, "truncated", None]


def test_a_parser_that_raises_is_the_plugins_fault() -> None:
    """Anything but a red flag from a parser is an error that names the task and the step."""
    step = race(Step(user="?", parse=int))
    with pytest.raises(PluginError, match="task letters failed while reading a reply to step 7: ValueError"):
        judged(step, "anything")


@pytest.mark.parametrize("answer", [float("nan"), object()])
def test_an_answer_without_json_is_the_plugins_fault(answer: object) -> None:
    """Answers are compared by their canonical JSON: one that has none cannot vote."""
    with pytest.raises(PluginError, match="while reading a reply to step 7"):
        judged(race(Step(user="?", parse=lambda text: answer)), "anything")


def test_a_huge_text_is_cut_before_anyone_reads_it() -> None:
    """P7: a reply far beyond its limit is flagged, and only so much is kept as proves it too long."""
    judgement = judged(race(max_tokens=10), "x" * MANY)
    assert judgement.flag_reason == "too long"
    assert len(judgement.text) == 10 * 64 + 1


@pytest.mark.parametrize("reason", ["\0", "\ud800", "x" * 1000, "", "naïve ☃"])
def test_a_reason_for_a_flag_can_be_recorded(reason: str) -> None:
    """P7: a parser may quote the reply in its reason, so the reason is cleaned and capped like any text."""

    def parse(text: str) -> str:
        raise RedFlag(reason)

    flag = judged(race(Step(user="?", parse=parse)), "anything").flag_reason
    assert flag is not None
    assert len(flag) <= 200
    assert "\0" not in flag
    flag.encode()


def as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise RedFlag("not JSON") from None


@pytest.mark.parametrize("text", ['{"a": 1,}', "{'a': 1}", '```json\n{"a": 1}\n```', '{"a": 1', "{a: 1}"])
def test_d10_nothing_is_repaired(text: str) -> None:
    """D10: a reply that a lenient reader could mend is flagged, and the text on record is as it came."""
    judgement = judged(race(Step(user="?", parse=as_json)), text)
    assert (judgement.flag_reason, judgement.answer, judgement.text) == ("not JSON", None, text)


def test_d18_the_whole_answer_is_voted_on() -> None:
    """D18: the same action with another next state is another candidate."""
    step, spelled = race(Step(user="?", parse=as_json), k=2), '{"move":1,"next":[2]}'
    for text in ('{"move": 1, "next": [1]}', '{"move": 1, "next": [2]}', '{"move": 1, "next": [3]}'):
        step.count(judged(step, text).answer)
    assert (len(step.tally.votes), step.winner) == (3, None)
    step.count(judged(step, '{"next": [2], "move": 1}').answer)
    step.count(judged(step, '{"next":[2],"move":1}').answer)
    assert (step.winner, step.answers[spelled]) == (spelled, {"move": 1, "next": [2]})


def test_the_winning_answer_is_the_parsers_own_value() -> None:
    """The first of equal answers stands for all of them, as the parser returned it."""

    def parse(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split()))

    step = race(Step(user="?", parse=parse), k=2)
    for text in ("1 2", "3", "1  2", "1   2"):
        step.count(judged(step, text).answer)
    assert step.answers == {"[1,2]": (1, 2), "[3]": (3,)}
    assert step.winner == canonical((1, 2))


# --- counting again what is on record


def record(step: Race, answers: Sequence[str], skipped: Iterable[int] = ()) -> list[SampleTaken]:
    """Count *answers* live and return the rows they leave; the ordinals in *skipped* never came."""
    free = (ordinal for ordinal in range(100) if ordinal not in set(skipped))
    rows = []
    for ordinal, answer in zip(free, answers, strict=False):
        finish = {"%": "length", "": "content_filter"}.get(answer, "stop")
        reply = Reply("!" if answer == "!" else f"I say: {answer}", "toy", finish, None, 3)
        judgement = step.judge(reply)
        step.in_flight += 1
        counted = step.count(judgement.answer)
        verdict = "vote" if judgement.answer else "flag"
        key, reason = judgement.answer_key, judgement.flag_reason
        columns = (None, 3, None, 0.0, 1, None, finish, judgement.text_digest)
        rows.append(
            SampleTaken(
                1, 7, 0, counted, ordinal, verdict, key, reason, "toy", 0, 0.1, *columns, text=judgement.text
            )
        )
    return rows


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["A", "B", "C", "!", "%", ""]), max_size=40),
    st.sets(st.integers(0, 45), max_size=5),
    st.randoms(use_true_random=False),
)
def test_refolding_rows_is_counting_them_live(answers: list[str], skipped: set[int], rng: Any) -> None:
    """Whatever order the rows are read in, the race stands where it stood, and draws what never came."""
    live, again = race(k=3), race(k=3)
    rows = record(live, answers, skipped)
    again.refold(rng.sample(rows, len(rows)))

    assert again.tally.votes == live.tally.votes
    assert (again.tally.leader, again.tally.lead) == (live.tally.leader, live.tally.lead)
    assert (again.counted, again.in_flight, again.answers) == (live.counted, 0, live.answers)
    highest = max((row.ordinal for row in rows), default=-1)
    missing = [ordinal for ordinal in skipped if ordinal < highest]
    drawn = [ordinal for request in again.wanted(1, 0) for ordinal in request.ordinals]
    expected = [*sorted(missing), *range(highest + 1, highest + 100)]
    assert drawn == expected[: max(0, again.tally.shortfall)]


def test_rows_that_were_not_counted_are_not_counted_again() -> None:
    """A cancelled or void sample keeps its ordinal and changes nothing else."""
    live = race(k=3)
    rows = record(live, "AAA")
    rows[1] = rows[1]._replace(verdict="cancelled", counted=None, answer_key=None)
    again = race(k=3)
    again.refold(rows)
    assert again.tally.votes == {'"A"': 2}
    assert asked(again.wanted(1, 0)) == [(3,)]


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: read_letter(text).lower(),
        lambda text: "always the same",
        lambda text: [text],
    ],
)
def test_a_changed_parser_is_found(changed: Any) -> None:
    """P4: a row that the parser now reads as another answer is an error, not a vote."""
    rows = record(race(k=3), "A")
    with pytest.raises(PluginError, match="reading the recorded sample 0 of step 7 again"):
        race(Step(user="Which letter?", system="Say it.", parse=changed), k=3).refold(rows)


def test_a_parser_that_now_flags_is_found() -> None:
    """P4: a vote that would be a flag now, and a flag with another reason, are errors."""

    def strict(text: str) -> str:
        raise RedFlag("too strict")

    for answer in "A!":
        rows = record(race(k=3), answer)
        with pytest.raises(PluginError, match="the parser now says otherwise"):
            race(Step(user="Which letter?", system="Say it.", parse=strict), k=3).refold(rows)


def test_of_equal_answers_the_first_sample_s_stands_for_all_in_whatever_order_they_come() -> None:
    """So a resumed run and an audit, which go by the samples' numbers, find the very same."""

    class Letter(str):
        """A letter, with a note that no vote is for."""

        note = ""

    def read(text: str) -> Letter:
        letter = Letter(text[0])
        letter.note = text[1:]
        return letter

    def noted(order: Sequence[int]) -> str:
        step = race(Step(user="Which letter?", parse=read), k=3)
        list(step.wanted(1, 0))
        for ordinal in order:
            step.count(step.judge(Reply(f"A{ordinal % 2}{ordinal}", "toy"), 0, ordinal).answer)
        assert step.winner == '"A"'
        return str(step.answers[step.winner].note)

    assert {noted(order) for order in permutations(range(3))} == {"00"}
