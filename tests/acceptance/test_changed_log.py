"""A log that something other than mdap has written to, through every command that reads it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mdap.cli.output import Exit
from tests.acceptance.processes import Cli

COLUMNS = {
    "runs": "kind task task_version params settings provider k mdap_version created_at",
    "run_events": "kind at author reason data",
    "texts": "digest body",
    "steps": "key input prompt_digest",
    "samples": "counted answer_key flag_reason model view temperature input_tokens output_tokens "
    "cached_tokens latency attempts request_id finish_reason text",
    "decisions": "winner tally votes margin author reason digest",
}
CASES = [(table, column) for table, names in COLUMNS.items() for column in names.split()]
NO_VALUE = ("x'00ff7b7d'", "'abc'", "9e999")
"""Bytes, which no column holds; text for numbers, and for JSON; infinity."""

COMMANDS = (
    *("runs", "show whole", "show whole --step 1", "show cut", "audit stats whole", "audit review whole"),
    *(
        "audit export whole --format samples-jsonl -o rows.jsonl",
        "audit report whole --out page.html",
        "resume cut",
        "resume whole",
    ),
)


@pytest.fixture(scope="module")
def log(shared_cli: Cli) -> Path:
    """A log with a run that is finished and one that was stopped."""
    finished = shared_cli.here(
        "run hanoi -p disks=2 -M error_rate=0.3 -M seed=3 --run-id whole --display none"
    )
    stopped = shared_cli.here("run hanoi -p disks=5 --budget-tokens 9000 --run-id cut --display none")
    assert (finished.code, stopped.code) == (Exit.FINISHED, Exit.STOPPED), (finished, stopped)
    return shared_cli.folder / "mdap.db"


def change(path: Path, table: str, column: str, value: str) -> None:
    """Do what no SQLite keeps anybody from."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = {value}")


@pytest.mark.parametrize("place", range(len(CASES)), ids=map(".".join, CASES))
def test_a_foreign_value_is_no_bug_of_mdap(log: Path, cli: Cli, place: int) -> None:
    """Each command does without the value, or says in one sentence what is wrong and what to do.

    Every command reads every column, and every column holds every such value for some commands.
    """
    for number, command in enumerate(COMMANDS):
        shutil.copy(log, cli.folder / "mdap.db")
        change(cli.folder / "mdap.db", *CASES[place], NO_VALUE[(place + number) % len(NO_VALUE)])
        ended = cli.here(command)
        assert "bug" not in ended.err, (command, ended.err)
        assert "Traceback" not in ended.err, (command, ended.err)


def test_it_is_said_where_the_log_is_not_as_mdap_writes_it(log: Path, cli: Cli) -> None:
    """The sentence names the column; the code is that of a database that cannot be used."""
    shutil.copy(log, cli.folder / "mdap.db")
    change(cli.folder / "mdap.db", "runs", "params", "'abc'")
    ended = cli.here("runs")
    assert ended.code == Exit.USAGE
    assert ended.sentence == (
        "mdap.db holds text that is no JSON in runs.params: something other than mdap has written to it; "
        "restore a copy"
    )
