"""``mdap resume --all``: what is unfinished in a database, by one command."""

import json
import signal
import sys

import pytest

from tests.acceptance.processes import Cli

STOPPED = "--budget-tokens 9000 --display none"
MINE = "from mdap_hanoi import Hanoi\n\n\nclass Mine(Hanoi):\n    pass\n"


def stopped(cli: Cli, *runs: str) -> None:
    for run in runs:
        assert cli.here(f"run {run} {STOPPED}").code == 3


def statuses(cli: Cli) -> dict[str, str]:
    return {run["run_id"]: run["status"] for run in json.loads(cli.here("runs --json").out)["runs"]}


def test_each_run_is_resumed_or_skipped_with_its_reason(cli: Cli) -> None:
    """One line each; the exit code is the worst; what was skipped stays as it was."""
    mine = cli.folder / "mine.py"
    mine.write_text(MINE)
    stopped(cli, "hanoi -p disks=6 --run-id one", "mine.py:Mine -p disks=6 --run-id gone")
    stopped(cli, "hanoi -p disks=6 -M seed=3 --run-id two")
    mine.unlink()
    ended = cli.here("resume --all --display none")
    lines = ended.out.splitlines()
    assert lines[0] == 'one: finished, solved, result {"moves": 63, "solved": true}'
    assert lines[1].startswith("gone: skipped, there is no file ")
    assert lines[2] == 'two: finished, solved, result {"moves": 63, "solved": true}'
    assert (len(lines), ended.code) == (3, 2)
    assert statuses(cli) == {"one": "finished", "two": "finished", "gone": "stopped"}

    again = cli.here("resume --all --json")
    [left] = json.loads(again.out)["runs"]
    assert (left["run_id"], json.loads(again.out)["exit_code"], again.code) == ("gone", 2, 2)
    assert "there is no file" in left["error"]


def test_with_nothing_to_resume_it_says_so(cli: Cli) -> None:
    """And ends well."""
    cli.here("run hanoi -p disks=2 --display none")
    ended = cli.here("resume --all")
    assert ended.code == 0
    assert ended.out.endswith("is to be resumed\n")


def test_a_budget_is_shared_by_all(cli: Cli) -> None:
    """Each run says that it is spent; with several models, whose session it would be is unclear."""
    stopped(cli, "hanoi -p disks=6 --run-id one", "hanoi -p disks=6 --run-id two")
    ended = cli.here("resume --all --budget-tokens 20000 --display none")
    assert [line.split(",")[0] for line in ended.out.splitlines()] == ["one: stopped", "two: stopped"]
    assert ended.code == 3
    stopped(cli, "hanoi -p disks=6 -M seed=3 --run-id three")
    refused = cli.here("resume --all --budget-tokens 20000")
    assert refused.code == 2
    assert "2 different sets of models" in refused.err


@pytest.mark.slow
def test_a_run_of_another_folder_goes_on_there(cli: Cli) -> None:
    """Its module is found where it was started; the next run is looked up here again."""
    there = Cli(cli.folder / "there")
    there.folder.mkdir()
    (there.folder / "mine.py").write_text(MINE)
    db = "--db ../mdap.db"
    assert there.here(f"run mine:Mine -p disks=6 --run-id one {STOPPED} {db}").code == 3
    (cli.folder / "yours.py").write_text(MINE)
    assert cli.here(f"run yours:Mine -p disks=6 --run-id two {STOPPED}").code == 3
    ended = cli("resume --all --display none")
    assert [line.split(",")[0] for line in ended.out.splitlines()] == ["one: finished", "two: finished"]
    assert ended.code == 0


def test_a_batch_is_left_to_its_own_command(cli: Cli) -> None:
    """Its tasks are in a file that is not on record."""
    (cli.folder / "cases.jsonl").write_text('{"disks": 6}\n{"disks": 6}\n')
    cli.here(f"run hanoi --inputs cases.jsonl --run-id many {STOPPED}")
    ended = cli.here("resume --all")
    assert ended.out.startswith(
        "many: skipped, many is a batch: to go on, solve its tasks again under its name"
    )
    assert ended.code == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("resume", "name the RUN to resume, such as latest, or give --all"),
        ("resume one --all", "give neither RUN nor --task with it"),
        ("resume --all --task hanoi", "give neither RUN nor --task with it"),
    ],
)
def test_what_does_not_go_together_is_refused(cli: Cli, given: str, sentence: str) -> None:
    """As wrong use."""
    ended = cli.here(given)
    assert ended.code == 2
    assert sentence in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.slow
def test_ctrl_c_stops_the_one_that_goes_on(cli: Cli) -> None:
    """It is said which one; the same command goes on."""
    slow = "-M latency=0.05"
    stopped(cli, f"hanoi -p disks=6 {slow} --run-id one", f"hanoi -p disks=6 {slow} --run-id two")
    process = cli.start("resume --all --display log")
    assert process.stderr is not None
    for line in process.stderr:
        if b"step.decided" in line:
            break
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)
    assert ended.code == 130
    assert ended.out == "one: interrupted\n"
    assert cli.query("SELECT count(*) FROM run_events WHERE kind = 'resumed'") == [(1,)]
    assert cli.here("resume --all --display none").code == 0
