"""A domain that is no puzzle: put the rows of a table right, one a step, with a running total.

Equal answers must look equal, so amounts have a canonical form: "1,200.50", "1200.5" and "1200.50" are one
candidate.
"""

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pydantic import Field

import mdap
from mdap import canonical


@dataclass(frozen=True, slots=True)
class Row:
    """What a step decides: who, and how much, as text."""

    name: str
    amount: str


@dataclass(frozen=True, slots=True)
class State:
    """How many rows are done, and what they add up to."""

    done: int
    total: str


class Invoices(mdap.Chain[State, Row]):
    """Read names and amounts out of free-text lines, and add them up."""

    lines: list[str] = Field(
        ["Ann paid 1,200.50 for rent", "from Bob, tea: 3.20", "Cy - nothing owed: 0"], max_length=1000
    )

    def start(self) -> State:
        return State(0, "0")

    def step(self, state: State) -> mdap.Step[Row]:
        user = f"Line: {self.lines[state.done]!r}. Who, and how much? Reply name=N amount=A, no more."
        return mdap.Step(user=user, parse=read, max_tokens=40)

    def advance(self, state: State, answer: Row) -> State:
        return State(state.done + 1, str(Decimal(state.total) + Decimal(answer.amount)))

    def length(self) -> int:
        return len(self.lines)

    def canonical(self, answer: Row) -> Row:
        """Return the row with its amount in the one form by which votes are compared."""
        return replace(answer, amount=str(canonical.number(answer.amount)))

    def result(self, state: State) -> dict[str, Any]:
        return {"rows": state.done, "total": state.total}

    # For the simulated model and for tests.
    def oracle(self, state: State) -> Row:
        line = self.lines[state.done]
        names = re.findall("[A-Z][a-z]+", line)
        return self.canonical(Row(names[0], re.findall(r"[\d,.]*\d", line)[-1]))

    def mistakes(self, state: State, truth: Row) -> list[Row]:
        return [
            self.canonical(replace(truth, amount=str(Decimal(truth.amount) + 1))),
            replace(truth, name="Eve"),
        ]

    def render(self, answer: Row) -> str:
        return f"name={answer.name} amount={answer.amount}"


def read(text: str) -> Row:
    """Read a reply of exactly the form that was asked for."""
    found = re.fullmatch(r"name=([A-Z][a-z]{1,30}) amount=([\d,.]{1,20})", text.strip())
    if found is None:
        raise mdap.RedFlag("not as asked for")
    return Row(found[1], found[2])


if __name__ == "__main__":
    solution = mdap.solve_sync(Invoices(), k=3, db="custom_domain.db", options={"error_rate": 0.1})
    print(solution.result)
