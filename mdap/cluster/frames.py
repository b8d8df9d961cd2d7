"""Messages as bytes: lists of JSON values, and the facts and solutions in them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any, Final

import orjson

from mdap.records import (
    AttemptFailed,
    Certificate,
    Decided,
    Fact,
    Guarantee,
    Outcome,
    ProbeTotals,
    PromptSent,
    RunEvent,
    RunStatus,
    SampleTaken,
    Solution,
    StepOpened,
    StepResolved,
    StopCause,
    Totals,
    Usage,
)

__all__ = ["decoded", "encoded", "facts_of", "packed", "solution_of", "told"]

Message = list[Any]

_QUICK: Final = b"q"
_PLAIN: Final = b"p"
_KINDS: Final = (SampleTaken, Decided, StepOpened, PromptSent, StepResolved, AttemptFailed, RunEvent)
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


def told(solution: Solution) -> dict[str, Any]:
    """Return the *solution* of a case as JSON values, without the error that ended it."""
    names = ("run_id", "task", "status", "result", "reason", "k", "cost_usd", "seconds", "digest", "warnings")
    more = ("seal", "undecided", "stop_cause", "traceback", "outcome")
    found = {name: getattr(solution, name) for name in (*names, *more)}
    found["totals"] = asdict(solution.totals)
    found["certificate"] = None if solution.certificate is None else asdict(solution.certificate)
    promise = solution.guarantee
    spent = {} if promise is None else {"spent": str(promise.spent), "bound": str(promise.bound)}
    found["guarantee"] = None if promise is None else asdict(promise) | spent
    return found


def solution_of(values: dict[str, Any]) -> Solution:
    """Return the solution that `told` turned into *values*."""
    totals, probe, certificate = values["totals"], values["totals"]["probe"], values["certificate"]
    probe = {**probe, "usage": Usage(**probe["usage"])}
    if certificate is not None:
        certificate = Certificate(**{**certificate, "warnings": tuple(certificate["warnings"])})
    cause, outcome, promise = values["stop_cause"], values["outcome"], values["guarantee"]
    if promise is not None:
        promise |= {"spent": Fraction(promise["spent"]), "bound": Fraction(promise["bound"])}
    return Solution(
        **{
            **values,
            "status": RunStatus(values["status"]),
            "warnings": tuple(values["warnings"]),
            "stop_cause": None if cause is None else StopCause(cause),
            "outcome": None if outcome is None else Outcome(outcome),
            "totals": Totals(**{**totals, "usage": Usage(**totals["usage"]), "probe": ProbeTotals(**probe)}),
            "certificate": certificate,
            "guarantee": None if promise is None else Guarantee(**promise),
        }
    )
