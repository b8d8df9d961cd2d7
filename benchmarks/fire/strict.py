"""Second readers of replies, written from what the prompts ask for, without a look at the domains' own.

They use no regular expression and no JSON library where the domain does, and the reverse. Each returns the
answer as a JSON value, or raises `Refused`.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Refused", "choice", "hanoi", "last_object", "ledger", "listed", "record", "result"]


class Refused(Exception):
    """The reply is no vote."""


def refuse_unless(good: object) -> None:
    if not good:
        raise Refused


# -- numbers and lists, by hand --------------------------------------------------------------------


def integer(text: str, place: int) -> tuple[int, int]:
    """Read an integer as JSON spells it; return it and the place after it."""
    start = place
    if text[place : place + 1] == "-":
        place += 1
    first = place
    while text[place : place + 1] in tuple("0123456789"):
        place += 1
    refuse_unless(place > first)
    refuse_unless(text[first] != "0" or place == first + 1)
    refuse_unless(text[place : place + 1] not in (".", "e", "E"))
    refuse_unless(place - first < 4000)
    return int(text[start:place]), place


def blanks(text: str, place: int) -> int:
    while text[place : place + 1] in (" ", "\t", "\n", "\r"):
        place += 1
    return place


def members(text: str, place: int, member: Callable[[str, int], tuple[Any, int]]) -> tuple[list[Any], int]:
    """Read a list; return its members and the place after it."""
    refuse_unless(text[place : place + 1] == "[")
    place = blanks(text, place + 1)
    if text[place : place + 1] == "]":
        return [], place + 1
    found = []
    while True:
        value, place = member(text, place)
        found.append(value)
        place = blanks(text, place)
        after = text[place : place + 1]
        refuse_unless(after in (",", "]"))
        if after == "]":
            return found, place + 1
        place = blanks(text, place + 1)


def integers(text: str, place: int) -> tuple[list[int], int]:
    return members(text, place, integer)


# -- Hanoi -----------------------------------------------------------------------------------------


def hanoi(text: str, disks: int) -> Any:
    """Read the last move and the last next state; what follows each does not matter."""
    place, move_end = assigned(text, "move"), 128
    move, end = integers(text, place)
    refuse_unless(end - place <= move_end and len(move) == 3)
    refuse_unless(all(abs(number) < 2**53 for number in move))
    place = assigned(text, "next_state")
    pegs, end = members(text, place, integers)
    refuse_unless(end - place <= 256 + 32 * disks and len(pegs) == 3)
    refuse_unless(sorted([*pegs[0], *pegs[1], *pegs[2]]) == list(range(1, disks + 1)))
    return {"move": move, "next_state": pegs}


def assigned(text: str, name: str) -> int:
    """Return where the value begins that is last assigned to *name*, which must be a whole word."""
    place = len(text)
    while True:
        place = text.rfind(name, 0, place)
        refuse_unless(place >= 0)
        after = place + len(name)
        while text[after : after + 1].isspace():
            after += 1
        before = text[place - 1] if place else " "
        if text[after : after + 1] == "=" and not (before.isalnum() or before == "_"):
            after += 1
            while text[after : after + 1].isspace():
                after += 1
            return after
        place += len(name) - 1


# -- the ledger ------------------------------------------------------------------------------------

ACCOUNTS = ["cash", "bank", "receivables", "equipment", "loan", "sales", "rent", "wages", "supplies"]


def ledger(text: str) -> Any:
    """Read the posting and the balances in the last two lines."""
    lines = text.rstrip("\n").split("\n")
    refuse_unless(len(lines) >= 2)
    words = lines[-2].split(" ")
    refuse_unless(len(words) == 7 and words[:3] == ["posting", "=", "debit"] and words[4] == "credit")
    debit, credit = words[3].removesuffix(","), words[5].removesuffix(",")
    refuse_unless(words[3] == debit + "," and words[5] == credit + ",")
    refuse_unless(debit in ACCOUNTS and credit in ACCOUNTS and debit != credit)
    last = lines[-1].split(" ")
    refuse_unless(len(last) == 4 and last[:2] == ["balances", "="] and last[2].endswith(","))
    return [debit, credit, cents(words[6]), cents(last[2][:-1]), cents(last[3])]


def cents(text: str) -> int:
    whole, point, part = text.removeprefix("-").partition(".")
    digits = set("0123456789")
    refuse_unless(point and 1 <= len(whole) <= 13 and len(part) == 2 and set(whole + part) <= digits)
    return int(whole + part) * (-1 if text.startswith("-") else 1)


# -- arithmetic, and choices -----------------------------------------------------------------------


def last_line(text: str) -> str:
    return text.rstrip("\n").split("\n")[-1]


def result(text: str) -> Any:
    """Read ``result=N`` in the last line, N of one to three digits."""
    name, sign, digits = last_line(text).partition("=")
    refuse_unless(name == "result" and sign and 1 <= len(digits) <= 3 and set(digits) <= set("0123456789"))
    return int(digits)


def listed(text: str, name: str, numbers: Sequence[int]) -> Any:
    """Read a list of given numbers, each at most as often as it was given, in the last line."""
    line = last_line(text)
    start = f"{name} = "
    refuse_unless(line.startswith(start) and len(line) <= 5000 and not set(line) & set("\t\r"))
    found, end = integers(line, len(start))
    refuse_unless(end == len(line) and not Counter(found) - Counter(numbers))
    refuse_unless(name == "less" or len(found) == len(numbers))
    return sorted(found) if name == "less" else found


def choice(text: str, count: int) -> Any:
    """Read ``choice=N`` in the last line; the answer counts from 0."""
    for number in range(count):
        if last_line(text) == f"choice={number + 1}":
            return number
    raise Refused


# -- JSON ------------------------------------------------------------------------------------------


def last_object(text: str, names: set[str]) -> dict[str, Any]:
    """Return the JSON object in the last line, which must have just these names."""
    return strict_object(last_line(text), names)


def record(text: str, names: set[str]) -> dict[str, Any]:
    """Return the JSON object that the reply is, by itself or in a fence."""
    body = text.strip(" \t\r\n").removeprefix("\ufeff").strip(" \t\r\n")
    mark = body[:1]
    if mark in ("`", "~"):
        opened, closed = len(body) - len(body.lstrip(mark)), len(body) - len(body.rstrip(mark))
        refuse_unless(3 <= opened <= closed)
        language, brace, rest = body.strip(mark).partition("{")
        refuse_unless(not language.strip(" \t\r\n\ufeff") or language.strip(" \t")[0].isalpha())
        body = brace + rest
    return strict_object(body, names)


def strict_object(text: str, names: set[str]) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        refuse_unless(len({name for name, _ in pairs}) == len(pairs))
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise Refused

    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
        spelled = json.dumps(found, allow_nan=False, ensure_ascii=False)
        spelled.encode()
    except (ValueError, RecursionError):
        raise Refused from None
    refuse_unless(isinstance(found, dict) and set(found) == names)
    assert isinstance(found, dict)
    return found
