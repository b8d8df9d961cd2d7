"""What comes out: a record for each document, and the queue of what a person should look at."""

import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mdap import UsageError

__all__ = ["Filled", "queue", "write_queue", "write_records"]


@dataclass(slots=True)
class Filled:
    """One field of one document, as far as it was decided.

    Attributes:
        document: the document's id.
        field: the field's name.
        step: the number of the step that decided it.
        decided: whether there is a winner.
        value: the value; None where there is no winner.
        form: the value as votes were compared.
        quote: the passage that was quoted for it; None for none.
        votes: each candidate's votes.
        confidence: the chance that it is right.
    """

    document: str
    field: str
    step: int
    decided: bool
    value: Any = None
    form: Any = None
    quote: str | None = None
    votes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    confidence: float = 0.0


def queue(filled: Iterable[Filled], share: float) -> list[Filled]:
    """Return what a person should look at: all that is undecided, then the least sure.

    Args:
        filled: all fields of all documents.
        share: how much of it to return at most, as a share of all; what is undecided always is.
    """
    everything = sorted(filled, key=lambda each: (each.decided, each.confidence))
    undecided = sum(not each.decided for each in everything)
    return everything[: max(undecided, math.ceil(share * len(everything)))]


def write_records(path: Path, names: Sequence[str], documents: Iterable[Sequence[Filled]]) -> None:
    """Write a record for each document: CSV if the path's name ends so, otherwise JSON Lines.

    Args:
        path: where to; what is there is replaced once all is written.
        names: the fields' names.
        documents: the fields of each document.
    """
    with _replaced(path) as file:
        if path.suffix.lower() == ".csv":
            _write_csv(file, names, documents)
        else:
            file.writelines(_line(_record(filled)) for filled in documents)


def write_queue(path: Path, filled: Iterable[Filled]) -> None:
    """Write the queue as JSON Lines, the least sure first."""
    with _replaced(path) as file:
        for each in filled:
            why = "undecided" if not each.decided else "least sure"
            row = {"id": each.document, "field": each.field, "why": why, "value": each.value}
            row |= {"confidence": _sure(each), "votes": dict(each.votes), "step": each.step}
            file.write(_line(row | ({"quote": each.quote} if each.quote else {})))


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """Open a file beside *path* that takes its place once it is whole."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _sure(filled: Filled) -> float:
    """Return the confidence as it is shown, which never says that something is certain."""
    return min(round(filled.confidence, 4), 0.9999)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _record(filled: Sequence[Filled]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": filled[0].document}
    row["record"] = {each.field: each.value for each in filled}
    row["confidence"] = {each.field: _sure(each) for each in filled}
    if any(each.quote for each in filled):
        row["quotes"] = {each.field: each.quote for each in filled}
    row["undecided"] = [each.field for each in filled if not each.decided]
    return row


def _write_csv(file: TextIO, names: Sequence[str], documents: Iterable[Sequence[Filled]]) -> None:
    writer = csv.writer(file)
    writer.writerow(["id", *names, *(f"{name} confidence" for name in names), "undecided"])
    for filled in documents:
        values = [_cell(each.value) for each in filled]
        sure = [str(_sure(each)) for each in filled]
        undecided = " ".join(each.field for each in filled if not each.decided)
        writer.writerow([filled[0].document, *values, *sure, undecided])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
