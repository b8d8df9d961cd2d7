"""Validate a value against a JSON Schema."""

import threading
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

__all__ = ["accepts"]

_follow: Final[Any] = Draft202012Validator.VALIDATORS["$ref"]


def _multiple_of(_: Any, unit: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    """Compare decimals as they are written: division of floats does not show that 0.01 goes into 19.99."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (Fraction(str(value)) / Fraction(str(unit))).denominator != 1:
        yield ValidationError(f"{value} is no multiple of {unit}")


def accepts(schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Return the check whether a value fits *schema*, of which every loop goes through a reference."""
    checked = threading.local()

    def reference(validator: Any, name: Any, value: Any, part: Any) -> Iterator[ValidationError]:
        # Alternatives may lead to the same place in as many ways as two to the power of a reply's depth.
        place = (name, id(value))
        if place not in checked.places:
            checked.places[place] = next(iter(_follow(validator, name, value, part)), None) is None
        if not checked.places[place]:
            yield ValidationError(f"no {name}")

    kind = extend(Draft202012Validator, {"multipleOf": _multiple_of, "$ref": reference})  # type: ignore[no-untyped-call]
    validator = kind(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)

    def check(value: Any) -> bool:
        checked.places = {}
        fits: bool = validator.is_valid(value)
        return fits

    return check
