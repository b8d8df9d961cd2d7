"""The result of a run as a value of the type that its task declares."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mdap.records import RunStatus, Solution
from mdap.rules.canonical import canonical
from mdap.tasks import Task, result_type_of

__all__ = ["with_typed_result"]


def with_typed_result(task: Task, solution: Solution[Any]) -> Solution[Any]:
    """Return *solution* with its result as the type that *task* declares, where that loses nothing."""
    adapter = _adapter_of(type(task))
    if adapter is None or solution.status is not RunStatus.FINISHED:
        return solution
    text = canonical(solution.result)
    try:
        value = adapter.validate_json(text, strict=True, by_alias=True, by_name=True)
        same = canonical(value) == text
    except (ValidationError, TypeError, ValueError):
        return solution
    return replace(solution, result=value, _json=solution.result) if same else solution


@lru_cache(maxsize=256)
def _adapter_of(kind: type[Task]) -> TypeAdapter[Any] | None:
    declared = result_type_of(kind)
    if declared is Any:
        return None
    try:
        return TypeAdapter(declared)
    except Exception:  # a type without a JSON form
        return None
