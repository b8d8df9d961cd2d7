"""Canonical JSON: one spelling per value, used to compare answers and to store states."""

import dataclasses
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from enum import Enum
from functools import cache
from io import IOBase
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

_BUILT_IN: Final = (str, int, float, list, tuple, dict)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# Iterating consumes them: nothing would be left for the task.
_USED_UP: Final = (Iterator, AsyncIterator, Awaitable, IOBase)
_BARE: Final = (str, int, float, bool, type(None))
# Text that orjson and the standard library write differently. The pattern begins with the letter, or every
# character would be tried.
_EXPONENT: Final = re.compile("e(?<=[0-9]e)")
# The standard library and pydantic write the types that only they can.
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
    # What is inside comes back here if need be: faster than converting everything first.
    return {name: getattr(value, name) for name in names}


def _plain(value: Any) -> Any:
    kind: type = type(value)
    if _names(kind):
        return _fields(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=canonical)
    if isinstance(value, _USED_UP):
        raise TypeError(
            f"an object of class {kind.__qualname__} can be read only once: return a list of its items"
        )
    if isinstance(value, deque):
        return list(value)
    if isinstance(value, BaseModel):
        # As Python values first: to write an iterator as JSON would use it up.
        inside = value.__pydantic_serializer__.to_python(value, by_alias=True)
        _refuse_used_up(inside)
        return _in_order(to_jsonable_python(value), inside)
    try:
        return to_jsonable_python(value)
    except ValueError as error:
        named = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        raise TypeError(
            "bytes that are no UTF-8 text have no JSON form: return their hex() or base64 text"
            if issubclass(kind, (bytes, bytearray))
            else f"an object of class {named} has no JSON form: use a dataclass, a pydantic model or plain "
            "JSON values"
        ) from error


def _refuse_used_up(value: Any) -> None:
    if isinstance(value, Mapping):
        for each in value.values():
            _refuse_used_up(each)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            _refuse_used_up(each)
    elif not isinstance(value, _BARE) and isinstance(value, _USED_UP):
        _plain(value)


def _in_order(written: Any, value: Any) -> Any:
    """Return what pydantic has *written* for *value*, sets in their one order instead of that of hashes."""
    if isinstance(written, dict) and isinstance(value, dict) and len(written) == len(value):
        pairs = zip(written.items(), value.values(), strict=True)
        return {key: _in_order(each, held) for (key, each), held in pairs}
    if not isinstance(written, list):
        return written
    if isinstance(value, (list, tuple)) and len(written) == len(value):
        return [_in_order(each, held) for each, held in zip(written, value, strict=True)]
    if isinstance(value, (set, frozenset)):
        # Sets inside no longer know which union member they were.
        nested = any(isinstance(each, (frozenset, tuple)) for each in value)
        return sorted((json.loads(canonical(each)) for each in value) if nested else written, key=canonical)
    return written


def _keyed(value: Any) -> Any:
    """Return *value* with the keys of its dicts as text, since encoders ask nobody about keys."""
    if isinstance(value, dict):
        keyed = {_key(key): _keyed(each) for key, each in value.items()}
        if len(keyed) < len(value):
            raise TypeError("two keys of a dict have one JSON form: write it as a list of pairs")
        return keyed
    if isinstance(value, (list, tuple)):
        return [_keyed(each) for each in value]
    return value if isinstance(value, _BARE) else _keyed(_plain(value))


def _key(key: Any) -> Any:
    plain = key if isinstance(key, _BARE) and not isinstance(key, Enum) else _plain(key)
    if not isinstance(plain, _BARE):
        kind = type(key).__qualname__
        raise TypeError(f"a dict with keys of class {kind} has no JSON form: write it as a list of pairs")
    return plain if isinstance(plain, str) else _readable.encode(plain)


_readable, _ascii = (
    json.JSONEncoder(
        ensure_ascii=ascii_only,
        check_circular=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
        default=_plain,
    )
    for ascii_only in (False, True)
)


def canonical(value: Any) -> str:
    """Return *value* as canonical JSON: keys sorted, no blanks, no NaN, text unescaped where it can be.

    Args:
        value: plain JSON values, pydantic models, dataclasses, sets, dates, enums, and nestings of them.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value has no JSON form.
    """
    # Takes less than half the time for text, integers, lists, objects and dataclasses: the common case.
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
    try:
        text = _readable.encode(value)
    except TypeError as error:
        if "keys must be" not in str(error) and "not supported between" not in str(error):
            raise
        value = _keyed(value)
        text = _readable.encode(value)
    except ValueError as error:
        if "Out of range" not in str(error):
            raise
        raise ValueError(
            "NaN and infinity have no JSON form: return None, or let the parser refuse them"
        ) from None
    # A lone surrogate has no UTF-8 form: only its escape can be stored and hashed.
    return text if text.isascii() or not _SURROGATE.search(text) else _ascii.encode(value)
