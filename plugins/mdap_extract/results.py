"""The results of all documents: confidences, the records, the review queue, and the counts."""

import csv
import dataclasses
import heapq
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self, TextIO

from mdap_extract.documents import Document, documents
from mdap_extract.files import replaced
from mdap_extract.settings import Settings

_NO_TEXT: Final = "the document has no text"

# A spreadsheet takes what begins so for a formula; what begins with the mark is marked too, so that taking
# one off gives back what was there. A plain number does no harm.
_FORMULA: Final = re.compile("\\s*[=+\\-@'\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)*")

_WEIGHT: Final = 4.0
"""Votes for which the field as a whole counts in the estimate for one document."""


class Pool:
    """The votes on each field over all documents."""

    def __init__(self) -> None:
        self._for: Counter[str] = Counter()
        self._against: Counter[str] = Counter()

    def add(self, field: str, votes: Iterable[int]) -> None:
        """Count the candidates' votes on one field of one document."""
        counts = sorted(votes)
        if counts:
            self._for[field] += counts[-1]
            self._against[field] += sum(counts[:-1])

    def agreement(self, field: str) -> float:
        """Return the share of votes that went to winners, so estimated that it is never 0 or 1."""
        return (self._for[field] + 1) / (self._for[field] + self._against[field] + 2)


def votes_on(field: str, votes: Mapping[str, int]) -> dict[str, int]:
    """Return the votes on one field, from those by the canonical JSON of all: equal values count together."""
    counted: Counter[str] = Counter()
    for candidate, count in votes.items():
        counted[json.dumps(json.loads(candidate).get(field), ensure_ascii=False)] += count
    return dict(counted)


def confidence(votes: Mapping[str, int], agreement: float) -> float:
    """Return the chance that the leader of a vote is right.

    The chance p that a vote is right is estimated from the votes on this very question, drawn towards how
    voters agree on the field elsewhere. With a lead of k the leader is then right with the chance
    ``1 / (1 + ((1 - p) / p)^k)`` (paper, section 3.2). It rests on votes that err independently.
    """
    counts = sorted(votes.values())
    if not counts:
        return 0.0
    lead = counts[-1] - (counts[-2] if len(counts) > 1 else 0)
    p = (counts[-1] + _WEIGHT * agreement) / (sum(counts) + _WEIGHT)
    return 1.0 / (1.0 + ((1.0 - p) / p) ** lead) if lead else 1.0 / len(counts)


@dataclass(slots=True)
class Filled:
    """One field of one document, and its decision; without a key and a run where there was nothing to ask.

    The *form* is the value as votes were compared, the *quote* a passage that stands for it, the *confidence*
    the chance that it is right. A field is *settled* if a person decided it.
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

    def __iter__(self) -> Iterator[list[Filled]]:
        """Yield the fields of each result."""
        self._file.seek(0)
        for run_id, result in map(json.loads, self._file):
            for each in result["fields"]:
                if "json" in each:
                    each["value"] = json.loads(each.pop("json"))
            yield [Filled(result["document"], run=run_id, **each) for each in result["fields"]]


def packed(value: Any) -> dict[str, Any]:
    """Return a value of a field as a member of a result; JSON text keeps the order of an object's members."""
    if isinstance(value, dict | list):
        return {"json": json.dumps(value, ensure_ascii=False)}
    return {"value": value}


class Results:
    """The results of all documents, read from a file as often as needed.

    Memory holds those of one document, and the review queue.
    """

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._settings = settings
        self._spool = spool
        self._names = [field.name for field in settings.record_fields()]
        self._pool = Pool()
        self._counts = {"documents": 0, "fields": 0, "review": 0, "undecided": 0}
        self._known = self._right = self._settled = 0

    def written(self, *, dry_run: bool) -> dict[str, Any]:
        """Write output and review queue unless it is a dry run, and return the counts."""
        self._count()
        output, review = self._settings.places()
        least = math.ceil(self._settings.review_share * (self._counts["fields"] - self._settled))
        most = max(self._counts["undecided"], least)
        queued = heapq.nsmallest(most, self._doubts())
        self._counts["review"] = len(queued)
        if not dry_run:
            write_records(output, self._names, self._filled())
            _write_queue(review, (each for *_, each in queued))
        known, right = self._known, self._right
        accuracy = {"accuracy": right / known, "wrong": known - right} if known else {}
        return {**self._counts, **accuracy, "output": str(output), "queue": str(review)}

    def _documents(self) -> Iterator[tuple[Document, list[Filled]]]:
        """Yield each document, and its fields without confidences."""
        results = iter(self._spool)
        for document in documents(Path(self._settings.input), self._settings.columns()):
            if document.text:
                yield document, next(results)
            else:
                unread = [Filled(document.id, name, None, False, reason=_NO_TEXT) for name in self._names]
                yield document, unread

    def _count(self) -> None:
        for document, filled in self._documents():
            self._counts["documents"] += 1
            self._counts["fields"] += len(filled)
            for each in filled:
                self._pool.add(each.field, each.votes.values())
                self._counts["undecided"] += not each.decided
                self._settled += each.settled
            forms = self._settings.true_forms(document)
            if forms is not None:
                self._known += len(filled)
                self._right += sum(each.decided and each.form == forms[each.field] for each in filled)

    def _filled(self) -> Iterator[list[Filled]]:
        for _, filled in self._documents():
            for each in filled:
                agreement = self._pool.agreement(each.field)
                each.confidence = confidence(each.votes, agreement) if each.decided else 0.0
            yield filled

    def _doubts(self) -> Iterator[tuple[bool, float, int, Filled]]:
        """Yield what a person may look at, to be sorted: the undecided, then the least sure."""
        for number, each in enumerate(chain.from_iterable(self._filled())):
            if not each.settled:
                yield each.decided, each.confidence, number, each


def write_records(path: Path, names: Sequence[str], documents: Iterable[Sequence[Filled]]) -> None:
    """Write a record for each document: CSV if the path's name ends so, otherwise JSON Lines."""
    with replaced(path) as file:
        if path.suffix.lower() == ".csv":
            _write_csv(file, names, documents)
        else:
            file.writelines(_line(_record(filled)) for filled in documents)


def _write_queue(path: Path, filled: Iterable[Filled]) -> None:
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
