"""Nested values as typed columns, for spreadsheets, data frames and SQL.

A field of an object becomes a column ``answer.total``, a list item a column ``answer.items.0``, and any other
value the column ``answer`` itself. A cell is empty if the row has no such value, or has null or an empty
object or list.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from mdap.errors import UsageError

__all__ = ["Columns"]

Path = tuple[str | int, ...]

_MOST: Final = 1_000
_INT64: Final = 2**63


class Columns:
    """The columns that one value of each row becomes.

    Args:
        name: the value's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._kinds: dict[Path, set[str]] = {}

    def see(self, value: Any) -> None:
        """Add the columns of one row's *value*.

        Raises:
            UsageError: there are too many.
        """
        for path, leaf in _leaves(value):
            self._kinds.setdefault(path, set()).add(_kind(leaf))
            if len(self._kinds) > _MOST:
                raise UsageError(
                    f"{self._name} would become more than {_MOST:,} columns: export with --format jsonl"
                )

    def types(self) -> dict[str, str]:
        """Return the type of each column by its name, in order: bool, int64, float64 or string."""
        return {self._called(path): _type(self._kinds[path]) for path in self._paths()}

    def cells(self, value: Any) -> list[Any]:
        """Return the cells of one row's *value*, in that order; None for an empty one."""
        found = dict(_leaves(value))
        return [_as(_type(self._kinds[path]), found.get(path)) for path in self._paths()]

    def _paths(self) -> Iterable[Path]:
        return sorted(self._kinds, key=lambda path: [(isinstance(part, str), part) for part in path])

    def _called(self, path: Path) -> str:
        return self._name + "".join(map(_part, path))


def _part(part: str | int) -> str:
    plain = isinstance(part, int) or (part and "." not in part and "[" not in part and not part.isdecimal())
    return f".{part}" if plain else f"[{json.dumps(part)}]"


def _leaves(value: Any) -> Iterator[tuple[Path, Any]]:
    """Yield each value that is not an object, a list or null, with its path."""
    waiting: list[tuple[Path, Any]] = [((), value)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, dict):
            waiting += [((*path, key), each) for key, each in one.items()]
        elif isinstance(one, list):
            waiting += [((*path, place), each) for place, each in enumerate(one)]
        elif one is not None:
            yield path, one


def _kind(leaf: Any) -> str:
    if isinstance(leaf, bool):
        return "bool"
    if isinstance(leaf, int):
        return "int64" if -_INT64 <= leaf < _INT64 else "string"
    return "float64" if isinstance(leaf, float) else "string"


def _type(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float64" if kinds == {"int64", "float64"} else "string"


def _as(kind: str, cell: Any) -> Any:
    if cell is None or kind in ("bool", "int64"):
        return cell
    if kind == "float64":
        return float(cell)
    return cell if isinstance(cell, str) else json.dumps(cell)
