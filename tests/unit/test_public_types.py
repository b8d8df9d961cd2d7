"""What users may rely on: each type that a public call takes or returns can be imported from `mdap`."""

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel

import mdap
import mdap.audit

ROOTS = [
    (name, value)
    for name in mdap.__all__
    if inspect.isfunction(value := getattr(mdap, name)) or inspect.isclass(value)
]

MADE_BY_MDAP = (mdap.Batch, mdap.Log)


def _hints(value: Any) -> Iterator[Any]:
    """The annotations of a function, or of the public fields and methods of a class."""
    if inspect.isfunction(value):
        yield from _typed(value)
        return
    if dataclasses.is_dataclass(value) or issubclass(value, tuple) or is_typeddict(value):
        yield from (hint for name, hint in _named(value) if not name.startswith("_"))
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        made = name == "__init__" and value not in MADE_BY_MDAP
        public = made or name == "__call__" or not name.startswith("_")
        if public and inspect.isfunction(function) and not issubclass(value, BaseModel | BaseException):
            yield from _typed(function)
    if issubclass(value, BaseModel):
        yield from (field.annotation for field in value.model_fields.values())


def _typed(function: Any) -> Iterator[Any]:
    return iter(get_type_hints(function).values())


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    return iter(get_type_hints(value).items())


def _classes(hint: Any) -> Iterator[type]:
    """The classes of mdap in an annotation."""
    if isinstance(hint, TypeVar):
        return
    for part in get_args(hint):
        yield from _classes(part)
    kind = get_origin(hint) or hint
    if inspect.isclass(kind) and kind.__module__.partition(".")[0] == "mdap":
        yield kind


def test_each_type_that_a_public_name_mentions_is_public() -> None:
    """Whoever annotates what a call returned need not import from a private module."""
    public = [getattr(mdap, each) for each in mdap.__all__] + [
        getattr(mdap.audit, each) for each in mdap.audit.__all__
    ]
    mentioned = {(name, kind) for name, value in ROOTS for hint in _hints(value) for kind in _classes(hint)}
    assert len(mentioned) > 20
    assert {(name, kind) for name, kind in mentioned if kind not in public} == set()
    assert sys.modules["mdap"] is mdap
