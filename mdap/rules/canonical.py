"""Canonical JSON: the one spelling of a value by which answers are compared and states are stored."""

import dataclasses
import json
import re
from functools import cache
from typing import Any, Final

from pydantic_core import to_jsonable_python

__all__ = ["canonical"]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@cache
def _names(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields; of anything else, none."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def _plain(value: Any) -> Any:
    kind: type = type(value)
    if names := _names(kind):
        # What is inside comes back here if need be: quicker than to convert it all beforehand.
        return {name: getattr(value, name) for name in names}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=canonical)
    return to_jsonable_python(value)


_readable: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
).encode
_ascii: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_plain
).encode


def canonical(value: Any) -> str:
    """Return *value* as canonical JSON: keys sorted, no blanks, no NaN, text unescaped where it can be.

    Args:
        value: plain JSON values, pydantic models, dataclasses, sets, dates, enums, and nestings of them.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value has no JSON form.
    """
    text = _readable(value)
    # A lone surrogate has no UTF-8 form: only its escape can be stored and hashed.
    return text if text.isascii() or not _SURROGATE.search(text) else _ascii(value)
