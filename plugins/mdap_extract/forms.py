"""What a model writes for a field, as a value of the field, and in the form by which votes are compared."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from mdap import RedFlag, canonical
from mdap_extract.schema import Field

__all__ = ["Forms", "Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """A value, in two ways.

    Attributes:
        form: as votes are compared.
        written: as it goes into the output.
    """

    form: Any
    written: Any


@dataclass(frozen=True, slots=True)
class Forms:
    """How values are brought into one form.

    Attributes:
        dates: how three numbers are meant in a field of days; None to accept only those that can be meant in
            one way.
        decimal: what stands before the decimals where a number is written as text.
        case: whether capitals matter when texts are compared.
        punctuation: whether punctuation matters when texts are compared.
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
        value = self._value(field, raw)
        if not field.accepts(value.written):
            raise RedFlag(f"not a value of {field.name:.60}")
        return value

    def _value(self, field: Field, raw: Any) -> Value:
        if raw is None:
            return Value(None, None)
        if field.choices:
            return _both(self._choice(field, raw))
        if isinstance(raw, str):
            return self._text(field, raw)
        if isinstance(raw, bool):
            return _both(raw)
        if isinstance(raw, int | float):
            return _both(canonical.number(raw))
        if isinstance(raw, list):
            return self._list(field, raw)
        return self._object(field, raw)

    def _choice(self, field: Field, raw: Any) -> Any:
        """Return the member of an enumeration that *raw* is; capitals and blanks do not matter."""
        if isinstance(raw, str):
            folded = canonical.text(raw, case=False)
            for choice in field.choices:
                if isinstance(choice, str) and canonical.text(choice, case=False) == folded:
                    return choice
        return raw

    def _text(self, field: Field, raw: str) -> Value:
        if field.is_date:
            return _both(canonical.date(raw, order=self.dates))
        if "string" not in field.kinds and field.kinds & {"number", "integer"}:
            return _both(canonical.number(raw, decimal=self.decimal))
        written = canonical.text(raw)
        return Value(canonical.text(written, case=self.case, punctuation=self.punctuation), written)

    def _list(self, field: Field, raw: list[Any]) -> Value:
        item = field.items
        values = [self._value(item, each) if item else _both(each) for each in raw]
        forms: list[Any] = [value.form for value in values]
        if not field.is_set:
            return Value(forms, [value.written for value in values])
        # Two spellings of one member are one member, in the output as well.
        written: dict[str, Any] = {}
        for value in values:
            written.setdefault(json.dumps(value.form, sort_keys=True), value.written)
        return Value(canonical.members(forms), list(written.values()))

    def _object(self, field: Field, raw: dict[str, Any]) -> Value:
        known = {member.name: member for member in field.members}
        values = {
            name: self._value(known[name], each) if name in known else _both(each)
            for name, each in raw.items()
        }
        return Value(
            {name: value.form for name, value in values.items()},
            {name: value.written for name, value in values.items()},
        )


def _both(value: Any) -> Value:
    return Value(value, value)
