"""The input: documents from JSON Lines or CSV, one at a time."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Columns", "Document", "check_documents", "documents"]

_LARGEST_CELL = 10_000_000


@dataclass(frozen=True, slots=True)
class Columns:
    """Which of a document's columns, or JSON members, mean what.

    Attributes:
        text: the text to read; empty for ``text``, or all columns where there is none of that name.
        id: what the document is called; empty for ``id``, or its number where there is none of that name.
        truth: the record that should come out, as a JSON object; empty for none.
    """

    text: str = ""
    id: str = ""
    truth: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        id: what it is called in the output.
        text: what is to be read.
        truth: the record that should come out; None where it is not known.
    """

    id: str
    text: str
    truth: dict[str, Any] | None = None


def documents(path: Path, columns: Columns) -> Iterator[Document]:
    """Yield the documents of a file, in order.

    Args:
        path: a file whose name ends in ``.csv``, or in anything else for JSON Lines.
        columns: which columns mean what.

    Raises:
        ValueError: the file cannot be read, or not so; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _csv(file) if path.suffix.lower() == ".csv" else _json_lines(file)
            for number, (line, row) in enumerate(rows, start=1):
                try:
                    yield _document(row, columns, number)
                except ValueError as error:
                    raise ValueError(f"{path}, line {line}: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def check_documents(path: Path, columns: Columns) -> int:
    """Return how many documents there are.

    Raises:
        ValueError: there are none, two have one id, or one cannot be read.
    """
    seen: set[str] = set()
    for number, document in enumerate(documents(path, columns), start=1):
        if document.id in seen:
            raise ValueError(
                f"{path}: document {number} is called {document.id!r:.80}, and so is another one"
            )
        seen.add(document.id)
    if not seen:
        raise ValueError(f"{path} holds no document")
    return len(seen)


def _json_lines(file: Iterator[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _csv(file: Iterator[str]) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.DictReader(file)
    try:
        for row in reader:
            # Cells beyond the header come under None, cells that are missing are None.
            fits = None not in row and None not in row.values()
            yield reader.line_num, row if fits else None
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None


def _document(row: Any, columns: Columns, number: int) -> Document:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object, or not as many cells as the header has")
    name = str(_cell(row, columns.id, "id", number))
    truth = _truth(_cell(row, columns.truth, "", None), columns.truth)
    return Document(name, _text(row, columns), truth)


def _cell(row: Mapping[str, Any], column: str, usual: str, otherwise: Any) -> Any:
    """Return the cell of *column*, or of the *usual* one if no column is named."""
    if column and column not in row:
        raise ValueError(f"there is no {column!r}; there are {', '.join(map(repr, row)) or 'no columns'}")
    value = row.get(column or usual, otherwise)
    return otherwise if value is None else value


def _text(row: Mapping[str, Any], columns: Columns) -> str:
    text = _cell(row, columns.text, "text", None)
    if text is None:
        hidden = {columns.truth, columns.id or "id"}
        text = "\n".join(f"{name}: {_spelled(value)}" for name, value in row.items() if name not in hidden)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("it has no text to read; say with text=NAME where it is")
    return text


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _truth(value: Any, column: str) -> dict[str, Any] | None:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{column} is no JSON object") from None
    if value is None or value == "":
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{column} is no JSON object")
    return value
