"""Parameters: the documents, the record's schema, and the comparison of answers."""

import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mdap import Process, RedFlag
from mdap_extract.documents import Columns, Document, check_documents, documents
from mdap_extract.files import check_writable, is_pipe, real, stamp
from mdap_extract.forms import Forms
from mdap_extract.schema import Field as RecordField
from mdap_extract.schema import fields_of, read_schema


@lru_cache(maxsize=8)
def _fields(spelled: str, stamped: tuple[int, int]) -> tuple[RecordField, ...]:
    return fields_of(read_schema(json.loads(spelled)))


with warnings.catch_warnings():
    # `schema` is an old name of pydantic's, long since replaced; here it is what people would call it.
    warnings.filterwarnings("ignore", message='Field name "schema"', category=UserWarning)

    class Settings(Process[dict[str, Any]]):
        """The parameters of `mdap_extract.task.Extract`."""

        input: str = Field(description="the documents: a file of JSON Lines, a JSON array, or CSV; or a pipe")
        schema: str | dict[str, Any] = Field(  # type: ignore[assignment]
            description="the record: a JSON Schema, a file with one, or a pydantic model as module:Name"
        )
        output: str = Field("", description="where the records go; INPUT.extracted.jsonl if not given")
        review: str = Field("", description="where the review queue goes; INPUT.review.jsonl if not given")
        review_share: float = Field(0.05, ge=0, le=1, description="how much of all fields to queue at most")
        vote: Literal["field", "record"] = Field("field", description="what one step decides")
        evidence: bool = Field(
            False, description="whether each value needs a quote that the document contains"
        )
        instructions: str = Field("", max_length=10_000, description="what else to tell the model")
        views: int = Field(
            1, ge=1, le=2, description="presentations of each step: 2 also puts the fields first"
        )
        share_schema: bool = Field(
            True,
            description="whether the steps of a document send one schema, of all fields, so that an endpoint "
            "keeps the document in its cache; -M json_schema=strict wants false",
        )
        text: str = Field("", description="the column with the text; text, or all columns, if not given")
        id: str = Field("", description="the column that names the document; id, or its number, if not given")
        truth: str = Field("", description="the column with the right record, to measure and to simulate")
        dates: Literal["", "YMD", "DMY", "MDY"] = Field(
            "", description="how dates such as 03/04/2026 are meant"
        )
        decimal: Literal[".", ","] = Field(".", description="what stands before decimals in numbers as text")
        case: bool = Field(True, description="whether capitals matter when texts are compared")
        punctuation: bool = Field(True, description="whether punctuation matters when texts are compared")

        def check(self) -> None:
            """Refuse what would go wrong later.

            Raises:
                ValueError: a parameter, the schema, a document or a file for the output cannot be used.
            """
            self.record_fields()
            try:
                check_documents(Path(self.input), self.columns())
            except ValueError as error:
                raise ValueError(f"input: {error}") from None
            self._check_places()
            if self.truth:
                self._check_truth()

        def _check_places(self) -> None:
            output, review = map(real, self.places())
            read = {real(Path(self.input)), *map(real, self._schema_files())}
            if len({output, review} - read) < 2:
                raise ValueError(
                    "output and review must be two files, neither of them the input or the schema"
                )
            for name, place in zip(("output", "review"), self.places(), strict=True):
                try:
                    check_writable(place)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None

        def _schema_files(self) -> tuple[Path, ...]:
            """Return the files that the schema may come from: as named, and with a class left out."""
            named = self.schema if isinstance(self.schema, str) else ""
            return tuple(Path(name).expanduser() for name in (named, named.rpartition(":")[0]) if name)

        def record_fields(self) -> tuple[RecordField, ...]:
            """Return the fields of the record.

            Raises:
                ValueError: the schema cannot be used.
            """
            place = self._schema_files()[-1:] or (Path(),)
            try:
                return _fields(json.dumps(self.schema), stamp(*place))
            except ValueError as error:
                raise ValueError(f"schema: {error}") from None
            except RecursionError:
                raise ValueError("schema: it is nested too deep") from None

        def columns(self) -> Columns:
            """Return which columns of the documents mean what."""
            return Columns(self.text, self.id, self.truth)

        def true_forms(self, document: Document) -> dict[str, Any] | None:
            """Return the right values of a document in one form; None where they are not known."""
            if document.truth is None:
                return None
            forms = self.forms_wanted()
            return {
                field.name: forms.value(field, document.truth.get(field.name)).form
                for field in self.record_fields()
            }

        def forms_wanted(self) -> Forms:
            """Return how values are brought into one form."""
            return Forms(self.dates or None, self.decimal, self.case, self.punctuation)

        def places(self) -> tuple[Path, Path]:
            """Return where the records and the review queue go."""
            stem = "documents" if is_pipe(Path(self.input)) else Path(self.input).with_suffix("")
            output = Path(self.output or f"{stem}.extracted.jsonl")
            return output, Path(self.review or f"{stem}.review.jsonl")

        def _check_truth(self) -> None:
            """Refuse a right record with a value that no reply could give.

            Raises:
                ValueError: says which field of which document.
            """
            fields, forms = self.record_fields(), self.forms_wanted()
            for document in documents(Path(self.input), self.columns()):
                if document.truth is None:
                    continue
                for field in fields:
                    raw = document.truth.get(field.name)
                    try:
                        forms.value(field, raw)
                    except RedFlag as flag:
                        what = f"the right {field.name} of {document.id!r:.80}, {raw!r:.80}, is {flag.reason}"
                        raise ValueError(f"truth: {what}") from None
