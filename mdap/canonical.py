"""Ready-made canonical forms: replies that differ in spelling but mean the same become one answer.

Use them in a parser, or in a task's `canonical`. Each returns a JSON value, keeps its own results
unchanged, and raises `RedFlag` for any other input: it reads, it does not guess.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from datetime import date as Date
from decimal import Decimal, InvalidOperation, localcontext
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, Literal

from mdap.rules.canonical import canonical
from mdap.tasks import RedFlag

__all__ = ["date", "instant", "json_value", "members", "number", "text"]

_DIGITS: Final = 60
_DEEPEST: Final = 64
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SPACES: Final = re.compile(r"\s+")
_FENCE: Final = re.compile(r"`{3,}|~{3,}")
# The language that a fence names, and whatever follows it in its line.
_LANGUAGE: Final = re.compile(r"[ \t]*[A-Za-z][\w.+#-]*(?:[ \t][^\n{\[]*(?=\n)|(?=\s))")
_BLANKS: Final = " \t\r\n"  # those of JSON: others are no part of it
_BYTE_ORDER_MARK: Final = "\ufeff"
_ISO: Final = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?:[t ][0-9:.,+z-]{1,30})?")
_INSTANT: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,30}))?)?"
    r"( ?(?:[Zz]|([+-][0-9]{2}):?([0-9]{2})?))?"
)
_NUMERIC: Final = re.compile(r"([0-9]{1,4})([./-])([0-9]{1,2})\2([0-9]{1,4})")
_DAY_FIRST: Final = re.compile(r"([0-9]{1,2})(?:st|nd|rd|th)?\.? (?:of )?([a-z]{3,9})\.?,? ([0-9]{4})")
_MONTH_FIRST: Final = re.compile(r"([a-z]{3,9})\.? ([0-9]{1,2})(?:st|nd|rd|th)?,? ([0-9]{4})")
_ENGLISH: Final = "january february march april may june july august september october november december"
_MONTHS: Final = {
    written: place
    for place, month in enumerate(_ENGLISH.split(), start=1)
    for written in (month, month[:3], "sept" if place == 9 else month)
}
# A blank, also one that does not break, and both apostrophes.
_SEPARATORS: Final = " \u00a0\u202f'\u2019"


def number(value: Any, *, decimal: Literal[".", ","] = ".", places: int | None = None) -> int | float:
    """Return a number as JSON has it: ``"1,200.50"``, ``1200.5`` and ``" 1200.500"`` are one.

    Args:
        value: a number, or text that is one, with or without separators between groups of three digits
            (a blank, an apostrophe, or the comma or point that is not *decimal*).
        decimal: what stands before the decimals in text.
        places: decimals to round to, half to even; None to keep them all.

    Returns:
        An int where nothing follows the decimal point, otherwise a float.

    Raises:
        RedFlag: it is no finite number, or has more than 60 digits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise RedFlag("not a number")
    try:
        exact = Decimal(_plain_number(value, decimal)) if isinstance(value, str) else Decimal(str(value))
        # A bound before anything is spelled out: 1e999999999 is short and would fill the memory.
        if not exact.is_finite() or abs(exact.adjusted()) > _DIGITS:
            raise RedFlag("not a number")
        with localcontext(prec=4 * _DIGITS):
            exact = exact if places is None else round(exact, places)
    except (InvalidOperation, ValueError):
        raise RedFlag("not a number") from None
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def _plain_number(written: str, decimal: str) -> str:
    """Return a number in text without its separators."""
    separators = f"[{_SEPARATORS}{',' if decimal == '.' else '.'}]"
    grouped = rf"[0-9]{{1,3}}({separators})[0-9]{{3}}(?:\1[0-9]{{3}})*"
    pattern = rf"[+-]?(?:{grouped}|[0-9]+)?(?:{re.escape(decimal)}[0-9]+)?(?:[eE][+-]?[0-9]{{1,3}})?"
    plain = written.strip().replace("\u2212", "-")
    if len(plain) > 2 * _DIGITS or not re.fullmatch(pattern, plain):
        raise RedFlag("not a number")
    return re.sub(separators, "", plain).replace(decimal, ".")


def date(value: str, *, order: Literal["YMD", "DMY", "MDY"] | None = None) -> str:
    """Return a day as ISO 8601 has it: ``"25 Nov. 2026"`` and ``"2026-11-25"`` are one.

    Args:
        value: ISO 8601, with or without a time of day, which is dropped; English with the month's name;
            or three numbers between points, dashes or slashes.
        order: how three numbers are meant; None to accept only those that can be meant in one way.

    Raises:
        RedFlag: it is no day of the calendar, its year has two digits, or its order is open.
    """
    if not isinstance(value, str) or len(value) > 60:
        raise RedFlag("not a date")
    written = _SPACES.sub(" ", value.strip()).casefold()
    if found := _ISO.fullmatch(written):
        return _iso(int(found[1]), int(found[2]), int(found[3]))
    if found := _DAY_FIRST.fullmatch(written):
        return _iso(int(found[3]), _MONTHS.get(found[2], 0), int(found[1]))
    if found := _MONTH_FIRST.fullmatch(written):
        return _iso(int(found[3]), _MONTHS.get(found[1], 0), int(found[2]))
    if found := _NUMERIC.fullmatch(written):
        return _ordered((found[1], found[3], found[4]), order)
    raise RedFlag("not a date")


def _ordered(parts: tuple[str, str, str], order: str | None) -> str:
    """Return the day that three numbers are in *order*, or in the one order that they can have."""
    first, second, third = map(int, parts)
    days = {"YMD": (first, second, third), "DMY": (third, second, first), "MDY": (third, first, second)}
    if len(parts[0]) == 4:
        return _iso(*days["YMD"])
    if len(parts[2]) != 4:
        raise RedFlag("a year of two digits")
    if order in ("DMY", "MDY"):
        return _iso(*days[order])
    possible = {_iso(*days[name]) for name in ("DMY", "MDY") if days[name][1] <= 12}
    if len(possible) != 1:
        raise RedFlag("an ambiguous date" if possible else "not a date")
    return possible.pop()


def _iso(year: int, month: int, day: int) -> str:
    try:
        return Date(year, month, day).isoformat()
    except ValueError:
        raise RedFlag("not a date") from None


def instant(value: str) -> str:
    """Return a date with a time of day as ISO 8601 has it, in UTC if it names a zone.

    ``"2026-05-01T12:00:00.50+02:00"`` and ``"2026-05-01 10:00:00.5Z"`` are one. Without a zone it stays
    without one, and is another value than any with a zone.

    Args:
        value: ISO 8601, with or without seconds, their decimals, and a zone.

    Raises:
        RedFlag: it is no such time.
    """
    found = _INSTANT.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise RedFlag("not a date with a time")
    try:
        year, month, day, hour, minute, second = [int(part or 0) for part in found.groups()[:6]]
        zone = _zone(found[9], found[10])
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
        spelled = moment.astimezone(UTC).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):
        raise RedFlag("not a date with a time") from None
    decimals = (found[7] or "").rstrip("0")
    return f"{spelled}{'.' if decimals else ''}{decimals}{'Z' if found[8] else ''}"


def _zone(hours: str | None, minutes: str | None) -> timezone:
    """Return the zone so far from UTC, of which *hours* has the sign."""
    away = timedelta(hours=int((hours or "+0")[1:]), minutes=int(minutes or 0))
    return timezone(-away if (hours or "").startswith("-") else away)


def text(value: str, *, case: bool = True, punctuation: bool = True) -> str:
    """Return text with every run of blanks as one, none at the ends, and compatible characters alike.

    Characters that change what is said stay as they are: ``10⁶`` is not ``106``, nor ``1½`` ``11/2``.

    Args:
        value: any text.
        case: whether case matters; if not, it is folded.
        punctuation: whether punctuation matters; if not, it is dropped.

    Raises:
        RedFlag: it is no text.
    """
    if not isinstance(value, str):
        raise RedFlag("not a text")
    form = _compatible(value)
    if not case:
        form = _compatible(form.casefold())
    if not punctuation:
        form = "".join([" " if unicodedata.category(char).startswith("P") else char for char in form])
    return _SPACES.sub(" ", form).strip()


def _compatible(value: str) -> str:
    """Return text in the form NFKC, but for characters that would become others in meaning."""
    if value.isascii():
        return value
    runs = groupby(unicodedata.normalize("NFC", value), _lasting)
    return "".join(
        ["".join(run) if lasting else unicodedata.normalize("NFKC", "".join(run)) for lasting, run in runs]
    )


@lru_cache(maxsize=4096)
def _lasting(char: str) -> bool:
    """Return whether NFKC would take a meaning away: raised, lowered, a fraction, a number in a circle."""
    kind = unicodedata.decomposition(char).partition(" ")[0]
    if kind in ("<super>", "<sub>"):
        return True
    plain = unicodedata.normalize("NFKC", char)
    return kind.startswith("<") and unicodedata.decimal(char, None) is None and any(map(str.isdigit, plain))


def members(
    values: Iterable[Any], *, each: Callable[[Any], Any] | None = None, duplicates: bool = False
) -> list[Any]:
    """Return the members of a set in one order, that of their canonical JSON.

    Args:
        values: a list, tuple or set.
        each: gives a member's own canonical form; None where it is that already.
        duplicates: whether a member counts as often as it is there.

    Raises:
        RedFlag: it is no list, or a member has no canonical form.
    """
    if not isinstance(values, list | tuple | set | frozenset):
        raise RedFlag("not a list")
    forms = [value if each is None else each(value) for value in values]
    try:
        spelled = [(canonical(form), form) for form in forms]
    except (ValueError, TypeError):
        raise RedFlag("a member is no JSON value") from None
    ordered = sorted(spelled, key=lambda pair: pair[0])
    return [
        form
        for place, (key, form) in enumerate(ordered)
        if duplicates or place == 0 or ordered[place - 1][0] != key
    ]


def json_value(reply: str) -> Any:
    """Return the JSON value that a reply is, by itself or as its only block of code.

    A block may be fenced in any way that Markdown knows, and name any language. Nothing may stand around it.

    Args:
        reply: a model's reply.

    Raises:
        RedFlag: it is no JSON; it holds NaN, a number out of range, half a surrogate pair, or a name twice in
            an object; or it is nested deeper than 64.
    """
    try:
        value = json.loads(_unfenced(reply), object_pairs_hook=_without_doubles, parse_constant=_refused)
    except (ValueError, RecursionError):
        raise RedFlag("not JSON") from None
    _check(value, _DEEPEST)
    return value


def _unfenced(reply: str) -> str:
    """Return what stands in the block of code that a reply is, or else the reply."""
    stripped = _bare(reply)
    fence = _FENCE.match(stripped)
    if fence is None:
        return stripped
    body = stripped[fence.end() :]
    inside = body.rstrip(fence[0][0])
    # As in Markdown, a fence ends with one that is at least as long.
    if len(body) - len(inside) < len(fence[0]):
        return stripped
    language = _LANGUAGE.match(inside)
    return _bare(inside[language.end() if language else 0 :])


def _bare(text: str) -> str:
    """Return text without blanks around it, and the mark with which some begin what they write."""
    return text.strip(_BLANKS).removeprefix(_BYTE_ORDER_MARK).strip(_BLANKS)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RedFlag("a name twice in a JSON object")
    return found


def _refused(constant: str) -> Any:
    raise RedFlag("not JSON")


def _check(value: Any, deeper: int) -> None:
    """Refuse what JSON text can hold and canonical JSON cannot."""
    if deeper == 0:
        raise RedFlag("JSON nested too deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise RedFlag("a number out of range")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise RedFlag("a character that does not exist")
    if isinstance(value, list | dict):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(part, deeper - 1)
