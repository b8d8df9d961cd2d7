"""The mistakes of a task's author are told as theirs, in a sentence; and what authors do comes out right."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from mdap.plugins import installed
from tests.acceptance.processes import Cli, Ended

BASE = """
import re, sys, mdap
from typing import Any
from pydantic import field_validator
def num(text):
    found = re.fullmatch(r"x=(-?[0-9]{1,9})", text.strip())
    if not found: raise mdap.RedFlag("no")
    return int(found[1])
class B(mdap.Chain[int, int]):
    n: int = 5
    def start(self): return 0
    def step(self, s): return None if s >= self.n else mdap.Step(user=f"{s}", parse=num)
    def advance(self, s, a): return s + 1
    def oracle(self, s): return s
    def mistakes(self, s, t): return [t + 1]
    def render(self, a): return f"x={a}"
class Q(mdap.Process[Any]):
    def oracle(self, step): return step.input
    def mistakes(self, step, t): return [t + 1]
    def render(self, step, a): return f"x={a}"
def S(i, **more): return mdap.Step(user=f"q{i}", parse=num, input=i, max_tokens=20, **more)
"""


@pytest.fixture
def task(cli: Cli) -> Iterator[Cli]:
    """The command line in a folder with `base.py`, which tasks import as from beside them."""
    (cli.folder / "base.py").write_text(BASE)
    before = list(sys.path)
    yield cli
    sys.path[:] = before
    sys.modules.pop("base", None)


def write(cli: Cli, source: str, name: str = "t.py") -> None:
    (cli.folder / name).parent.mkdir(exist_ok=True)
    (cli.folder / name).write_text(f"from base import *\n{source}\n")


def python(cli: Cli, script: str) -> Ended:
    done = subprocess.run(
        [sys.executable, script], cwd=cli.folder, capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


MISTAKES = {
    # what the class holds, the exit code, and what the sentence says
    "async step": ("async def step(self, s): ...", 2, "T: step is async, and mdap calls it without await"),
    "async length": ("async def length(self): return 5", 2, "length is async"),
    "async start": ("async def start(self): return 0", 2, "write `def start(self)`"),
    "generator": ("def step(self, s): yield mdap.Step(user='u', parse=num)", 2, "step is a generator"),
    "arity": ("def advance(self, s): return s", 2, "write `advance(self, state, answer)`"),
    "text": ("def step(self, s): return 'what?'", 1, "an mdap.Step is needed, not 'what?'"),
    "no user": (
        "def step(self, s): return mdap.Step(user=None, parse=num)",
        1,
        "t.py:3 in step: TypeError: user",
    ),
    "no parser": ("def step(self, s): return mdap.Step(user='u', parse=None)", 1, "parse must be a function"),
    "schema": (
        "def step(self, s): return mdap.Step(user='u', parse=num, schema=[int])",
        1,
        "schema=[<class 'int'>]",
    ),
    "parser": (
        "def step(self, s): return mdap.Step(user='u', parse=lambda t: {}[t])",
        1,
        "t.py:3 in <lambda>: KeyError",
    ),
    "length": ("def length(self): return 'five'", 1, "whole number of at least 0 or None, not 'five'"),
    "plain effects": ("def effects(self, s, d): pass", 1, "write `async def effects"),
    "effects": ("async def effects(self, s, d): 1 / 0", 1, "t.py:3 in effects: ZeroDivisionError"),
    "oracle": (
        "def oracle(self, s): raise KeyError('x')",
        1,
        "T failed while calling oracle: t.py:3 in oracle: KeyError",
    ),
    "mistakes": ("def mistakes(self, s, t): return []", 1, "a list of at least one answer"),
    "render": ("def render(self, a): return a", 1, "render must return a str"),
    "result": ("def result(self, s): return {}['x']", 1, "t.py:3 in result: KeyError: 'x'"),
    "exit": ("def advance(self, s, a): sys.exit(3)", 1, "t.py:3 in advance: it calls sys.exit(3)"),
    "bytes": ("blob: bytes = b'\\xff'", 2, "blob"),
    "infinite": ("limit: float = float('inf')", 2, "limit"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", ["run", "run -k auto", "calibrate"])
def test_a_mistake_in_a_chain_is_its_authors(task: Cli, mistake: str, command: str) -> None:
    """One sentence with the class and the method or the line; never a bug of mdap's."""
    held, code, says = MISTAKES[mistake]
    write(task, f"class T(B):\n    {held}")
    verb, _, options = command.partition(" ")
    more = "-M flag_rate=0 -M error_rate=1 --no-probe"
    ended = task.here(f"{verb} t.py:T {options} {more} {'--display none' if verb == 'run' else ''}")
    assert "bug" not in ended.err
    assert "Traceback" not in ended.err
    if command == "run":
        assert (says in ended.err, ended.code) == (True, code), ended.err
        assert ended.err.count("\n") == 1


def test_a_parameter_that_hides_a_method(task: Cli) -> None:
    """A field called as a method is refused: mdap would call a number."""
    write(task, "import warnings\nwarnings.simplefilter('ignore')\nclass T(B):\n    length: int = 5")
    assert "a parameter 'length', which hides a method" in task.here("run t.py:T").sentence


PROCESSES = {
    "plain solve": ("def solve(self, ask): return 5", "write `async def solve(self, ask)`"),
    "no step": ("async def solve(self, ask): await ask('q')", "an mdap.Step is needed, not 'q'"),
    "coroutine": (
        "async def solve(self, ask): await ask(self.s())\n    async def s(self): ...",
        "needed, not <cor",
    ),
    "no task": (
        "async def solve(self, ask): await ask.solve(5)",
        "t.py:3 in solve: TypeError: ask.solve takes a task",
    ),
    "no function": (
        "async def solve(self, ask): await ask.once(5, key='a')",
        "ask.once takes a function and a key",
    ),
    "exit": ("async def solve(self, ask): sys.exit('done')", "t.py:3 in solve: it calls sys.exit('done')"),
    "exit in a group": (
        "async def solve(self, ask):\n        async with ask.group() as g: g.start(self.s)\n"
        "    async def s(self): sys.exit(1)",
        "it calls sys.exit(1)",
    ),
    "no value": ("async def solve(self, ask): return object()", "object"),
}


@pytest.mark.parametrize("mistake", PROCESSES)
def test_a_mistake_in_a_process_is_its_authors(task: Cli, mistake: str) -> None:
    """The same of processes, also where the mistake is made side by side with something else."""
    held, says = PROCESSES[mistake]
    write(task, f"class T(Q):\n    {held}")
    ended = task.here("run t.py:T --display none")
    assert (says in ended.err, ended.code, ended.err.count("\n")) == (True, 1, 1), ended.err
    assert "bug" not in ended.err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "class T(B): pass\nsys.exit(0)",
            "t.py:3 in <module>: it calls sys.exit(0): put it under `if __name__",
        ),
        (
            "import argparse\nargparse.ArgumentParser().parse_args(['--no'])",
            "t.py:3 in <module>: it calls sys.exit(2)",
        ),
        ("class T(B):\n    kind: str = {}['a']", "t.py:3 in T: KeyError: 'a'"),
    ],
)
def test_what_fails_at_import(task: Cli, source: str, says: str) -> None:
    """A file that ends the process, or fails, when it is imported is told by its line."""
    write(task, source)
    ended = task.here("run t.py:T")
    assert (says in ended.err, ended.code) == (True, 1), ended.err
    assert not (task.folder / "mdap.db").exists()


def test_a_validator_that_fails(task: Cli) -> None:
    """A parameter's own check that does not cope with a value is the author's mistake, too."""
    checked = "@field_validator('kind')\n    @classmethod\n    def _known(cls, v): return {'a': 1}[v]"
    write(task, f"class T(B):\n    kind: str = 'a'\n    {checked}")
    ended = task.here("run t.py:T -p kind=q")
    assert ended.sentence == (
        "task t.py:T failed while checking its parameters: t.py:6 in _known: KeyError: 'q'; "
        "MDAP_TRACEBACK=1 shows the traceback"
    )
    (task.folder / "cases.jsonl").write_text('{"kind": "q"}\n')
    assert (
        "KeyError"
        in task.here("run t.py:T --inputs cases.jsonl --out out.jsonl --json").out
        + (task.folder / "out.jsonl").read_text()
    )


@pytest.mark.slow
def test_what_a_task_prints_goes_to_standard_error_with_json(task: Cli) -> None:
    """Standard output holds one JSON object, whatever prints: Python, a child process, or the descriptor."""
    said = "print('one'); import os, subprocess; os.write(1, b'two\\n'); subprocess.run(['echo', 'three'])"
    write(task, f"{said}\nclass T(B):\n    def advance(self, s, a):\n        print('four'); return s + 1")
    ended = task("run t.py:T -p n=1 --json")
    assert ended.json["result"] == 1
    assert set(ended.err.split()) == {"one", "two", "three", "four"}
    plain = task.here("run t.py:T -p n=1 --display none")
    assert "four" in plain.out


@pytest.fixture
def packages(task: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose packages this process takes for installed."""
    monkeypatch.syspath_prepend(task.folder)
    installed.cache_clear()
    yield task.folder
    installed.cache_clear()


@pytest.mark.slow
def test_broken_plugins_and_namesakes(task: Cli, packages: Path) -> None:
    """Each is listed with what is wrong with it, no other suffers, and an ambiguous name is refused."""
    for name in ("one", "two"):
        about = packages / f"pk_{name}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pk_{name}\nVersion: 1\n")
        points = f"[mdap.tasks]\nlabels = pk_{name}:T\nbroken_{name} = pk_{name}:No\n"
        points += f"[mdap.providers]\nbad_{name} = no:x\n"
        (about / "entry_points.txt").write_text(points)
        write(task, "class T(B): pass", f"pk_{name}.py")
    (task.folder / "pk_two.py").write_text(f"{(task.folder / 'pk_two.py').read_text()}\n")
    listed = task.here("tasks --json")
    tasks = [(each["name"], each["problem"]) for each in listed.json["tasks"]]
    assert listed.code == 0
    assert [problem for name, problem in tasks if name == "hanoi"] == [None]
    assert [problem for name, problem in tasks if name == "labels"] == [
        f"several packages use this name: name this one as pk_{name}:T" for name in ("one", "two")
    ]
    assert ["No" in problem for name, problem in tasks if name.startswith("broken")] == [True, True]
    assert "bad_one" in task.here("models").out
    ended = task.here("run labels")
    assert (
        ended.sentence
        == "several packages call a task 'labels': name the one you want as pk_one:T or pk_two:T"
    )
    assert task.here("run pk_two:T --run-id b --json").json["task"] == "pk_two:T"


def test_a_task_that_moved(task: Cli) -> None:
    """--task names it anew: the run goes on, decides nothing twice, and is verified, its parts included."""
    parts = "class Part(Q):\n    n: int\n"
    parts += "    async def solve(self, ask): return [await ask(S(i)) for i in range(9)]"
    whole = (
        "class T(Q):\n    async def solve(self, ask): return [await ask.solve(Part(n=i)) for i in range(4)]"
    )
    write(task, f"{parts}\n{whole}", "d1/t.py")
    (task.folder / "d1/base.py").write_text(BASE)
    assert task.here("run d1/t.py:T --run-id r --budget-tokens 130 --display none").code == 3
    (task.folder / "d1").rename(task.folder / "d2")
    assert "if the task has moved, name it with --task" in task.here("resume r").sentence
    assert "`mdap resume r --task NAME`" in task.here("run d2/t.py:T --run-id r").sentence
    begun = task.query("SELECT count(*) FROM decisions")[0][0]
    assert begun > 9
    assert task.here("resume r --task d2/t.py:T --json").json["steps"] == 40
    assert "name it with --task" in task.here("audit verify r").sentence
    assert task.here("audit verify r --task d2/t.py:T --json").json["verdict"] == "verified"
    assert task.query("SELECT count(*) FROM runs") == [(5,)]


@pytest.mark.slow
def test_a_script_is_resumed_and_a_closure_says_it_cannot_be(task: Cli) -> None:
    """A class of a script has its file's name; one of a function warns at the start, on standard error."""
    script = (
        "class T(B): n: int = 50\n"
        "def make():\n    class Local(B): n: int = 50\n    return Local\n"
        "Named = make()\n"
        "if __name__ == '__main__':\n"
        "    for name, kind in (('s', T), ('c', make())):\n"
        "        try: mdap.solve_sync(kind(), run_id=name, budget=mdap.Budget(tokens=150))\n"
        "        except mdap.StoppedError: pass\n"
    )
    write(task, script)
    ran = python(task, "t.py")
    assert "class make.<locals>.Local is defined in a function" in ran.err
    assert ran.err.count("\n") == 1
    assert task.here("resume s --json").json["status"] == "finished"
    assert task.here("run t.py:Named --run-id n --budget-tokens 150 --display none").code == 3
    assert task.here("resume n --json").json["status"] == "finished"
    assert "has no 'make.<locals>.Local'; if the task has moved" in task.here("resume c").sentence
    assert task.here("resume c --task t.py:Named --json").json["status"] == "finished"
    assert task.here("audit verify s").code == 0


def test_endless_nesting_ends(task: Cli) -> None:
    """A task that asks for itself is stopped at a depth, in a short sentence; ids keep their limit."""
    write(task, "class T(Q):\n    async def solve(self, ask): return await ask.solve(T())")
    ended = task.here("run t.py:T --run-id r --display none --no-probe")
    assert "tasks are nested more than 32 deep" in ended.sentence
    assert (ended.code, len(ended.sentence) < 500) == (1, True)
    assert task.query("SELECT count(*), max(length(run_id)) <= 100 FROM runs") == [(33, 1)]
    assert "more than 3 deep" in task.here("run t.py:T --max-nesting 3 --display none --no-probe").sentence


@pytest.mark.slow
def test_a_lock_is_waited_out(task: Cli) -> None:
    """Another program's write lock is told of and waited for; nothing is lost."""
    write(task, "class T(B): n: int = 800")
    assert task.here("run t.py:T -p n=1 --display none").code == 0
    process = task.start("run t.py:T --run-id r -M latency=0.001 --display log")
    line_with(process.stderr, "step.decided")
    with closing(sqlite3.connect(task.folder / "mdap.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = line_with(process.stderr, "locked")
        other.execute("ROLLBACK")
    assert "mdap.db is locked by another program; waiting 60 seconds for it at most" in said
    assert task.end(process).code == 0
    assert task.here("audit verify r").code == 0


@pytest.mark.slow
def test_sigterm_ends_a_calibration_as_ctrl_c_does(task: Cli) -> None:
    """With exit code 130, and what was sampled on record."""
    told = "if s: print('a second decision', flush=True)"
    write(
        task,
        f"class T(B):\n    n: int = 1000\n    def advance(self, s, a):\n        {told}\n        return s + 1",
    )
    process = task.start("calibrate t.py:T -M latency=0.2 --samples 100000 --concurrency 4")
    line_with(process.stdout, "a second decision")
    process.send_signal(signal.SIGTERM)
    ended = task.end(process)
    assert (ended.code, "interrupted" in ended.sentence) == (130, True)
    assert task.query("SELECT kind FROM run_events WHERE kind = 'stopped'") == [("stopped",)]
    assert task.query("SELECT 1 FROM samples LIMIT 1") == [(1,)]


@pytest.mark.slow
def test_sigterm_while_a_task_is_imported(task: Cli) -> None:
    """Wherever the command is, SIGTERM ends it with a sentence."""
    write(task, "import time\nprint('here', flush=True)\ntime.sleep(60)")
    process = task.start("run t.py:T")
    line_with(process.stdout, "here")
    process.send_signal(signal.SIGTERM)
    ended = task.end(process)
    assert (ended.code, ended.err.strip()) == (130, "mdap: interrupted")


def line_with(stream: IO[bytes] | None, words: str) -> str:
    """Read lines of a process up to the first with these words, and return it."""
    assert stream is not None
    while line := stream.readline().decode():
        if words in line:
            return line
    raise AssertionError(f"ended without {words!r}")


PICKS = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Pick:
    word: str
    n: int
def read(t):
    m = re.fullmatch(r"(\\w+) ([0-9]+)", t)
    if not m: raise mdap.RedFlag("no")
    return Pick(m[1], int(m[2]))
class Bare(mdap.Process[str]):
    async def solve(self, ask): return (await ask(mdap.Step(user="pick", parse=read))).word
class Full(Bare):
    def render(self, step, a): return f"{a.word} {a.n}"
def replies(model, options):
    from mdap.testing import ScriptedProvider
    return ScriptedProvider(lambda request, n: ["a 1", "b 2"][n % 2])
"""


@pytest.mark.parametrize("kind", ["Bare", "Full"])
def test_a_typed_answer_is_settled_by_hand(task: Cli, kind: str) -> None:
    """The answer has the class of those that were voted for: settled, resumed and verified."""
    write(task, PICKS)
    assert task.here(f"run t.py:{kind} --model t.py:replies --run-id r --max-samples 6 --no-probe").code == 1
    assert "is no answer" in task.here("decide r 0 --answer '{\"word\": 1}' --reason ok").sentence
    assert task.here('decide r 0 --answer \'{"word": "c", "n": 3}\' --reason ok').code == 0
    assert task.here("resume r --json").json["result"] == "c"
    assert task.here("audit verify r --json").json["verdict"] == "verified"
