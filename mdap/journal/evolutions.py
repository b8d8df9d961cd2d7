"""The record of evolutions: how a local model learned from votes, update by update."""

import json
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from mdap._version import __version__
from mdap.errors import DatabaseError, UsageError
from mdap.journal.claims import EVOLUTIONS, Claims
from mdap.journal.database import writing
from mdap.journal.logfile import reading
from mdap.journal.statements import query

_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode

_COLUMNS: Final = "evolution_id, model, weights, recipe, about"
_OF_ITERATION: Final = "iteration, rewards, coefficients, distance, seconds, measured, weights, digest"


class IterationRow(NamedTuple):
    """One update of the weights; see the table ``iterations``."""

    iteration: int
    rewards: tuple[float, ...]
    coefficients: tuple[float, ...]
    distance: float
    seconds: float
    measured: dict[str, float]
    weights: str


@dataclass(frozen=True, slots=True)
class EvolutionRow:
    """A recorded evolution.

    Attributes:
        weights: digest of the base model's files.
        recipe: the method and its settings.
        about: the runs that it learned from, and the task.
        ended: kind and data of the event that ended it; None if it can be resumed.
    """

    number: int
    evolution_id: str
    model: str
    weights: str
    recipe: dict[str, Any]
    about: dict[str, Any]
    iterations: tuple[IterationRow, ...]
    ended: tuple[str, dict[str, Any]] | None


def is_evolution(path: Path, name: str) -> bool:
    """Return whether *name* is an evolution's id, or begins one and no run's."""
    if name == "latest":
        return False
    with reading(path) as connection:
        begins = "SELECT 1 FROM runs WHERE substr(run_id, 1, length(?1)) = ?1"
        found = _named(connection, name)
        return name in found or bool(found and connection.execute(begins, (name,)).fetchone() is None)


def read_evolution(path: Path, name: str) -> EvolutionRow:
    """Return the record of the evolution *name*: its id, a unique prefix of it, or ``latest``.

    Raises:
        UsageError: there is no such evolution, or several.
        DatabaseError: the database cannot be read, or a row is not as mdap wrote it.
    """
    with reading(path) as connection:
        found = _named(connection, name)
        if len(found) > 1:
            raise UsageError(f"several evolutions begin with {name!r}: name one in full")
        if not found:
            raise UsageError(f"there is no evolution {name!r} in {path}: name one that `mdap evolve` printed")
        return _read(connection, found[0])


def create_evolution(path: Path, columns: Mapping[str, Any]) -> EvolutionRow:
    """Record a new evolution from its *evolution_id*, *model*, *weights*, *recipe* and *about*."""
    values = [columns[name] for name in ("evolution_id", "model", "weights")]
    values += [_line(columns[name]) for name in ("recipe", "about")]
    with writing(path) as connection:
        sql = f"INSERT INTO evolutions({_COLUMNS}, mdap_version) VALUES (?, ?, ?, ?, ?, ?)"
        connection.execute(sql, (*values, __version__))
        return _read(connection, columns["evolution_id"])


class Recorder:
    """Append to the record of one evolution; raise RunBusyError if another process works on it."""

    def __init__(self, path: Path, row: EvolutionRow) -> None:
        self._path = path
        self._row = row
        self._claims = Claims(path)
        self._claims.take(EVOLUTIONS + row.number, row.evolution_id)

    def close(self) -> None:
        """Release it to other processes."""
        self._claims.close()

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Append an event."""
        with writing(self._path) as connection:
            sql = "INSERT INTO evolution_events(evolution, kind, data) VALUES (?, ?, ?)"
            connection.execute(sql, (self._row.number, kind, _line(data)))

    def append(self, row: IterationRow) -> None:
        """Append an update; it is durable when this returns."""
        with writing(self._path) as connection:
            number = self._row.number
            sql = "SELECT digest FROM iterations WHERE evolution = ? ORDER BY iteration DESC LIMIT 1"
            last = connection.execute(sql, (number,)).fetchone()
            values = _stored(row)
            digest = _chained(_head(self._row) if last is None else last[0], values)
            sql = f"INSERT INTO iterations(evolution, {_OF_ITERATION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            connection.execute(sql, (number, *values, digest))


def _named(connection: sqlite3.Connection, name: str) -> list[str]:
    return [str(row[0]) for row in query(connection, "find_evolution", name)]


def _read(connection: sqlite3.Connection, name: str) -> EvolutionRow:
    sql = f"SELECT id, {_COLUMNS} FROM evolutions WHERE evolution_id = ?1"
    number, evolution_id, model, weights, recipe, about = connection.execute(sql, (name,)).fetchone()
    try:
        settings = (json.loads(recipe), json.loads(about))
        row = EvolutionRow(number, evolution_id, model, weights, *settings, (), None)
        sql = f"SELECT {_OF_ITERATION} FROM iterations WHERE evolution = ?1 ORDER BY iteration"
        iterations: list[IterationRow] = []
        head = _head(row)
        for *values, digest in connection.execute(sql, (number,)):
            head = _chained(head, values)
            if head != digest or values[0] != len(iterations) + 1:
                raise ValueError(values[0])
            iterations.append(_restored(values))
        sql = """SELECT kind, data FROM evolution_events WHERE evolution = ?1
            AND kind IN ('finished', 'refused') ORDER BY id DESC LIMIT 1"""
        last = connection.execute(sql, (number,)).fetchone()
        ended = None if last is None else (str(last[0]), json.loads(last[1]))
    except (ValueError, TypeError, RecursionError, struct.error):
        raise DatabaseError(
            f"the record of {evolution_id} is not as mdap wrote it: restore a copy of the database"
        ) from None
    return replace(row, iterations=tuple(iterations), ended=ended)


def _stored(row: IterationRow) -> tuple[Any, ...]:
    rewards = struct.pack(f"<{len(row.rewards)}d", *row.rewards)
    coefficients = struct.pack(f"<{len(row.coefficients)}e", *row.coefficients)
    return row.iteration, rewards, coefficients, row.distance, row.seconds, _line(row.measured), row.weights


def _restored(values: Sequence[Any]) -> IterationRow:
    iteration, rewards, coefficients, distance, seconds, measured, weights = values
    return IterationRow(
        iteration,
        struct.unpack(f"<{len(rewards) // 8}d", rewards),
        struct.unpack(f"<{len(coefficients) // 2}e", coefficients),
        distance,
        seconds,
        json.loads(measured),
        weights,
    )


def _head(row: EvolutionRow) -> str:
    """Return the digest of an evolution before its first update."""
    about = [row.evolution_id, row.model, row.weights, row.recipe, row.about]
    return blake2b(_line(about).encode(), digest_size=32).hexdigest()


def _chained(head: str, values: Sequence[Any]) -> str:
    """Return the digest of an update and all before it."""
    line = [value.hex() if isinstance(value, bytes) else value for value in values]
    return blake2b(_line([head, *line]).encode(), digest_size=32).hexdigest()
