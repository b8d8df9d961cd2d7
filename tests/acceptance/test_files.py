"""Files as others write them and read them: results that stay, logs that cannot be written, other folders."""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli

CASES = '{"disks": 2}\n{"disks": 3}\n'
RUN = "run hanoi --inputs cases.jsonl --out out.jsonl --run-id all --display none"


def write(cli: Cli, name: str, content: str | bytes) -> Path:
    path = cli.folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def statuses(path: Path) -> list[str]:
    return [json.loads(line)["status"] for line in path.read_text().splitlines()]


# -- --out


@pytest.mark.parametrize("name", ["cases.jsonl", "./cases.jsonl", "link.jsonl", "hard.jsonl", "mdap.db"])
def test_out_is_never_a_file_that_the_command_reads(cli: Cli, name: str) -> None:
    """By whatever name: it is refused, and everything is as it was."""
    path = write(cli, "cases.jsonl", CASES)
    (cli.folder / "link.jsonl").symlink_to(path)
    os.link(path, cli.folder / "hard.jsonl")
    cli.here("run hanoi -p disks=1 --run-id one --display none")
    refused = cli.here(f"run hanoi --inputs cases.jsonl --out {name}")
    assert (refused.code, "is the same file as" in refused.sentence) == (2, True)
    assert path.read_text() == CASES
    for command in ("audit export one -o mdap.db", "audit report one -o mdap.db"):
        assert cli.here(command).code == 2
    assert cli.here("audit verify one").code == 0


def test_a_refused_command_leaves_earlier_results(cli: Cli) -> None:
    """Another k, a model that is not there, a case file that is not there: the results stay."""
    write(cli, "cases.jsonl", CASES)
    assert cli.here(RUN).code == 0
    before = (cli.folder / "out.jsonl").read_bytes()
    for command in (f"{RUN} -k 4", f"{RUN} --model smi", RUN.replace("cases", "none"), f"{RUN} -p disks=x"):
        cli.here(command)
        if "disks=x" not in command:
            assert (cli.folder / "out.jsonl").read_bytes() == before, command
    assert not (cli.folder / "out.jsonl.part").exists()
    write(cli, "none.jsonl", "\n")
    assert "holds no case" in cli.here(RUN.replace("cases", "none")).sentence


def test_a_stopped_batch_leaves_what_there_is_and_more(cli: Cli) -> None:
    """Results of the same batch only grow; those of another stay, and the sentence says where these are."""
    write(cli, "cases.jsonl", '{"disks": 4}\n' * 12)
    other = RUN.replace("--run-id all", "--run-id other")
    assert cli.here(f"{RUN} --budget-tokens 150000").code == 3
    out, part = cli.folder / "out.jsonl", cli.folder / "out.jsonl.part"
    some = statuses(out)
    assert len(some) == 12
    assert "finished" in some
    assert cli.here(f"{RUN} --budget-tokens 1").code == 3
    assert len(statuses(out)) == 12
    kept = out.read_bytes()
    ended = cli.here(f"{other} --budget-tokens 1000")
    assert (ended.code, out.read_bytes()) == (3, kept)
    assert f"{out.name} stays as it was" in ended.err
    assert part.exists()
    assert cli.here(RUN).code == 0
    assert statuses(out) == ["finished"] * 12
    assert not part.exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="there are no such names")
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_cases_may_come_through_a_pipe(cli: Cli, name: str) -> None:
    """They are read once and used as often as need be."""
    path = write(cli, "cases.jsonl", CASES)
    shell = ["bash", "-c", f'cat {path} | exec "$@"', "bash"]
    ended = cli(f"run hanoi --inputs {name} --out /dev/stdout -k auto --display none", prefix=shell)
    assert ended.code == 0, ended.err
    assert [json.loads(line)["status"] for line in ended.out.splitlines()[:2]] == ["finished"] * 2
    assert "2 of 2 cases finished" in ended.out


# -- byte order marks, long lines


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_case(cli: Cli, encoding: str) -> None:
    """As editors and shells on Windows write files."""
    write(cli, "cases.jsonl", CASES.encode(encoding))
    write(cli, "prices.json", '{"sim": {"input": 1, "output": 1}}'.encode(encoding))
    ended = cli.here(f"{RUN} --prices prices.json --json")
    assert (ended.code, ended.json["result"]) == (0, {"cases": 2, "finished": 2, "solved": 2})
    assert ended.json["cost_usd"] > 0


def test_a_long_line_is_one_case(cli: Cli) -> None:
    """It is not cut in two; one that is too long to be kept is one case that failed."""
    long = json.dumps({"note": "x" * 2_000_000, "steps": 1})
    write(cli, "cases.jsonl", f"{long}\n" + '{"note": "' + "y" * 10_000_001 + '"}\n{"steps": 1}\n')
    write(cli, "noted.py", NOTED)
    ended = cli.here(RUN.replace("hanoi", "noted.py:Noted"))
    assert (ended.code, "2 of 3 cases finished" in ended.out) == (1, True)
    assert statuses(cli.folder / "out.jsonl") == ["finished", "failed", "finished"]


NOTED = '''
import mdap

class Noted(mdap.Chain[int, int]):
    """A task with a text."""
    note: str = ""
    steps: int = 1
    numbers: list[int] = []
    def start(self): return 0
    def step(self, state):
        return None if state >= self.steps else mdap.Step(user=f"\\ud83d {state}", parse=int)
    def advance(self, state, answer): return answer
    def result(self, state): return [len(self.note), self.note[:20], self.numbers]
    def oracle(self, state): return state + 1
    def mistakes(self, state, truth): return [truth + 1]
    def render(self, answer): return str(answer)
'''


def test_text_in_brackets_is_text_where_text_is_wanted(cli: Cli) -> None:
    """A parameter that takes no list is given what was typed; one that does still gets JSON."""
    write(cli, "noted.py", NOTED)
    for text in ("[important] only legal names", "{x}", "[1]", '{"a": 1}'):
        ended = cli.here("run noted.py:Noted --json", "-p", f"note={text}", "-p", "numbers=[1, 2]")
        assert (ended.code, ended.json["result"]) == (0, [len(text), text[:20], [1, 2]])
    assert "looks like JSON" in cli.here("run noted.py:Noted", "-p", "numbers=[1").sentence


# -- logs that cannot be written


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
@pytest.mark.slow
def test_a_log_in_a_read_only_folder_can_be_read(cli: Cli, unprivileged: tuple[str, ...]) -> None:
    """All that reads works there, unless rows are missing from the log's own file."""
    folder = cli.folder / "archive"
    folder.mkdir()
    assert cli.here("run hanoi -p disks=2 --run-id r --db archive/mdap.db --display none").code == 0
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        for command in ("audit verify r", "audit report r -o report.html"):
            ended = cli(f"{command} --db archive/mdap.db", prefix=unprivileged)
            assert (ended.code, ended.err) == (0, ""), command
        (folder / "mdap.db-wal").write_bytes(b"rows that are not in the log's own file")
        refused = cli("runs --db archive/mdap.db", prefix=unprivileged)
        assert "copy both files to another folder" in refused.sentence
    finally:
        folder.chmod(0o755)


def test_a_copy_without_its_wal_is_told_so(cli: Cli) -> None:
    """The sentence names the file that is missing, and how to take a copy, whichever command reads it."""
    cli.here("run hanoi -p disks=1 --run-id r --display none")
    with closing(sqlite3.connect(cli.folder / "copy.db")) as begun:
        begun.execute("PRAGMA journal_mode = WAL")
    for command in ("runs", "audit verify r"):
        refused = cli.here(f"{command} --db copy.db")
        assert refused.code == 2
        assert "If it is a copy, they are in copy.db-wal" in refused.sentence
        assert "If a run could not begin in it, start that run again" in refused.sentence
        assert ".backup" in refused.sentence


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="there is no prlimit")
def test_the_true_cause_is_named_where_a_log_cannot_be_opened(cli: Cli) -> None:
    """Too many open files are no matter of permissions."""
    refused = cli("run hanoi -p disks=1", prefix=["prlimit", "--nofile=12"])
    assert "Too many open files" in refused.sentence
    assert "ulimit -n" in refused.sentence


# -- other folders


def test_a_run_is_resumed_and_verified_from_any_folder(cli: Cli) -> None:
    """Files that are named relative to where it was started are found there; if that is gone, it says so."""
    home, away = cli.folder / "home", cli.folder / "away"
    home.mkdir()
    away.mkdir()
    (home / "file.txt").write_text("here")
    (cli.folder / "filed.py").write_text(FILED)
    cli.folder = home
    run = "run ../filed.py:Filed -p file=file.txt --run-id r --budget-tokens 1 --db ../mdap.db"
    assert cli.here(run).code == 3
    cli.folder = away
    resumed = cli.here("resume r --db ../mdap.db --display none")
    assert (resumed.code, "result here" in resumed.out) == (0, True), resumed.err
    assert f"going on in {home.resolve()}" in resumed.sentence
    assert cli.here("audit verify r --db ../mdap.db").code == 0
    shutil.move(home, cli.folder / "elsewhere")
    gone = cli.here("audit verify r --db ../mdap.db")
    assert (gone.code, "file.txt is not there" in gone.sentence) == (2, True)
    assert f"the run was started in {home.resolve()}, which is not there" in gone.sentence


FILED = '''
from pathlib import Path
import mdap
from pydantic import field_validator

class Filed(mdap.Chain[int, int]):
    """A task with a file."""
    file: str
    @field_validator("file")
    @classmethod
    def there(cls, name):
        if not Path(name).exists(): raise ValueError(f"{name} is not there")
        return name
    def start(self): return 0
    def step(self, state): return None if state >= 2 else mdap.Step(user=f"{state}", parse=int)
    def advance(self, state, answer): return answer
    def result(self, state): return Path(self.file).read_text()
    def oracle(self, state): return state + 1
    def mistakes(self, state, truth): return [truth + 1]
    def render(self, answer): return str(answer)
'''
