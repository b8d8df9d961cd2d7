"""Add two whole numbers of any length: the domain that the tutorial grows."""

import re
from dataclasses import dataclass
from typing import Final

from pydantic import Field

import mdap

SYSTEM: Final = """\
You add one column of a written sum. You are given two digits and the carry from the column to the right.
Add the three. In one short sentence say what they add up to. Then end your reply with this line and nothing
after it, D being the last digit of what they add up to and C the carry to the left, 0 or 1:
digit=D carry=C"""

LAST_LINE: Final = re.compile("digit=([0-9]) carry=([01])")


@dataclass(frozen=True, slots=True)
class State:
    """The carry into the next column, and the digits found so far."""

    carry: int
    found: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The digit under a column, and the carry out of it."""

    digit: int
    carry: int


class LongSum(mdap.Chain[State, Answer]):
    """Add two whole numbers of any length, one column at a time."""

    a: str = Field(pattern="^[0-9]+$", max_length=4_000, description="the first number")
    b: str = Field(pattern="^[0-9]+$", max_length=4_000, description="the second number")

    def start(self) -> State:
        return State(carry=0, found="")

    def step(self, state: State) -> mdap.Step[Answer]:
        top, bottom = self.column(state)
        user = f"Digits: {top} and {bottom}. Carry: {state.carry}."
        return mdap.Step(system=SYSTEM, user=user, parse=read, max_tokens=100)

    def advance(self, state: State, answer: Answer) -> State:
        return State(answer.carry, f"{answer.digit}{state.found}")

    def result(self, state: State) -> dict[str, str]:
        return {"sum": f"{state.carry or ''}{state.found}"}

    def outcome(self, result: dict[str, str]) -> bool:
        return int(result["sum"]) == int(self.a) + int(self.b)

    def length(self) -> int:
        return max(len(self.a), len(self.b))

    def oracle(self, state: State) -> Answer:
        total = sum(self.column(state)) + state.carry
        return Answer(total % 10, total // 10)

    def mistakes(self, state: State, truth: Answer) -> list[Answer]:
        return [
            Answer((truth.digit + 9) % 10, truth.carry),  # one too few, as when the carry is forgotten
            Answer((truth.digit + 1) % 10, truth.carry),  # one too many
            Answer(truth.digit, 1 - truth.carry),  # the wrong carry
        ]

    def render(self, answer: Answer) -> str:
        total = 10 * answer.carry + answer.digit
        return f"They add up to {total}.\ndigit={answer.digit} carry={answer.carry}"

    def column(self, state: State) -> tuple[int, int]:
        """Return the two digits of the column that *state* has come to."""
        place = len(state.found) + 1
        return int(self.a.rjust(place, "0")[-place]), int(self.b.rjust(place, "0")[-place])


def read(text: str) -> Answer:
    """Read the last line of a reply; raise `RedFlag` unless it is exactly what was asked for."""
    found = LAST_LINE.fullmatch(text.rstrip("\n").rpartition("\n")[2])
    if found is None:
        raise mdap.RedFlag("malformed last line")
    return Answer(int(found[1]), int(found[2]))
