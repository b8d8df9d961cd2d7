"""Products of whole numbers, in words: problems whose answers and right plans are known, for simulation."""

import re
from typing import Final

from mdap_maker.words import SIMPLE, Plan

_MULTIPLY: Final = re.compile(r"Multiply ([0-9]{1,400}) by ([0-9]{1,400})\.")
_APPEND: Final = re.compile(r"Append ([0-9]{1,3}) zeros to the first result, then add the second result\.")
_RESULTS: Final = re.compile(
    r"(.*) The first result is ([0-9]{1,900})\. The second result is ([0-9]{1,900})\.", re.DOTALL
)


def answer_to(problem: str) -> str | None:
    """Return the right answer to *problem*; None if it is none that is known here."""
    if found := _MULTIPLY.fullmatch(problem):
        return str(int(found[1]) * int(found[2]))
    if found := _RESULTS.fullmatch(problem):
        steps = _APPEND.fullmatch(found[1].rpartition("\n")[2])
        return str(int(found[2]) * 10 ** int(steps[1]) + int(found[3])) if steps else None
    return None


def composed(compose: str, first: str, second: str) -> str:
    """Return a composition as a problem that is complete in itself."""
    return f"{compose} The first result is {first}. The second result is {second}."


def best_plan(problem: str) -> Plan | None:
    """Return a right plan for *problem*: split the longer number in the middle; None if none is known."""
    found = _MULTIPLY.fullmatch(problem)
    if found is None:
        return None if answer_to(problem) is None else SIMPLE
    a, b = found[1], found[2]
    if len(a) == len(b) == 1:
        return SIMPLE
    zeros = max(len(a), len(b)) // 2
    if len(a) >= len(b):
        first, second = (f"Multiply {part} by {b}." for part in (a[:-zeros], a[-zeros:]))
    else:
        first, second = (f"Multiply {a} by {part}." for part in (b[:-zeros], b[-zeros:]))
    return {"first": first, "second": second, "compose": _instruction(zeros)}


def is_good(problem: str, plan: Plan) -> bool:
    """Return whether *plan* leads to the right answer, in parts that are smaller."""
    if plan == SIMPLE:
        return best_plan(problem) == SIMPLE
    first, second = answer_to(plan["first"]), answer_to(plan["second"])
    if first is None or second is None or best_plan(problem) == SIMPLE:
        return False
    smaller = max(len(plan["first"]), len(plan["second"])) <= len(problem) + 1
    return smaller and answer_to(composed(plan["compose"], first, second)) == answer_to(problem)


def wrong_plans(problem: str) -> list[Plan]:
    """Return plans as a poor decomposer would make them."""
    best = best_plan(problem)
    if best is None or best == SIMPLE:
        parts = [(f"Multiply {one} by {one}.", f"Multiply {one} by 1.") for one in (2, 3)]
        return [{"first": one, "second": other, "compose": _instruction(1)} for one, other in parts]
    return [
        {**best, "compose": _instruction(len(best["first"]) % 3 + 4)},
        {**best, "second": best["second"].replace("Multiply ", "Multiply 1", 1)},
        {"first": best["second"], "second": best["first"], "compose": best["compose"]},
        SIMPLE,
    ]


def wrong_answers(truth: str) -> list[str]:
    """Return answers as a poor solver would give them."""
    number = int(truth)
    return [
        str(number + 1),
        str(number + 10),
        str(max(0, number - 1) if number != 1 else 3),
        f"{number}0" if number else "2",
    ]


def _instruction(zeros: int) -> str:
    return f"Append {zeros} zeros to the first result, then add the second result."
