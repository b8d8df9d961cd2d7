"""The database is an interface: the queries of the documentation run, and its metadata fits the schema."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import mdap
from mdap_hanoi import Hanoi

DOCS = Path(mdap.__file__).parents[1] / "docs"
PAGE = (DOCS / "how-to" / "audit-with-sql.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
OPTIONS = {"error_rate": 0.1, "flag_rate": 0.05, "fault_rate": 0.01, "latency": 0.0005, "seed": 1}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "a.db"
    for name in ("tower", "other"):
        options = {**OPTIONS, "error_rate": 0.45 if name == "other" else 0.1}
        mdap.solve_sync(Hanoi(disks=6), options=options, k=2, db=path, run_id=name)

    async def cases() -> None:
        async with mdap.Session("sim", db=path) as session:
            tasks = [Hanoi(disks=disks) for disks in (1, 2)]
            assert len([one async for one in session.solve_all(tasks, k=2, run_id="cases")]) == 2

    anyio.run(cases)
    return path


def rows(log: Path, sql: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql)]


def test_there_are_twenty_queries() -> None:
    """As many as the page is for."""
    assert len(QUERIES) >= 20


@pytest.mark.parametrize("sql", QUERIES)
def test_a_query_of_the_documentation_runs(log: Path, sql: str) -> None:
    """Each gives rows, but for those that look for what must not be, and those of a step that is absent."""
    found = rows(log, sql)
    must_be_empty = any(part in sql for part in ("count(*), max(place)", "SELECT now.step", "best -"))
    elsewhere = "398" in sql or "author IS NOT NULL ORDER BY" in sql
    assert elsewhere or (found == []) == must_be_empty


def test_answers_of_the_documentation_are_right(log: Path) -> None:
    """What two of them say is what other queries say."""
    [totals] = [rows(log, sql) for sql in QUERIES if sql.startswith("SELECT steps, samples, votes")]
    assert totals[0]["steps"] == 63
    [agreement] = [rows(log, sql) for sql in QUERIES if "AS agreement" in sql]
    assert sum(row["votes"] for row in agreement) == totals[0]["votes"]
    assert all(0.8 < row["agreement"] < 1 for row in agreement)
    [parts] = [rows(log, sql) for sql in QUERIES if "whole.run_id = 'cases'" in sql]
    assert [(row["run_id"], row["steps"], row["ended"]) for row in parts] == [
        ("cases/0", 1, "finished"),
        ("cases/1", 3, "finished"),
    ]


def test_the_metadata_for_datasette_fits_the_schema(log: Path) -> None:
    """Every table is described, and every column that is described exists."""
    metadata = json.loads((DOCS / "examples" / "datasette.json").read_text(encoding="utf-8"))
    tables = metadata["databases"]["mdap"]["tables"]
    there = [
        row["name"] for row in rows(log, "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    ]
    assert set(tables) == {name for name in there if not name.startswith("sqlite_")}
    for table, about in tables.items():
        columns = {row["name"] for row in rows(log, f"PRAGMA table_info({table})")}
        named = {*about.get("columns", {}), *about.get("facets", [])}
        named |= {about[name] for name in ("label_column", "sort_desc") if name in about}
        assert named <= columns, table
