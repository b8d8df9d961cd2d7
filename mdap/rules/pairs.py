"""Reading NAME=VALUE pairs, as users type them."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mdap.errors import RAISED, UsageError

__all__ = ["read_values"]


def read_values(
    pairs: tuple[str, ...], option: str, fields: Mapping[str, FieldInfo] | None = None
) -> dict[str, Any]:
    """Return the values of ``NAME=VALUE`` pairs; lists and objects are read as JSON.

    Args:
        pairs: the user's pairs.
        option: the option's name, for errors.
        fields: the allowed fields, if known.

    Raises:
        UsageError: a pair has no ``=``, a name is given twice, or its JSON is broken.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} takes NAME=VALUE, not {pair!r}")
        if name in values:
            raise UsageError(f"{option} sets {name!r} twice")
        values[name] = _value(text, f"{option} {name}", (fields or {}).get(name))
    return values


def _value(text: str, what: str, field: FieldInfo | None) -> Any:
    if text[:1] not in ("[", "{") or (field is not None and _is_text(field, text[:1])):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{what} looks like JSON but cannot be read as such: {text!r:.80}") from None


def _is_text(field: FieldInfo, bracket: str) -> bool:
    """Return whether a parameter takes text, but no JSON list or object."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(field.annotation or Any)
    except Exception:  # only the task's own settings allow this type
        return False
    return _may_take(adapter, "") and not _may_take(adapter, [] if bracket == "[" else {})


def _may_take(adapter: TypeAdapter[Any], value: Any) -> bool:
    """Return whether a parameter accepts values of this type."""
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        kinds = [each["type"] for each in error.errors(include_url=False)]
        return not any(
            kind.endswith(("_type", "_parsing")) or kind in ("literal_error", "enum") for kind in kinds
        )
    except RAISED:  # its own validator fails on this value
        return True
    return True
