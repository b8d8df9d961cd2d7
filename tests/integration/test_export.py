"""What is exported is what is recorded, in every format, and however hostile the texts are."""

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pandas
import polars
import pytest
from pyarrow import parquet

import mdap
from mdap.audit.export import FORMATS, Columns, export
from mdap.audit.review import review
from mdap.cli.main import main
from mdap.records import SampleEntry
from mdap.testing import ScriptedProvider
from mdap_hanoi import Hanoi
from tests.helpers import PROVIDED, Walk
from tests.processes import Double

HOSTILE = [
    "=1+1",
    "+x",
    "-2",
    "@SUM(A1)",
    "'quoted",
    "\ttab",
    "\rreturn",
    'a "b", c\nd',
    "",
    "\x1b[31m",
    "é€😀",
]
OPTIONS = {"error_rate": 0.3, "flag_rate": 0.1, "latency": 0.0005, "seed": 3}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "a.db"
    mdap.solve_sync(Hanoi(disks=5), options=OPTIONS, db=path, run_id="tower")
    texts = iter(HOSTILE * 3)
    PROVIDED["it"] = ScriptedProvider(
        lambda request, n: mdap.Reply(next(texts, "1"), "toy", input_tokens=3, output_tokens=n)
    )
    mdap.solve_sync(Walk(steps=2), model="tests.helpers:provided/it", db=path, run_id="hostile")
    return path


def exported(log: Path, run_id: str, fmt: str) -> bytes:
    out = io.BytesIO()
    with mdap.open_log(log) as opened:
        export(opened, run_id, out, fmt)
    return out.getvalue()


def ask(log: Path, sql: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(log)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql)]


def samples(log: Path, run_id: str) -> list[dict[str, Any]]:
    order = "ORDER BY step, opening, ordinal"
    return ask(
        log, f"SELECT {', '.join(SampleEntry._fields)} FROM sample_texts WHERE run_id = '{run_id}' {order}"
    )


def steps(log: Path, run_id: str) -> list[dict[str, Any]]:
    return ask(
        log,
        f"""SELECT step, key, input, answer, tally AS votes,
        (SELECT count(*) FROM sample_texts s WHERE s.run_id = d.run_id
            AND (s.step, s.opening) = (d.step, d.opening)) AS samples,
        (SELECT count(*) FROM sample_texts s WHERE s.run_id = d.run_id
            AND (s.step, s.opening) = (d.step, d.opening) AND verdict = 'flag') AS red_flags
        FROM decided_steps d WHERE run_id = '{run_id}' ORDER BY place""",
    )


def spelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    json_columns = ("input", "answer", "votes")
    return [{n: json.loads(v) if n in json_columns else v for n, v in row.items()} for row in rows]


@pytest.mark.parametrize("run_id", ["tower", "hostile"])
def test_jsonl_is_one_object_a_decided_step(log: Path, run_id: str) -> None:
    """In order, with just the promised names, and plain ASCII."""
    lines = exported(log, run_id, "jsonl").decode("ascii").splitlines()
    found = [json.loads(line) for line in lines]
    assert list(found[0]) == [
        "step", "key", "input", "answer", "votes", "samples", "red_flags", "doubt", "author",
    ]  # fmt: skip
    doubts = {one.step: float(f"{one.doubt:.6g}") for one in review(log, run_id, 100)}
    assert found == [
        {**row, "doubt": doubts[row["step"]], "author": None} for row in spelled(steps(log, run_id))
    ]
    assert [row["step"] for row in found] == list(range(len(found)))


@pytest.mark.parametrize("run_id", ["tower", "hostile"])
def test_samples_come_out_as_they_are(log: Path, run_id: str) -> None:
    """One object a sample, text and all."""
    lines = exported(log, run_id, "samples-jsonl").decode("ascii").splitlines()
    assert [json.loads(line) for line in lines] == samples(log, run_id)


def from_csv(data: bytes) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return [{name: cell[1:] if cell[:1] == "'" else cell for name, cell in row.items()} for row in rows]


def as_text(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("run_id", ["tower", "hostile"])
def test_csv_reads_back_equal(log: Path, run_id: str) -> None:
    """Once the mark before would-be formulas is taken off."""
    assert from_csv(exported(log, run_id, "samples-csv")) == as_text(samples(log, run_id))
    found = from_csv(exported(log, run_id, "csv"))
    told = [json.loads(line) for line in exported(log, run_id, "jsonl").splitlines()]
    for row, cells in zip(told, found, strict=True):
        names = ("step", "key", "samples", "red_flags", "doubt")
        assert [cells[name] for name in names] == [str(row[name]) for name in names]
        assert int(cells["votes"]) + int(cells["against"]) == sum(row["votes"].values())
        assert (int(cells["candidates"]), cells["author"]) == (len(row["votes"]), "")


def test_no_cell_is_a_formula(log: Path) -> None:
    """Whatever a model wrote, a spreadsheet shows it."""
    rows = list(csv.reader(io.StringIO(exported(log, "hostile", "samples-csv").decode(), newline="")))
    cells = [cell for row in rows for cell in row]
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize("run_id", ["tower", "hostile"])
def test_parquet_reads_back_equal(log: Path, run_id: str) -> None:
    """With numbers as numbers."""
    table = parquet.read_table(io.BytesIO(exported(log, run_id, "samples-parquet")))
    assert table.to_pylist() == samples(log, run_id)
    assert [str(table.schema.field(name).type) for name in ("step", "latency", "text")] == [
        "int64",
        "double",
        "string",
    ]
    table = parquet.read_table(io.BytesIO(exported(log, run_id, "parquet")))
    assert [str(table.schema.field(name).type) for name in ("step", "key", "votes", "doubt")] == [
        "int64", "string", "int64", "double",
    ]  # fmt: skip
    assert table.column("key").to_pylist() == [row["key"] for row in steps(log, run_id)]


# --- nested answers as columns


class Nested(Double):
    """Rows whose answers are objects, lists, texts, numbers, and nothing."""

    ANSWERS: ClassVar[list[Any]] = [
        {"name": "=Ada", "born": {"year": 1815, "known": True}, "tags": ["a", "b"], "ratio": 1},
        {"name": "Bob", "born": {"year": None, "known": False}, "tags": [], "ratio": 0.5, "a.b": "dot"},
        {"name": None, "born": None, "tags": ["-c"], "ratio": -2, "note": 7},
        {"note": "seven\ud800"},
        None,
        "plain",
    ]

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.map(
            mdap.Step(user=f"row {number}", parse=json.loads, input={"place": number}, key=f"row/{number}")
            for number in range(len(self.ANSWERS))
        )

    def oracle(self, step: mdap.Step[Any]) -> Any:
        return self.ANSWERS[step.input["place"]]

    def mistakes(self, step: mdap.Step[Any], truth: Any) -> list[Any]:
        return ["wrong"]

    def render(self, step: mdap.Step[Any], answer: Any) -> str:
        return json.dumps(answer)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nested") / "a.db"
    mdap.solve_sync(Nested(), options={"error_rate": 0, "flag_rate": 0}, db=path, run_id="n")
    return path


def test_a_nested_answer_becomes_typed_columns(nested: Path) -> None:
    """A column for each field and place, numbers as numbers, mixed ones as text; nothing is JSON."""
    table = parquet.read_table(io.BytesIO(exported(nested, "n", "parquet")))
    types = {
        field.name: str(field.type) for field in table.schema if field.name.startswith(("answer", "input"))
    }
    assert types == {
        "input.place": "int64",
        "answer": "string",
        'answer["a.b"]': "string",
        "answer.born.known": "bool",
        "answer.born.year": "int64",
        "answer.name": "string",
        "answer.note": "string",
        "answer.ratio": "double",
        "answer.tags.0": "string",
        "answer.tags.1": "string",
    }
    rows = {row["key"]: row for row in table.to_pylist()}
    assert [rows[f"row/{n}"]["answer.ratio"] for n in range(6)] == [1.0, 0.5, -2.0, None, None, None]
    assert [rows[f"row/{n}"]["answer.note"] for n in range(6)] == [None, None, "7", "seven\ufffd", None, None]
    assert [rows[f"row/{n}"]["answer.born.known"] for n in range(3)] == [True, False, None]
    assert rows["row/5"]["answer"] == "plain"


def test_no_csv_cell_of_a_nested_answer_is_json_or_a_formula(nested: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(nested, "n", "csv").decode(), newline="")))
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("{", "[", '"'))]
    by_key = {row["key"]: row for row in rows}
    assert by_key["row/0"]["answer.name"] == "'=Ada"
    assert by_key["row/2"]["answer.tags.0"] == "'-c"
    assert by_key["row/2"]["answer.ratio"] == "-2.0"
    assert by_key["row/1"]["answer.born.known"] == "false"


def test_too_many_columns_are_refused() -> None:
    """An answer that is a long list is for jsonl."""
    columns = Columns("answer")
    with pytest.raises(mdap.UsageError, match=r"answer would become more than 1,000 columns: .*jsonl"):
        columns.see(list(range(1001)))


def test_deep_nesting_is_no_problem() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    columns = Columns("answer")
    columns.see(value)
    assert columns.cells(value) == [1]


def test_large_exports_come_in_pages(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page and batch borders leave nothing out and bring nothing twice."""
    whole = {fmt: exported(log, "tower", fmt) for fmt in FORMATS}
    monkeypatch.setattr("mdap.audit.log._PAGE", 7)
    monkeypatch.setattr("mdap.audit.export._BATCH", 5)
    for fmt in FORMATS:
        if "parquet" in fmt:
            one, other = (
                parquet.read_table(io.BytesIO(data)) for data in (whole[fmt], exported(log, "tower", fmt))
            )
            assert one.equals(other)
        else:
            assert exported(log, "tower", fmt) == whole[fmt]


def test_a_batch_has_no_steps_to_export(tmp_path: Path) -> None:
    """But its cases have."""
    db = tmp_path / "a.db"

    async def batch() -> None:
        async with mdap.Session("sim", db=db) as session:
            assert len([one async for one in session.solve_all([Hanoi(disks=1)], k=2, run_id="b")]) == 1

    anyio.run(batch)
    with pytest.raises(mdap.UsageError, match=r"b is a batch, .*export its cases, such as b/0"):
        exported(db, "b", "jsonl")
    assert exported(db, "b/0", "jsonl").count(b"\n") == 1


# --- Python


def test_a_log_is_read_from_python(log: Path) -> None:
    """Iterators over runs, steps and samples, and frames of them."""
    with mdap.open_log(log) as opened:
        assert [(run.run_id, run.status, run.k) for run in opened.runs()] == [
            ("tower", "finished", 3),
            ("hostile", "finished", 3),
        ]
        assert [entry._asdict() for entry in opened.samples("tower")] == samples(log, "tower")
        assert opened.run("latest").run_id == "hostile"
        assert opened.run("tow") == next(opened.runs())
        last = list(opened.steps("latest"))[-1]
        assert (last.step, last.margin, last.author) == (1, 3, None)
        frame = opened.frame("samples", "tower")
        assert isinstance(frame, pandas.DataFrame)
        assert len(frame) == len(samples(log, "tower"))
        assert list(opened.frame("runs")["run_id"]) == ["tower", "hostile"]
        other = opened.frame("steps", "tower", library="polars")
        assert isinstance(other, polars.DataFrame)
        assert other["margin"].to_list() == [3] * 31
        with pytest.raises(mdap.UsageError, match="there is no run 'nobody'"):
            list(opened.steps("nobody"))
    with pytest.raises(mdap.UsageError, match="there is no database"):
        mdap.open_log(log.with_name("none.db"))


# --- the command


def run(capfdbinary: pytest.CaptureFixture[bytes], *arguments: object) -> tuple[int, bytes, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capfdbinary.readouterr()
    return int(ended.value.code or 0), said.out, said.err.decode()


def test_the_command_writes_to_a_file_or_to_standard_output(
    log: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The same bytes; and a file that cannot be written leaves nothing behind."""
    for fmt in FORMATS:
        file = tmp_path / fmt
        code, out, err = run(capfdbinary, "audit", "export", "tower", "--db", log, "--format", fmt)
        assert (code, err) == (0, "")
        assert out == exported(log, "tower", fmt)
        code, out, err = run(
            capfdbinary, "audit", "export", "tower", "--db", log, "--format", fmt, "-o", file
        )
        assert (code, out, err) == (0, b"", "")
        assert file.read_bytes() == exported(log, "tower", fmt)
    code, _, err = run(capfdbinary, "audit", "export", "tower", "--db", log, "-o", tmp_path / "no" / "where")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be written" in err
    code, _, err = run(capfdbinary, "audit", "export", "nobody", "--db", log, "-o", tmp_path / "x")
    assert (code, "there is no run 'nobody'" in err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FORMATS)
