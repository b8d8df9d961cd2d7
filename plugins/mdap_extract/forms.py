"""Values of a field: as a model writes them, and in the canonical form that votes compare."""

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import TypeAdapter

from mdap import RedFlag, canonical
from mdap_extract.schema import Field
from mdap_extract.shapes import ANYTHING, Shape, exact, numeral
from mdap_extract.texts import folded, tidied

_DURATION: Final = TypeAdapter(timedelta)
_NUMBERS: Final = ("number", "integer", None)


def _duration(text: str) -> str:
    if set(text.upper().partition("T")[0]) & {"Y", "M"}:
        raise ValueError("years and months are of many lengths")
    return str(_DURATION.validate_python(text))


_READERS: Final[Mapping[str, Callable[[str], str]]] = {
    "date-time": canonical.instant,
    "time": lambda text: time.fromisoformat(text.upper()).isoformat(),
    "duration": _duration,
    "uuid": lambda text: str(UUID(text)),
    "ipv4": lambda text: str(ip_address(text)),
    "ipv6": lambda text: str(ip_address(text)),
}
"""What has several spellings for one value, by the name that JSON Schema has for it."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the form in which votes are compared, and as it goes into the output."""

    form: Any
    written: Any


@dataclass(frozen=True, slots=True)
class Forms:
    """How values are brought into one form; see `Settings`.

    Without an order of *dates*, only those are accepted that can be meant in one way.
    """

    dates: Literal["YMD", "DMY", "MDY"] | None = None
    decimal: Literal[".", ","] = "."
    case: bool = True
    punctuation: bool = True

    def value(self, field: Field, raw: Any) -> Value:
        """Return what *raw* is as a value of *field*.

        Raises:
            RedFlag: it is none.
        """
        try:
            value = _Reading(self, field).value(field.schema, raw)
            fits = field.accepts(value.written)
        except RecursionError:
            raise RedFlag("nested too deep") from None
        if not fits:
            raise RedFlag(f"not a value of {field.name:.60}")
        return value


class _Reading:
    """One value being read, part by part."""

    def __init__(self, forms: Forms, field: Field) -> None:
        self._forms = forms
        self._none = RedFlag(f"not a value of {field.name:.60}")
        self._shapes = field.shapes
        # Alternatives that contain one another share parts: read once, not once for each of the ways there,
        # which a reply can make very many.
        self._read: dict[tuple[int, int], Value | RedFlag] = {}

    def value(self, part: Any, raw: Any) -> Value:
        """Return what *raw* is as a value of *part* of the schema.

        Raises:
            RedFlag: it is none.
        """
        if raw is None:
            return Value(None, None)
        part = part if isinstance(part, Mapping) else ANYTHING
        place = (id(part), id(raw))
        if place not in self._read:
            try:
                self._read[place] = self._first(self._shapes.of(part), raw)
            except RedFlag as flag:
                self._read[place] = flag
        found = self._read[place]
        if isinstance(found, RedFlag):
            raise found
        return found

    def _first(self, shapes: tuple[Shape, ...], raw: Any) -> Value:
        """Return what *raw* is in the first of the *shapes* that it fits."""
        failure: RedFlag | None = None
        for shape in shapes:
            try:
                value = self._as(shape, shapes, raw)
            except RedFlag as flag:
                failure = failure or flag
                continue
            if len(shapes) == 1 or shape.accepts(value.written):
                return value
        raise failure or self._none

    def _as(self, shape: Shape, others: tuple[Shape, ...], raw: Any) -> Value:
        if shape.choices:
            return _both(self._choice(shape, raw))
        match raw:
            case str() if shape.kind in ("string", None):
                return self._text(shape, others, raw)
            case str() if shape.kind in ("number", "integer") and not any(
                each.is_plain_text for each in others
            ):
                return _both(canonical.number(raw, decimal=self._forms.decimal))
            case bool() if shape.kind in ("boolean", None):
                return _both(raw)
            case int() | float() if shape.kind in _NUMBERS and not isinstance(raw, bool):
                return _both(canonical.number(raw))
            case list() if shape.kind in ("array", None):
                return self._list(shape, raw)
            case dict() if shape.kind in ("object", None):
                return self._object(shape, raw)
        raise self._none

    def _choice(self, shape: Shape, raw: Any) -> Any:
        """Return the member of an enumeration that *raw* is: exactly, or as the only one that it may mean."""
        if (spelled := exact(raw)) in shape.by_spelling:
            return shape.by_spelling[spelled]
        alike: list[Any] = []
        texts = [choice for choice in shape.choices if isinstance(choice, str)]
        if not isinstance(raw, str):
            alike = [choice for choice in texts if choice.strip() == spelled]
        else:
            for form in (tidied, folded, partial(folded, case=False)):
                alike = alike or [choice for choice in texts if form(choice) == form(raw)]
            # Without a text among them, a text can only mean a number.
            number = None
            if not alike:
                number = numeral(raw.strip()) if texts else canonical.number(raw, decimal=self._forms.decimal)
            if number is not None:
                alike = [choice for choice in shape.choices if exact(choice) == exact(number)]
        if len(alike) != 1:
            raise self._none
        return alike[0]

    def _text(self, shape: Shape, others: tuple[Shape, ...], raw: str) -> Value:
        form = shape.first("format")
        if form == "date":
            return _both(canonical.date(raw, order=self._forms.dates))
        written = tidied(raw)
        if form in _READERS:
            try:
                return Value(_READERS[form](written), written)
            except (ValueError, OverflowError, RedFlag):
                pass  # whether that may be is for the schema to say
        number = numeral(written)
        numbers = [other for other in others if other.kind in _NUMBERS and not other.choices]
        if number is not None and any(other.accepts(number) for other in numbers):
            return Value(number, written)
        forms = self._forms
        return Value(folded(written, case=forms.case, punctuation=forms.punctuation), written)

    def _list(self, shape: Shape, raw: list[Any]) -> Value:
        values = [self.value(shape.item(place), each) for place, each in enumerate(raw)]
        forms: list[Any] = [value.form for value in values]
        if not any(part.get("uniqueItems") is True for part in shape.parts):
            return Value(forms, [value.written for value in values])
        # Two spellings of one member are one member, in the output as well.
        written: dict[str, Any] = {}
        for value in values:
            written.setdefault(json.dumps(value.form, sort_keys=True), value.written)
        return Value(canonical.members(forms), list(written.values()))

    def _object(self, shape: Shape, raw: dict[str, Any]) -> Value:
        values = {
            unicodedata.normalize("NFC", name): self.value(shape.member(name), each)
            for name, each in raw.items()
        }
        if len(values) < len(raw):
            raise RedFlag("a name twice in a JSON object")
        return Value(
            {name: value.form for name, value in values.items()},
            {name: value.written for name, value in values.items()},
        )


def _both(value: Any) -> Value:
    return Value(value, value)
