"""Messages as bytes: lists of JSON values, and the facts and solutions in them."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from mdap.records import (
    AttemptFailed,
    Certificate,
    Decided,
    Fact,
    Guarantee,
    Outcome,
    PromptSent,
    RunEvent,
    RunStatus,
    SampleTaken,
    Solution,
    StepOpened,
    StepResolved,
    StopCause,
    Totals,
)

Message = list[Any]

_QUICK: Final = b"q"
_PLAIN: Final = b"p"
_KINDS: Final = (SampleTaken, Decided, StepOpened, PromptSent, StepResolved, AttemptFailed, RunEvent)
_LEFT_OUT: Final = ("error", "saved_usd", "_json")
_NUMBER: Final = {kind: number for number, kind in enumerate(_KINDS)}


def encoded(messages: Sequence[Message]) -> bytes:
    """Return *messages* as bytes."""
    try:
        return _QUICK + orjson.dumps(messages)
    except TypeError:  # an integer of more than 64 bits, or half of a surrogate pair
        return _PLAIN + json.dumps(messages).encode()


def decoded(data: bytes) -> list[Message]:
    """Return the messages in *data*."""
    read = orjson.loads if data[:1] == _QUICK else json.loads
    found: list[Message] = read(data[1:])
    return found


def packed(facts: Iterable[Fact]) -> list[tuple[Any, ...]]:
    """Return *facts* as JSON values: the number of a fact's kind, and its fields."""
    return [(_NUMBER[type(fact)], *fact) for fact in facts]


def facts_of(values: Iterable[Sequence[Any]]) -> list[Fact]:
    """Return the facts that `packed` turned into *values*."""
    return [_KINDS[kind]._make(fields) for kind, *fields in values]


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    """Return what turns a solution's fields that JSON does not have into it, and back."""
    kinds: dict[str, Any] = {
        "status": RunStatus,
        "totals": Totals,
        "certificate": Certificate | None,
        "guarantee": Guarantee | None,
        "stop_cause": StopCause | None,
        "outcome": Outcome | None,
    }
    return {name: TypeAdapter(kind) for name, kind in kinds.items()}


def told(solution: Solution) -> dict[str, Any]:
    """Return the *solution* of a case as JSON values, without the error that ended it."""
    names = [name for name in Solution.__dataclass_fields__ if name not in _LEFT_OUT]
    found = {name: getattr(solution, name) for name in names}
    return found | {name: one.dump_python(found[name], mode="json") for name, one in _adapters().items()}


def solution_of(values: dict[str, Any]) -> Solution:
    """Return the solution that `told` turned into *values*."""
    found = {name: one.validate_python(values[name]) for name, one in _adapters().items()}
    return Solution(**{**values, **found, "warnings": tuple(values["warnings"])})
