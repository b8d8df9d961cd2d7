"""What a task's class declares: its methods, and the types of its states, its answers and its result."""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar, get_type_hints

from mdap.errors import UsageError
from mdap.tasks import Chain, Process, Task

_R = TypeVar("_R")
_OF_ALL: Final = {"length": "self", "canonical": "self, answer", "outcome": "self, result"}
_OF_CHAINS: Final = {
    "start": "self",
    "step": "self, state",
    "advance": "self, state, answer",
    "result": "self, state",
    "effects": "self, state, decision",
    "guess": "self, state",
    "oracle": "self, state",
    "sample_state": "self, rng",
    "mistakes": "self, state, truth",
    "render": "self, answer",
}
_OF_PROCESSES: Final = {
    "solve": "self, ask",
    "oracle": "self, step",
    "mistakes": "self, step, truth",
    "render": "self, step, answer",
}
_REQUIRED: Final = {Chain: ("start", "step", "advance"), Process: ("solve",)}
_AWAITED: Final = frozenset(("effects", "solve"))


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


@lru_cache(maxsize=1024)
def check_methods(kind: type[Task], name: str) -> None:
    """Refuse a task's class that cannot be run, before anything is spent.

    Raises:
        UsageError: a method is missing, async where it is called without ``await``, a generator, takes other
            arguments, or has the name of a parameter.
    """
    methods = _OF_ALL | (_OF_CHAINS if issubclass(kind, Chain) else _OF_PROCESSES)
    hidden = sorted(methods.keys() & kind.model_fields.keys())
    if hidden:
        raise UsageError(f"{name} has a parameter {hidden[0]!r}, which hides a method: rename the parameter")
    # pydantic's metaclass does not refuse them.
    missing: set[str] = set(getattr(kind, "__abstractmethods__", ()))
    for base, required in _REQUIRED.items():
        if issubclass(kind, base):
            missing |= {method for method in required if getattr(kind, method) is getattr(base, method)}
    if missing:
        raise UsageError(f"{name} does not define {', '.join(sorted(missing))}, which every such task must")
    for method, takes in methods.items():
        wrong = _wrong(kind, method, takes)
        if wrong:
            raise UsageError(f"{name}: {method} {wrong}")


def _wrong(kind: type[Task], name: str, takes: str) -> str | None:
    """Return the fault of a method; None if there is none or the signature is unreadable."""
    bound = isinstance(inspect.getattr_static(kind, name), staticmethod | classmethod)
    method: Any = getattr(kind, name)
    if not callable(method):
        return f"must be a method, not {method!r:.60}"
    if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        return "is a generator, since it has a yield: let it return its value"
    if inspect.iscoroutinefunction(method) and name not in _AWAITED:
        return f"is async, and mdap calls it without await: write `def {name}({takes})`"
    arguments = takes.split(", ")[1:] if bound else takes.split(", ")
    try:
        inspect.signature(method).bind(*arguments)
    except ValueError:  # it has no signature that could be read
        return None
    except TypeError:
        return f"is called with other arguments than it takes: write `{name}({takes})`"
    return None
