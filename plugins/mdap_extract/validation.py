"""Whether a value fits a JSON Schema."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

__all__ = ["accepts"]


def _multiple_of(_: Any, unit: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    """Compare decimals as they are written: division of floats does not show that 0.01 goes into 19.99."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (Fraction(str(value)) / Fraction(str(unit))).denominator != 1:
        yield ValidationError(f"{value} is no multiple of {unit}")


_Validator: Final = extend(Draft202012Validator, {"multipleOf": _multiple_of})  # type: ignore[no-untyped-call]


def accepts(schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Return the check whether a value fits *schema*."""
    validator = _Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    check: Callable[[Any], bool] = validator.is_valid
    return check
