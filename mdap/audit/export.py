"""Export the decided steps or the samples of a run row by row, in constant memory.

Nested values become typed columns: a field of an object a column ``answer.total``, a list item a column
``answer.items.0``, and any other value the column ``answer`` itself. A cell is empty if the row has no such
value, or has null or an empty object or list.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any, Final, get_type_hints

from mdap.audit.log import Log
from mdap.errors import UsageError
from mdap.records import SampleEntry, encodable
from mdap.rules.canonical import canonical

_BATCH: Final = 10_000

_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode

# Spreadsheets read text that begins like this as a formula, so export puts a mark before it. Text that
# begins with the mark gets another one: removing one mark always restores the original.
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "'")
_MARK: Final = "'"

_LAST: Final = ("samples", "red_flags", "doubt", "author")

_STEP_NAMES: Final = ("step", "key", "input", "answer", "votes", "samples", "red_flags")
_TYPES: Final = {int: "int64", int | None: "int64", float | None: "float64"}

Row = dict[str, Any]
_Path = tuple[str | int, ...]

_MOST_COLUMNS: Final = 1_000
_INT64: Final = 2**63
_Table = tuple[dict[str, str], Iterator[Row]]
"""The types of the columns by name, and the rows."""


def _steps(log: Log, run_id: str) -> Iterator[Row]:
    doubts = log.doubts(run_id)
    for entry in log.steps(run_id):
        row = {name: getattr(entry, name) for name in _STEP_NAMES}
        yield {**row, "doubt": doubts(entry), "author": entry.author}


def _table_of_steps(log: Log, run_id: str) -> _Table:
    """Return the decided steps as a table: input, answer and vote become columns."""
    about, answers = Columns("input"), Columns("answer")
    count = 0  # the run may continue meanwhile
    for entry in log.steps(run_id):
        about.see(entry.input)
        answers.see(entry.answer)
        count += 1
    types = {"step": "int64", "key": "string", **about.types(), **answers.types()}
    types |= dict.fromkeys(("votes", "against", "candidates", "samples", "red_flags"), "int64")
    types |= {"doubt": "float64", "author": "string"}

    def rows() -> Iterator[Row]:
        for row in islice(_steps(log, run_id), count):
            votes = row["votes"]
            won = votes.get(canonical(row["answer"]), 0)
            cells = [row["step"], row["key"], *about.cells(row["input"]), *answers.cells(row["answer"])]
            cells += [won, sum(votes.values()) - won, len(votes), *(row[name] for name in _LAST)]
            yield dict(zip(types, cells, strict=True))

    return types, rows()


def _table_of_samples(log: Log, run_id: str) -> _Table:
    types = {name: _TYPES.get(kind, "string") for name, kind in get_type_hints(SampleEntry).items()}
    return types, _samples(log, run_id)


def _samples(log: Log, run_id: str) -> Iterator[Row]:
    return (entry._asdict() for entry in log.samples(run_id))


# -- nested values ---------------------------------------------------------------------------------


class Columns:
    """The columns that the value *name* of each row becomes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._kinds: dict[_Path, set[str]] = {}

    def see(self, value: Any) -> None:
        """Add the columns of one row's *value*; raise UsageError for too many."""
        for path, leaf in _leaves(value):
            self._kinds.setdefault(path, set()).add(_kind(leaf))
            if len(self._kinds) > _MOST_COLUMNS:
                many = f"{self._name} would become more than {_MOST_COLUMNS:,} columns"
                raise UsageError(f"{many}: export with --format jsonl")

    def types(self) -> dict[str, str]:
        """Return the type of each column by its name, in order: bool, int64, float64 or string."""
        names = {path: encodable(self._name + "".join(map(_part, path))) for path in self._paths()}
        return {name: _kind_of(self._kinds[path]) for path, name in names.items()}

    def cells(self, value: Any) -> list[Any]:
        """Return the cells of one row's *value*, in that order; None for an empty one."""
        found = dict(_leaves(value))
        return [_as(_kind_of(self._kinds[path]), found.get(path)) for path in self._paths()]

    def _paths(self) -> Iterable[_Path]:
        return sorted(self._kinds, key=lambda path: [(isinstance(part, str), part) for part in path])


def _part(part: str | int) -> str:
    plain = isinstance(part, int) or (part and "." not in part and "[" not in part and not part.isdecimal())
    return f".{part}" if plain else f"[{json.dumps(part)}]"


def _leaves(value: Any) -> Iterator[tuple[_Path, Any]]:
    """Yield each value that is not an object, a list or null, with its path."""
    waiting: list[tuple[_Path, Any]] = [((), value)]
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


def _kind_of(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float64" if kinds == {"int64", "float64"} else "string"


def _as(kind: str, cell: Any) -> Any:
    if cell is None or kind in ("bool", "int64"):
        return cell
    if kind == "float64":
        return float(cell)
    return encodable(cell) if isinstance(cell, str) else json.dumps(cell)


# -- formats ---------------------------------------------------------------------------------------


def _write_csv(table: _Table, out: IO[bytes]) -> None:
    # Models can write bare carriage returns: end each line in a way that all readers agree on.
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n")
    types, rows = table
    try:
        writer.writerow(map(_harmless, types))
        for row in rows:
            writer.writerow(map(_harmless, row.values()))
    finally:
        text.detach()  # or it would close *out*, whatever comes of it


def _harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet reads as a formula; true and false as in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULAS):
        return f"{_MARK}{value}"
    return value


def _write_parquet(table: _Table, out: IO[bytes]) -> None:
    """Write *table* as Parquet, a batch of rows at a time."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UsageError("Parquet needs pyarrow: install it with `pip install 'mdap[parquet]'`") from None
    makers = {"bool": pyarrow.bool_, "int64": pyarrow.int64, "float64": pyarrow.float64}
    types, rows = table
    schema = pyarrow.schema([(name, makers.get(kind, pyarrow.string)()) for name, kind in types.items()])
    with parquet.ParquetWriter(out, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema))


_WRITERS: Final[dict[str, Callable[[_Table, IO[bytes]], None]]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
}
_PREFIX: Final = "samples-"

FORMATS: Final = ("jsonl", *_WRITERS, f"{_PREFIX}jsonl", *[f"{_PREFIX}{name}" for name in _WRITERS])
"""The formats of `export`, for decided steps or samples."""


def export(log: Log, run_id: str, out: IO[bytes], fmt: str = "jsonl") -> None:
    """Write the decided steps of a run, or its samples.

    Args:
        run_id: the run's id, a unique prefix of it, or ``latest``.
        fmt: one of `FORMATS`.

    Raises:
        UsageError: there is no such run, it is a batch, or pyarrow is not installed.
    """
    run = log.run(run_id)
    if run.kind == "batch":
        raise UsageError(
            f"{run.run_id} is a batch, without steps of its own: export its cases, such as {run.run_id}/0"
        )
    of_samples, written = fmt.startswith(_PREFIX), fmt.removeprefix(_PREFIX)
    if written == "jsonl":
        for row in (_samples if of_samples else _steps)(log, run_id):
            out.write(f"{_line(row)}\n".encode())
    else:
        _WRITERS[written]((_table_of_samples if of_samples else _table_of_steps)(log, run_id), out)
