"""SQL is in one place, and fits the schema."""

import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

import mdap
import mdap_hanoi
from mdap.journal.statements import READING, migrations, statement, statements

HOME: Final = Path(mdap.__file__).parent
NAMES: Final = [name for file in READING for name in statements(file)]
NUMBERED: Final = ("rows_missing",)


@pytest.fixture(scope="module")
def schema() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for commands in migrations().values():
        for command in commands:
            connection.execute(command)
    connection.create_function("key_of", 1, str)
    return connection


@pytest.mark.parametrize("name", NAMES)
def test_a_statement_fits_the_schema(schema: sqlite3.Connection, name: str) -> None:
    """No statement names a column or fragment that is not there, even one that no other test runs."""
    sql = statement(name).replace("{table}", "runs" if name in NUMBERED else "steps")
    assert not re.search(r"\{\w+\}", sql)
    marks = dict.fromkeys(re.findall(r"\?(\d+)", sql))
    schema.execute(f"EXPLAIN {sql}", marks)


def test_each_name_is_one_statement() -> None:
    """Whichever file a statement is in, its name finds it."""
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []


def test_only_the_journal_speaks_sql() -> None:
    """A column that is renamed is looked for in one package."""
    spoken = re.compile(r"\bSELECT\b[^\n]*\b(FROM|max|count|sum)\b|\bINSERT INTO\b|\bFROM \w+ WHERE\b")
    files = [file for file in HOME.rglob("*.py") if "journal" not in file.relative_to(HOME).parts]
    files += Path(mdap_hanoi.__file__).parents[1].glob("mdap_*/**/*.py")
    assert [file.name for file in files if spoken.search(file.read_text(encoding="utf-8"))] == []
