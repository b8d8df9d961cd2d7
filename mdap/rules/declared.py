"""The types that a task declares: of a chain's states and answers, and of its result."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from mdap.tasks import Chain, Process, Task

__all__ = ["result_type_of", "types_of"]

_R = TypeVar("_R")


def types_of(kind: type[Chain[Any, Any]]) -> tuple[Any, Any]:
    """Return a task's types of state and answer, as given to ``Chain[S, A]``; `Any` where none were."""
    found = _given_to(Chain, kind)
    return (found[0], found[1]) if found else (Any, Any)


def result_type_of(kind: type[Task]) -> Any:
    """Return the type that a task declares for its result; `Any` where it declares none.

    The annotation of `Process.solve` or `Chain.result` comes first, then the R of ``Process[R]``.
    """
    method = getattr(kind, "solve" if issubclass(kind, Process) else "result", None)
    try:
        declared = get_type_hints(method).get("return", _R)
    except Exception:  # a name that only type checkers import, or no function
        return Any
    given = (*_given_to(Process, kind), Any)[0]
    return given if isinstance(declared, TypeVar) else declared


def _given_to(generic_base: type[Task], kind: type[Task]) -> tuple[Any, ...]:
    """Return the type arguments that *kind* or its bases gave to *generic_base*; none without brackets."""
    found: tuple[Any, ...] = ()
    # An author's own base class may be generic, too: its arguments are nearer to the task, and win.
    for base in reversed(kind.__mro__):
        generic = getattr(base, "__pydantic_generic_metadata__", None) or {}
        origin, given = generic.get("origin"), generic.get("args") or ()
        if origin is generic_base:
            found = given
        elif origin is not None and given:
            bound = dict(zip(origin.__pydantic_generic_metadata__["parameters"], given, strict=True))
            found = tuple(_bound(argument, bound) for argument in found)
    return found


def _bound(argument: Any, bound: Mapping[Any, Any]) -> Any:
    if isinstance(argument, TypeVar):
        return bound.get(argument, argument)
    generic = getattr(argument, "__pydantic_generic_metadata__", None) or {}
    parameters = generic.get("parameters") or getattr(argument, "__parameters__", ())
    return argument[tuple(bound.get(each, each) for each in parameters)] if parameters else argument
