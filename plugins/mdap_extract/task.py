"""The task: fill in a record for each document of a file."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final

from mdap import Ask, RedFlag, Step
from mdap_extract.confidence import Pool, confidence, votes_on
from mdap_extract.documents import Columns, Document, documents
from mdap_extract.files import stamp
from mdap_extract.invention import wrong_values
from mdap_extract.output import Filled, queue, write_queue, write_records
from mdap_extract.reading import Answer, Asking, rendered
from mdap_extract.schema import Field as RecordField
from mdap_extract.settings import Settings

__all__ = ["Extract"]

_NO_TEXT: Final = "the document has no text"


class Extract(Settings):
    """Fill in a record for each document of a file, every field decided by voting."""

    version: ClassVar[str] = "3"

    async def solve(self, ask: Ask) -> dict[str, Any]:
        """Ask for every field of every document, and write what came of it."""
        filled: dict[str, list[Filled]] = {}
        questions = self._questions(filled)

        async def work() -> None:
            # All take from one iterator: as many questions are in memory as there are workers.
            for document, fields, step in questions:
                found = await self._decided(ask, document, fields, step)
                filled.setdefault(document.id, []).extend(found)

        async with ask.group() as group:
            for _ in range(ask.open_steps):
                group.start(work)
        return self._finish(filled)

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

    # -- what is asked -------------------------------------------------------------------------

    def _questions(
        self, filled: dict[str, list[Filled]]
    ) -> Iterator[tuple[Document, Sequence[RecordField], Step[Answer]]]:
        """Yield what to ask; what there is no need to ask is noted in *filled*."""
        asking = self._asking()
        fields = self.record_fields()
        groups = [(field,) for field in fields] if self.vote == "field" else [fields]
        for document in documents(Path(self.input), self.columns()):
            if not document.text:
                unread = [Filled(document.id, field.name, None, False, reason=_NO_TEXT) for field in fields]
                filled[document.id] = unread
            for group in groups if document.text else ():
                key = f"{document.id}/{group[0].name if self.vote == 'field' else 'record'}"
                yield document, group, asking.step(document, group, key)

    def _asking(self) -> Asking:
        fields = self.record_fields()
        shared = fields if self.vote == "field" and self.share_schema and len(fields) > 1 else ()
        return Asking(self.forms_wanted(), self.evidence, self.instructions, self.views, shared)

    # -- what comes of it ----------------------------------------------------------------------

    async def _decided(
        self, ask: Ask, document: Document, fields: Sequence[RecordField], step: Step[Answer]
    ) -> list[Filled]:
        vote = await ask.decision(step)
        # An answer that a person gave is plain JSON: nothing was written or quoted otherwise.
        answer = vote.answer if isinstance(vote.answer, Answer) else Answer(vote.answer or {})
        return [
            Filled(
                document=document.id,
                field=field.name,
                step=vote.step,
                decided=vote.decided,
                value=answer.written.get(field.name),
                form=answer.get(field.name),
                quote=answer.quotes.get(field.name),
                votes=votes_on(field.name, vote.votes),
                reason=vote.reason,
                settled=vote.author is not None,
            )
            for field in fields
        ]

    def _finish(self, filled: dict[str, list[Filled]]) -> dict[str, Any]:
        output, review = self.places()
        names = [field.name for field in self.record_fields()]
        pool = Pool()
        everything = [each for own in filled.values() for each in own]
        for each in everything:
            pool.add(each.field, each.votes.values())
        for each in everything:
            each.confidence = confidence(each.votes, pool.agreement(each.field)) if each.decided else 0.0
        place = {name: number for number, name in enumerate(names)}
        ordered = [
            sorted(filled[document.id], key=lambda each: place[each.field])
            for document in documents(Path(self.input), self.columns())
        ]
        queued = queue(everything, self.review_share)
        write_records(output, names, ordered)
        write_queue(review, queued)
        counts = {"documents": len(filled), "fields": len(everything), "review": len(queued)}
        counts["undecided"] = sum(not each.decided for each in everything)
        return {**counts, **self._accuracy(everything), "output": str(output), "queue": str(review)}

    def _accuracy(self, everything: Sequence[Filled]) -> dict[str, Any]:
        """Return how much is right, where that is known."""
        if not self.truth:
            return {}
        known = [(each, self._true_forms(each.document)) for each in everything]
        right = [each.decided and each.form == forms[each.field] for each, forms in known if forms]
        return {"accuracy": sum(right) / len(right), "wrong": len(right) - sum(right)} if right else {}

    # -- for simulation, calibration and tests -------------------------------------------------

    def oracle(self, step: Step[Any]) -> Answer:
        """Return the right values, from the column *truth*."""
        forms = self._true_forms(step.input["document"]) if self.truth else None
        if forms is None:
            raise NotImplementedError(
                "the right records are not known: name their column with -p truth=NAME, or give a --model"
            )
        return Answer({name: forms[name] for name in step.input["fields"]})

    def mistakes(self, step: Step[Any], truth: Mapping[str, Any]) -> list[Answer]:
        """Return answers with one field wrong, as models get them wrong."""
        fields = {field.name: field for field in self.record_fields()}
        forms = self.forms_wanted()
        wrong = []
        for name in step.input["fields"]:
            for raw in wrong_values(fields[name], truth[name]):
                try:
                    form = forms.value(fields[name], raw).form
                except RedFlag:
                    continue  # a value that the schema refuses would be no vote
                if form != truth[name]:
                    wrong.append(Answer({**truth, name: form}))
        return wrong

    def render(self, step: Step[Any], answer: Mapping[str, Any]) -> str:
        """Return a reply as a model would write it."""
        document = _by_id(self.input, stamp(Path(self.input)), self.columns())[step.input["document"]]
        return rendered(document, answer, evidence=self.evidence)

    def _true_forms(self, name: str) -> dict[str, Any] | None:
        truth = _by_id(self.input, stamp(Path(self.input)), self.columns())[name].truth
        if truth is None:
            return None
        forms = self.forms_wanted()
        return {field.name: forms.value(field, truth.get(field.name)).form for field in self.record_fields()}


@lru_cache(maxsize=4)
def _by_id(path: str, stamped: tuple[int, int], columns: Columns) -> dict[str, Document]:
    return {document.id: document for document in documents(Path(path), columns)}


@lru_cache(maxsize=4)
def _count(path: str, stamped: tuple[int, int], columns: Columns) -> int:
    return sum(bool(document.text) for document in documents(Path(path), columns))
