"""The alternatives of a schema, each with all its constraints, and the check whether a value fits."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from mdap import canonical

PREFIX: Final = "#/$defs/"
ANYTHING: Final[Mapping[str, Any]] = {}
_MOST: Final = 256
_NUMERAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,20})?")


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


@dataclass(frozen=True)
class Shape:
    """One alternative of a schema: parts that all hold of a value, and its JSON type; None for any."""

    parts: tuple[Mapping[str, Any], ...]
    kind: str | None
    definitions: Mapping[str, Any]

    @cached_property
    def accepts(self) -> Any:
        """The check whether a value fits."""
        kinds = [{"type": self.kind}] if self.kind else []
        return accepts({"allOf": [*self.parts, *kinds], "$defs": self.definitions})

    def first(self, word: str, otherwise: Any = None) -> Any:
        """Return what the first part says of *word*."""
        return next((part[word] for part in self.parts if word in part), otherwise)

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """The values of an enumeration; none if it is no enumeration."""
        const = self.first("const", self)
        return tuple(self.first("enum", ())) if const is self else (const,)

    @cached_property
    def by_spelling(self) -> dict[str, Any]:
        """The values of an enumeration by how they are spelled exactly."""
        return {exact(choice): choice for choice in self.choices}

    @cached_property
    def is_plain_text(self) -> bool:
        """Whether it is any text."""
        return self.kind in ("string", None) and not self.choices and self.first("format") is None

    def member(self, name: str) -> Any:
        """Return what the member *name* of an object looks like."""
        for part in self.parts:
            if name in part.get("properties", ()):
                return part["properties"][name]
        for part in self.parts:
            for pattern, sub in part.get("patternProperties", {}).items():
                if re.search(pattern, name):
                    return sub
        return self.first("additionalProperties", ANYTHING)

    def item(self, place: int) -> Any:
        """Return what the item at *place* of a list looks like."""
        before = self.first("prefixItems", ())
        return before[place] if place < len(before) else self.first("items", ANYTHING)


class Shapes:
    """The alternatives of every part of a schema with these *definitions*."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._known = definitions
        self._found: dict[int, tuple[Shape, ...]] = {}

    def of(self, part: Mapping[str, Any]) -> tuple[Shape, ...]:
        """Return the alternatives of *part*, which is a part of the schema, in the order to try them."""
        if id(part) not in self._found:
            shapes = [
                Shape(parts, kind, self._known)
                for parts in islice(self._alternatives([part], ()), _MOST)
                for kind in _kinds(parts)
                if kind != "null"  # null is no matter of form
            ]
            if len(shapes) >= _MOST:  # too many to try: what fits none of these may still fit the whole
                shapes.append(Shape((part,), None, self._known))
            self._found[id(part)] = tuple(sorted(shapes, key=_rank))
        return self._found[id(part)]

    def _alternatives(
        self, left: list[Any], done: tuple[Mapping[str, Any], ...]
    ) -> Iterator[tuple[Mapping[str, Any], ...]]:
        """Yield the sets of schemas of which each is enough for a value to fit."""
        while left:
            part, *left = left
            if not isinstance(part, Mapping) or any(part is each for each in done):
                continue
            done = (*done, part)
            name = str(part.get("$ref", "")).removeprefix(PREFIX)
            left = [*([self._known[name]] if name in self._known else ()), *part.get("allOf", ()), *left]
            for word in ("anyOf", "oneOf"):
                if part.get(word):
                    without = {key: value for key, value in part.items() if key != word}
                    for other in part[word]:
                        yield from self._alternatives([other, without, *left], done[:-1])
                    return
        yield done


def _rank(shape: Shape) -> int:
    """Return the place of a shape: what fits few values is tried before what fits many."""
    return 0 if shape.choices else 2 if shape.is_plain_text else 1


def _kinds(parts: tuple[Mapping[str, Any], ...]) -> Sequence[str | None]:
    """Return the types that *parts* allow together; one that is None if they name none."""
    named = [part["type"] for part in parts if part.get("type") is not None]
    if not named:
        return [None]
    every = [{kinds} if isinstance(kinds, str) else set(kinds) for kinds in named]
    allowed = set.intersection(*(kinds | {"integer"} if "number" in kinds else kinds for kinds in every))
    return sorted(allowed - {"integer"} if "number" in allowed else allowed)


def exact(value: Any) -> str:
    """Return how a JSON value is spelled: 1.0 as 1, but true not as 1."""
    return json.dumps(_numbers(value), sort_keys=True)


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    return (
        canonical.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    )


def numeral(text: str) -> int | float | None:
    """Return the number that *text* spells as JSON would, exactly; None if it does not.

    So ``"1204.50"`` means 1204.5 where a schema allows both, as that of a Decimal does; ``"007"``, which
    no number is written as, means itself.
    """
    if not _NUMERAL.fullmatch(text):
        return None
    number = canonical.number(text)
    return number if Decimal(str(number)) == Decimal(text) else None
