"""Terminals, pipes and disks that cannot take what mdap prints: never the end of a run."""

import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from mdap.cli.main import main
from mdap.cli.streams import Steady
from tests.acceptance.processes import Cli, _environment
from tests.helpers import mostly_slow

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the shell and the devices are those of Unix")

TASK = '''
import sys
import mdap

class Wide(mdap.Chain[int, str]):
    """Wörter ☃"""
    steps: int = 1
    word: str = "Zürich ☃ 日本"

    def start(self): return 0
    def step(self, state): return None if state >= self.steps else mdap.Step(user="q", parse=self.read)
    def advance(self, state, answer): return state + 1
    def read(self, text):
        print("a task that prints", text)
        return text
    def result(self, state): return {"word": self.word}
    def oracle(self, state): return self.word
    def render(self, answer): return answer
    def mistakes(self, state, truth): return ["ß"]
'''

ENCODINGS = ("ascii", "cp1252", "shift_jis", "utf-16")


@pytest.fixture(scope="module")
def place(shared_cli: Cli) -> Cli:
    """A folder with a task that is not ASCII, and a run of it."""
    (shared_cli.folder / "wide.py").write_text(TASK, "utf-8")
    assert shared_cli.here(COMMANDS[0]).code == 0
    return shared_cli


def shell(cli: Cli, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which ``mdap`` is the command."""
    mdap = f'mdap() {{ {shlex.quote(sys.executable)} -W error -m mdap "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", mdap + script],
        cwd=cli.folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def printed(cli: Cli, command: str, encoding: str) -> tuple[int, str]:
    """Run a command within this process, on an output of that encoding; return its code and output."""
    below = io.BytesIO()
    with chdir(cli.folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(below, encoding))
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command))
    assert isinstance(ended.value.code, int)
    return ended.value.code, below.getvalue().decode(encoding)


COMMANDS = (
    "run wide.py:Wide -p steps=3 -M error_rate=0.2 --run-id wide",
    "show wide",
    "show wide --step 0",
    "audit review wide",
    "audit stats wide",
    "audit verify wide --jobs 1",
    "runs",
    "tasks",
    "models",
    "--help",
)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding_of_standard_output_will_do(place: Cli, encoding: str) -> None:
    """What it lacks is escaped; no command fails for it, and JSON is JSON in all of them."""
    for command in COMMANDS:
        code, out = printed(place, command, encoding)
        assert (code, bool(out)) == (0, True), command
    _, out = printed(place, "show wide --json", encoding)
    assert json.loads(out[out.index("{") :])["result"] == {"word": "Zürich ☃ 日本"}


def test_what_the_encoding_lacks_is_escaped(place: Cli) -> None:
    """Western letters stand as they are in a Western encoding; a snowman is an escape."""
    _, out = printed(place, COMMANDS[0], "cp1252")
    assert "word Zürich \\u2603 \\u65e5\\u672c" in out
    _, out = printed(place, COMMANDS[0], "ascii")
    assert "word Z\\xfcrich \\u2603" in out


@pytest.mark.parametrize("columns", ["1", "7"])
def test_a_narrow_terminal_is_no_error(place: Cli, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that can do nothing."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    for command in ("audit review wide", "show wide", "run --help"):
        assert printed(place, command, "ascii")[0] == 0


@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    mostly_slow(
        [
            (">/dev/full", 2, "standard output cannot be written (No space left on device)"),
            ("2>&1 | head -c 1 >/dev/null", 0, ""),
            (">&-", 0, "standard output is closed"),
            ("2>&-", 0, ""),
            ("| head -c 1 >/dev/null", 0, ""),
        ],
        2,
    ),
)
def test_output_that_is_lost_is_no_bug(cli: Cli, redirected: str, code: int, says: str) -> None:
    """The run is finished and on record; only a full disk changes the exit code, and that in one sentence."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no device that is always full")
    run = "mdap run hanoi -p disks=4 --run-id r --display none"
    ended = shell(cli, f"set -o pipefail; {run} {redirected}")
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.count("\n") == (1 if says else 0), ended.stderr
    assert says in ended.stderr
    assert cli.query("SELECT reason FROM run_events WHERE kind = 'finished'") == [(None,)]


@pytest.mark.slow
def test_other_commands_are_no_exception(place: Cli) -> None:
    """Wrong use is 2, whoever listens; an export stops with its reader; click's own output is like ours."""
    ended = shell(
        place,
        """set -o pipefail
        mdap run hanoi -p disks=99 >&- 2>&-; echo $?
        mdap audit export wide | head -c 1 >/dev/null; echo $?
        mdap audit export wide >/dev/full; echo $?
        mdap run --help | head -c 1 >/dev/null; echo $?
        mdap --help >/dev/full; echo $?""",
    )
    assert ended.stdout.split() == ["2", "0", "2", "0", "2"]
    assert ended.stderr.count("\n") == ended.stderr.count("standard output cannot be written") == 2


@pytest.mark.slow
@pytest.mark.parametrize("display", ["plain", "log"])
def test_progress_that_cannot_be_written_does_not_end_a_run(cli: Cli, display: str) -> None:
    """Each way of showing it is tried on a pipe whose reader has left before the first line."""
    reads, writes = os.pipe()
    os.close(reads)
    command = f"run hanoi -p disks=4 -M latency=0.001 --display {display} --json"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "mdap", *command.split()],
        cwd=cli.folder,
        env=_environment() | {"FORCE_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=writes,
    )
    os.close(writes)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert b'"status": "finished"' in out


@pytest.mark.slow
def test_a_terminal_that_is_closed_does_not_end_a_run(cli: Cli) -> None:
    """As with nohup: the terminal is gone, and the run goes on to its end."""
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mdap", *shlex.split("run hanoi -p disks=6 -M latency=0.003 --run-id r")],
        cwd=cli.folder,
        env=_environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    assert os.read(controller, 1)  # it has begun to show something
    os.close(controller)
    assert process.wait(240) == 0
    assert cli.query("SELECT count(*) FROM run_events WHERE kind = 'finished'") == [(1,)]


class _Full:
    """A stream whose disk is full."""

    errors = "strict"
    encoding = "utf-8"

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise OSError(9, "Bad file descriptor")


def test_the_first_failure_is_the_one_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows it is lost quietly; within a process, the streams are given back as they were."""
    monkeypatch.setattr(sys, "stdout", _Full())
    out = sys.stdout
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--steps", "10", "--error-rate", "0.01"])
    assert ended.value.code == 2
    assert sys.stdout is out
    steady = Steady(sys.stdout)
    assert steady.write("text") == 4
    assert steady.failure is not None
    assert not steady.lacks_reader
