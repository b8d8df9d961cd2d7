"""Errors cross from one process to another, and are copied, with all that they carry."""

import copy
import inspect
import pickle  # noqa: TID251 - errors are no data, and a process pool pickles them
from typing import Any

import pytest

from mdap import errors
from mdap.errors import MdapError, told

ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "PluginError": (("task t", "reading", ValueError("v")), {}),
    "RateLimitError": (("slow down",), {"kind": "http_429", "retry_after": 3.5}),
    "ProviderError": (("no",), {"kind": "timeout"}),
    "RunError": (("run r: no", {"status": "failed"}), {}),
}


def made(kind: type[MdapError]) -> MdapError:
    """An error of *kind* with every attribute set to something."""
    names = [base.__name__ for base in kind.__mro__ if base.__name__ in ARGUMENTS]
    positional, named = ARGUMENTS[names[0]] if names else (("a sentence",), {})
    return kind(*positional, **named)


class Own(errors.PluginError):
    """One that a plugin derived, with an `__init__` of its own."""

    def __init__(self, place: int) -> None:
        super().__init__("own", f"reading {place}", KeyError("k"))
        self.place = place


KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MdapError)]


@pytest.mark.parametrize("error", [*map(made, KINDS), Own(3)], ids=lambda error: type(error).__name__)
def test_every_error_pickles_and_copies(error: MdapError) -> None:
    """Type, sentence, arguments and attributes are the same afterwards, notes among them."""
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_an_endless_text_of_an_error_is_cut() -> None:
    """One line of a terminal or a log cannot take it; the traceback has more of it."""
    said = told(ValueError("x" * 100_000))
    assert said.startswith("ValueError: xxx")
    assert said.endswith("... (100,000 characters)")
    assert len(said) < 2_100
