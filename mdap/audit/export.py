"""Writing out what a run decided, or all of its samples, row by row: memory stays flat."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any, Final

from mdap.audit.log import Log, SampleEntry
from mdap.errors import UsageError

__all__ = ["FORMATS", "export", "is_binary"]

_BATCH: Final = 10_000

_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode

# A spreadsheet takes what begins so for a formula; what begins with the mark is marked too, so that taking
# one off gives back exactly what was there.
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "'")
_MARK: Final = "'"

_STEP_COLUMNS: Final = ("step", "key", "input", "answer", "votes", "samples", "red_flags")
_JSON_COLUMNS: Final = frozenset({"input", "answer", "votes"})
_NUMBERS: Final = {
    "step": "int64",
    "opening": "int64",
    "ordinal": "int64",
    "counted": "int64",
    "samples": "int64",
    "red_flags": "int64",
    "view": "int64",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "cached_tokens": "int64",
    "attempts": "int64",
    "temperature": "float64",
    "latency": "float64",
}

Row = dict[str, Any]


def _steps(log: Log, run_id: str) -> Iterator[Row]:
    for entry in log.steps(run_id):
        yield {name: getattr(entry, name) for name in _STEP_COLUMNS}


def _samples(log: Log, run_id: str) -> Iterator[Row]:
    return (entry._asdict() for entry in log.samples(run_id))


def _flat(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows in which JSON values are JSON text."""
    for row in rows:
        yield {name: _line(value) if name in _JSON_COLUMNS else value for name, value in row.items()}


# -- formats ---------------------------------------------------------------------------------------


def _write_jsonl(rows: Iterable[Row], columns: tuple[str, ...], out: IO[bytes]) -> None:
    for row in rows:
        out.write(f"{_line(row)}\n".encode())


def _write_csv(rows: Iterable[Row], columns: tuple[str, ...], out: IO[bytes]) -> None:
    # Bare carriage returns are text of a model: the end of a line must be one that readers agree on.
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n")
    writer.writerow(columns)
    for row in _flat(rows):
        writer.writerow([_harmless(row[name]) for name in columns])
    text.detach()


def _harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(_FORMULAS):
        return f"{_MARK}{value}"
    return value


def _write_parquet(rows: Iterable[Row], columns: tuple[str, ...], out: IO[bytes]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UsageError("Parquet needs pyarrow: install it with `pip install 'mdap[parquet]'`") from None
    types = {"int64": pyarrow.int64(), "float64": pyarrow.float64()}
    schema = pyarrow.schema(
        [(name, types[_NUMBERS[name]] if name in _NUMBERS else pyarrow.string()) for name in columns]
    )
    flat = _flat(rows)
    with parquet.ParquetWriter(out, schema) as writer:
        while batch := list(islice(flat, _BATCH)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema))


_WRITERS: Final[dict[str, Callable[[Iterable[Row], tuple[str, ...], IO[bytes]], None]]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
_PREFIX: Final = "samples-"

FORMATS: Final = (*_WRITERS, *[f"{_PREFIX}{name}" for name in _WRITERS])
"""What `export` can write: decided steps, or samples."""


def is_binary(fmt: str) -> bool:
    """Return whether a format is no text."""
    return fmt.endswith("parquet")


def export(log: Log, run_id: str, out: IO[bytes], fmt: str = "jsonl") -> None:
    """Write the decided steps of a run, or its samples.

    Args:
        log: the open log.
        run_id: the run's id, a unique beginning of it, or ``latest``.
        out: where to write.
        fmt: one of `FORMATS`.

    Raises:
        UsageError: there is no such run, it is a batch, or pyarrow is not installed.
    """
    run = log.run(run_id)
    if run.kind == "batch":
        raise UsageError(
            f"{run.run_id} is a batch, without steps of its own: export its cases, such as {run.run_id}/0"
        )
    if fmt.startswith(_PREFIX):
        _WRITERS[fmt.removeprefix(_PREFIX)](_samples(log, run_id), SampleEntry._fields, out)
    else:
        _WRITERS[fmt](_steps(log, run_id), _STEP_COLUMNS, out)
