"""Vote on programs by what they do: an answer is its results on given inputs."""

import re
from typing import Any

import mdap

INPUTS = (-3, 0, 1, 7, 100)
TOKEN = re.compile(r"x|[0-9]{1,6}|[-+*]")


class Program(mdap.Chain[int, list[int]]):
    """Write a program in postfix notation for a formula of x."""

    formula: str = "3 * x + 2"

    def start(self) -> int:
        return 0

    def step(self, state: int) -> mdap.Step[list[int]]:
        user = f"Write {self.formula} in postfix notation, such as: x 2 + 5 *. Reply with that line only."
        return mdap.Step(user=user, parse=read, max_tokens=100)

    def advance(self, state: int, answer: list[int]) -> int:
        return state + 1

    def length(self) -> int:
        return 1

    def result(self, state: int) -> Any:
        return None


def read(text: str) -> list[int]:
    """Return what the program in a reply makes of each input; that is what the reply votes for."""
    return [run(text, x) for x in INPUTS]


def run(program: str, x: int) -> int:
    """Run a program in a language that can do no harm and always ends."""
    stack: list[int] = []
    for token in program.split()[:50]:
        if not TOKEN.fullmatch(token):
            raise mdap.RedFlag("not a program")
        if token in "+-*":
            if len(stack) < 2:
                raise mdap.RedFlag("a program that fails")
            right, left = stack.pop(), stack.pop()
            stack.append({"+": left + right, "-": left - right, "*": left * right}[token])
        else:
            stack.append(x if token == "x" else int(token))
        if abs(stack[-1]) > 10**12:
            raise mdap.RedFlag("a program that fails")
    if len(stack) != 1:
        raise mdap.RedFlag("a program that fails")
    return stack[0]
