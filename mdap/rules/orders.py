"""Detect chains that depend on the iteration order of a set, which differs between processes."""

import copy
import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydantic import BaseModel

from mdap.rules.canonical import canonical
from mdap.tasks import Chain, Step

SHOWN: Final = (
    "the prompt shows a set in an order that is another one in each process: go through sorted(...) of it"
)
FOLLOWED: Final = (
    "advance goes through a set in an order that is another one in each process: go through sorted(...) of it"
)

# Their hashes are the same in every process, and so is the order of a set of them that was read back.
_STEADY: Final = frozenset({int, bool, float})


class _Set(set[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().__iter__())[::-1])


class _FrozenSet(frozenset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().__iter__())[::-1])


def shows_order(task: Chain[Any, Any], state: Any, step: Step[Any]) -> bool:
    """Return whether *task* gives another step than *step* in *state* if its sets iterate in reverse.

    Sets of numbers alone are left as they are: they have one order in every process.
    """
    other_task, other_state = backwards(task), backwards(state)
    if other_task is task and other_state is state:
        return False
    try:
        again = other_task.step(other_state)
    except Exception:
        return False  # it may want a set and nothing like one
    return again is None or list(_prompts(again)) != list(_prompts(step))


def follows_order(task: Chain[Any, Any], state: Any, answer: Any, after: Any) -> bool:
    """Return whether *task* advances to another state than *after* if its sets iterate in reverse."""
    others = backwards(task), backwards(state), backwards(answer)
    if others[0] is task and others[1] is state and others[2] is answer:
        return False
    try:
        return canonical(others[0].advance(*others[1:])) != canonical(after)
    except Exception:
        return False  # it may want a set and nothing like one


def _prompts(step: Step[Any]) -> Iterator[tuple[str, str]]:
    yield step.system, step.user
    for view in step.views:
        yield view.system, view.user


def backwards(value: Any) -> Any:
    """Return *value* with sets that iterate in reverse; *value* itself if it holds no set of strings."""
    kind = type(value)
    if kind in (set, frozenset):
        if len(value) < 2 or _STEADY.issuperset(map(type, value)):
            return value
        return _Set(value) if kind is set else _FrozenSet(value)
    if isinstance(value, (list, tuple, deque)):
        items = [backwards(item) for item in value]
        if _same(items, value):
            return value
        if hasattr(value, "_make"):
            return value._make(items)
        return deque(items, value.maxlen) if isinstance(value, deque) else type(value)(items)
    if isinstance(value, dict):
        held = {key: backwards(item) for key, item in value.items()}
        if _same(held.values(), value.values()):
            return value
        other = copy.copy(value)
        other.update(held)
        return other
    if isinstance(value, BaseModel):
        fields = {name: backwards(getattr(value, name)) for name in type(value).model_fields}
        changed = {name: new for name, new in fields.items() if new is not getattr(value, name)}
        return value.model_copy(update=changed) if changed else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value)
    return value


def _same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


def _dataclass(value: Any) -> Any:
    other = None
    for field in dataclasses.fields(value):
        held = getattr(value, field.name, None)
        new = backwards(held)
        if new is not held:
            other = copy.copy(value) if other is None else other
            object.__setattr__(other, field.name, new)
    return value if other is None else other
