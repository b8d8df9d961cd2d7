"""Long multiplication on paper: one product or sum of two digits at a time."""

import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from mdap import Ask, Process, RedFlag, Step, View

_SYSTEM: Final = """\
You do one small step of a written multiplication. Work it out in one short sentence. Then end your reply with
this line and nothing after it, N being the result in digits:
result=N"""

_COMPACT_SYSTEM: Final = """\
You work out one small sum, such as 7*8+3 or 7+8+1. Write the result in digits, and nothing else."""

Digits = list[int]
"""A number's digits, the last one first."""


class Multiply(Process[dict[str, Any]]):
    """Multiply two whole numbers, one digit by one digit at a time."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    a: str = Field("46048", pattern="^[0-9]+$", max_length=400, description="the first number")
    b: str = Field("42098", pattern="^[0-9]+$", max_length=400, description="the second number")
    views: int = Field(1, ge=1, le=2, description="presentations of each step: 2 also swaps its digits")
    style: Literal["full", "compact"] = Field("full", description="prompts: compact ones suit tiny models")

    async def solve(self, ask: Ask) -> dict[str, Any]:
        """Return the product: all rows at once, then their sums in pairs.

        Within a row, a carry makes each step wait for the one before; rows do not wait for one another.
        """
        top = [int(digit) for digit in reversed(self.a)]
        bottom = [int(digit) for digit in reversed(self.b)]
        async with ask.group() as group:
            rows = [group.start(self._row, ask, top, digit, zeros) for zeros, digit in enumerate(bottom)]
        sums = [row.value for row in rows]
        while len(sums) > 1:
            pairwise = zip(sums[::2], sums[1::2], strict=False)
            async with ask.group() as group:
                pairs = [group.start(self._sum, ask, one, two) for one, two in pairwise]
            sums = [pair.value for pair in pairs] + (sums[-1:] if len(sums) % 2 else [])
        product = "".join(map(str, reversed(sums[0]))).lstrip("0") or "0"
        # Two strings of 400 digits multiply in no time: what the vote is worth can be seen at once.
        return {"solved": product == str(int(self.a) * int(self.b)), "product": product}

    def outcome(self, result: dict[str, Any]) -> bool:
        """Return whether the product is right."""
        return bool(result["solved"])

    def length(self) -> int:
        """Return how many steps there are at most; equal questions are decided once."""
        return len(self.a) * len(self.b) + (len(self.b) - 1) * (len(self.a) + len(self.b))

    async def _row(self, ask: Ask, top: Digits, digit: int, zeros: int) -> Digits:
        """Return *top* times one digit, followed by this many zeros."""
        carry, row = 0, [0] * zeros
        for above in top:
            carry, last = divmod(await ask(self._step("*", above, digit, carry)), 10)
            row.append(last)
        return [*row, carry]

    async def _sum(self, ask: Ask, one: Digits, two: Digits) -> Digits:
        """Return the sum of two numbers."""
        carry, total = 0, []
        for left, right in zip_longest(one, two, fillvalue=0):
            carry, last = divmod(await ask(self._step("+", left, right, carry)), 10)
            total.append(last)
        return [*total, carry]

    def _step(self, sign: str, left: int, right: int, carry: int) -> Step[int]:
        about = {"sign": sign, "digits": [left, right], "carry": carry}
        words = STYLES[self.style]
        swapped = View(words.question(sign, right, left, carry), words.read, words.system)
        views = (swapped,) if self.views == 2 and left != right else ()
        user = words.question(sign, left, right, carry)
        return Step(user, words.read, words.system, max_tokens=100, views=views, input=about)

    # -- for simulation and tests ------------------------------------------------------------------

    def oracle(self, step: Step[Any]) -> int:
        """Return the right result."""
        left, right = step.input["digits"]
        return int((left * right if step.input["sign"] == "*" else left + right) + step.input["carry"])

    def mistakes(self, step: Step[Any], truth: int) -> list[int]:
        """Return wrong results as a model would give them: the carry forgotten, a digit slipped."""
        carry = step.input["carry"]
        return [truth - carry if carry else truth + 1, truth + 10, *([truth - 1] if truth else [])]

    def render(self, step: Step[Any], answer: int) -> str:
        """Return a reply as a model would write it."""
        return str(answer) if self.style == "compact" else f"Together that makes {answer}.\nresult={answer}"


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of a step: the system message, the question for each sign, and the last line of a reply."""

    system: str
    questions: dict[str, str]
    last_line: re.Pattern[str]

    def question(self, sign: str, left: int, right: int, carry: int) -> str:
        return self.questions[sign].format(left, right, carry)

    def read(self, text: str) -> int:
        """Read the last line of a reply; raise `RedFlag` unless it is exactly what was asked for."""
        found = self.last_line.fullmatch(text.rstrip("\n").rpartition("\n")[2])
        if found is None:
            raise RedFlag("malformed last line")
        return int(found[1])


_FULL: Final = {
    "*": "Multiply {} by {}, then add the carry {}.",
    "+": "Add {} and {}, then add the carry {}.",
}
_COMPACT: Final = {"*": "{}*{}+{}", "+": "{}+{}+{}"}
STYLES: Final = {
    "full": _Words(_SYSTEM, _FULL, re.compile("result=([0-9]{1,3})")),
    "compact": _Words(_COMPACT_SYSTEM, _COMPACT, re.compile("([0-9]{1,3})")),
}
