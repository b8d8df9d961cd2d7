"""One task of thirty steps, with states and answers written in many styles, and some that mdap refuses."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

import mdap

STEPS = 30
S = TypeVar("S")
A = TypeVar("A")


class Counting(mdap.Chain[S, A], Generic[S, A]):
    """Counts to thirty: what differs is in which form the numbers are kept."""

    def at(self, state: S) -> int:
        """How far it is."""
        raise NotImplementedError

    def put(self, number: int) -> A:
        """A number as an answer."""
        raise NotImplementedError

    def step(self, state: S) -> mdap.Step[A] | None:
        at = self.at(state)
        return None if at >= STEPS else mdap.Step(user=f"after {at}?", parse=self.read)

    def read(self, text: str) -> A:
        if not text.isdecimal() or len(text) > 3:
            raise mdap.RedFlag("not a number")
        return self.put(int(text))

    def oracle(self, state: S) -> A:
        return self.put(self.at(state) + 1)

    def mistakes(self, state: S, truth: A) -> list[A]:
        return [self.put(99)]

    def render(self, answer: A) -> str:
        return next(str(number) for number in range(100) if self.put(number) == answer)

    def result(self, state: S) -> Any:
        return repr(state)


class Plain(Counting[dict[str, Any], int]):
    """Plain JSON."""

    def start(self) -> dict[str, Any]:
        return {"at": 0, "seen": []}

    def at(self, state: dict[str, Any]) -> int:
        return int(state["at"])

    def put(self, number: int) -> int:
        return number

    def advance(self, state: dict[str, Any], answer: int) -> dict[str, Any]:
        return {"at": answer, "seen": [*state["seen"], [answer, None]]}


@dataclass(frozen=True)
class Place:
    at: int
    days: tuple[date, ...] = ()
    tags: frozenset[str] = field(default_factory=frozenset)


class Dataclasses(Counting[Place, date]):
    """Frozen dataclasses with dates, tuples and sets."""

    def start(self) -> Place:
        return Place(0)

    def at(self, state: Place) -> int:
        return state.at

    def put(self, number: int) -> date:
        return date(2026, 1, 1) + timedelta(number)

    def advance(self, state: Place, answer: date) -> Place:
        at = (answer - date(2026, 1, 1)).days
        return Place(at, (*state.days, answer), state.tags | {f"tag {at % 7}"})

    def result(self, state: Place) -> Any:
        return {"state": state, "days": len(state.days)}


class Basket(BaseModel):
    model_config = ConfigDict(frozen=True)

    at: int = Field(0, alias="At")
    seen: set[str] = set()
    price: Decimal = Decimal("0.00")


class Pydantic(Counting[Basket, Decimal]):
    """Pydantic models with an alias, a set and decimals."""

    def start(self) -> Basket:
        return Basket()

    def at(self, state: Basket) -> int:
        return state.at

    def put(self, number: int) -> Decimal:
        return Decimal(number).quantize(Decimal("0.01"))

    def advance(self, state: Basket, answer: Decimal) -> Basket:
        number = int(answer)
        return Basket(At=number, seen=state.seen | {f"item {number % 9}"}, price=state.price + answer)

    def result(self, state: Basket) -> Any:
        return state


class Cell(NamedTuple):
    at: int
    label: str


class Named(Counting[Cell, Cell]):
    """Named tuples."""

    def start(self) -> Cell:
        return Cell(0, "")

    def at(self, state: Cell) -> int:
        return state.at

    def put(self, number: int) -> Cell:
        return Cell(number, "x" * (number % 3))

    def advance(self, state: Cell, answer: Cell) -> Cell:
        return answer


class Form(TypedDict):
    at: int
    parts: dict[int, str]


class Typed(Counting[Form, Form]):
    """Typed dicts with integer keys."""

    def start(self) -> Form:
        return {"at": 0, "parts": {}}

    def at(self, state: Form) -> int:
        return state["at"]

    def put(self, number: int) -> Form:
        return {"at": number, "parts": {number: "a", number % 10: "b"}}

    def advance(self, state: Form, answer: Form) -> Form:
        return {"at": answer["at"], "parts": {**state["parts"], **answer["parts"]}}


class Light(Enum):
    RED = "red"
    GREEN = "green"


class Enums(Counting[tuple[int, dict[Light, int]], tuple[Light, int]]):
    """Enumerations, also as keys."""

    def start(self) -> tuple[int, dict[Light, int]]:
        return 0, {}

    def at(self, state: tuple[int, dict[Light, int]]) -> int:
        return state[0]

    def put(self, number: int) -> tuple[Light, int]:
        return list(Light)[number % 2], number

    def advance(
        self, state: tuple[int, dict[Light, int]], answer: tuple[Light, int]
    ) -> tuple[int, dict[Light, int]]:
        light, number = answer
        return number, {**state[1], light: state[1].get(light, 0) + 1}

    def result(self, state: tuple[int, dict[Light, int]]) -> Any:
        return sorted((light.name, count) for light, count in state[1].items())


class Boxed(BaseModel, Generic[A]):
    held: A


class OfOnesOwn(Counting[Boxed[S], S], Generic[S]):
    """A base of one's own, generic in what its states hold."""

    def start(self) -> Boxed[S]:
        return Boxed[S](held=self.put(0))


class Generics(OfOnesOwn[tuple[int, ...]]):
    """Generics."""

    def start(self) -> Boxed[tuple[int, ...]]:
        return Boxed[tuple[int, ...]](held=(0,))

    def at(self, state: Boxed[tuple[int, ...]]) -> int:
        return state.held[-1]

    def put(self, number: int) -> tuple[int, ...]:
        return (number,)

    def advance(self, state: Boxed[tuple[int, ...]], answer: tuple[int, ...]) -> Boxed[tuple[int, ...]]:
        return Boxed[tuple[int, ...]](held=state.held + answer)


@dataclass(frozen=True)
class Base:
    at: int


@dataclass(frozen=True)
class Deep(Base):
    more: tuple[str, ...] = ()


class Inheritance(Counting[Deep, Deep]):
    """Classes that inherit from another."""

    def start(self) -> Deep:
        return Deep(0)

    def at(self, state: Deep) -> int:
        return state.at

    def put(self, number: int) -> Deep:
        return Deep(number, ("a",) * (number % 4))

    def advance(self, state: Deep, answer: Deep) -> Deep:
        return answer


@dataclass(frozen=True)
class Search:
    at: int
    kind: Literal["search"] = "search"


@dataclass(frozen=True)
class Found:
    at: int
    kind: Literal["found"] = "found"


class Union(Counting[Search | Found, Search | Found]):
    """A union of classes of like shape, told apart by a field."""

    def start(self) -> Search | Found:
        return Search(0)

    def at(self, state: Search | Found) -> int:
        return state.at

    def put(self, number: int) -> Search | Found:
        return Search(number) if number % 3 else Found(number)

    def advance(self, state: Search | Found, answer: Search | Found) -> Search | Found:
        return answer


class Numpy(Counting[list[float], float]):
    """Computed with numpy, kept as Python's own numbers."""

    def start(self) -> list[float]:
        return [0.0]

    def at(self, state: list[float]) -> int:
        return int(state[-1])

    def put(self, number: int) -> float:
        return float(np.float64(number))

    def advance(self, state: list[float], answer: float) -> list[float]:
        return [*state, float(np.mean([answer, answer]))]


Words = dict[str, int]


class Insertion(Counting[Words, Words]):
    """Prompts that show the order of dicts: of the state, the answers before, and a parameter."""

    weights: Words = Field(default_factory=lambda: {"z": 1, "a": 2})

    def start(self) -> Words:
        return {"start": 0}

    def at(self, state: Words) -> int:
        return max(state.values())

    def put(self, number: int) -> Words:
        return {f"word {7 * number % 31}": number, "about": number}

    def step(self, state: Words) -> mdap.Step[Words] | None:
        step = super().step(state)
        return None if step is None else replace(step, user=f"{self.weights} {state}: {step.user}")

    def advance(self, state: Words, answer: Words) -> Words:
        return {**answer, **state, "about": answer["about"]}


class Asked(mdap.Process[list[str]]):
    """A process whose prompts show the order of dicts: of answers, votes, and a parameter."""

    weights: Words = Field(default_factory=lambda: {"z": 1, "a": 2})

    async def solve(self, ask: mdap.Ask) -> list[str]:
        asked: list[str] = []
        votes: Mapping[str, int] = {}
        answer: Words = {}
        for number in range(STEPS):
            asked.append(f"{number}: {self.weights} {answer} {list(votes)}")
            step = mdap.Step(user=asked[-1], parse=json.loads, input=number, max_tokens=60)
            decision = await ask.decision(step)
            answer, votes = decision.answer or {}, decision.votes
        return asked

    def oracle(self, step: mdap.Step[Any]) -> Words:
        return {f"word {7 * step.input % 31}": 1, "about": step.input}

    def mistakes(self, step: mdap.Step[Any], truth: Words) -> list[Words]:
        return [{"wrong": 1}, {"about": 0}]

    def render(self, step: mdap.Step[Any], answer: Words) -> str:
        return json.dumps(answer)


@dataclass
class Sum:
    total: float
    parts: list[float]


class Floats(Counting[Sum, float]):
    """Integers where floats are declared, which comparisons and type checkers let pass."""

    def start(self) -> Sum:
        return Sum(0, [])

    def at(self, state: Sum) -> int:
        return int(state.total)

    def put(self, number: int) -> float:
        return number

    def step(self, state: Sum) -> mdap.Step[float] | None:
        step = super().step(state)
        return None if step is None else replace(step, user=f"{state}: {step.user}")

    def advance(self, state: Sum, answer: float) -> Sum:
        return Sum(answer, [*state.parts[-3:], answer])


# --- refused at step 0


class NumpyScalars(Numpy):
    """Its answers are numpy's."""

    def put(self, number: int) -> float:
        return np.float64(number)


class NumpyIntegers(Numpy):
    """Its answers are numpy's, of a class that has no JSON form."""

    def put(self, number: int) -> float:
        return np.int64(number)  # type: ignore[return-value] # what it is about


class Untyped(Dataclasses, Counting):  # type: ignore[type-arg] # what it is about
    """Nobody said what its states are."""


@dataclass(frozen=True)
class Accept:
    at: int


@dataclass(frozen=True)
class Reject:
    at: int


class Alike(Counting[Accept | Reject, int]):
    """A union whose classes are of like shape, with nothing to tell them apart."""

    def start(self) -> Accept | Reject:
        return Accept(0)

    def at(self, state: Accept | Reject) -> int:
        return state.at

    def put(self, number: int) -> int:
        return number

    def advance(self, state: Accept | Reject, answer: int) -> Accept | Reject:
        return Reject(answer) if answer > 20 else Accept(answer)


class InPlace(Plain):
    """It changes its state in place."""

    def advance(self, state: dict[str, Any], answer: int) -> dict[str, Any]:
        state["at"] = answer
        return state


class UsedUp(Counting[list[int], Any]):
    """Its answers can be read only once."""

    def start(self) -> list[int]:
        return []

    def at(self, state: list[int]) -> int:
        return len(state)

    def put(self, number: int) -> Iterator[int]:
        return iter((number,))

    def render(self, answer: Iterator[int]) -> str:
        return str(*answer)

    def advance(self, state: list[int], answer: Iterator[int]) -> list[int]:
        return [*state, *answer]
