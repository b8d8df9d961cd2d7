"""Wrong values of a field, as models get them wrong, for simulation."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from mdap_extract.schema import Field

__all__ = ["wrong_values"]


def wrong_values(field: Field, truth: Any) -> Iterator[Any]:
    """Yield values that are likely instead of *truth*; some may be no values of the field.

    Args:
        field: the field.
        truth: its right value, in the form by which votes are compared.
    """
    yield None  # overlooked
    if field.choices:
        yield from (choice for choice in field.choices if choice != truth)
    elif field.is_date and (day := _day(truth)):
        yield from ((day + timedelta(days=days)).isoformat() for days in (1, 30, -365) if day.year > 2)
    elif isinstance(truth, bool) or (truth is None and "boolean" in field.kinds):
        yield not truth
    elif isinstance(truth, int | float) or (truth is None and field.kinds & {"number", "integer"}):
        number = truth or 0
        yield from (number + 1, number * 10, number - 1, number / 10)
    elif isinstance(truth, list) or (truth is None and "array" in field.kinds):
        yield (truth or [])[:-1]
        yield [*(truth or []), *wrong_members(field, truth or [])]
    elif isinstance(truth, dict) or (truth is None and "object" in field.kinds):
        truth = truth or {}
        yield {}
        for member in field.members:
            if member.name in truth:
                yield from (
                    {**truth, member.name: wrong} for wrong in wrong_values(member, truth[member.name])
                )
    else:
        yield from _texts(truth)


def _day(truth: Any) -> date | None:
    """Return the day that *truth* is, or some day where it is none yet; None if it is no day."""
    try:
        return date.fromisoformat(truth or "2026-01-01")
    except (TypeError, ValueError):
        return None


def wrong_members(field: Field, truth: list[Any]) -> list[Any]:
    """Return a member that a list does not have."""
    wrong = wrong_values(field.items, truth[-1] if truth else None) if field.items else iter(["and more"])
    return [each for each in wrong if each is not None and each not in truth][:1]


def _texts(truth: Any) -> Iterator[str]:
    words = str(truth or "").split()
    if len(words) > 1:
        yield " ".join(words[:-1])
        yield " ".join(words[1:])
    yield f"{truth} etc." if truth else "unknown"
    yield "not stated"
