"""A JSON Schema brought into a form in which every part of it is complete with its definitions.

Schemas refer to parts of themselves in many ways: ``#/$defs/X``, ``#/properties/x``, ``#/components/...``,
``#``, an anchor, a name relative to an ``$id``. A prompt and a response format show one field alone, where
most of these point nowhere. So each part that is referred to becomes a definition, referred to by its name.
"""

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final
from urllib.parse import unquote

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

__all__ = ["PREFIX", "definitions", "gathered"]

PREFIX: Final = "#/$defs/"

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


def gathered(schema: Mapping[str, Any]) -> dict[str, Any]:
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


def definitions(part: Any, known: Mapping[str, Any]) -> dict[str, Any]:
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
            name = self._names[place] = self._free(reference)
            self.found[name] = True  # the name is taken while its own parts are looked at
            self.found[name] = self.copy(found.contents, found.resolver)
        return self._names[place]

    def _free(self, reference: str) -> str:
        stem = _ODD.sub("_", unquote(re.split("[#/]", reference)[-1])).strip("_") or "record"
        name, number = stem, 1
        while name in self.found:
            number += 1
            name = f"{stem}_{number}"
        return name


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
