"""The input: documents from JSON Lines, a JSON array, or CSV as spreadsheets write it, one at a time.

The standard library's reader reads CSV. This module detects the delimiter itself, from the header and the
number of rows that fit it: `csv.Sniffer` and CleverCSV look for patterns in the cells, and in cells that hold
whole documents they find a blank, or nothing.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from mdap_extract.files import local
from mdap_extract.texts import clean, is_blank

_TABLES: Final = frozenset({".csv", ".tsv", ".tab"})
_JSON: Final = frozenset({".json", ".jsonl", ".ndjson"})
_WIDE: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BYTE_ORDER_MARK: Final = "\ufeff"
# If several fit equally well, the first wins. The comma is last because numbers contain it, too.
_DELIMITERS: Final = ("\t", ";", "|", ",")
_NOWHERE: Final = "\x1f"  # for a table of one column, whose texts may contain any of those
_LOOKED_AT: Final = 2**18  # characters
_LARGEST_CELL: Final = 2**31 - 1
_TOLD: Final = re.compile(r'"?sep=(.)"?\r?\n')  # how Excel names the delimiter
_KEPT: Final = 4_000_000
_OVERHEAD: Final = 4_000
"""The most characters of documents to keep in memory, and those that each counts for besides its text."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which of a document's columns, or JSON members, mean what; see `Settings`. Capitals do not matter."""

    text: str = ""
    id: str = ""
    truth: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A document: its id, its text, which may be empty, and the record that should come out, if known."""

    id: str
    text: str
    truth: dict[str, Any] | None = None

    @property
    def digest(self) -> str:
        """A digest of its text."""
        return blake2b(self.text.encode(), digest_size=16).hexdigest()


def documents(path: Path, columns: Columns) -> Iterator[Document]:
    """Yield the documents of a file, in order.

    Args:
        path: a file of CSV if its name ends in ``.csv`` or ``.tsv``, of JSON if it ends in ``.jsonl`` or
            ``.json``, otherwise of what it begins like. It may be a pipe.
        columns: which columns mean what.

    Raises:
        ValueError: the file cannot be read, or not so; the message names the line.
    """
    try:
        place = local(path)
        with place.open("rb") as begin:
            encoding = "utf-16" if begin.read(2) in _WIDE else "utf-8-sig"
        with place.open(encoding=encoding, newline="") as file:
            for number, (line, row) in enumerate(_rows(file, path.suffix.lower(), columns), start=1):
                try:
                    document = _document(row, columns, number)
                except ValueError as error:
                    raise ValueError(f"line {line}: {error}") from None
                yield document
    except UnicodeError:
        raise ValueError(
            f"{path} is not UTF-8 text: save it as such (in a spreadsheet, as 'CSV UTF-8'), or convert it"
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None


def check_documents(path: Path, columns: Columns) -> int:
    """Return how many documents there are.

    Raises:
        ValueError: there are none, two have one id, one cannot be read, or none has text.
    """
    seen: set[str] = set()
    readable = False
    for number, document in enumerate(documents(path, columns), start=1):
        if document.id in seen:
            raise ValueError(
                f"{path}: document {number} is called {document.id!r:.80}, and so is another one"
            )
        seen.add(document.id)
        readable = readable or bool(document.text)
    if not seen:
        raise ValueError(f"{path} holds no document")
    if not readable:
        raise ValueError(f"{path}: no text to read in any document; say with text=NAME where it is")
    return len(seen)


class Cursor:
    """Find documents of a file by their ids, quickly if asked for nearly in the order of the file."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path = path
        self._columns = columns
        self._ahead: Iterator[Document] = iter(())
        # The documents read last: several are worked on side by side.
        self._behind: dict[str, Document] = {}
        self._characters = 0

    def find(self, name: str) -> Document:
        """Return the document with the id *name*.

        Raises:
            ValueError: there is none any more, or the file cannot be read.
        """
        if name not in self._behind and not self._go_to(name):
            self._ahead = documents(self._path, self._columns)
            if not self._go_to(name):
                raise ValueError(f"{self._path} has no document {name!r:.80} any more: restore the file")
        return self._behind[name]

    def _go_to(self, name: str) -> bool:
        for document in self._ahead:
            self._behind[document.id] = document
            self._characters += len(document.text) + _OVERHEAD
            while self._characters > _KEPT and len(self._behind) > 1:
                oldest = next(iter(self._behind))
                self._characters -= len(self._behind.pop(oldest).text) + _OVERHEAD
            if document.id == name:
                return True
        return False


def _rows(file: TextIO, suffix: str, columns: Columns) -> Iterator[tuple[int, Any]]:
    """Yield the line and the row of each document: cells or members by name, or whatever else JSON holds."""
    beginning = file.read(1024).lstrip()[:1]
    file.seek(0)
    if suffix in _TABLES or (suffix not in _JSON and beginning not in ("", "{", "[")):
        yield from _table(file, (columns.text or "text", columns.id or "id", columns.truth))
    elif beginning == "[":
        found = _json(file.read())
        if not isinstance(found, list):
            raise ValueError("line 1: not a JSON array")
        yield from ((1, row) for row in found)
    else:
        for number, line in enumerate(file, start=1):
            # Concatenated files have byte order marks in the middle.
            plain = line.strip().strip(_BYTE_ORDER_MARK)
            if plain:
                yield number, _json(plain)


def _table(file: TextIO, needed: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells by column of each row; refuse a header with a *needed* column twice."""
    csv.field_size_limit(_LARGEST_CELL)
    sample = file.read(_LOOKED_AT)
    told = _TOLD.match(sample)
    delimiter = told[1] if told else _delimiter(sample)
    file.seek(0)
    if told:
        file.readline()
    reader = _reader(file, delimiter)
    try:
        header: list[str] = next(filter(_filled, reader), [])
        names = _names(header, needed)
        for row in filter(_filled, reader):
            line = reader.line_num + bool(told)
            yield line, _by_name(row, names, line)
    except csv.Error as error:
        raise ValueError(
            f"line {reader.line_num + bool(told)}: not CSV: {error}: check its quotes; within a quoted "
            "cell, a quote is written twice"
        ) from None


def _reader(lines: Iterator[str], delimiter: str) -> Any:
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")


def _filled(row: list[str]) -> bool:
    return any(cell.strip() for cell in row)


def _delimiter(sample: str) -> str:
    """Return the delimiter that splits most rows into as many cells as the header."""
    fits = {delimiter: _fit(sample, delimiter) for delimiter in _DELIMITERS}
    best = max(_DELIMITERS, key=fits.__getitem__)
    return best if fits[best] > (0.0, 0) else _NOWHERE


def _fit(sample: str, delimiter: str) -> tuple[float, int]:
    """Return the share of rows that have as many cells as the header, and how many these are."""
    rows: list[list[str]] = []
    with suppress(csv.Error):  # a sample ends anywhere
        rows.extend(filter(_filled, islice(_reader(iter(sample.splitlines(True)), delimiter), 200)))
    if not rows or len(rows[0]) < 2:
        return (0.0, 0)
    width = len(rows[0])
    # The last row may be cut, and short rows are short of empty cells.
    inner = rows[1:-1] or rows[1:]
    return (sum(len(row) == width for row in inner) / len(inner) if inner else 1.0, width)


def _names(header: list[str], needed: Collection[str]) -> list[str]:
    """Return the columns' names: no blanks around them, no name twice, none of a column without a name."""
    names: list[str] = []
    plain = [clean(name).strip(" \t\r\n\u00a0\ufeff\u200b") for name in header]
    often = Counter(name.casefold() for name in plain)
    for name in needed:
        if name and often[name.casefold()] > 1 and plain.count(name) != 1:
            raise ValueError(f"the column {name!r:.80} is there {often[name.casefold()]} times: rename one")
    for place, name in enumerate(plain, start=1):
        unique, number = name or f"column {place}", 1
        while unique in names:
            number += 1
            unique = f"{name} ({number})"
        names.append(unique)
    return names


def _by_name(row: list[str], names: list[str], line: int) -> dict[str, str]:
    if _filled(row[len(names) :]):
        raise ValueError(
            f"line {line}: it has {len(row)} cells, and the header {len(names)}: "
            "put a cell that contains a delimiter in quotes"
        )
    cells = row[: len(names)] + [""] * (len(names) - len(row))
    unnamed = {f"column {place}" for place in range(1, len(names) + 1)}
    return {
        name: cell for name, cell in zip(names, cells, strict=True) if cell.strip() or name not in unnamed
    }


def _json(text: str) -> Any:
    """Return what JSON *text* stands for; None if it is none."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member twice")
    return found


def _document(row: Any, columns: Columns, number: int) -> Document:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object, or one with a member twice")
    name = clean(_spelled(_cell(row, columns.id, "id", ""))).strip() or str(number)
    truth = _truth(_cell(row, columns.truth, "", None), columns.truth)
    text = clean(_text(row, columns))
    return Document(name, "" if is_blank(text) else text, truth)


def _cell(row: Mapping[str, Any], column: str, usual: str, otherwise: Any) -> Any:
    """Return the cell of *column*, or of the *usual* one if no column is named."""
    name = _column(row, column or usual)
    if name is None and column:
        raise ValueError(f"there is no {column!r}; there are {', '.join(map(repr, row)) or 'no columns'}")
    value = otherwise if name is None else row[name]
    return otherwise if value is None else value


def _column(row: Mapping[str, Any], wanted: str) -> str | None:
    """Return the name of a column as it is written there; None if there is none, or no name is wanted."""
    if not wanted or wanted in row:
        return wanted or None
    alike = [name for name in row if name.strip().casefold() == wanted.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _text(row: Mapping[str, Any], columns: Columns) -> str:
    if columns.text or _column(row, "text") is not None:
        return _spelled(_cell(row, columns.text, "text", ""))
    hidden = {_column(row, columns.truth), _column(row, columns.id or "id")}
    shown = {name: value for name, value in row.items() if name not in hidden and value not in (None, "")}
    return "\n".join(f"{name}: {_spelled(value)}" for name, value in shown.items())


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
    cleaned: dict[str, Any] = json.loads(clean(json.dumps(value, ensure_ascii=False)))
    return cleaned
