"""The results of all documents: confidences, the output, the review queue, and the counts."""

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mdap_extract.documents import Document, documents
from mdap_extract.output import Filled, Spool, write_queue, write_records
from mdap_extract.settings import Settings

__all__ = ["Pool", "Results", "confidence", "votes_on"]

_NO_TEXT: Final = "the document has no text"

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


class Results:
    """The results of all documents, read from a file as often as needed: memory holds one document's."""

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
            write_records(output, self._names, (filled for _, filled in self._filled()))
            write_queue(review, (self._at(place) for *_, place in queued))
        known, right = self._known, self._right
        accuracy = {"accuracy": right / known, "wrong": known - right} if known else {}
        return {**self._counts, **accuracy, "output": str(output), "queue": str(review)}

    def _documents(self) -> Iterator[tuple[Document, int | None, list[Filled]]]:
        """Yield each document, the place of its results, and its fields without confidences."""
        results = iter(self._spool)
        for document in documents(Path(self._settings.input), self._settings.columns()):
            if document.text:
                place, filled = next(results)
                yield document, place, filled
            else:
                unread = [Filled(document.id, name, None, False, reason=_NO_TEXT) for name in self._names]
                yield document, None, unread

    def _count(self) -> None:
        for document, _, filled in self._documents():
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

    def _filled(self) -> Iterator[tuple[int | None, list[Filled]]]:
        for _, place, filled in self._documents():
            yield place, self._sure(filled)

    def _sure(self, filled: list[Filled]) -> list[Filled]:
        for each in filled:
            agreement = self._pool.agreement(each.field)
            each.confidence = confidence(each.votes, agreement) if each.decided else 0.0
        return filled

    def _doubts(self) -> Iterator[tuple[bool, float, int, tuple[int | None, int, str]]]:
        """Yield what a person may look at, to be sorted: the undecided, then the least sure."""
        number = 0
        for place, filled in self._filled():
            for column, each in enumerate(filled):
                number += 1
                if not each.settled:
                    yield each.decided, each.confidence, number, (place, column, each.document)

    def _at(self, place: tuple[int | None, int, str]) -> Filled:
        """Return one field of one document again."""
        at, column, document = place
        if at is None:
            return Filled(document, self._names[column], None, False, reason=_NO_TEXT)
        return self._sure(self._spool.at(at))[column]
