"""Canonical JSON: the one spelling of a value by which answers are compared and states are stored."""

import dataclasses
import json
import json.encoder
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from pydantic_core import to_jsonable_python

__all__ = ["canonical", "json_encoder"]

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


def json_encoder(
    *, ascii_only: bool, sort_keys: bool = False, default: Callable[[Any], Any] | None = None
) -> Callable[[Any], str]:
    """Return what spells a value as JSON without blanks and without NaN.

    It does what `json.JSONEncoder.encode` does, but for one thing: that makes a new encoder in C for every
    value, which takes longer than to spell a small one.

    Args:
        ascii_only: escape everything beyond ASCII.
        sort_keys: spell objects in the order of their keys.
        default: turns a value that JSON has no form for into one that it has.
    """
    encoder = json.JSONEncoder(
        ensure_ascii=ascii_only,
        check_circular=False,
        allow_nan=False,
        sort_keys=sort_keys,
        separators=(",", ":"),
        default=default,
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the C part
        return encoder.encode
    strings = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    chunks = make(None, encoder.default, strings, None, ":", ",", sort_keys, False, False)
    return lambda value: strings(value) if type(value) is str else "".join(chunks(value, 0))


_readable: Final = json_encoder(ascii_only=False, sort_keys=True, default=_plain)
_ascii: Final = json_encoder(ascii_only=True, sort_keys=True, default=_plain)


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
