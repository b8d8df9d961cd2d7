"""The bundled domains through the command line, as a stranger would first meet them."""

import json
from pathlib import Path

import mdap
from tests.acceptance.processes import Cli

EXAMPLES = Path(mdap.__file__).parents[1] / "docs" / "examples"
EXTRACT = f"run extract -p input=docs.jsonl -p schema={EXAMPLES / 'invoice.schema.json'}"


def test_extract_runs_as_documented(cli: Cli) -> None:
    """From a file to two files, with the accuracy where the right records are given."""
    (cli.folder / "docs.jsonl").write_bytes((EXAMPLES / "invoices.jsonl").read_bytes())
    ended = cli.here(f"{EXTRACT} -p truth=gold -p evidence=true -M error_rate=0.1 -k 5 --json")
    assert ended.code == 0, ended.err
    assert ended.json["result"] == {
        "accuracy": 1.0,
        "documents": 4,
        "fields": 20,
        "output": "docs.extracted.jsonl",
        "queue": "docs.review.jsonl",
        "review": 1,
        "undecided": 0,
        "wrong": 0,
    }
    written = [
        json.loads(line) for line in (cli.folder / "docs.extracted.jsonl").read_text("utf-8").splitlines()
    ]
    given = [json.loads(line) for line in (cli.folder / "docs.jsonl").read_text("utf-8").splitlines()]
    assert [(each["id"], each["record"]) for each in written] == [
        (each["id"], each["gold"]) for each in given
    ]


def test_extract_says_what_is_wrong_before_anything_is_spent(cli: Cli) -> None:
    """One sentence and the exit code for wrong use; nothing is written."""
    for command, why in (
        (EXTRACT, "docs.jsonl cannot be read"),
        (f"{EXTRACT} -p vote=both", "vote"),
        ("run extract", "input: Field required"),
    ):
        ended = cli.here(command)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
        assert why in ended.err
    assert list(cli.folder.iterdir()) == []


def test_extract_without_right_records_wants_a_model(cli: Cli) -> None:
    """The simulated model cannot read; the sentence says what to do."""
    (cli.folder / "docs.jsonl").write_text('{"text": "Lund GmbH"}\n', "utf-8")
    ended = cli.here(EXTRACT)
    assert ended.code == 1
    assert "give a --model" in ended.err.splitlines()[-1]


def test_every_bundled_domain_runs_without_parameters_or_says_what_it_needs(cli: Cli) -> None:
    """With nothing but its name, and no key."""
    names = [task["name"] for task in cli.here("tasks --json").json["tasks"]]
    assert {"extract", "hanoi", "ledger", "maker", "multiply", "sort"} <= set(names)
    for name in ("ledger", "maker", "multiply", "sort"):
        ended = cli.here(f"run {name} --json --display none")
        assert ended.code == 0, ended.err
        assert ended.json["status"] == "finished"
