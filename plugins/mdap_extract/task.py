"""The tasks: fill in a record for each document of a file, each document in a run of its own."""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import Field, model_validator

from mdap import Ask, Decision, RedFlag, Step, UsageError
from mdap_extract.documents import Columns, Cursor, Document, documents
from mdap_extract.files import is_kept, stamp
from mdap_extract.reading import Answer, Asking, rendered
from mdap_extract.results import Results, Spool, packed, votes_on
from mdap_extract.schema import Field as RecordField
from mdap_extract.settings import Settings

_VERSION: Final = "4"


class Extract(Settings):
    """Fill in a record for each document of a file, every field decided by voting."""

    version: ClassVar[str] = _VERSION

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse what would go wrong later, before anything is spent."""
        self.check()
        return self

    async def solve(self, ask: Ask) -> dict[str, Any]:
        """Have each document read in a run of its own, and write what came of it."""
        given = dict(self)
        parts = (
            (document.id, ExtractDocument(**given, document=document.id, digest=document.digest))
            for document in documents(Path(self.input), self.columns())
            if document.text
        )
        with Spool() as spool:
            await ask.solve_all(parts, spool.add)
            return Results(self, spool).written(dry_run=ask.dry_run)

    def length(self) -> int:
        """Return the number of steps."""
        count = _count(self.input, stamp(Path(self.input)), self.columns())
        return count * (len(self.record_fields()) if self.vote == "field" else 1)

    def outcome(self, result: dict[str, Any]) -> bool | None:
        """Return whether every field is right; None unless the right record of every document is known."""
        if result.get("wrong"):
            return False
        known = "wrong" in result and all(
            document.truth is not None for document in documents(Path(self.input), self.columns())
        )
        return True if known else None


class ExtractDocument(Settings):
    """Fill in the record of one document, every field decided by voting."""

    version: ClassVar[str] = _VERSION

    document: str = Field(description="the document's id")
    digest: str = Field(description="a digest of its text")

    async def solve(self, ask: Ask) -> dict[str, Any]:
        """Ask for every field, and return the decisions."""
        document, fields = self.source, self.fields
        groups: dict[str, tuple[RecordField, ...]] = {f"{document.id}/record": fields}
        if self.vote == "field":
            groups = {f"{document.id}/{field.name}": (field,) for field in fields}
        shared = fields if self.vote == "field" and self.share_schema and len(fields) > 1 else ()
        asking = Asking(self.forms_wanted(), self.evidence, self.instructions, self.views, shared)
        decisions = await ask.decisions(asking.step(document, group, key) for key, group in groups.items())
        return {
            "document": document.id,
            "fields": [
                _filled(field.name, key, decision)
                for (key, group), decision in zip(groups.items(), decisions, strict=True)
                for field in group
            ],
        }

    def length(self) -> int:
        """Return the number of steps."""
        return len(self.fields) if self.vote == "field" else 1

    def outcome(self, result: dict[str, Any]) -> bool | None:
        """Return whether every field is right; None unless the right record is known."""
        if self.right is None:
            return None
        return all(each["decided"] and each["form"] == self.right[each["field"]] for each in result["fields"])

    @cached_property
    def fields(self) -> tuple[RecordField, ...]:
        """The fields of the record."""
        return self.record_fields()

    @cached_property
    def source(self) -> Document:
        """The document as the file has it."""
        if not is_kept(Path(self.input)):
            raise UsageError(f"another process has read the pipe {self.input}: write the documents to a file")
        return _cursor(self.input, stamp(Path(self.input)), self.columns()).find(self.document)

    @cached_property
    def right(self) -> dict[str, Any] | None:
        """The right values in one form; None where they are not known."""
        return self.true_forms(self.source) if self.truth else None

    # -- for simulation, calibration and tests -------------------------------------------------

    def oracle(self, step: Step[Any]) -> Answer:
        """Return the right values, from the column *truth*."""
        if self.right is None:
            raise NotImplementedError(
                "the right records are not known: name their column with -p truth=NAME, or give a --model"
            )
        return Answer({name: self.right[name] for name in step.input["fields"]})

    def mistakes(self, step: Step[Any], truth: Mapping[str, Any]) -> list[Answer]:
        """Return answers with one field wrong, as models get them wrong."""
        fields = {field.name: field for field in self.fields}
        forms = self.forms_wanted()
        wrong = []
        for name in step.input["fields"]:
            for raw in _wrong_values(fields[name], truth[name]):
                try:
                    form = forms.value(fields[name], raw).form
                except RedFlag:
                    continue  # a value that the schema refuses would be no vote
                if form != truth[name]:
                    wrong.append(Answer({**truth, name: form}))
        return wrong

    def render(self, step: Step[Any], answer: Mapping[str, Any]) -> str:
        """Return a reply as a model would write it."""
        return rendered(self.source, answer, evidence=self.evidence)


def _filled(field: str, key: str, decision: Decision[Any]) -> dict[str, Any]:
    """Return the decision of one field, as a JSON value; see `Filled`."""
    # An answer that a person gave is plain JSON: nothing was written or quoted otherwise.
    answer = decision.answer if isinstance(decision.answer, Answer) else Answer(decision.answer or {})
    return {
        "field": field,
        "key": key,
        "decided": decision.decided,
        **packed(answer.written.get(field)),
        "form": answer.get(field),
        "quote": answer.quotes.get(field),
        "votes": votes_on(field, decision.votes),
        "reason": decision.reason,
        "settled": decision.author is not None,
    }


def _wrong_values(field: RecordField, truth: Any) -> Iterator[Any]:
    """Yield values that are likely instead of the form *truth*; some may be no values of the field."""
    yield None  # overlooked
    if field.choices:
        yield from (choice for choice in field.choices if choice != truth)
    elif field.is_date and (day := _day(truth)):
        yield from ((day + timedelta(days=days)).isoformat() for days in (1, 30, -365) if day.year > 2)
    elif isinstance(truth, bool) or (truth is None and "boolean" in field.kinds):
        yield not truth
    elif isinstance(truth, int | float) or (truth is None and field.kinds & {"number", "integer"}):
        number = truth or 0
        yield from (number + 1, number * 10, number - 1, number / 10)
    elif isinstance(truth, list) or (truth is None and "array" in field.kinds):
        yield (truth or [])[:-1]
        members = _wrong_values(field.items, truth[-1] if truth else None) if field.items else ["and more"]
        wrong = [each for each in members if each is not None and each not in (truth or [])]
        yield [*(truth or []), *wrong[:1]]
    elif isinstance(truth, dict) or (truth is None and "object" in field.kinds):
        truth = truth or {}
        yield {}
        for member in field.members:
            if member.name in truth:
                yield from (
                    {**truth, member.name: wrong} for wrong in _wrong_values(member, truth[member.name])
                )
    else:
        yield from _texts(truth)


def _day(truth: Any) -> date | None:
    """Return the day that *truth* is, or some day where it is none yet; None if it is no day."""
    try:
        return date.fromisoformat(truth or "2026-01-01")
    except (TypeError, ValueError):
        return None


def _texts(truth: Any) -> Iterator[str]:
    words = str(truth or "").split()
    if len(words) > 1:
        yield " ".join(words[:-1])
        yield " ".join(words[1:])
    yield f"{truth} etc." if truth else "unknown"
    yield "not stated"


@lru_cache(maxsize=4)
def _cursor(path: str, stamped: tuple[int, int], columns: Columns) -> Cursor:
    return Cursor(Path(path), columns)


@lru_cache(maxsize=4)
def _count(path: str, stamped: tuple[int, int], columns: Columns) -> int:
    return sum(bool(document.text) for document in documents(Path(path), columns))
