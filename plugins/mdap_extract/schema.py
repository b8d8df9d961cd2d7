"""The schema of a record, its fields and their values.

Schemas refer to parts of themselves in many ways: ``#/$defs/X``, ``#/properties/x``, ``#/components/...``,
``#``, an anchor, a name relative to an ``$id``. A prompt and a response format show one field alone, where
most of these point nowhere. So each part that is referred to becomes a definition, referred to by its name.
"""

import importlib
import json
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from mdap_extract.files import local
from mdap_extract.shapes import PREFIX, Shapes, accepts
from mdap_extract.texts import clean

_BY_NAME: Final = frozenset({"properties", "patternProperties", "dependentSchemas"})
_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_ONES: Final = frozenset(
    {"additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames"}
    | {"then", "unevaluatedItems", "unevaluatedProperties"}
)
# Of the place where a part stood, and not of what it says.
_DROPPED: Final = frozenset(
    {"$anchor", "$defs", "$dynamicAnchor", "$id", "$schema", "components", "definitions"}
)
_SAME_VALUE: Final = ("if", "then", "else", "not")
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Field:
    """A field of the record: its name, and the JSON Schema of its values, complete in itself."""

    name: str
    schema: Mapping[str, Any]
    required: bool = False

    @cached_property
    def definitions(self) -> Mapping[str, Any]:
        """What its schema refers to, by name."""
        found: Mapping[str, Any] = self.schema.get("$defs", {})
        return found

    @cached_property
    def _parts(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(_parts(self.schema, self.definitions))

    @cached_property
    def shapes(self) -> Shapes:
        """The alternatives of its schema, and of every part of it."""
        return Shapes(self.definitions)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The JSON types that a value may have."""
        named = [part.get("type", []) for part in self._parts]
        kinds = {kind for each in named for kind in ([each] if isinstance(each, str) else each)}
        return frozenset(kinds | {"null"} if None in self.choices else kinds)

    @cached_property
    def nullable(self) -> bool:
        """Whether null may stand for a field that a document does not give."""
        return not self.required or "null" in self.kinds

    @cached_property
    def accepts(self) -> Callable[[Any], bool]:
        """The check whether a value is one that the field may have."""
        fits = accepts(self.schema)
        return lambda value: (value is None and self.nullable) or fits(value)

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """The values of an enumeration; none if it is no enumeration."""
        listed = [choice for part in self._parts for choice in part.get("enum", ())]
        return (*listed, *(part["const"] for part in self._parts if "const" in part))

    @cached_property
    def is_date(self) -> bool:
        """Whether its values are days."""
        return any(part.get("format") == "date" for part in self._parts)

    @cached_property
    def items(self) -> "Field | None":
        """What an item of a list is; None if it is no list, or may hold anything."""
        for part in self._parts:
            if isinstance(part.get("items"), Mapping):
                return Field(f"{self.name}[]", _complete(part["items"], self.definitions), True)
        return None

    @cached_property
    def members(self) -> tuple["Field", ...]:
        """The members of an object; none if it is no object."""
        return tuple(_members(self._parts, self.definitions))


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
        found = json.loads(clean(json.dumps(found, ensure_ascii=False)))
        Draft202012Validator.check_schema(found)
        found = _gathered(found)
        Draft202012Validator.check_schema(found)
    except SchemaError as error:
        where = error.json_path.removeprefix("$").lstrip(".")
        place = f", at {where:.200}" if where else ""
        raise ValueError(f"it is no JSON Schema of 2020-12{place}: {error.message:.200}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not fields_of(found):
        raise ValueError('its fields must be listed under "properties" at the top')
    return found


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """Return the fields of the record that a schema from `read_schema` describes, in its order.

    Raises:
        ValueError: a field is required that no record may have, or that is not listed.
    """
    known = schema.get("$defs", {})
    parts = tuple(_parts(schema, known, alternatives=False))
    fields = tuple(_members(parts, known))
    listed = {field.name for field in fields}
    required = (name for part in parts for name in part.get("required", ()))
    unlisted = next((name for name in required if name not in listed), None)
    if fields and unlisted is not None:
        raise ValueError(f'its field {unlisted!r:.80} is required, and not listed under "properties"')
    return fields


def _members(found: tuple[Mapping[str, Any], ...], known: Mapping[str, Any]) -> Iterator[Field]:
    required = {name for part in found for name in part.get("required", ())}
    written: dict[str, list[Any]] = {}
    for part in found:
        for name, sub in part.get("properties", {}).items():
            written.setdefault(name, []).append(sub)
    for name, subs in written.items():
        if False not in subs:  # which says that it may not be there
            schemas = [{} if sub is True else sub for sub in subs]
            whole = schemas[0] if len(schemas) == 1 else {"allOf": schemas}
            yield Field(name, _complete(whole, known), name in required)
        elif name in required:
            raise ValueError(f"its field {name!r:.80} is required, and may not be there")


def _parts(
    schema: Any, known: Mapping[str, Any], *, alternatives: bool = True
) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all that says something of the same value, references followed.

    With *alternatives*, those of which only one must hold are followed, too.
    """
    words = ("anyOf", "oneOf", "allOf") if alternatives else ("allOf",)
    left, seen = [schema], set[str]()
    while left:
        part = left.pop(0)
        if not isinstance(part, Mapping):
            continue
        yield part
        name = str(part.get("$ref", "")).removeprefix(PREFIX)
        if name in known and name not in seen:
            seen.add(name)
            left.append(known[name])
        left.extend(other for word in words for other in part.get(word, ()))


def _named(source: str) -> dict[str, Any]:
    place, colon, name = source.rpartition(":")
    if colon and name.isidentifier():
        return _of_model(source, place, name)
    path = Path(source).expanduser()
    try:
        found = json.loads(local(path).read_bytes())  # in any encoding of Unicode, marked or not
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
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {error!s:.200}") from error
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ValueError(f"{source} is no pydantic model")
    return found.model_json_schema()


def _complete(part: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a schema with the definitions that it refers to."""
    needed = _definitions(part, known)
    return {**part, "$defs": needed} if needed else dict(part)


def _gathered(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return *schema* with references to its ``$defs`` alone, and there every part that it refers to.

    OpenAPI's ``nullable`` becomes the type null.

    Raises:
        ValueError: a reference leads out of the schema, or back to itself.
    """
    gathering = _Gathering(schema)
    whole: dict[str, Any] = gathering.copy(schema, gathering.resolver)
    if gathering.found:
        whole["$defs"] = gathering.found
        _check_ends(gathering.found)
    return whole


def _definitions(part: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the *known* definitions that *part* needs."""
    needed: dict[str, Any] = {}
    left = [part]
    while left:
        for name in _names(left.pop()):
            if name in known and name not in needed:
                needed[name] = known[name]
                left.append(known[name])
    return needed


def _names(value: Any) -> Iterator[str]:
    """Yield the names of the definitions that *value* refers to."""
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(PREFIX)
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _names(part)


class _Gathering:
    def __init__(self, root: Mapping[str, Any]) -> None:
        resource = DRAFT202012.create_resource(root)
        self.resolver: Any = Registry().resolver_with_root(resource)
        self.found: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def copy(self, part: Any, resolver: Any) -> Any:
        """Return *part* with its references replaced, and note what they refer to."""
        if not isinstance(part, Mapping):
            return part
        resolver = resolver.in_subresource(DRAFT202012.create_resource(part))
        copied: dict[str, Any] = {}
        for word, value in part.items():
            if word in ("$ref", "$dynamicRef"):
                copied["$ref"] = PREFIX + self._name(value, resolver)
            elif word in _BY_NAME and isinstance(value, Mapping):
                copied[word] = {name: self.copy(each, resolver) for name, each in value.items()}
            elif word in _LISTS and isinstance(value, list):
                copied[word] = [self.copy(each, resolver) for each in value]
            elif word not in _DROPPED:
                copied[word] = self.copy(value, resolver) if word in _ONES else value
        return _nullable(copied) if copied.pop("nullable", False) is True else copied

    def _name(self, reference: str, resolver: Any) -> str:
        try:
            found = resolver.lookup(reference)
        except (Unresolvable, LookupError, TypeError, ValueError):
            raise ValueError(
                f"it refers to {reference!r:.100}, which is not there: only references within the schema "
                "are followed"
            ) from None
        if not isinstance(found.contents, Mapping | bool):
            raise ValueError(f"it refers to {reference!r:.100}, which is no schema")
        place = id(found.contents)
        if place not in self._names:
            stem = _ODD.sub("_", unquote(re.split("[#/]", reference)[-1])).strip("_") or "record"
            name, number = stem, 1
            while name in self.found:
                number += 1
                name = f"{stem}_{number}"
            self._names[place] = name
            self.found[name] = True  # the name is taken while its own parts are looked at
            self.found[name] = self.copy(found.contents, found.resolver)
        return self._names[place]


def _nullable(part: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that also allows null."""
    kind = part.get("type")
    if kind is not None and "enum" not in part and "const" not in part:
        kinds = kind if isinstance(kind, list) else [kind]
        return {**part, "type": [*kinds, *({"null"} - set(kinds))]}
    about: dict[str, Any] = {word: part.pop(word) for word in ("title", "description") if word in part}
    return {**about, "anyOf": [part, {"type": "null"}]}


def _check_ends(found: Mapping[str, Any]) -> None:
    """Refuse definitions that a value could be compared with for ever."""
    try:
        TopologicalSorter({name: set(_of_same_value(part)) for name, part in found.items()}).prepare()
    except CycleError as error:
        name = error.args[1][0]
        raise ValueError(f"its definition {name!r:.80} is defined by itself alone") from None


def _of_same_value(part: Any) -> Iterator[str]:
    """Yield the definitions with which the very value is compared that *part* is compared with."""
    if not isinstance(part, Mapping):
        return
    if isinstance(part.get("$ref"), str):
        yield part["$ref"].removeprefix(PREFIX)
    inner = [part.get(word) for word in _SAME_VALUE]
    for word in ("anyOf", "oneOf", "allOf"):
        inner += part.get(word, [])
    inner += part.get("dependentSchemas", {}).values()
    for other in inner:
        yield from _of_same_value(other)
