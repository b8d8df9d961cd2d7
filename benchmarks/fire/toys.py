"""Processes for the fire tests, which ask in every way there is."""

from typing import Any

import mdap
from mdap_hanoi import Hanoi

__all__ = ["Crowd"]


class Double(mdap.Process[int]):
    """Double a number, of which a model is asked."""

    number: int = 1

    async def solve(self, ask: mdap.Ask) -> int:
        return await ask(double(self.number))

    def oracle(self, step: mdap.Step[Any]) -> int:
        return 2 * int(step.input)

    def mistakes(self, step: mdap.Step[Any], truth: int) -> list[int]:
        return [truth + 1, truth - 1, truth + 2]

    def render(self, step: mdap.Step[Any], answer: int) -> str:
        return str(answer)


def double(number: int) -> mdap.Step[int]:
    return mdap.Step(user=f"double {number}", parse=read, input=number)


def read(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise mdap.RedFlag("no number") from None


class Crowd(Double):
    """Side by side, one after the other, nested, and once."""

    width: int = 24
    height: int = 8

    async def solve(self, ask: mdap.Ask) -> Any:
        first = await ask.map(double(number) for number in range(self.width))
        async with ask.group() as group:
            deep = group.start(self.climb, ask)
            part = group.start(ask.solve, Double(number=100))
        noted = await ask.once(lambda: "noted", key="note")
        tower = await ask.solve(Hanoi(disks=3), key="tower")
        return [sum(first), deep.value, part.value, noted, tower["moves"]]

    async def climb(self, ask: mdap.Ask) -> int:
        number = 1
        for _ in range(self.height):
            number = await ask(double(number))
        return number
