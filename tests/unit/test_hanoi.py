import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import mdap_hanoi
from mdap.tasks import RedFlag
from mdap.testing import check_task
from mdap_hanoi import Answer, Hanoi, State
from mdap_hanoi.strategy import state_after

Outcome = Answer | str

SMALL = Hanoi(disks=3)
MOVE = "move = [1, 0, 2]"
STATE = "next_state = [[3, 2], [], [1]]"
GOOD = Answer((1, 0, 2), ((3, 2), (), (1,)))

MISSING_MOVE = "missing move"
BAD_MOVE = "malformed move"
MISSING_STATE = "missing next_state"
BAD_STATE = "malformed next_state"


def outcome(task: Hanoi, text: str) -> Outcome:
    """What becomes of a reply: its answer, or the reason why it has none."""
    try:
        return task.read(text)
    except RedFlag as flag:
        return flag.reason


def simulate(pegs: tuple[tuple[int, ...], ...], move: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    """Play *move* by the rules of the puzzle alone; an illegal one fails the test."""
    disk, source, target = move
    stacks = [list(peg) for peg in pegs]
    assert source != target
    assert stacks[source].pop() == disk
    assert all(disk < below for below in stacks[target][-1:])
    stacks[target].append(disk)
    return tuple(tuple(stack) for stack in stacks)


def is_well_formed(answer: Answer, disks: int) -> bool:
    held = [disk for peg in answer.next_state for disk in peg]
    numbers = [*answer.move, *held]
    return (
        len(answer.move) == len(answer.next_state) == 3
        and all(type(number) is int for number in numbers)
        and sorted(held) == list(range(1, disks + 1))
    )


@st.composite
def arrangements(draw: st.DrawFn, disks: int) -> Any:
    """The disks on the pegs in any order, legal or not."""
    order = draw(st.permutations(range(1, disks + 1)))
    first, second = sorted(draw(st.tuples(st.integers(0, disks), st.integers(0, disks))))
    return tuple(order[:first]), tuple(order[first:second]), tuple(order[second:])


@st.composite
def situations(draw: st.DrawFn, max_disks: int = 8) -> tuple[Hanoi, State]:
    """A task and any state of it, whatever nonsense was decided before."""
    disks = draw(st.integers(1, max_disks))
    move = st.tuples(st.integers(-9, 99), st.integers(-9, 9), st.integers(-9, 9))
    last_move = draw(st.none() | st.just((1, 0, 1)) | move)
    return Hanoi(disks=disks), State(draw(arrangements(disks)), last_move)


@st.composite
def answers(draw: st.DrawFn, max_disks: int = 8) -> tuple[Hanoi, Answer]:
    """A task and any answer that its parser may give."""
    disks = draw(st.integers(1, max_disks))
    number = st.integers(-(2**53) + 1, 2**53 - 1)
    move = draw(st.tuples(number, number, number))
    return Hanoi(disks=disks), Answer(move, draw(arrangements(disks)))


class TestParameters:
    @pytest.mark.parametrize("disks", [0, 65, -1, "x", 2.5, None])
    def test_towers_out_of_bounds_are_refused(self, disks: Any) -> None:
        """Only whole numbers from 1 to 64 are towers."""
        with pytest.raises(ValidationError):
            Hanoi(disks=disks)

    def test_parameters_are_documented_and_default_to_ten_disks(self) -> None:
        """The command line shows each parameter's description."""
        assert Hanoi().disks == 10
        assert all(field.description for field in Hanoi.model_fields.values())

    def test_exports(self) -> None:
        """The package promises three names."""
        assert mdap_hanoi.__all__ == ["Answer", "Hanoi", "State"]


class TestStrategy:
    @pytest.mark.parametrize("disks", range(1, 13))
    def test_solves_every_tower_in_the_fewest_moves(self, disks: int) -> None:
        """Both parities end on the third peg after exactly `length` legal moves."""
        task = Hanoi(disks=disks)
        state = task.start()
        pegs: tuple[tuple[int, ...], ...] = state.pegs
        for _ in range(task.length()):
            assert not task.result(state)["solved"]
            answer = task.oracle(state)
            pegs = simulate(pegs, answer.move)
            assert pegs == answer.next_state
            assert task.step(state).parse(task.render(answer)) == answer
            state = task.advance(state, answer)

        assert task.length() == 2**disks - 1
        assert pegs == ((), (), tuple(range(disks, 0, -1)))
        assert task.result(state) == {"solved": True, "moves": 2**disks - 1}

    @given(situations())
    def test_oracle_is_legal_in_any_state(self, situation: tuple[Hanoi, State]) -> None:
        """However illegal the state, the oracle has a legal move and its true effect."""
        task, state = situation

        answer = task.oracle(state)

        assert simulate(state.pegs, answer.move) == answer.next_state
        assert task.guess(state) == answer

    def test_oracle_spells_out_the_strategy(self) -> None:
        """Even towers start clockwise, odd ones counterclockwise; then it is another disk's turn."""
        assert Hanoi(disks=2).oracle(Hanoi(disks=2).start()).move == (1, 0, 1)
        assert Hanoi(disks=3).oracle(Hanoi(disks=3).start()).move == (1, 0, 2)
        assert SMALL.oracle(State(((3, 2), (), (1,)), (1, 0, 2))).move == (2, 0, 1)
        assert SMALL.oracle(State(((3,), (2,), (1,)), (2, 0, 1))).move == (1, 2, 1)
        assert SMALL.oracle(State(((3,), (2,), (1,)), None)).move == (1, 2, 1)

    @pytest.mark.parametrize("disks", [1, 2, 3, 20])
    def test_mistakes_are_several_from_the_start(self, disks: int) -> None:
        """Even one disk can be moved wrongly in several ways."""
        task = Hanoi(disks=disks)
        assert len(task.mistakes(task.start(), task.oracle(task.start()))) >= 2

    @given(situations())
    def test_mistakes_are_wrong_distinct_and_valid_votes(self, situation: tuple[Hanoi, State]) -> None:
        """Mistakes are candidates of their own that no red flag catches."""
        task, state = situation
        truth = task.oracle(state)
        key: Callable[[Answer], bytes] = TypeAdapter(Answer).dump_json

        wrong = task.mistakes(state, truth)

        assert wrong
        assert len({key(answer) for answer in [truth, *wrong]}) == len(wrong) + 1
        assert all(outcome(task, task.render(answer)) == answer for answer in wrong)


class TestChain:
    def test_trusts_the_decided_state(self) -> None:
        """What was voted for is the next state, even if the move does not lead there."""
        slip = Answer((1, 0, 2), ((3,), (2,), (1,)))

        state = SMALL.advance(SMALL.start(), slip)

        assert state == State(((3,), (2,), (1,)), (1, 0, 2))
        assert SMALL.result(state) == {"solved": False, "moves": 7}

    def test_always_offers_a_step(self) -> None:
        """Only `length` ends a run, solved or not."""
        solved = State(((), (), (3, 2, 1)), (1, 0, 2))
        assert SMALL.step(solved).user

    @given(answers(max_disks=64))
    def test_state_and_answer_survive_json(self, example: tuple[Hanoi, Answer]) -> None:
        """The engine rebuilds both from what the journal holds."""
        _, answer = example
        for value in (answer, State(answer.next_state, answer.move), State(answer.next_state, None)):
            adapter: TypeAdapter[Any] = TypeAdapter(type(value))
            assert adapter.validate_json(adapter.dump_json(value)) == value

    def test_json_is_plain(self) -> None:
        """Tuples are arrays: people query this with SQL."""
        expected = {"move": [1, 0, 2], "next_state": [[3, 2], [], [1]]}
        assert json.loads(TypeAdapter(Answer).dump_json(GOOD)) == expected


class TestPrompt:
    def test_system_message_is_the_same_for_every_step(self) -> None:
        """Only the user message changes, so endpoints can cache the rest."""
        task = Hanoi(disks=4)
        first, state = task.step(task.start()), task.advance(task.start(), task.oracle(task.start()))
        second = task.step(state)

        assert first.system == second.system
        assert first.user != second.user
        assert task.step(task.start()) == first

    def test_user_message_states_everything_that_the_strategy_needs(self) -> None:
        """Direction, previous move and state are in the prompt."""
        even = Hanoi(disks=4)
        later = State(((4, 3, 2), (1,), ()), (1, 0, 1))

        assert " clockwise" in even.step(even.start()).user
        assert "counterclockwise" in SMALL.step(SMALL.start()).user
        assert "Previous move: none\n" in even.step(even.start()).user
        assert "Previous move: [1, 0, 1]\nCurrent state: [[4, 3, 2], [1], []]" in even.step(later).user

    def test_the_example_in_the_system_message_can_be_read(self) -> None:
        """What the prompt shows is what the parser takes."""
        example = Answer((2, 2, 0), ((4, 3, 2), (1,), ()))
        assert Hanoi(disks=4).read(Hanoi(disks=4).step(Hanoi(disks=4).start()).system) == example


class TestReading:
    @given(answers(max_disks=64))
    def test_reads_what_it_renders(self, example: tuple[Hanoi, Answer]) -> None:
        """Rendering then reading is the identity."""
        task, answer = example
        assert task.read(task.render(answer)) == answer

    def test_renderings_are_short(self) -> None:
        """Simulated replies cost little to keep."""
        task = Hanoi(disks=20)
        assert len(task.render(Answer((20, 1, 2), task.start().pegs))) < 250

    @pytest.mark.parametrize(
        "text",
        [
            f"{MOVE}\n{STATE}",
            f"{STATE}\n{MOVE}",
            "move=[1,0,2] next_state=[[3,2],[],[1]]",
            "move \t =\n  [1, 0, 2]\nnext_state  =\n[\n  [3, 2],\n  [],\n  [1]\n]",
            f"`{MOVE}`\n`{STATE}`",
            f"```\n{MOVE}\n{STATE}\n```\nThat is the move.",
            f"move = [2, 0, 1]\nnext_state = [[], [], []]\nNo:\n{MOVE}\n{STATE}",
            f"move = nonsense\n{MOVE}\nnext_state = nonsense\n{STATE}",
            f"{MOVE}\n{STATE}\nlast_move = [9, 9]\nI remove = 3. my_next_state = []",
            f"{MOVE}.]]] and so on\n{STATE}]]]",
            f"{MOVE}\n{STATE}\nThis move leads to that next_state; moves == good",
            f"é{'🗼' * 50}\n{MOVE}\n{STATE}\x00\ud800",
        ],
    )
    def test_reads_the_last_assignment_of_each_name(self, text: str) -> None:
        """Order, blanks, code fences, earlier tries and longer names do not matter."""
        assert outcome(SMALL, text) == GOOD

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", MISSING_MOVE),
            (STATE, MISSING_MOVE),
            (f"last_move = [1, 0, 2]\n{STATE}", MISSING_MOVE),
            (f"remove = [1, 0, 2]\n{STATE}", MISSING_MOVE),
            (f"Move = [1, 0, 2]\n{STATE}", MISSING_MOVE),
            (f"move: [1, 0, 2]\n{STATE}", MISSING_MOVE),
            (f"**move** = [1, 0, 2]\n{STATE}", MISSING_MOVE),
            (MOVE, MISSING_STATE),
            (f"{MOVE}\nstate = [[3, 2], [], [1]]", MISSING_STATE),
            (f"{MOVE}\nmy_next_state = [[3, 2], [], [1]]", MISSING_STATE),
            (f"{MOVE}\n{STATE}\nmove = ", BAD_MOVE),
            (f"{MOVE}\n{STATE}\nnext_state = ?", BAD_STATE),
        ],
    )
    def test_flags_what_is_missing(self, text: str, reason: str) -> None:
        """A name counts only as a whole word with an equals sign, and its last assignment only."""
        assert outcome(SMALL, text) == reason

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "1, 0, 2",
            "(1, 0, 2)",
            "[]",
            "[1, 0]",
            "[1, 0, 2, 0]",
            "[1, 0, 2",
            "[1, 0, 2,]",
            "[[1, 0, 2]]",
            "[1, 0, [2]]",
            "[1.0, 0, 2]",
            "[1e0, 0, 2]",
            "[true, false, 2]",
            "[True, 0, 2]",
            "[null, 0, 2]",
            '["1", 0, 2]',
            '{"1": 0, "2": 0, "3": 0}',
            '"abc"',
            "123",
            "[01, 0, 2]",
            "[+1, 0, 2]",
            "[NaN, 0, 2]",
            "[Infinity, 0, -Infinity]",
            "[9007199254740992, 0, 2]",
            "[1, 0, -9007199254740992]",
            f"[{'9' * 100}, 0, 2]",
            f"[{'9' * 10_000}, 0, 2]",
            "[\u0661, \u0660, \u0662]",
            "[1,\u00a00, 2]",
            "[disk, from, to]",
            "null",
            "true",
            "= [1, 0, 2]",
            f"[1, {' ' * 1000}0, 2]",
        ],
    )
    def test_flags_any_move_but_three_integers(self, value: str) -> None:
        """Nothing is repaired, nothing is coerced."""
        assert outcome(SMALL, f"move = {value}\n{STATE}") == BAD_MOVE

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "[]",
            "[[3, 2, 1]]",
            "[[3, 2], [1]]",
            "[[3, 2], [], [1], []]",
            "[[3, 2], [], [1]",
            "[[3, 2], [], []]",
            "[[], [], []]",
            "[[3, 2], [2], [1]]",
            "[[3, 2], [4], [1]]",
            "[[4, 3], [], [2]]",
            "[[3, 2], [0], [1]]",
            "[[3, 2], [], [-1]]",
            "[[3, 2], [], [1.0]]",
            "[[3, 2], [], [true]]",
            '[[3, 2], [], ["1"]]',
            '[[3, 2], "", [1]]',
            "[[3, 2], {}, [1]]",
            "[[3, 2], null, [1]]",
            "[3, 2, 1]",
            "[[3, 2], [], [[1]]]",
            "[[3, 2], [], [NaN]]",
            f"[[3, 2], [], [{'9' * 300}]]",
            '{"0": [3, 2], "1": [], "2": [1]}',
            "((3, 2), (), (1,))",
            "[...]",
            f"[[3, 2], [], {' ' * 1000}[1]]",
        ],
    )
    def test_flags_any_state_but_every_disk_once(self, value: str) -> None:
        """Three lists with the disks 1 to n exactly once, and integers at that."""
        assert outcome(SMALL, f"{MOVE}\nnext_state = {value}") == BAD_STATE

    @pytest.mark.parametrize("move", ["[3, 0, 1]", "[1, 1, 1]", "[9, 7, -3]", "[-0, 0, 0]"])
    @pytest.mark.parametrize("state", ["[[3, 2, 1], [], []]", "[[1, 2, 3], [], []]", "[[], [2, 3], [1]]"])
    def test_illegal_answers_are_votes(self, move: str, state: str) -> None:
        """A wrong answer must be outvoted, not filtered, or p would be measured wrongly."""
        answer = outcome(SMALL, f"move = {move}\nnext_state = {state}")

        assert isinstance(answer, Answer)
        assert list(answer.move) == json.loads(move)
        assert [list(peg) for peg in answer.next_state] == json.loads(state)

    def test_the_largest_tower_may_be_written_one_disk_a_line(self) -> None:
        """The bound on what is decoded leaves room for any honest layout."""
        task = Hanoi(disks=64)
        answer = task.oracle(task.start())
        pretty = json.dumps(answer.next_state, indent=8)
        assert task.read(f"move = [1, 0, 1]\nnext_state = {pretty}") == answer


MANY = 1_000_000
BEFORE_STATE = f"{MOVE}\nnext_state = "
PIECES = [
    MOVE,
    STATE,
    "move",
    "next_state",
    "[[3, 2, 1], [], []]",
    "[1, 0, 2]",
    "true",
    *' \n=[],123-._e{"\\',
]


class TestHostileText:
    @pytest.mark.parametrize("disks", [1, 20, 64])
    @pytest.mark.parametrize(
        ("head", "repeated", "reason"),
        [
            ("", "move =", BAD_MOVE),
            ("", "move ", MISSING_MOVE),
            ("", "xmove = [1, 0, 2]", MISSING_MOVE),
            ("", "move" + " " * 99, MISSING_MOVE),
            ("", "m", MISSING_MOVE),
            ("", "=", MISSING_MOVE),
            ("", "[", MISSING_MOVE),
            ("", "\x00\ud800", MISSING_MOVE),
            ("move", " ", MISSING_MOVE),
            ("move =", " ", BAD_MOVE),
            ("move = ", "[", BAD_MOVE),
            ("move = ", '{"":', BAD_MOVE),
            ("move = ", "9", BAD_MOVE),
            ("move = [", "-", BAD_MOVE),
            ("move = [1e", "9", BAD_MOVE),
            ("move = [1,", " ", BAD_MOVE),
            ("move = [", "\u0661,", BAD_MOVE),
            ('move = "', "\\ud800", BAD_MOVE),
            (MOVE, "next_state ", MISSING_STATE),
            (MOVE, "\nnext_state =", BAD_STATE),
            (BEFORE_STATE, "[", BAD_STATE),
            (BEFORE_STATE, '[{"":', BAD_STATE),
            (BEFORE_STATE, "9", BAD_STATE),
            (f"{BEFORE_STATE}[[", "9", BAD_STATE),
            (f"{BEFORE_STATE}[[", "1, ", BAD_STATE),
            (f"{BEFORE_STATE}[[NaN], [Infinity], [-Infinity]]", " ", BAD_STATE),
            (BEFORE_STATE + "[" * 900 + "]" * 900, " ", BAD_STATE),
        ],
    )
    def test_megabytes_of_nonsense_are_flagged(
        self, disks: int, head: str, repeated: str, reason: str
    ) -> None:
        """No text costs more than a pass over it, nor raises anything but a red flag."""
        assert outcome(Hanoi(disks=disks), head + repeated * (MANY // len(repeated))) == reason

    @pytest.mark.parametrize("tail", [" ", "m", "n", "move ", "next_state ", "[[", "=", "\x00"])
    def test_a_good_answer_is_found_before_megabytes_of_garbage(self, tail: str) -> None:
        """What follows the last assignments is ignored, however long."""
        assert outcome(SMALL, f"{MOVE}\n{STATE}\n" + tail * MANY) == GOOD

    @given(st.integers(1, 64), st.text(st.characters(exclude_categories=())))
    def test_any_text_is_flagged_or_well_formed(self, disks: int, text: str) -> None:
        """The parser is total."""
        answer = outcome(Hanoi(disks=disks), text)
        assert isinstance(answer, str) or is_well_formed(answer, disks)

    @given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
    def test_texts_of_telling_pieces_agree_with_the_plain_reader(self, text: str) -> None:
        """The quick parser and one written for the eye see the same."""
        assert outcome(SMALL, text) == plain_reader(text, 3)


def plain_reader(text: str, disks: int) -> Outcome:
    """Read a reply in the obvious way, without thought of cost or of hostile lengths."""
    move = plain_value(text, "move", r"\[[^\[\]]*\]")
    if isinstance(move, str):
        return move
    if not (len(move) == 3 and all(type(number) is int and abs(number) < 2**53 for number in move)):
        return BAD_MOVE
    pegs = plain_value(text, "next_state", r"\[(\s*\[[^\[\]]*\]\s*,?)*\s*\]")
    if isinstance(pegs, str):
        return pegs
    held = [disk for peg in pegs for disk in peg]
    if not all(type(disk) is int for disk in held):
        return BAD_STATE
    if len(pegs) != 3 or sorted(held) != list(range(1, disks + 1)):
        return BAD_STATE
    return Answer((move[0], move[1], move[2]), (tuple(pegs[0]), tuple(pegs[1]), tuple(pegs[2])))


def plain_value(text: str, name: str, shape: str) -> list[Any] | str:
    """The list last assigned to *name*, or why there is none."""
    assignments = list(re.finditer(rf"\b{name}\s*=\s*", text))
    if not assignments:
        return f"missing {name}"
    found = re.compile(shape).match(text, assignments[-1].end())
    try:
        return list(json.loads(found.group())) if found else f"malformed {name}"
    except ValueError:
        return f"malformed {name}"


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Hanoi, str]:
    """A rendering in which a few characters were dropped, put in, doubled or exchanged."""
    task, answer = draw(answers())
    text = task.render(answer)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = start + draw(st.integers(0, 4))
        put = draw(st.sampled_from(["", " ", "\n", ",", "[", "]", "1", "0", ".", "-", "=", "x", "_", text]))
        text = text[:start] + put + text[stop:]
    return task, text


@given(mutated())
def test_both_readers_agree_on_mutated_renderings(example: tuple[Hanoi, str]) -> None:
    """The quick parser and one written for the eye see the same."""
    task, text = example
    assert outcome(task, text) == plain_reader(text, task.disks)


@pytest.mark.parametrize("disks", [1, 2, 3, 6, 7])
def test_a_state_along_the_solution_is_the_one_that_the_moves_lead_to(disks: int) -> None:
    task = Hanoi(disks=disks)
    state = task.start()
    for moves in range(task.length()):
        assert state_after(moves, disks) == state
        state = task.advance(state, task.oracle(state))
    assert state_after(task.length(), disks) == state


def test_sampled_states_are_spread_over_the_solution_and_can_be_drawn_again() -> None:
    task = Hanoi(disks=20)
    rng, again = random.Random(3), random.Random(3)
    states = [task.sample_state(rng) for _ in range(50)]
    assert states == [task.sample_state(again) for _ in range(50)]
    assert len(set(states)) == 50
    assert len({state.pegs[0].count(20) for state in states}) == 2  # before and after the largest disk moves


class TestCompactStyle:
    """A few characters each way, for models too small to read a strategy."""

    @pytest.mark.parametrize("views", [1, 3])
    def test_it_keeps_what_the_engine_relies_on(self, views: int) -> None:
        assert check_task(Hanoi(disks=4, views=views, style="compact")).skipped == ()

    def test_it_asks_and_answers_in_one_short_line(self) -> None:
        task = Hanoi(disks=3, style="compact")
        state = task.advance(task.start(), task.oracle(task.start()))
        assert task.step(state).user == "- a02 002"
        assert task.render(task.oracle(state)) == "b01 012"

    def test_it_asks_the_same_questions_as_the_full_style(self) -> None:
        """Both styles are about the same states and read into the same answers."""
        task, full = Hanoi(disks=5, style="compact"), Hanoi(disks=5)
        state = task.start()
        for _ in range(task.length()):
            truth = full.oracle(state)
            assert task.read(task.render(truth)) == full.read(full.render(truth)) == truth
            state = task.advance(state, truth)
        assert task.result(state)["solved"]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a01",
            "a01 00",
            "a01 0001",
            "A01 001",
            "a01 003",
            "a01  001",
            "01 001",
            "a01 001 ",
            "a01 \uff10\uff101",
        ],
    )
    def test_it_flags_whatever_is_not_a_move_and_a_peg_for_each_disk(self, text: str) -> None:
        with pytest.raises(RedFlag, match="malformed last line"):
            Hanoi(disks=3, style="compact").read(text)

    def test_more_disks_than_letters_are_refused(self) -> None:
        assert Hanoi(disks=26, style="compact").disks == 26
        with pytest.raises(ValidationError, match="style=compact takes up to 26 disks, not 27"):
            Hanoi(disks=27, style="compact")
