"""``mdap run TASK --inputs FILE``: many cases from the command line."""

import json
from pathlib import Path
from typing import Any

from tests.acceptance.processes import Cli

PRODUCTS = [(12345, 6789), (4, 5), (907, 36), (11, 99)]


def cases(cli: Cli, *lines: str) -> Path:
    path = cli.folder / "cases.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def products(cli: Cli) -> Path:
    return cases(cli, *(json.dumps({"a": a, "b": b}) for a, b in PRODUCTS))


def results(cli: Cli) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cli.folder / "out.jsonl").read_text().splitlines()]


RUN = "run multiply --inputs cases.jsonl --out out.jsonl -M error_rate=0.02 --run-id all"


def test_each_line_is_a_case(cli: Cli) -> None:
    """Solved in order, each on a line of its own; the same command again buys nothing."""
    products(cli)
    for _ in range(2):
        ended = cli.here(f"{RUN} -k 5 --json")
        assert (ended.code, ended.json["result"]) == (0, {"cases": 4, "finished": 4, "solved": 4})
        found = results(cli)
        assert [int(one["result"]["product"]) for one in found] == [a * b for a, b in PRODUCTS]
        assert [one["run_id"] for one in found] == [f"all/{place}" for place in range(4)]
        assert sum(one["samples"] for one in found) == ended.json["samples"]
        assert cli.query("SELECT count(*) FROM samples") == [(ended.json["samples"],)]
    listed = cli.here("runs --json").json["runs"]
    assert [(row["run_id"], row["kind"]) for row in listed] == [("all", "batch")]
    parts = cli.here("runs --of all --json").json["runs"]
    assert sorted(row["run_id"] for row in parts) == [f"all/{place}" for place in range(4)]


def test_a_bad_line_is_one_case_that_failed(cli: Cli) -> None:
    """Its line says why, the others are solved, and the exit code is 1."""
    cases(cli, '{"a": 2, "b": 3}', "nonsense", '{"a": "x"}', "", '{"a": 4, "b": 5}')
    ended = cli.here(f"{RUN} -k 4")
    assert (ended.code, "2 of 4 cases finished" in ended.out) == (1, True)
    found = results(cli)
    assert [one["status"] for one in found] == ["finished", "failed", "failed", "finished"]
    assert "line 2 is not a JSON object of parameters" in found[1]["reason"]
    assert "line 3: parameter a" in found[2]["reason"]


def test_a_batch_that_stopped_says_why(cli: Cli) -> None:
    """In its sentence, in JSON and in the log, as a run does."""
    products(cli)
    ended = cli.here(f"{RUN} --budget-tokens 2000 --json")
    assert (ended.code, ended.json["stop_cause"]) == (3, "budget")
    assert "the budget of 2,000 tokens" in ended.json["reason"]
    assert ended.sentence == (
        f"stopped: {ended.json['reason']}; to go on, give the same command again with --run-id all"
    )
    assert cli.here("show all --json").json["reason"] == ended.json["reason"]


def test_one_k_for_the_whole_batch(cli: Cli) -> None:
    """-k auto counts the steps of all cases; pilots of the first ones tell the error rate, and k stays."""
    products(cli)
    ended = cli.here(f"{RUN} -k auto --target 0.999 --json")
    assert ended.code == 0
    k = ended.json["k"]
    steps = ended.json["steps"]
    plan = cli.here(f"plan --steps {steps} --error-rate 0.02 --target 0.999 --json").json["k"]
    assert plan <= k <= plan + 2
    assert cli.query("SELECT count(*) BETWEEN 1 AND 4 FROM runs WHERE kind = 'pilot'") == [(1,)]
    again = cli.here(f"{RUN} -k auto --target 0.999 --json")
    assert (again.code, again.json["k"], again.json["samples"]) == (0, k, ended.json["samples"])


def test_what_cannot_be_is_refused_before_anything_is_spent(cli: Cli) -> None:
    """One sentence, exit code 2, and no run."""
    products(cli)
    refused = {
        "run multiply --inputs none.jsonl": "cannot be read",
        "run multiply --out out.jsonl": "--out goes with --inputs",
        "run nope --inputs cases.jsonl": "there is no task",
        "run hanoi --inputs cases.jsonl -k auto": "line 1: there is no parameter 'a'",
    }
    for command, words in refused.items():
        ended = cli.here(command)
        assert (ended.code, words in ended.sentence) == (2, True), ended.err
        assert not (cli.folder / "mdap.db").exists() or cli.query("SELECT count(*) FROM runs") == [(0,)]


def test_a_file_that_breaks_off_leaves_a_batch_that_can_go_on(cli: Cli) -> None:
    """What was read is solved; the batch is not said to be finished, and goes on once the file is mended."""
    path = products(cli)
    path.write_bytes(path.read_bytes() + b"\xff\n")
    broken = cli.here(f"{RUN} -k 5")
    assert (broken.code, "is not UTF-8 text" in broken.sentence) == (2, True)
    products(cli)
    assert cli.here(f"{RUN} -k 5 --json").json["result"] == {"cases": 4, "finished": 4, "solved": 4}
