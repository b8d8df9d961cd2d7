"""Sorting by small decisions: which of a handful of numbers are less than one other number."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from pydantic import Field

from mdap import Ask, Process, RedFlag, Step

_SPLIT: Final = """\
You are given some whole numbers and a limit. Find those numbers that are less than the limit. A number that
is there several times counts each time; a number that equals the limit is not less. Go through them one by
one in a line of your own. Then end your reply with this line and nothing after it, with the numbers you found
in any order, or [] for none:
less = [...]"""

_ORDER: Final = """\
You are given some whole numbers. Put them in ascending order; a number that is there several times stays
there as often. Then end your reply with this line and nothing after it:
sorted = [...]"""

_LIST: Final = re.compile(r"(less|sorted) = (\[[-0-9, ]*\])")
_LONGEST: Final = 5_000


class Sort(Process[dict[str, Any]]):
    """Sort whole numbers, a handful at a time."""

    numbers: list[int] = Field(
        [3386, 7040, -6178, 2437, -512, 8634, -72, 2400, 272, 686, -7590, 1102],
        max_length=100_000,
        description="what is to be sorted",
    )
    batch: int = Field(8, ge=2, le=50, description="numbers that a step looks at")

    async def solve(self, ask: Ask) -> dict[str, Any]:
        """Return the numbers in ascending order: split by one of them, and each part again, side by side."""
        found = await self._sorted(ask, self.numbers)
        return {"solved": found == sorted(self.numbers), "sorted": found}

    def outcome(self, result: dict[str, Any]) -> bool:
        """Return whether the numbers are sorted, and none is lost."""
        return bool(result["solved"])

    async def _sorted(self, ask: Ask, numbers: Sequence[int]) -> list[int]:
        if len(set(numbers)) <= 1:
            return list(numbers)  # nothing to decide
        if len(numbers) <= self.batch:
            ordered: list[int] = await ask(self._order(numbers))
            return ordered
        middle = len(numbers) // 2
        limit, others = numbers[middle], [*numbers[:middle], *numbers[middle + 1 :]]
        batches = [others[first : first + self.batch] for first in range(0, len(others), self.batch)]
        found: list[list[int]] = await ask.map([self._split(batch, limit) for batch in batches])
        less = list(chain.from_iterable(found))
        rest = list((Counter(others) - Counter(less)).elements())
        async with ask.group() as group:
            below = group.start(self._sorted, ask, less)
            above = group.start(self._sorted, ask, rest)
        return [*below.value, limit, *above.value]

    def _split(self, numbers: Sequence[int], limit: int) -> Step[list[int]]:
        about = {"numbers": list(numbers), "limit": limit}
        user = f"Numbers: {list(numbers)}\nLimit: {limit}"

        def read(text: str) -> list[int]:
            found = _read(text, "less")
            if Counter(found) - Counter(numbers):
                raise RedFlag("a number that was not given")
            return sorted(found)  # in whatever order they are named, they are the same answer

        return Step(user, read, _SPLIT, max_tokens=750, input=about)

    def _order(self, numbers: Sequence[int]) -> Step[list[int]]:
        def read(text: str) -> list[int]:
            found = _read(text, "sorted")
            if Counter(found) != Counter(numbers):
                raise RedFlag("not the numbers that were given")
            return found

        user = f"Numbers: {list(numbers)}"
        return Step(user, read, _ORDER, max_tokens=750, input={"numbers": list(numbers)})

    # -- for simulation and tests ------------------------------------------------------------------

    def oracle(self, step: Step[Any]) -> list[int]:
        """Return the right answer."""
        numbers: list[int] = sorted(step.input["numbers"])
        limit = step.input.get("limit")
        return numbers if limit is None else [number for number in numbers if number < limit]

    def mistakes(self, step: Step[Any], truth: list[int]) -> list[list[int]]:
        """Return wrong answers as a model would give them: one left out, one too many, two swapped."""
        if "limit" not in step.input:
            swaps = [
                [*truth[:place], truth[place + 1], truth[place], *truth[place + 2 :]]
                for place in range(len(truth) - 1)
            ]
            return [swap for swap in swaps if swap != truth]
        rest = list((Counter(step.input["numbers"]) - Counter(truth)).elements())
        wrong = [sorted(answer) for answer in ([*truth, *rest[:1]], truth[:-1], rest)]
        return [answer for answer in wrong if answer != truth]

    def render(self, step: Step[Any], answer: list[int]) -> str:
        """Return a reply as a model would write it."""
        return f"I looked at each of them.\n{'less' if 'limit' in step.input else 'sorted'} = {answer}"


def _read(text: str, name: str) -> list[int]:
    """Read the last line of a reply; raise `RedFlag` unless it is exactly what was asked for."""
    last = text.rstrip("\n").rpartition("\n")[2]
    found = _LIST.fullmatch(last) if len(last) <= _LONGEST else None
    if found is None or found[1] != name:
        raise RedFlag("malformed last line")
    try:
        numbers: list[int] = json.loads(found[2])
    except ValueError:
        raise RedFlag("malformed list") from None
    return numbers
