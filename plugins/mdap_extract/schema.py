"""The schema of a record: its fields, and what values each may have."""

import importlib
import json
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel

__all__ = ["Field", "fields_of", "read_schema"]


@dataclass(frozen=True)
class Field:
    """A field of the record.

    Attributes:
        name: its name.
        schema: the JSON Schema of its values, complete in itself.
        required: whether a record must have it.
    """

    name: str
    schema: Mapping[str, Any]
    required: bool = False

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The JSON types that a value may have."""
        return frozenset(_kinds(self.schema, self.schema))

    @cached_property
    def nullable(self) -> bool:
        """Whether null may stand for a field that a document does not give."""
        return not self.required or "null" in self.kinds

    @cached_property
    def _validator(self) -> Draft202012Validator:
        return Draft202012Validator(self.schema, format_checker=Draft202012Validator.FORMAT_CHECKER)

    def accepts(self, value: Any) -> bool:
        """Return whether *value* is one that the field may have."""
        return (value is None and self.nullable) or self._validator.is_valid(value)

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """The values of an enumeration; none if it is no enumeration."""
        return tuple(_choices(self.schema, self.schema))

    @cached_property
    def is_date(self) -> bool:
        """Whether its values are days."""
        return any(part.get("format") == "date" for part in _parts(self.schema, self.schema))

    @cached_property
    def items(self) -> "Field | None":
        """What an item of a list is; None if it is no list, or may hold anything."""
        for part in _parts(self.schema, self.schema):
            if isinstance(part.get("items"), Mapping):
                return Field(f"{self.name}[]", _complete(part["items"], self.schema), True)
        return None

    @cached_property
    def members(self) -> tuple["Field", ...]:
        """The members of an object; none if it is no object."""
        for part in _parts(self.schema, self.schema):
            if isinstance(part.get("properties"), Mapping):
                return _members(part, self.schema)
        return ()

    @cached_property
    def is_set(self) -> bool:
        """Whether the order of a list does not matter."""
        return any(part.get("uniqueItems") is True for part in _parts(self.schema, self.schema))


def read_schema(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema that *source* is or names.

    Args:
        source: a JSON Schema; the path of a file that holds one; or a pydantic model, as
            ``package.module:Model`` or ``path/file.py:Model``. Naming a file of Python runs it.

    Raises:
        ValueError: it is none, or one that cannot be used.
    """
    found = dict(source) if isinstance(source, Mapping) else _named(source)
    try:
        Draft202012Validator.check_schema(found)
    except SchemaError as error:
        raise ValueError(f"it is no JSON Schema: {error.message:.200}") from None
    foreign = next(_foreign(found), None)
    if foreign is not None:
        raise ValueError(f"it refers to {foreign!r:.100}: only references within the schema are followed")
    if not fields_of(found):
        raise ValueError('its fields must be listed under "properties" at the top')
    return found


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """Return the fields of the record that *schema* describes, in its order."""
    return _members(schema, schema)


def _members(part: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[Field, ...]:
    required = part.get("required", [])
    return tuple(
        Field(name, _complete(sub, root), name in required)
        for name, sub in part.get("properties", {}).items()
        if isinstance(sub, Mapping)
    )


def _named(source: str) -> dict[str, Any]:
    place, colon, name = source.rpartition(":")
    if colon and name.isidentifier():
        return _of_model(source, place, name)
    path = Path(source).expanduser()
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{source} is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{source} is no JSON Schema of an object")
    return found


def _of_model(source: str, place: str, name: str) -> dict[str, Any]:
    try:
        # A name of its own, so that what stands under `if __name__ == "__main__"` does not run.
        found = (
            runpy.run_path(place, run_name="mdap_extract_schema").get(name)
            if place.endswith(".py")
            else getattr(importlib.import_module(place), name, None)
        )
    except Exception as error:
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {error!s:.200}") from None
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ValueError(f"{source} is no pydantic model")
    return found.model_json_schema()


def _complete(part: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a schema with the definitions that it may refer to."""
    shared = {name: root[name] for name in ("$defs", "definitions") if name in root}
    return {**shared, **part} if any(_references(part)) else dict(part)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        reference = value.get("$ref", value.get("$dynamicRef"))
        if isinstance(reference, str):
            yield reference
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _foreign(schema: Any) -> Iterator[str]:
    return (reference for reference in _references(schema) if not reference.startswith("#/"))


def _parts(part: Mapping[str, Any], root: Mapping[str, Any], deeper: int = 8) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and its alternatives, references followed."""
    if deeper == 0:
        return
    yield part
    reference = part.get("$ref")
    if isinstance(reference, str):
        found: Any = root
        for name in reference.removeprefix("#/").split("/"):
            found = (
                found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
            )
        if isinstance(found, Mapping):
            yield from _parts(found, root, deeper - 1)
    for word in ("anyOf", "oneOf", "allOf"):
        for other in part.get(word, []):
            if isinstance(other, Mapping):
                yield from _parts(other, root, deeper - 1)


def _kinds(part: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[str]:
    for each in _parts(part, root):
        kind = each.get("type", [])
        yield from [kind] if isinstance(kind, str) else kind
        if None in each.get("enum", []):
            yield "null"


def _choices(part: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Any]:
    for each in _parts(part, root):
        yield from each.get("enum", [])
        if "const" in each:
            yield each["const"]
