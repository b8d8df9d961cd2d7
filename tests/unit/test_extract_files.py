"""Files as people have them: spreadsheets, pipes, marks, documents that are no text; and what is written."""

import csv
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import mdap
from mdap.testing import ScriptedProvider
from mdap_extract import Extract
from mdap_extract.documents import Columns, check_documents, documents
from mdap_extract.results import Filled, write_records

SCHEMA: dict[str, Any] = {"properties": {"who": {"type": "string"}}}


def table(tmp_path: Path, content: str | bytes, name: str = "in.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def texts(path: Path, **columns: str) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in documents(path, Columns(**columns))]


# --- spreadsheets


@pytest.mark.parametrize(
    "content",
    [
        "id,text\n1,Lund GmbH\n2,Maier AG\n",
        "id;text\n1;Lund GmbH\n2;Maier AG\n",
        "id\ttext\r\n1\tLund GmbH\r\n2\tMaier AG\r\n",
        "id|text\n1|Lund GmbH\n2|Maier AG\n",
        "sep=;\r\nid;text\r\n1;Lund GmbH\r\n2;Maier AG\r\n",
        "\ufeffid;text\n1;Lund GmbH\n2;Maier AG\n",
        "id, text\n1, Lund GmbH\n2, Maier AG\n",
        '"ID";" Text\u00a0"\n"1";"Lund GmbH"\n"2";"Maier AG"\n',
        "id,text,\n1,Lund GmbH,\n2,Maier AG,\n",
        "id,text,,\n1,Lund GmbH,,\n2,Maier AG\n",
        "\n\nid,text\n\n1,Lund GmbH\n,\n\n2,Maier AG\n\n",
        "id,text\r1,Lund GmbH\r2,Maier AG\r",
        "id,text,note\n1,Lund GmbH\n2,Maier AG,x\n",
        "id,note,text,note\n1,a,Lund GmbH,b\n2,a,Maier AG,b\n",
        "id;text;amount, EUR\n1;Lund GmbH;1,5\n2;Maier AG;2,5\n",
        "id,text\n,Lund GmbH\n ,Maier AG\n",
        "id;text\n1;Lund GmbH\n2;Maier AG\n".encode("utf-16"),
        b"\xfe\xff" + "id\ttext\n1\tLund GmbH\n2\tMaier AG\n".encode("utf-16-be"),
    ],
    ids=repr,
)
def test_a_table_is_read_however_a_spreadsheet_wrote_it(tmp_path: Path, content: str | bytes) -> None:
    """Delimiter, mark, blanks and capitals of the header, empty cells, columns and rows."""
    assert texts(table(tmp_path, content)) == [("1", "Lund GmbH"), ("2", "Maier AG")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id;text\n1;Lund GmbH, Kiel\n2;a, b, c\n", ["Lund GmbH, Kiel", "a, b, c"]),
        ('id,text\n1,"Lund;\nGmbH"\n2,"a ""b"", c"\n', ["Lund;\nGmbH", 'a "b", c']),
        ("text\nLund GmbH, Kiel; x\nMaier | AG\tb\n", ["Lund GmbH, Kiel; x", "Maier | AG\tb"]),
        ('id, text\n1, "Lund, Kiel"\n', ["Lund, Kiel"]),
        ("name;total\nLund;1,5\n", ["name: Lund\ntotal: 1,5"]),
        ("note,note\na,b\n", ["note: a\nnote (2): b"]),
        ("a,,b\n1,2,3\n", ["a: 1\ncolumn 2: 2\nb: 3"]),
        ("id,text\n1,Lu\x00nd\n", ["Lu\ufffdnd"]),
        ("id,text\n1," + "a" * 11_000_000 + "\n", ["a" * 11_000_000]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_cells_come_through_as_they_are(tmp_path: Path, content: str, expected: list[str]) -> None:
    """What parts cells elsewhere is text within one."""
    assert [text for _, text in texts(table(tmp_path, content))] == expected


def test_long_prose_does_not_hide_the_delimiter(tmp_path: Path) -> None:
    """Documents hold more commas, semicolons and bars than a table has columns."""
    prose = 'It was; as they say, "a fine" day | and, well; more of it.\n' * 30
    for delimiter in ",;\t|":
        path = tmp_path / "in.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([["id", "text", "note"], *[[str(n), prose, "x, y"] for n in range(400)]])
        assert texts(path) == [(str(n), prose) for n in range(400)]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("id,text,text\n1,a,b\n", "column 'text' is there 2 times"),
        ("ID,id2,Id,text\n1,2,3,a\n", "column 'id' is there 2 times"),
        ("id,text\n1,Lund, Kiel\n", "line 2: it has 3 cells, and the header 2"),
        ('id,text\n1,"Lund\n2,Maier\n', "not CSV"),
        ("id,text\n1,M\u00fcller\n".encode("cp1252"), "CSV UTF-8"),
        ("id,text\n1,\n2, \n", "no text to read in any"),
        ("id,text\n", "holds no document"),
        ("", "holds no document"),
    ],
    ids=repr,
)
def test_a_table_that_cannot_be_meant_so_is_refused(tmp_path: Path, content: str | bytes, why: str) -> None:
    """Before anything is paid for; the sentence names the line or the column."""
    with pytest.raises(ValueError, match=why):
        check_documents(table(tmp_path, content), Columns())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.json", '[\n {"id": 1, "text": "Lund"},\n {"id": "2", "text": "Maier"}\n]'),
        ("in.jsonl", '\ufeff{"id": 1, "text": "Lund"}\n\n\ufeff{"id": "2", "text": "Maier"}\r\n'),
        ("in.ndjson", '{"ID": 1, "Text": "Lund"}\n{"id": "2", "text": "Maier"}'),
        ("in.txt", "id;text\n1;Lund\n2;Maier\n"),
        ("in", '{"id": 1, "text": "Lund"}\n{"id": "2", "text": "Maier"}\n'),
    ],
)
def test_the_format_is_told_from_the_name_or_the_content(tmp_path: Path, name: str, content: str) -> None:
    """JSON, line by line or as an array, and tables."""
    assert texts(table(tmp_path, content, name)) == [("1", "Lund"), ("2", "Maier")]


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    """One of two texts would be lost."""
    with pytest.raises(ValueError, match=r"line 1: .*a member twice"):
        texts(table(tmp_path, '{"text": "a", "text": "b"}\n', "in.jsonl"))


def test_a_schema_may_have_a_mark(tmp_path: Path) -> None:
    """In UTF-8 and in UTF-16, as PowerShell writes it."""
    path = table(tmp_path, '{"text": "a"}\n', "in.jsonl")
    for encoding in ("utf-8-sig", "utf-16"):
        schema = table(tmp_path, json.dumps(SCHEMA).encode(encoding), "s.json")
        assert [field.name for field in Extract(input=str(path), schema=str(schema)).record_fields()] == [
            "who"
        ]


# --- documents that are no text


async def test_no_document_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of characters are replaced, and what has no text is left to a person."""
    rows: list[dict[str, Any]] = [
        {"id": "good", "text": "Lund"},
        {"id": "half \ud83d", "text": "cut \ud83d emoji"},
        {"id": "control", "text": "a\u0000b\u0007\u001b[31m\u202e"},
        {"id": "empty", "text": ""},
        {"id": "blank", "text": " \u00a0\u200b\ufeff\n"},
        {"id": "null", "text": None},
        {"id": 7, "text": 12.5},
        {"id": {"a": 1}, "text": {"b": ["\udfff"]}},
        {"id": "long", "text": "x" * 1_000_000},
    ]
    path = table(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "in.jsonl")
    provider = ScriptedProvider(lambda request, ordinal: '{"who": "x"}')
    monkeypatch.setattr("mdap.session.models.load_provider", lambda spec, options: provider)
    task = Extract(input=str(path), schema=SCHEMA, output=f"{tmp_path}/out.csv", review_share=0)
    solution = await mdap.solve(task, model="scripted", db=tmp_path / "a.db", k=1)
    assert (solution.result["documents"], solution.result["undecided"]) == (9, 3)
    assert solution.steps == task.length() == 6
    asked = [request.user for request in provider.requests]
    assert any("cut \ufffd emoji" in user for user in asked)
    assert any("a\ufffdb\u0007\u001b[31m\u202e" in user for user in asked)
    assert any('{"b": ["\ufffd"]}' in user for user in asked)
    queued = lines(solution.result["queue"])
    assert [(each["id"], each["why"], each["reason"], each["key"]) for each in queued] == [
        (name, "undecided", "the document has no text", None) for name in ("empty", "blank", "null")
    ]
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [each["id"] for each in written][:3] == ["good", "half \ufffd", "control"]
    assert [each["undecided"] for each in written] == ["", "", "", "who", "who", "who", "", "", ""]


# --- pipes


@pytest.mark.slow
def test_documents_may_come_through_a_pipe(tmp_path: Path) -> None:
    """A pipe gives them once, and they are read several times."""
    (tmp_path / "s.json").write_text(json.dumps({"properties": {"who": {"type": "string"}}}), "utf-8")
    content = "".join(json.dumps({"text": f"d{n}", "gold": {"who": f"w{n}"}}) + "\n" for n in range(5))
    program = (
        "import mdap, mdap_extract, sys\n"
        "task = mdap_extract.Extract(input='/dev/stdin', schema=sys.argv[1], truth='gold')\n"
        "print(mdap.solve_sync(task, db='a.db').result)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "s.json"], input=content, cwd=tmp_path, capture_output=True, text=True
    )
    assert "'accuracy': 1.0, 'documents': 5," in done.stdout, done.stderr
    assert len((tmp_path / "documents.extracted.jsonl").read_text("utf-8").splitlines()) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read_once(tmp_path: Path) -> None:
    """Its format is told by what it begins with."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("id;text\n1;Lund\n", "utf-8"))
    writer.start()
    assert check_documents(pipe, Columns()) == 1
    writer.join()
    assert texts(pipe) == texts(pipe) == [("1", "Lund")]


# --- what is written


def filled(**values: Any) -> list[Filled]:
    return [Filled("=1+1", name, None, True, value=value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ('=HYPERLINK("http://evil","x")', '\'=HYPERLINK("http://evil","x")'),
        ("+49 431 1", "'+49 431 1"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        (" =1+1", "' =1+1"),
        ("\uff1d1", "'\uff1d1"),
        ("'=1", "''=1"),
        ("-12.50", "-12.50"),
        ("+5", "+5"),
        (-12.5, "-12.5"),
        (-1e-7, "-1e-07"),
        (["=1"], '["=1"]'),
        ("a=1", "a=1"),
        ("a\0b", "a\ufffdb"),
        (None, ""),
    ],
)
def test_no_cell_is_a_formula(tmp_path: Path, cell: Any, written: str) -> None:
    """Numbers stay numbers; every other cell that begins like a formula is marked, headers and ids too."""
    path = tmp_path / "out.csv"
    write_records(path, ["=f"], [filled(**{"=f": cell})])
    with path.open(encoding="utf-8", newline="") as file:
        header, row = csv.reader(file)
    assert header == ["id", "'=f", "'=f confidence", "undecided"]
    assert row[:2] == ["'=1+1", written]


def test_no_column_is_there_twice(tmp_path: Path) -> None:
    """Fields keep their names, and our own columns give way."""
    names = ["id", "total", "total confidence", "undecided", "document id"]
    path = tmp_path / "out.csv"
    write_records(path, names, [filled(**dict.fromkeys(names, 1))])
    with path.open(encoding="utf-8", newline="") as file:
        header, row = csv.reader(file)
    assert len(set(header)) == len(header) == len(row) == 12
    assert header[1:6] == names
    assert header[0] == "document document id"


@pytest.mark.parametrize("name", ["output", "review"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_paid(tmp_path: Path, name: str) -> None:
    """A folder that is missing, one in the place of the file, and what no file can replace."""
    path = table(tmp_path, '{"text": "a"}\n', "in.jsonl")
    for place, why in (
        (f"{tmp_path}/no/out.csv", "no folder"),
        (str(tmp_path), "no file"),
        ("/dev/null", "no file"),
    ):
        with pytest.raises(ValidationError, match=f"{name}: .*{why}"):
            Extract(input=str(path), schema=SCHEMA, **{name: place})


def test_what_is_written_takes_its_place_at_once(tmp_path: Path) -> None:
    """A link stays one, what was there before stays until all is written, and nothing is left beside it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.jsonl").write_text("earlier", "utf-8")
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "real" / "out.jsonl")

    def broken() -> Any:
        yield filled(a=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(link, ["a"], broken())
    assert link.read_text("utf-8") == "earlier"
    write_records(link, ["a"], [filled(a=1)])
    assert link.is_symlink()
    assert json.loads(link.read_text("utf-8"))["record"] == {"a": 1}
    assert [each.name for each in (tmp_path / "real").iterdir()] == ["out.jsonl"]
