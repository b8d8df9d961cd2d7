"""CSV as spreadsheets write it.

The standard library's reader reads it. Which character parts the cells is told here, from the header and from
how many rows fit it: `csv.Sniffer` and CleverCSV look for patterns in the cells, and where these are whole
documents they find a blank, or nothing.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TextIO

from mdap_extract.texts import clean

__all__ = ["read_table"]

# Where two fit alike, the comma is last: it also stands in numbers.
_DELIMITERS: Final = ("\t", ";", "|", ",")
_NOWHERE: Final = "\x1f"  # for a table of one column, whose texts may contain any of those
_LOOKED_AT: Final = 2**18  # characters
_LARGEST_CELL: Final = 2**31 - 1
_TOLD: Final = re.compile(r'"?sep=(.)"?\r?\n')  # how Excel tells itself

Row = dict[str, str]


def read_table(file: TextIO, needed: Collection[str]) -> Iterator[tuple[int, Row]]:
    """Yield the line and the cells by column of each row that is not empty.

    The columns that are *needed* must not be there twice.

    Raises:
        ValueError: it is no CSV, or a row does not fit the header; the message names the line.
    """
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
    """Return what parts the cells: it parts the header, and most rows in as many cells as that."""
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


def _by_name(row: list[str], names: list[str], line: int) -> Row:
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
