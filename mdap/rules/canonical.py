"""Canonical JSON: the one spelling of a value by which answers are compared and states are stored."""

import dataclasses
import json
import re
from functools import cache
from typing import Any, Final

import orjson
from pydantic_core import to_jsonable_python

__all__ = ["canonical"]

_BUILT_IN: Final = (str, int, float, list, tuple, dict)

_SURROGATE: Final = re.compile("[\ud800-\udfff]")

# What orjson may write otherwise than the standard library. The pattern begins with the letter, or every
# character would be tried.
_EXPONENT: Final = re.compile("e(?<=[0-9]e)")
# What only the standard library or pydantic say how to write is left to them.
_ALIKE: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


@cache
def _names(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields; of anything else, none."""
    # One that is also text or a list is written as that: the standard library asks nobody.
    if not dataclasses.is_dataclass(kind) or issubclass(kind, _BUILT_IN):
        return ()
    return tuple(field.name for field in dataclasses.fields(kind))


def _fields(value: Any) -> dict[str, Any]:
    """Return a dataclass's fields; refuse anything else."""
    kind: type = type(value)
    names = _names(kind)
    if not names:
        raise TypeError
    # What is inside comes back here if need be: quicker than to convert it all beforehand.
    return {name: getattr(value, name) for name in names}


def _plain(value: Any) -> Any:
    kind: type = type(value)
    if _names(kind):
        return _fields(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=canonical)
    return to_jsonable_python(value)


def _encoder(*, ascii_only: bool) -> json.JSONEncoder:
    return json.JSONEncoder(
        ensure_ascii=ascii_only,
        check_circular=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
        default=_plain,
    )


_readable: Final = _encoder(ascii_only=False)
_ascii: Final = _encoder(ascii_only=True)


def canonical(value: Any) -> str:
    """Return *value* as canonical JSON: keys sorted, no blanks, no NaN, text unescaped where it can be.

    Args:
        value: plain JSON values, pydantic models, dataclasses, sets, dates, enums, and nestings of them.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value has no JSON form.
    """
    # In less than half the time where all is text, integers, lists, objects and dataclasses, as most is.
    # Floats may be written otherwise, and NaN would be null.
    try:
        text = orjson.dumps(value, _fields, _ALIKE).decode()
    except TypeError as error:
        cause = error.__cause__
        if cause is not None and not isinstance(cause, Exception):
            raise cause from None  # Ctrl-C, while a field was looked at
    else:
        if type(value) is str or ("." not in text and "null" not in text and not _EXPONENT.search(text)):
            return text
    text = _readable.encode(value)
    # A lone surrogate has no UTF-8 form: only its escape can be stored and hashed.
    return text if text.isascii() or not _SURROGATE.search(text) else _ascii.encode(value)
