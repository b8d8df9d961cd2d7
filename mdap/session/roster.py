"""The models of a session as its caller gives them: by name, or as provider objects."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from mdap.errors import UsageError
from mdap.plugins import OBJECT
from mdap.protocols import Provider

__all__ = ["Roster", "roster_of"]

_NEEDED: Final = ("name", "nonblocking", "max_n", "sample", "describe", "aclose")
_WANTED: Final = "a name such as 'openai/gpt-4.1-mini', or an object with the attributes of mdap.Provider"
_LONGEST: Final = 200


class Roster(NamedTuple):
    """Who votes.

    Attributes:
        models: the names of those that vote first; one that is named twice has twice the weight.
        escalate_to: those to which an undecided step goes, one after the other.
        objects: the providers that were given as objects, by name.
    """

    models: tuple[str, ...]
    escalate_to: tuple[str, ...]
    objects: Mapping[str, Provider]


def roster_of(model: Any, escalate_to: Any) -> Roster:
    """Return the roster of what a caller gives for *model* and *escalate_to*.

    Raises:
        UsageError: one of them is neither a name nor a provider, or two objects have one name.
    """
    objects: dict[str, Provider] = {}
    tiers = [
        tuple(_named(argument, each, objects) for each in _several(argument, given))
        for argument, given in (("model", model), ("escalate_to", escalate_to))
    ]
    return Roster(tiers[0], tiers[1], objects)


def _several(argument: str, given: Any) -> Iterable[Any]:
    if isinstance(given, str | Provider | type | Mapping) or not isinstance(given, Iterable):
        return (given,)
    return given


def _named(argument: str, model: Any, objects: dict[str, Provider]) -> str:
    """Return the name of *model* on record; add it to *objects* if it is one."""
    if isinstance(model, str):
        return model
    if isinstance(model, type):
        raise UsageError(
            f"{argument} takes {_WANTED}, not the class {model.__name__}: write "
            f"{argument}={model.__name__}(...)"
        )
    missing = [name for name in _NEEDED if not hasattr(model, name)]
    if missing:
        lacks = "" if len(missing) == len(_NEEDED) else f", which lacks {', '.join(missing)}"
        raise UsageError(f"{argument} takes {_WANTED}, not {model!r:.60}{lacks}")
    name = f"{type(model).__module__}.{type(model).__qualname__}{OBJECT}/{_own_name(argument, model)}"
    for other, known in objects.items():
        if known is not model and known.name == model.name:
            raise UsageError(
                f"two different objects are called {model.name!r}, {name} and {other}: give each its own name"
            )
    objects[name] = model
    return name


def _own_name(argument: str, model: Any) -> str:
    name, most = model.name, model.max_n
    who = f"{argument}: the provider of class {type(model).__qualname__}"
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name.strip()) <= _LONGEST):
        raise UsageError(f"{who} needs a name of 1 to {_LONGEST} printable characters, not {name!r:.60}")
    if not isinstance(most, int) or most < 1:
        raise UsageError(f"{who} needs max_n, a whole number of at least 1, not {most!r:.60}")
    if not callable(model.sample):
        raise UsageError(f"{who} needs `async def sample(self, request)`, not sample={model.sample!r:.60}")
    return name
