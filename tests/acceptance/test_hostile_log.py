"""A log of markup, control characters, newlines and format strings, through every command that shows it."""

import json
import re
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli
from tests.viewing import HOSTILE_ID, make_database

UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What must reach no terminal: control characters, and marks that turn the direction of writing."""

NASTY = "%s {0} %(x)s [bold]b[/] \x1b[31m\x9b2J\u202e\nfake-run  run  task  finished\r\n=1+1"

TASKS = f"""
import mdap

NASTY = {NASTY!r}

class Nasty(mdap.Chain[int, str]):
    said: str = NASTY
    breaks: bool = False
    def start(self): return 0
    def step(self, state):
        return mdap.Step(user=self.said, system=NASTY, parse=self.read) if state < 2 else None
    def advance(self, state, answer): return state + 1
    def oracle(self, state): return NASTY
    def mistakes(self, state, truth): return ["other"]
    def render(self, answer): return answer
    def result(self, state): return {{NASTY: [NASTY]}}
    def read(self, text):
        if self.breaks:
            raise ValueError(NASTY)
        if text == "other":
            raise mdap.RedFlag(NASTY)
        return text
"""


@pytest.fixture(scope="module")
def place(shared_cli: Cli) -> Cli:
    """A folder with the hostile runs of the viewer's tests and some of its own."""
    make_database(shared_cli.folder / "mdap.db")
    (shared_cli.folder / "tasks.py").write_text(TASKS, "utf-8")
    done = shared_cli.here(
        "run tasks.py:Nasty -M error_rate=0.3 --run-id nasty --display log", "-p", f"said={NASTY}"
    )
    broken = shared_cli.here("run tasks.py:Nasty -p breaks=true --run-id broken --display none")
    (shared_cli.folder / "done.out").write_text(done.out, "utf-8")
    (shared_cli.folder / "done.err").write_text(done.err, "utf-8")
    (shared_cli.folder / "broken.err").write_text(broken.err, "utf-8")
    assert (done.code, broken.code) == (0, 1), (done, broken)
    return shared_cli


def told(place: Cli, name: str) -> str:
    return Path(place.folder / name).read_text("utf-8")


@pytest.mark.slow
def test_what_a_run_prints_is_fit_for_a_terminal(place: Cli) -> None:
    """Result, log and error: one line each where one is promised, and nothing that a terminal obeys."""
    for name in ("done.out", "done.err", "broken.err"):
        assert UNFIT.search(told(place, name)) is None, name
    lines = told(place, "done.err").splitlines()
    assert len(lines) > 8
    assert all(isinstance(json.loads(line)["event"], str) for line in lines)
    assert told(place, "broken.err").count("\n") == 1
    assert "ValueError" in told(place, "broken.err")


COMMANDS = (
    *("runs", "runs --of pair", "show nasty", "show nasty --step 0", "show broken", "show poor", "show hard"),
    *("audit verify nasty", "audit stats nasty", "audit review nasty", "audit export nasty --format jsonl"),
    *("audit export nasty --format samples-jsonl", "audit verify broken", "audit stats broken"),
    *(f"show '{HOSTILE_ID}'", f"show '{HOSTILE_ID}' --step 4", f"audit review '{HOSTILE_ID}'"),
    f"audit verify '{HOSTILE_ID}'",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_passes_on_what_a_terminal_would_obey(place: Cli, command: str) -> None:
    """Nor does the JSON of it, which is ASCII."""
    ended = place.here(command)
    assert ended.code in (0, 1), ended
    assert UNFIT.search(ended.out) is None
    assert UNFIT.search(ended.err) is None
    assert "Traceback" not in ended.err
    if "export" not in command:
        as_json = place.here(f"{command} --json")
        assert as_json.out.isascii()
        assert isinstance(as_json.json, dict)


def test_a_newline_makes_no_row(place: Cli) -> None:
    """A parameter, a reason or an id cannot put a line of its own into a list."""
    listed = place.here("runs").out.splitlines()
    count = len(place.here("runs --json").json["runs"])
    assert len(listed) == 1 + count
    assert not [line for line in listed if line.startswith("fake-run")]
    for command in ("show nasty", "show nasty --step 0", "audit review nasty", "audit stats nasty"):
        assert not [line for line in place.here(command).out.splitlines() if line.startswith("fake-run")], (
            command
        )


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "", " ", "a\u202eb", "x" * 300])
def test_a_run_cannot_be_given_a_name_that_cannot_be_shown(place: Cli, name: str) -> None:
    """Or else the name is shown harmlessly; either way in one sentence or one line."""
    ended = place.here("run hanoi -p disks=1 --db names.db --json --run-id", name)
    assert UNFIT.search(ended.err) is None
    if ended.code == 2:
        assert ended.sentence
    else:
        assert ended.code == 0
        shown = place.here("runs --db names.db")
        assert UNFIT.search(shown.out) is None


def test_a_report_holds_no_control_characters(place: Cli) -> None:
    """Those of the task's name, parameters, texts and reasons."""
    assert place.here("audit report nasty --output nasty.html").code == 0
    page = told(place, "nasty.html")
    assert "\x1b" not in page
    assert "\x9b" not in page
