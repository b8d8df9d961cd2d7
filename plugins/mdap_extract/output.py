"""The output: a record for each document, and the review queue."""

import csv
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TextIO

from mdap_extract.files import replaced

__all__ = ["Filled", "Spool", "packed", "write_queue", "write_records"]

# A spreadsheet takes what begins so for a formula; what begins with the mark is marked too, so that taking
# one off gives back what was there. A plain number does no harm.
_FORMULA: Final = re.compile("\\s*[=+\\-@'\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)*")


@dataclass(slots=True)
class Filled:
    """One field of one document, and its decision; without a key and a run where there was nothing to ask.

    Attributes:
        value: the value; None where there is no winner.
        form: the value as votes were compared.
        quote: the passage that was quoted for it; None for none.
        confidence: the chance that it is right.
        reason: why there is no winner; None if there is one, or no more to say.
        settled: whether a person decided it.
    """

    document: str
    field: str
    key: str | None
    decided: bool
    value: Any = None
    form: Any = None
    quote: str | None = None
    votes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    confidence: float = 0.0
    reason: str | None = None
    settled: bool = False
    run: str | None = None


class Spool:
    """The results of documents in a temporary file, in the order in which they were added."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 # closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def add(self, run_id: str, result: Mapping[str, Any]) -> None:
        """Add the result of a document, which the run *run_id* decided; see `ExtractDocument`."""
        self._file.write(_line([run_id, result]))

    def __iter__(self) -> Iterator[tuple[int, list[Filled]]]:
        """Yield the place of each result, and its fields."""
        place = 0
        while filled := self.at(place):
            after = self._file.tell()
            yield place, filled
            place = after

    def at(self, place: int) -> list[Filled]:
        """Return the fields of the result at a place; none at the end."""
        self._file.seek(place)
        if not (line := self._file.readline()):
            return []
        run_id, result = json.loads(line)
        for each in result["fields"]:
            if "json" in each:
                each["value"] = json.loads(each.pop("json"))
        return [Filled(result["document"], run=run_id, **each) for each in result["fields"]]


def packed(value: Any) -> dict[str, Any]:
    """Return a value of a field as a member of a result; JSON text keeps the order of an object's members."""
    if isinstance(value, dict | list):
        return {"json": json.dumps(value, ensure_ascii=False)}
    return {"value": value}


def write_records(path: Path, names: Sequence[str], documents: Iterable[Sequence[Filled]]) -> None:
    """Write a record for each document: CSV if the path's name ends so, otherwise JSON Lines."""
    with replaced(path) as file:
        if path.suffix.lower() == ".csv":
            _write_csv(file, names, documents)
        else:
            file.writelines(_line(_record(filled)) for filled in documents)


def write_queue(path: Path, filled: Iterable[Filled]) -> None:
    """Write the queue as JSON Lines, the least sure first."""
    with replaced(path) as file:
        for each in filled:
            row = {
                "id": each.document,
                "field": each.field,
                "why": "least sure" if each.decided else "undecided",
                "value": each.value,
                "confidence": _sure(each),
                "votes": dict(each.votes),
                "run": each.run,
                "key": each.key,
            }
            row |= {"reason": each.reason} if each.reason else {}
            file.write(_line(row | ({"quote": each.quote} if each.quote else {})))


def _sure(filled: Filled) -> float | None:
    """Return the confidence as it is shown, which is never certainty; None of what a person decided."""
    return None if filled.settled else min(round(filled.confidence, 4), 0.9999)


def _line(row: Any) -> str:
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
    ours = ("id", *(f"{name} confidence" for name in names), "undecided")
    apart: list[str] = []  # from the fields' names: none may be there twice
    for name in ours:
        while name in (*names, *apart):
            name = f"document {name}"
        apart.append(name)
    document, *sures, left = apart
    writer.writerow([_harmless(cell) for cell in (document, *names, *sures, left)])
    for filled in documents:
        values = [_cell(each.value) for each in filled]
        sure = [_cell(_sure(each)) for each in filled]
        undecided = " ".join(each.field for each in filled if not each.decided)
        writer.writerow([_harmless(filled[0].document), *values, *sure, _harmless(undecided)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return _harmless(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _harmless(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula, and every reader can read."""
    cell = cell.replace("\0", "\ufffd")
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell
