"""`check_task`: what keeps its promises passes, and each way to break one is named."""

import itertools
import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, Field, PrivateAttr, SecretStr

import mdap
from mdap.testing import NonconformingError, check_task
from mdap.testing.hostile import OverdueError, deadline
from mdap_hanoi import Hanoi


@dataclass(frozen=True, slots=True)
class Place:
    """How far it is, and the sum so far."""

    at: int
    total: int


class Sum(mdap.Chain[Place, int]):
    """Adds the numbers from 1 up, one at a time: a task that does everything right."""

    numbers: int = 9

    def start(self) -> Place:
        return Place(0, 0)

    def step(self, state: Place) -> mdap.Step[int] | None:
        if state.at == self.numbers:
            return None
        user = f"{state.total} + {state.at + 1}"
        view = mdap.View(user=f"{state.at + 1} to {state.total}", parse=self.read)
        return mdap.Step(user=user, parse=self.read, views=(view,))

    def advance(self, state: Place, answer: int) -> Place:
        return Place(state.at + 1, answer)

    def result(self, state: Place) -> Any:
        return {"solved": state.total == sum(range(self.numbers + 1)), "total": state.total}

    def outcome(self, result: Any) -> bool | None:
        return bool(result["solved"])

    def oracle(self, state: Place) -> int:
        return state.total + state.at + 1

    def mistakes(self, state: Place, truth: int) -> list[int]:
        return [truth - 1, truth + 1]

    def render(self, answer: int) -> str:
        return f"That makes\nsum={answer}"

    def read(self, text: str) -> int:
        found = re.fullmatch(r"sum=(-?[0-9]{1,9})", text.rpartition("\n")[2])
        if found is None:
            raise mdap.RedFlag("malformed last line")
        return int(found[1])


def properties(task: mdap.Task, **more: Any) -> set[str]:
    """The properties that `check_task` says a task breaks."""
    with pytest.raises(NonconformingError) as caught:
        check_task(task, **more)
    assert type(task).__name__ in str(caught.value)
    return {breach.property for breach in caught.value.conformance.breaches}


@pytest.mark.parametrize("task", [Sum(), Hanoi(disks=4), Hanoi(disks=3, views=3)], ids=repr)
def test_a_good_task_passes(task: mdap.Task) -> None:
    """It is walked through to its end, and its parsers have met hostile texts."""
    report = check_task(task)
    assert (report.breaches, report.skipped) == ((), ())
    assert report.steps >= 7
    assert report.texts > 500
    assert "conforms" in str(report)


def test_a_task_may_leave_out_what_is_optional() -> None:
    """Without oracle, mistakes and rendering, the first step is looked at, and the report says so."""

    class Bare(mdap.Chain[int, str]):
        def start(self) -> int:
            return 0

        def step(self, state: int) -> mdap.Step[str] | None:
            return mdap.Step(user="Say something", parse=str.strip)

        def advance(self, state: int, answer: str) -> int:
            return state + 1

    report = check_task(Bare())
    assert report.steps == 1
    assert len(report.skipped) == 3


# --- each of these is Sum with one thing wrong


class Counts(Sum):
    """Its prompts depend on how often it was asked."""

    _asked: Any = PrivateAttr(default_factory=lambda: itertools.count())

    def step(self, state: Place) -> mdap.Step[int] | None:
        step = super().step(state)
        return step and mdap.Step(user=f"{step.user} ({next(self._asked)})", parse=step.parse)


class Remembers(Sum):
    """Its first prompt changes once the end has been reached."""

    _seen: list[int] = PrivateAttr(default_factory=list)

    def result(self, state: Place) -> Any:
        self._seen.append(1)
        return super().result(state)

    def step(self, state: Place) -> mdap.Step[int] | None:
        if state.at == self.numbers:
            self._seen.append(1)
        return mdap.Step(user=f"{state} {bool(self._seen)}", parse=self.read) if state.at < 9 else None


class Listing(mdap.Chain[list[int], int]):
    """Its advance changes the state that it is given."""

    def start(self) -> list[int]:
        return []

    def step(self, state: list[int]) -> mdap.Step[int] | None:
        return mdap.Step(user=f"{state}", parse=Sum().read) if len(state) < 3 else None

    def advance(self, state: list[int], answer: int) -> list[int]:
        state.append(answer)
        return state

    def oracle(self, state: list[int]) -> int:
        return 7

    def mistakes(self, state: list[int], truth: int) -> list[int]:
        return [8]

    def render(self, answer: int) -> str:
        return f"sum={answer}"


class Tuples(mdap.Chain[Any, int]):
    """Its state is a tuple that comes back as a list, and its prompt shows which it is."""

    def start(self) -> Any:
        return (0,)

    def step(self, state: Any) -> mdap.Step[int] | None:
        return mdap.Step(user=f"{state}", parse=Sum().read) if state[0] < 3 else None

    def advance(self, state: Any, answer: int) -> Any:
        return (state[0] + 1,)

    def oracle(self, state: Any) -> int:
        return 7

    def mistakes(self, state: Any, truth: int) -> list[int]:
        return [8]

    def render(self, answer: int) -> str:
        return f"sum={answer}"


@dataclass(frozen=True)
class More:
    by: int


@dataclass(frozen=True)
class Less:
    by: int


class Alike(mdap.Chain[int, More | Less]):
    """Its answers are of two classes that have the same JSON."""

    def start(self) -> int:
        return 0

    def step(self, state: int) -> mdap.Step[More | Less] | None:
        return mdap.Step(user=f"after {state}?", parse=self.read) if state < 3 else None

    def read(self, text: str) -> More | Less:
        if text not in ("more", "less"):
            raise mdap.RedFlag("neither")
        return More(1) if text == "more" else Less(1)

    def advance(self, state: int, answer: More | Less) -> int:
        return state + 1

    def oracle(self, state: int) -> More | Less:
        return More(1)

    def mistakes(self, state: int, truth: More | Less) -> list[More | Less]:
        return [More(2)]

    def render(self, answer: More | Less) -> str:
        return "more"


class OfBase(mdap.Process[Any]):
    """Its answers hold one of two classes where a base class is declared, and its views differ in which."""

    class Held(BaseModel):
        by: Any

    def step(self) -> mdap.Step[Any]:
        view = mdap.View(user="the other way?", parse=lambda text: self.Held(by=Less(1)), render=str)
        return mdap.Step(user="which way?", parse=lambda text: self.Held(by=More(1)), views=(view,))

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask(self.step())

    def oracle(self, step: mdap.Step[Any]) -> Any:
        return self.Held(by=More(1))

    def mistakes(self, step: mdap.Step[Any], truth: Any) -> list[Any]:
        return [self.Held(by=More(2))]

    def render(self, step: mdap.Step[Any], answer: Any) -> str:
        return "more"


class Secretive(Sum):
    """It takes a secret as a parameter."""

    key: SecretStr = SecretStr("hunter2")


class UsedUp(Sum):
    """Its answers can be read only once."""

    def read(self, text: str) -> Any:
        return (part for part in text)


class ReadsAnyNumber(Sum):
    """Its parser lets `int` and `json` raise what they like."""

    def read(self, text: str) -> int:
        return int(text.rpartition("=")[2])


class ReadsNan(mdap.Chain[int, float]):
    """Its parser lets through what has no JSON form."""

    def start(self) -> int:
        return 0

    def step(self, state: int) -> mdap.Step[float] | None:
        return mdap.Step(user="A number?", parse=self.read) if state < 2 else None

    def read(self, text: str) -> float:
        try:
            return float(json.loads(text))
        except (ValueError, TypeError, RecursionError, OverflowError):
            raise mdap.RedFlag("no number") from None

    def advance(self, state: int, answer: float) -> int:
        return state + 1

    def oracle(self, state: int) -> float:
        return 1.5

    def mistakes(self, state: int, truth: float) -> list[float]:
        return [2.5]

    def render(self, answer: float) -> str:
        return str(answer)


class Backtracks(Sum):
    """Its pattern takes exponential time."""

    def read(self, text: str) -> int:
        found = re.fullmatch(r"(?:\w+\s*)*sum=(-?[0-9]{1,9})", text)
        if found is None:
            raise mdap.RedFlag("malformed")
        return int(found[1])


class Searches(Sum):
    """Its pattern takes quadratic time."""

    def read(self, text: str) -> int:
        found = re.search(r"[\s\S]*?\s+sum=(-?[0-9]{1,9})$", text)
        if found is None:
            raise mdap.RedFlag("malformed")
        return int(found[1])


class Drops(Sum):
    """What it renders is not what it reads."""

    def render(self, answer: int) -> str:
        return f"sum={abs(answer - 3)}"


class Mirrored(Sum):
    """Its view reads the answer the wrong way round."""

    def step(self, state: Place) -> mdap.Step[int] | None:
        view = mdap.View(user="mirrored", parse=lambda text: -self.read(text))
        return mdap.Step(user=f"{state}", parse=self.read, views=(view,)) if state.at < 9 else None


class TwiceTheSame(Sum):
    """Its view is no other presentation."""

    def step(self, state: Place) -> mdap.Step[int] | None:
        view = mdap.View(user=f"{state}", parse=self.read)
        return mdap.Step(user=f"{state}", parse=self.read, views=(view,)) if state.at < 9 else None


class RightMistake(Sum):
    """One of its mistakes is right."""

    def mistakes(self, state: Place, truth: int) -> list[int]:
        return [truth + 1, truth]


class Infallible(Sum):
    """It names no mistake."""

    def mistakes(self, state: Place, truth: int) -> list[int]:
        return []


class Vague(Sum):
    def outcome(self, result: Any) -> Any:
        return "rather good"


class Hasty(Sum):
    def outcome(self, result: Any) -> bool | None:
        return bool(result["product"])


class WrongOracle(Sum):
    """Its oracle does not solve it."""

    def oracle(self, state: Place) -> int:
        return state.total + 1


class Endless(Sum):
    """It never ends."""

    numbers: int = 10**9


class TooLong(Sum):
    """It says that it takes more steps than it has."""

    def length(self) -> int:
        return self.numbers + 1


class Brittle(Sum):
    """A wrong decision makes its next step impossible."""

    def step(self, state: Place) -> mdap.Step[int] | None:
        if state.total != state.at * (state.at + 1) // 2:
            raise ValueError("that cannot be")
        return super().step(state)


class Wordy(Sum):
    """What it renders is longer than its own limit."""

    def step(self, state: Place) -> mdap.Step[int] | None:
        return mdap.Step(user=f"{state}", parse=self.read, max_tokens=2) if state.at < 9 else None


class Chatty(Sum):
    """Its reasons repeat the text."""

    def read(self, text: str) -> int:
        try:
            return super().read(text)
        except mdap.RedFlag:
            raise mdap.RedFlag(f"cannot read {text}") from None


class Halves(Sum):
    """Its canonical form is not its own."""

    def canonical(self, answer: Any) -> Any:
        return answer // 2


class Silent(Sum):
    """It asks nothing."""

    def step(self, state: Place) -> mdap.Step[int] | None:
        return mdap.Step(user=" ", parse=self.read) if state.at < 9 else None


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Counts(), {"methods are pure", "states survive their JSON"}),
        (Remembers(), {"methods are pure"}),
        (Listing(), {"methods change no argument"}),
        (Tuples(), {"states survive their JSON"}),
        (Secretive(), {"parameters come back from the record"}),
        (ReadsAnyNumber(), {"bad text raises RedFlag and nothing else"}),
        (ReadsNan(), {"bad text raises RedFlag and nothing else"}),
        (Backtracks(), {"any text is read in bounded time"}),
        (Searches(), {"any text is read in bounded time"}),
        (Drops(), {"reading undoes rendering"}),
        (Mirrored(), {"reading undoes rendering"}),
        (TwiceTheSame(), {"views differ"}),
        (RightMistake(), {"mistakes are wrong"}),
        (Infallible(), {"there are mistakes"}),
        (WrongOracle(), {"its oracle solves it"}),
        (Vague(), {"outcome is True, False or None"}),
        (Hasty(), {"methods raise nothing"}),
        (TooLong(), {"length is the number of steps"}),
        (Brittle(), {"a wrong decision does not end the run"}),
        (Wordy(), {"a rendered reply may vote"}),
        (Chatty(), {"reasons are few"}),
        (Halves(), {"a canonical form is its own"}),
        (Silent(), {"a step asks something"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, mdap.Task) else "",
)
def test_a_broken_promise_is_named(task: mdap.Task, expected: set[str]) -> None:
    """Exactly what is wrong is reported."""
    assert properties(task, seconds=0.1) >= expected


def test_a_task_that_does_not_end_is_to_be_checked_in_the_small() -> None:
    """An end that was not reached is not taken for granted."""
    assert properties(Endless(), steps=20) == {"its oracle brings it to an end"}


def test_a_report_is_short_and_names_the_steps() -> None:
    """However often a promise is broken, the text stays readable."""
    with pytest.raises(NonconformingError) as caught:
        check_task(Drops(numbers=50))
    text = str(caught.value)
    assert "step 0, reading undoes rendering" in text
    assert "and 45 more of: reading undoes rendering" in text
    assert len(text.splitlines()) < 20


class Showing(Tuples):
    """Its prompt lists what a dict holds."""

    def start(self) -> Any:
        return {"b": 0, "a": 1}

    def step(self, state: Any) -> mdap.Step[int] | None:
        return mdap.Step(user=f"{state}", parse=Sum().read) if state["a"] < 3 else None

    def advance(self, state: Any, answer: Any) -> Any:
        return {"b": answer, "a": state["a"] + 1}

    def oracle(self, state: Any) -> int:
        return 5

    def result(self, state: Any) -> Any:
        return None


def test_a_prompt_may_list_what_a_dict_holds() -> None:
    """A run has its dicts in one order, and a check takes the same."""
    assert check_task(Showing()).steps == 2


class Fickle(Showing):
    """Its prompt is long, and another one each time."""

    def step(self, state: Any) -> mdap.Step[int] | None:
        return mdap.Step(user="x" * 300 + f"{next(_ASKED)} times", parse=Sum().read)


_ASKED = itertools.count()


@pytest.mark.slow
def test_a_report_shows_where_two_texts_part() -> None:
    """Not the beginning that they share."""
    with pytest.raises(NonconformingError, match=r"is \.\.\.x+1 times.*, not \.\.\.x+0 times"):
        check_task(Fickle())


# --- processes


class Tree(mdap.Process[dict[str, Any]]):
    """Adds numbers in pairs, side by side: a process that does everything right."""

    numbers: tuple[int, ...] = (3, 1, 4, 1, 5, 9, 2, 6)

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        sums = list(self.numbers)
        while len(sums) > 1:
            sums = list(await ask.map(self.pair(*sums[at : at + 2]) for at in range(0, len(sums), 2)))
        return {"solved": sums == [sum(self.numbers)], "sum": sums[0]}

    def outcome(self, result: Any) -> bool | None:
        solved: bool | None = result.get("solved")
        return solved

    def pair(self, one: int, two: int) -> mdap.Step[Any]:
        return mdap.Step(user=f"{one} + {two}", parse=Sum().read, input=[one, two])

    def oracle(self, step: mdap.Step[Any]) -> int:
        return int(sum(step.input))

    def mistakes(self, step: mdap.Step[Any], truth: int) -> list[int]:
        return [truth + 1, truth - 1]

    def render(self, step: mdap.Step[Any], answer: int) -> str:
        return f"sum={answer}"


class Grouped(Tree):
    """Everything that a process can ask for, with a chain and a process as its parts."""

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        async with ask.group() as group:
            one = group.ask(self.pair(1, 2))
            two = group.start(ask.solve, Sum(numbers=4))
            three = group.start(ask.solve, Tree(numbers=(1, 2)))
        drawn = await ask.once(lambda: 4, "drawn")
        vote = await ask.decision(self.pair(one.value, drawn))
        return {"sum": [vote.answer, two.value["total"], three.value["sum"]]}


def test_a_good_process_passes_with_its_parts() -> None:
    """Each part is looked at, too."""
    assert check_task(Tree()).steps == 7
    assert check_task(Grouped()).steps > 6


class InOrderOfArrival(Tree):
    """What it asks next depends on which answer comes first."""

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        came: list[int] = []

        async def add(one: int) -> None:
            came.append(await ask(self.pair(one, one)))

        async with ask.group() as group:
            for number in (1, 2, 3):
                group.start(add, number)
        return {"sum": await ask(self.pair(came[0], 7))}


class OneKey(Tree):
    """All its steps have one key."""

    def pair(self, one: int, two: int) -> mdap.Step[Any]:
        return mdap.Step(user=f"{one} + {two}", parse=Sum().read, input=[one, two], key="pair")


class Picky(Tree):
    """A wrong decision makes it fail."""

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        return {"sum": {6: "six"}[await ask(self.pair(3, 3))]}


class GoesOn(Tree):
    """It goes on asking until it likes the answer."""

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        number = 0
        while await ask(self.pair(number, 1)) != number + 1:
            number += 1
        while (await ask(self.pair(1, 1))) != 2:
            await ask(self.pair(number, 2))
            number += 1
        return {}


class ShortLength(Tree):
    """It says that it takes fewer steps than it does."""

    def length(self) -> int:
        return 3


class WithBadPart(Tree):
    """A part of it is not as it should be."""

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        return {"sum": (await ask.solve(Drops(numbers=3)))["total"]}


class Fails(Tree):
    """Its own code fails."""

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        raise ValueError("no")


class LooksAhead(Tree):
    """It reads a group's value before the group has ended."""

    async def solve(self, ask: mdap.Ask) -> dict[str, Any]:
        async with ask.group() as group:
            return {"sum": group.ask(self.pair(1, 2)).value}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (InOrderOfArrival(), "it does the same in whatever order answers come"),
        (OneKey(), "a key stands for one prompt"),
        (Picky(), "a wrong decision does not end the run"),
        (GoesOn(), "a wrong decision does not make it endless"),
        (ShortLength(), "length is the number of steps"),
        (WithBadPart(), "reading undoes rendering"),
        (Fails(), "methods raise nothing"),
        (LooksAhead(), "methods raise nothing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, mdap.Task) else "",
)
def test_what_a_process_must_not_do_is_named(task: mdap.Task, expected: str) -> None:
    """Exactly that is reported."""
    assert properties(task, steps=50) == {expected}


async def test_a_process_can_be_checked_where_a_loop_runs() -> None:
    """In an async test as in any other."""
    assert check_task(Tree()).breaches == ()


# --- the rest


def test_hiding_behind_except_does_not_help() -> None:
    """A parser that catches everything is interrupted all the same."""

    def read() -> None:
        try:
            re.fullmatch(r"(a+)+b", "a" * 60)
        except Exception:
            raise mdap.RedFlag("malformed") from None

    with pytest.raises(OverdueError), deadline(0.1):
        read()


def test_what_is_no_chain_is_refused() -> None:
    """A sentence says so."""
    with pytest.raises(mdap.UsageError, match="derive it"):
        check_task(mdap.Task())


class Gathers(mdap.Chain[tuple[int, set[int]], int]):
    """Changes its state in place, which shows only after an answer that the oracle does not give."""

    def start(self) -> tuple[int, set[int]]:
        return 0, {0}

    def step(self, state: tuple[int, set[int]]) -> mdap.Step[int] | None:
        return None if state[0] == 3 else mdap.Step(user=f"{state[0]}", parse=Sum().read)

    def advance(self, state: tuple[int, set[int]], answer: int) -> tuple[int, set[int]]:
        state[1].add(answer)
        return state[0] + 1, set(state[1])

    def oracle(self, state: tuple[int, set[int]]) -> int:
        return 0

    def mistakes(self, state: tuple[int, set[int]], truth: int) -> list[int]:
        return [1]

    def render(self, answer: int) -> str:
        return f"sum={answer}"


class Collects(Sum):
    """Keeps what it is told in a parameter."""

    told: list[int] = Field(default_factory=list)

    def advance(self, state: Place, answer: int) -> Place:
        self.told.append(answer)
        return super().advance(state, answer)


class Versioned(Sum):
    version: ClassVar[Any] = object()


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (Gathers(), "step 0, methods change no argument: advance changed what it was given"),
        (Collects(), "methods change no argument: advance changed the task's parameters"),
        (Versioned(), "the version of Versioned cannot be recorded: an object of class object has no JSON"),
        (
            Tuples(),
            "the state (0,) comes back from its JSON as [0]: derive the task from mdap.Chain[tuple, ...]",
        ),
        (
            Alike(),
            "the answer More(by=1) has the JSON that Less(by=1) has: give each class a field of its own",
        ),
        (
            OfBase(),
            'have one spelling, {"by":{"by":1}}, and would share their votes: give each class a field',
        ),
        (UsedUp(), "an object of class generator can be read only once: return a list of its items"),
        (Secretive(), "parameter key of Secretive is a secret, which mdap does not record"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_says_of_values_what_a_run_would_say(task: mdap.Task, sentence: str) -> None:
    """In the same sentence, before anything is paid."""
    with pytest.raises(NonconformingError) as caught:
        check_task(task, texts=10)
    assert sentence in str(caught.value)
