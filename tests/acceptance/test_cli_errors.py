"""Bad input: an exit code, one sentence on standard error that says what to do, and no traceback."""

import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli

TASKS = '''
import mdap

class Broken(mdap.Chain[int, int]):
    """A task whose parser fails on every reply."""

    def start(self): return 0
    def step(self, state): return mdap.Step(user=f"What comes after {state}?", parse=self.read)
    def advance(self, state, answer): return answer
    def read(self, text): raise ValueError("this parser is broken")
    def oracle(self, state): return state + 1
    def mistakes(self, state, truth): return [truth + 1]
    def render(self, answer): return str(answer)

class Halfway(mdap.Chain[int, int]):
    def start(self): return 0

class Stranger:
    pass
'''


@pytest.fixture(scope="module")
def place(shared_cli: Cli) -> Cli:
    """A folder with databases and task files of every bad sort, and one good database."""
    folder = shared_cli.folder
    assert shared_cli.here("run hanoi -p disks=1 --run-id good --json").code == 0
    good = folder / "mdap.db"
    for name in ("newer.db", "readonly.db"):
        shutil.copy(good, folder / name)
    with closing(sqlite3.connect(folder / "newer.db")) as newer:
        newer.execute("PRAGMA user_version = 1000")
    (folder / "readonly.db").chmod(0o444)
    with closing(sqlite3.connect(folder / "foreign.db")) as foreign:
        foreign.execute("CREATE TABLE customers(name TEXT)")
    (folder / "letter.db").write_text("Dear database, this is only a letter. " * 100)
    (folder / "truncated.db").write_bytes(good.read_bytes()[:5000])
    (folder / "empty.db").touch()
    (folder / "folder.db").mkdir()
    (folder / "tasks.py").write_text(TASKS)
    (folder / "raising.py").write_text("raise RuntimeError('this file is broken')\n")
    return shared_cli


@dataclass(frozen=True)
class Bad:
    """One bad command and what its sentence must say."""

    args: str
    says: tuple[str, ...]
    code: int = 2


RUN = "run hanoi -p disks=2"

REFUSED = {
    "unknown task": Bad("run nope", ("'nope'", "hanoi")),
    "no disks": Bad("run hanoi -p disks=0", ("disks", "greater than or equal to 1", "'0'")),
    "too many disks": Bad("run hanoi -p disks=65", ("disks", "less than or equal to 64", "'65'")),
    "disks in words": Bad("run hanoi -p disks=x", ("disks", "valid integer", "'x'")),
    "unknown parameter": Bad("run hanoi -p disk=3", ("no parameter 'disk'", "hanoi has: disks")),
    "parameter twice": Bad("run hanoi -p disks=2 -p disks=3", ("'disks' twice",)),
    "parameter without a value": Bad("run hanoi -p disks", ("NAME=VALUE", "'disks'")),
    "a folder to read": Bad("runs --db folder.db", ("folder.db is a folder", "name a file with --db")),
    "a target without a use": Bad("run hanoi --target 0.9", ("--target goes with -k auto",)),
    "a floor without a use": Bad("run hanoi -k auto --floor 0.6", ("--floor", "-k robust")),
    "broken json": Bad("run hanoi -p disks=[1", ("disks", "JSON", "'[1'")),
    "k of 0": Bad(f"{RUN} -k 0", ("-k", "at least 1", "not 0")),
    "k in words": Bad(f"{RUN} -k many", ("-k", "'many'", "whole number nor auto")),
    "k beyond the samples": Bad(f"{RUN} -k 5 --max-samples 4", ("max_samples=4", "k=5")),
    "target of 1": Bad(f"{RUN} -k auto --target 1", ("--target", "0<x<1")),
    "error rate above 1": Bad(f"{RUN} -M error_rate=1.5", ("error_rate", "less than or equal to 1", "'1.5'")),
    "error rate that is no number": Bad(f"{RUN} -M error_rate=nan", ("error_rate", "'nan'")),
    "unknown option of the model": Bad(f"{RUN} -M errors=1", ("'errors'",)),
    "no concurrency": Bad(f"{RUN} --concurrency 0", ("concurrency", "greater than or equal to 1")),
    "no requests": Bad(f"{RUN} --rpm 0", ("requests_per_minute", "greater than or equal to 1")),
    "no time": Bad(f"{RUN} --timeout 0", ("timeout", "greater than 0")),
    "unknown provider": Bad(f"{RUN} --model nope/x", ("'nope'", "sim")),
    "openai without a model": Bad(f"{RUN} --model openai", ("name of a model", "--model openai/")),
    "missing key": Bad(f"{RUN} --model openai/gpt-4.1-mini", ("set OPENAI_API_KEY", "OPENAI_BASE_URL")),
    "missing folder": Bad(f"{RUN} --db no/such/runs.db", ("folder", "no/such", "create it", "--db")),
    "a folder as database": Bad(f"{RUN} --db folder.db", ("folder.db is a folder", "--db")),
    "this folder as database": Bad(f"{RUN} --db .", ("folder", "--db")),
    "a letter as database": Bad(f"{RUN} --db letter.db", ("letter.db is not an mdap database", "--db")),
    "reading a letter": Bad("runs --db letter.db", ("letter.db is not an mdap database", "--db")),
    "a foreign database": Bad(f"{RUN} --db foreign.db", ("foreign.db is not an mdap database", "--db")),
    "reading a foreign database": Bad("runs --db foreign.db", ("foreign.db is not an mdap database", "--db")),
    "half a database": Bad(f"{RUN} --db truncated.db", ("truncated.db is damaged", "restore")),
    "a newer database": Bad(f"{RUN} --db newer.db", ("newer.db", "schema 1000", "upgrade mdap")),
    "reading a newer database": Bad("show good --db newer.db", ("newer.db", "schema 1000", "upgrade mdap")),
    "no database to read": Bad("runs --db none.db", ("no database none.db", "run a task first")),
    "reading an empty database": Bad("runs --db empty.db", ("empty.db is empty", "run any task")),
    "unknown run to show": Bad("show nope", ("no run 'nope'", "mdap runs")),
    "unknown run to resume": Bad("resume nope", ("no run 'nope'", "mdap runs")),
    "a step that is not there": Bad("show good --step 7", ("no step 7",)),
    "plan for a coin": Bad("plan --steps 10 --error-rate 0.5", ("no k helps", "better model or smaller")),
    "plan for worse": Bad("plan --steps 10 --error-rate 0.9", ("no k helps", "0.9")),
    "plan for an impossible rate": Bad("plan --steps 10 --error-rate 1.5", ("from 0 to 1", "1.5")),
    "plan for no steps": Bad("plan --steps 0 --error-rate 0.1", ("at least 1", "not 0")),
    "plan for no valid sample": Bad("plan --steps 9 --error-rate 0.1 --valid-rate 0", ("valid rate", "0")),
    "plan for a price without end": Bad(
        "plan --steps 9 --error-rate 0.1 --cached-price inf", ("--cached-price", "not a finite number")
    ),
    "plan for tokens that are no number": Bad(
        "plan --steps 9 --error-rate 0.1 --shared-tokens nan", ("--shared-tokens", "not a finite number")
    ),
    "plan without a rate": Bad("plan --steps 10", ("--error-rate",)),
    "a class that is no task": Bad("run tasks.py:Stranger", ("tasks.py:Stranger", "derived from mdap.Chain")),
    "a function as task": Bad("run json:dumps", ("json:dumps is not a task", "derived from mdap.Chain")),
    "half a task": Bad("run tasks.py:Halfway", ("tasks.py:Halfway", "advance, step")),
    "a missing class": Bad("run tasks.py:Nobody", ("tasks.py", "'Nobody'")),
    "a missing file": Bad("run missing.py:Task", ("no file", "missing.py")),
    "a missing module": Bad("run missing_module:Task", ("no module 'missing_module'",)),
    "a file that raises": Bad("run raising.py:T", ("raising.py:T", "RuntimeError", "is broken"), code=1),
    "unknown command": Bad("walk", ("'walk'",)),
    "unknown option": Bad(f"{RUN} --fast", ("--fast",)),
    "no task": Bad("run", ("TASK",)),
}
"""Commands that are refused before anything runs."""


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED)
def test_a_bad_command_is_refused_in_one_sentence(place: Cli, bad: Bad) -> None:
    """Each has its exit code, a sentence naming what is wrong, and the same in one JSON object."""
    ended = place.here(f"{bad.args} --json")

    missing = [word for word in bad.says if word not in ended.sentence]
    assert (missing, ended.code) == ([], bad.code), ended.sentence
    assert ended.json == {"error": ended.sentence, "exit_code": bad.code}
    told = place.here(bad.args)
    assert (told.code, told.out, told.err) == (ended.code, "", ended.err)


@pytest.mark.slow
def test_as_a_process_it_is_just_the_same(place: Cli) -> None:
    """A process prints the sentence and nothing else, and ends with the code."""
    bad = REFUSED["unknown task"]
    told = place(bad.args)

    assert (told.code, told.out) == (bad.code, "")
    assert [word for word in bad.says if word not in told.sentence] == []


def test_a_time_without_end_is_refused(cli: Cli) -> None:
    """Infinity is no deadline."""
    ended = cli.here(f"{RUN} --timeout inf --json")

    assert ended.code == 2
    assert "timeout" in ended.sentence


def test_an_address_that_is_none_is_refused(place: Cli) -> None:
    """OPENAI_BASE_URL must be an address; the sentence shows what one looks like."""
    ended = place.here(f"{RUN} --model openai/m --json", env={"OPENAI_BASE_URL": "localhost"})

    assert ended.code == 2
    assert "must look like http://host:port/v1" in ended.sentence
    assert ended.json == {"error": ended.sentence, "exit_code": 2}


def test_nothing_is_written_where_nothing_runs(place: Cli) -> None:
    """Refused commands create no database, and leave those that are not theirs as they were."""
    before = _databases(place.folder)
    for command in (
        "run hanoi -p disks=0 --db new.db",
        "run hanoi --model nope --db new.db",
        "run nope --db new.db",
        *[f"{RUN} --db {name}" for name in ("foreign.db", "letter.db", "newer.db")],
    ):
        assert place.here(command).code == 2
    assert _databases(place.folder) == before


def _databases(folder: Path) -> dict[str, bytes]:
    # Not the files beside them, which SQLite needs to find out what they are.
    return {path.name: path.read_bytes() for path in folder.glob("*.db") if path.is_file()}


@pytest.mark.slow
def test_a_read_only_database_can_be_read_but_not_run_in(place: Cli, unprivileged: tuple[str, ...]) -> None:
    """Running is refused with a sentence on permissions; looking at what is there still works."""
    refused = place(f"{RUN} --db readonly.db --json", prefix=unprivileged)
    listed = place("runs --db readonly.db", prefix=unprivileged)

    assert refused.code == 2
    assert "readonly.db cannot be written: check its permissions" in refused.sentence
    assert refused.json["error"] == refused.sentence
    assert (listed.code, listed.err) == (0, "")
    assert "good" in listed.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["runs.db", "readonly.db"])
def test_a_folder_without_write_permission_is_one_sentence(
    place: Cli, unprivileged: tuple[str, ...], tmp_path: Path, name: str
) -> None:
    """A database that cannot be created, or whose log cannot be, is refused like any other bad path."""
    shutil.copy(place.folder / "readonly.db", tmp_path)
    tmp_path.chmod(0o555)
    try:
        refused = place(RUN, "--db", str(tmp_path / name), prefix=unprivileged)
    finally:
        tmp_path.chmod(0o755)

    assert refused.code == 2
    assert str(tmp_path / name) in refused.sentence
    assert refused.out == ""


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of loopback that refuses connections for as long as the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        yield int(bound.getsockname()[1])


def test_a_refused_connection_stops_the_run_resumably(cli: Cli, closed_port: int) -> None:
    """Exit code 3, and one sentence that names the address and the command to resume with."""
    env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{closed_port}/v1", "OPENAI_API_KEY": "sk-canary-0123456789"}
    command = f"{RUN} --model openai/m --run-id dead --max-attempts 2"
    ended = cli.here(f"{command} --json", env=env)
    told = cli.here(f"{command} --display none", env=env)
    resumed = cli.here("resume dead --max-attempts 1 --json", env=env)

    assert (ended.code, told.code, resumed.code) == (3, 3, 3)
    assert ended.sentence == told.sentence
    assert f"127.0.0.1:{closed_port}" in ended.sentence
    assert ended.sentence.endswith("resume with: mdap resume dead --db mdap.db")
    printed = ended.json
    assert (printed["status"], printed["steps"], printed["samples"]) == ("stopped", 0, 0)
    assert printed["reason"] in ended.sentence
    assert resumed.json["failed_attempts"] > printed["failed_attempts"] > 0
    assert "sk-canary" not in ended.err + ended.out + told.err + told.out


def test_a_parser_that_fails_is_named_with_its_step(place: Cli) -> None:
    """Exit code 1; plugin, step and error are named, and the sample that caused it is on record."""
    ended = place.here("run tasks.py:Broken --db broken.db -M flag_rate=0 --json")

    assert ended.code == 1
    assert re.search(
        r"tasks\.py:Broken .* step 0: tasks\.py:\d+ in read: ValueError: this parser is broken",
        ended.sentence,
    )
    printed = ended.json
    assert (printed["status"], printed["steps"], printed["votes"]) == ("failed", 0, 0)
    assert printed["reason"] in ended.sentence
    samples = place.query("SELECT step, verdict, flag_reason, text FROM sample_texts", db="broken.db")
    assert samples == [(0, "cancelled", "parser error: ValueError", "1")] * printed["samples"]
    assert samples


def test_an_undecided_step_is_said_to_be_undecided(cli: Cli) -> None:
    """Exit code 1; the sentence gives step, samples and lead, and no answer is passed off as decided."""
    ended = cli.here(f"{RUN} -M error_rate=0.5 -M seed=1 -k 4 --max-samples 4 --json")

    assert ended.code == 1
    step = ended.json["steps"]
    assert re.search(
        rf"step {step} has no winner after 4 samples: .* leads by \d, and k is 4", ended.sentence
    )
    assert (ended.json["status"], ended.json["result"]) == ("undecided", None)
    assert cli.query("SELECT count(*) FROM decisions WHERE step >= ?", step) == [(0,)]
