"""Check that values survive a round trip through canonical JSON, and say what to change if they do not.

Canonical JSON omits the class of a value, so the type that a task declares must determine it. mdap checks the
first value of each class, before it merges votes or resumes a run from a different state.
"""

import dataclasses
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, time
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from types import UnionType
from typing import Any, Final, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from mdap.errors import RAISED, UsageError, told
from mdap.rules.canonical import canonical
from mdap.rules.declared import types_of
from mdap.tasks import Chain, Task

# So many values are looked at, whatever they are, and from then on each so many-th.
_FIRST: Final = 8
_EACH: Final = 256
_SHORT: Final = 1_000
_MISSING: Final = object()
# What a collection has beside its items, and what to write instead.
_BESIDE: Final[dict[type, tuple[str, Callable[[Any], Any], str]]] = {
    deque: ("maxlen", attrgetter("maxlen"), "a list, and cut it where you add to it"),
    OrderedDict: ("order", list, "a list of pairs"),
    defaultdict: ("default_factory", attrgetter("default_factory"), "a dict, and read it by get"),
}
_WRITTEN: Final = (float, Decimal, datetime, time)
# Types that leave open which class a value has, or may change it.
_OPEN: Final = frozenset({"any", "union", "tagged-union", "is-instance", "custom-error", "callable"})
# In the names of types whose values may come back equal and yet not alike: dicts and sets in another order,
# a float where an integer stood for one, a time with another object for its zone.
_LOOSE: Final = re.compile("any|dict|counter|set|instance|custom|callable|float|time")
# In the names of types whose values can be changed in place.
_MUTABLE: Final = re.compile("any|dict|counter|^set|list|deque|generator|instance|custom|callable|mutable")
_TELL: Final = (
    "give each class a field of its own value, such as `kind: Literal[{name!r}] = {name!r}`, and declare the "
    "type as the union of the classes"
)


class SpellingError(ValueError):
    """Raised when a value does not come back from its JSON as it was, or shares its JSON with another."""


class Difference(NamedTuple):
    """Where two values are not the same: a path such as ``.shape.sides[2]``, and what each has there."""

    path: str
    one: Any
    other: Any


def difference(one: Any, other: Any, path: str = "", *, evidence: bool = False) -> Difference | None:
    """Return the first place where two values are not equal and of one class; None if they are the same.

    An integer counts as the same as the equal float, since Python's types let it stand for one. Numbers and
    times that are equal and written in several ways, such as ``Decimal("1")`` and ``Decimal("1.0")``, do not.
    Private attributes count as fields do, but for those of a task, which may remember what it has worked out.
    As *evidence*, which an answer may carry beside its vote, fields that pydantic excludes may differ.
    """
    kind = type(one)
    if kind is not type(other):
        alike = kind is int and type(other) is float and one == other
        return None if alike else Difference(path, one, other)
    if one is other:
        return None
    if kind in _BESIDE and _BESIDE[kind][1](one) != _BESIDE[kind][1](other):
        return Difference(path, one, other)
    parts = _parts(one, other, path, evidence)
    if parts is None:
        alike = one == other and (not isinstance(one, _WRITTEN) or _written(one) == _written(other))
        return None if alike else Difference(path, one, other)
    return next(filter(None, (difference(*part, evidence=evidence) for part in parts)), None)


def _written(value: Any) -> tuple[str, Any]:
    """Return what tells equal numbers and times apart: their digits, and a zone with summer time."""
    zone = getattr(value, "tzinfo", None)
    return str(value), None if zone is None else zone.utcoffset(None)


def _parts(one: Any, other: Any, path: str, evidence: bool) -> Iterator[tuple[Any, Any, str]] | None:
    """Return the members of two values of one class, in pairs, each with its path.

    None if the values have no members, or not the same ones.
    """
    names: tuple[str, ...] = ()
    if isinstance(one, BaseModel):
        fields = type(one).model_fields.items()
        names = (
            *(name for name, field in fields if not (evidence and field.exclude)),
            *(one.__pydantic_extra__ or ()),
            *(other.__pydantic_extra__ or ()),
            *(() if evidence or isinstance(one, Task) else one.__pydantic_private__ or ()),
        )
    elif dataclasses.is_dataclass(one):
        names = tuple(field.name for field in dataclasses.fields(one))
    if isinstance(one, BaseModel) or dataclasses.is_dataclass(one):
        return (
            (getattr(one, name, _MISSING), getattr(other, name, _MISSING), f"{path}.{name}") for name in names
        )
    if isinstance(one, (list, tuple, deque)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return ((mine, its, f"{path}[{place}]") for place, (mine, its) in pairs)
    if isinstance(one, dict) and one.keys() == other.keys():
        keys = {key: key for key in other}  # equal keys may differ, as 1 and True do
        return (
            pair
            for key in one
            for pair in (
                (key, keys[key], f"{path}[{key!r:.40}]"),
                (one[key], other[key], f"{path}[{key!r:.40}]"),
            )
        )
    if isinstance(one, (set, frozenset)) and one == other:
        members = {each: each for each in other}  # as for the keys of a dict
        return ((each, members[each], f"{path}[{each!r:.40}]") for each in one)
    return None


def refuse_rivals(first: Any, answer: Any, spelled: str) -> None:
    """Refuse two answers of one canonical JSON that are not the same: they would share their votes.

    Raises:
        SpellingError: they are not the same.
    """
    differ = difference(first, answer, evidence=True)
    if differ is not None:
        raise SpellingError(
            f"the answers {_shown(first)} and {_shown(answer)} have one spelling, {spelled:.200}, and would "
            f"share their votes: {_apart(differ)}"
        )


def _apart(differ: Difference) -> str:
    one, other = type(differ.one), type(differ.other)
    place = f"their {differ.path.lstrip('.')}" if differ.path else "they"
    if one is other:
        return f"{place} must be part of their JSON, or be equal"
    if _structured(one) and _structured(other):
        return _TELL.format(name=other.__name__)
    return f"{place} must be of one class, {one.__qualname__} or {other.__qualname__}"


def _structured(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel) or hasattr(kind, "_fields")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


class Kind:
    """The declared type of a chain's states or of its answers; *mutable* if a value can change in place."""

    def __init__(self, role: str, adapter: TypeAdapter[Any]) -> None:
        self._role = role
        self._adapter = adapter
        held = _types_in(adapter)
        self._open = not held.isdisjoint(_OPEN)
        self._loose = any(map(_LOOSE.search, held))
        self.mutable = any(map(_MUTABLE.search, held))
        self._seen: set[type] = set()
        self._turn = -_FIRST
        self._members = _members(adapter._type)

    def read(self, text: str) -> Any:
        """Return the value that the JSON *text* stands for.

        Raises:
            ValidationError: it stands for none.
        """
        return self._adapter.validate_json(text, by_alias=True, by_name=True)

    def settled(self, value: Any, text: str) -> Any:
        """Return *value* as every later session reads it from its JSON *text*.

        JSON keeps no order of a dict, and a prompt that goes through one must not change on a resume.

        Raises:
            ValidationError: it cannot be read back; the task's own validators may raise others.
        """
        return self.read(text) if self._loose else value

    def due(self, value: Any, text: str) -> bool:
        """Return whether to `compare` a *value* with what its JSON *text* stands for.

        Past the first values of a class, only some are, and short ones whose class is open.
        """
        self._turn += 1
        if 0 < self._turn < _EACH and type(value) in self._seen:
            return self._open and len(text) < _SHORT
        self._turn = min(self._turn, 0)
        return True

    def compare(self, value: Any, text: str) -> bool:
        """Refuse a *value* that does not come back from its JSON *text*; return whether its class is new.

        Raises:
            SpellingError: it does not.
        """
        named = f"the {self._role} {_shown(value)}"
        for member in self._members:
            with suppress(ValidationError):
                other = member.validate_json(text, by_alias=True, by_name=True)
                if type(other) is not type(value) and other is not None and canonical(other) == text:
                    advice = _TELL.format(name=type(value).__name__)
                    raise SpellingError(f"{named} has the JSON that {_shown(other)} has: {advice}")
        try:
            back = self.read(text)
        except RAISED as error:
            declared = self._adapter._type
            known = declared.__qualname__ if isinstance(declared, type) else str(declared)
            why = _refused(error) if isinstance(error, ValidationError) else told(error)
            raise SpellingError(f"{named} cannot be read back from its JSON as {known}: {why}") from error
        differ = difference(value, back, evidence=self._role == "answer")
        if differ is not None:
            place = f", at {differ.path.lstrip('.')}" if differ.path else ""
            raise SpellingError(
                f"{named} comes back from its JSON as {_shown(back)}{place}: {self._advice(differ)}"
            )
        new = type(value) not in self._seen
        self._seen.add(type(value))
        return new

    def _advice(self, differ: Difference) -> str:
        one, other = type(differ.one), type(differ.other)
        if self._adapter._type is Any and not differ.path:
            pair = f"{one.__qualname__}, ..." if self._role == "state" else f"..., {one.__qualname__}"
            return f"derive the task from mdap.Chain[{pair}], the types of its states and its answers"
        if one is other and issubclass(one, datetime):
            return "turn a time into UTC, by astimezone(UTC), before you return it"
        if one is other and one in _BESIDE:
            what, _, instead = _BESIDE[one]
            return f"JSON does not keep the {what} of a {one.__qualname__}: return {instead}"
        if one is other:
            return (
                "a field must be written as it is read: exclude none, let none be private, and let "
                "validators leave it as it is"
            )
        if _structured(one) and _structured(other):
            return _TELL.format(name=one.__name__)
        part = "this part" if differ.path else f"the {self._role}"
        return f"name {one.__qualname__} in the type of {part}, or return a {other.__qualname__}"


def _members(declared: Any) -> tuple[TypeAdapter[Any], ...]:
    """Return the classes with fields in a union: two of like shape are told apart before both have come."""
    members = get_args(declared) if get_origin(declared) in (Union, UnionType) else ()
    kinds = [kind for kind in members if isinstance(kind, type) and _structured(kind)]
    return tuple(TypeAdapter(kind) for kind in kinds) if len(kinds) > 1 else ()


def _refused(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    advice = "name in mdap.Chain[...] the class that it has"
    if first["type"] == "extra_forbidden":
        advice = "make a computed field a plain property, or let the class ignore extra fields"
    elif first["type"] == "missing":
        advice = "let its alias be one for both reading and writing"
    return f"{place + ': ' if place else ''}{first['msg']}; {advice}"


def kinds_of(task: Chain[Any, Any]) -> tuple[Kind, Kind]:
    """Return the kinds of a task's states and answers, as given to ``Chain[S, A]``.

    Raises:
        UsageError: a type has no JSON form.
    """
    states, answers = _adapters(type(task))
    return Kind("state", states), Kind("answer", answers)


@lru_cache(maxsize=256)
def _adapters(kind: type[Chain[Any, Any]]) -> tuple[TypeAdapter[Any], ...]:
    adapters = []
    for role, declared in zip(("states", "answers"), types_of(kind), strict=True):
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(declared)
            _types_in(adapter)
            adapters.append(adapter)
        except Exception as error:
            said = str(error).partition("\n")[0]
            raise UsageError(
                f"the type of the {role} of {kind.__name__}, {declared!r}, has no JSON form ({said}): "
                "use a dataclass, a pydantic model or plain JSON values in mdap.Chain[...]"
            ) from error
    return tuple(adapters)


@lru_cache(maxsize=512)
def _types_in(adapter: TypeAdapter[Any]) -> frozenset[str]:
    """Return the names of pydantic's types in the core schema of *adapter*, however deep.

    What may return a value of any class counts as ``any``: functions, and classes that have subclasses.
    """
    todo: list[Any] = [adapter.core_schema]
    seen: set[int] = set()
    held: set[str] = set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            held |= _type_of(part)
            todo += part.values()
        elif isinstance(part, (list, tuple)):
            todo += part
    return frozenset(held)


def _type_of(part: dict[str, Any]) -> set[str]:
    """Return the name of the type that a *part* of a core schema describes, if it does."""
    kind, cls = part.get("type"), part.get("cls")
    held = {kind} if isinstance(kind, str) else set()
    if any(name.startswith("function-") for name in held):
        held.add("any")
    if isinstance(cls, type) and cls.__subclasses__():
        held.add("any")
    if isinstance(cls, type) and kind in ("dataclass", "model"):
        parameters: Any = vars(cls).get("__dataclass_params__")
        frozen = cls.model_config.get("frozen") if issubclass(cls, BaseModel) else parameters.frozen
        if not frozen:
            held.add("mutable")
    if "allow" in (part.get("extra_behavior"), part.get("extra_fields_behavior")):
        held.add("dict")
    return held
