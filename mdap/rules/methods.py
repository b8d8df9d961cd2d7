"""Check that a task's class has the methods that mdap calls, with matching signatures."""

import inspect
from functools import lru_cache
from typing import Any, Final

from mdap.errors import UsageError
from mdap.tasks import Chain, Process, Task

__all__ = ["check_methods"]

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


@lru_cache(maxsize=1024)
def check_methods(kind: type[Task], name: str) -> None:
    """Refuse a task's class that cannot be run, before anything is spent.

    Args:
        kind: the class.
        name: what its user calls it.

    Raises:
        UsageError: a method is missing, async where it is called without ``await``, a generator, takes other
            arguments, or has the name of a parameter.
    """
    methods = _OF_ALL | (_OF_CHAINS if issubclass(kind, Chain) else _OF_PROCESSES)
    hidden = sorted(methods.keys() & kind.model_fields.keys())
    if hidden:
        raise UsageError(f"{name} has a parameter {hidden[0]!r}, which hides a method: rename the parameter")
    missing = _missing(kind)
    if missing:
        raise UsageError(f"{name} does not define {', '.join(missing)}, which every such task must")
    for method, takes in methods.items():
        wrong = _wrong(kind, method, takes)
        if wrong:
            raise UsageError(f"{name}: {method} {wrong}")


def _missing(kind: type[Task]) -> list[str]:
    # pydantic's metaclass does not refuse them.
    abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    left_open = {
        method
        for base, required in _REQUIRED.items()
        if issubclass(kind, base)
        for method in required
        if getattr(kind, method) is getattr(base, method)
    }
    return sorted(abstract | left_open)


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
