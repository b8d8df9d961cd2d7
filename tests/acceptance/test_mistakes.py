"""The commonest mistakes in a domain's own code: a sentence with its line, and a traceback if asked for."""

import json
import re

import pytest

from tests.acceptance.processes import Cli

CHECK = "@field_validator('rows')\n    @classmethod\n    "
HINT = "; MDAP_TRACEBACK=1 shows the traceback"
DOMAIN = """
import json
from typing import Any
import mdap
from pydantic import field_validator

class T(mdap.Process[list[Any]]):
    rows: list[str] = ["1", "2"]
    {validator}
    async def solve(self, ask):
        found = await ask.map([self.ask_for(row) for row in self.rows])
        return {body}
    def ask_for(self, row):
        return mdap.Step(user=f"row {{row}}", parse=self.parse, input=row)
    def parse(self, text):
        {parse}
    def oracle(self, step): return {{"phone": step.input}}
    def mistakes(self, step, truth): return [{{"phone": "?"}}]
    def render(self, step, answer): return json.dumps(answer)
"""
GOOD = "return json.loads(text)"


def domain(parse: str = GOOD, body: str = "found", validator: str = "") -> str:
    return DOMAIN.format(parse=parse, body=body, validator=validator)


MISTAKES = {
    "a key that is not there": (
        domain(parse="return {'phone': json.loads(text)['fone']}"),
        "while reading a reply to step 0: t.py:16 in parse: KeyError: 'fone'",
    ),
    "a parser that raises what is no red flag": (
        domain(parse="return int(text)"),
        "reading a reply to step 0: t.py:16 in parse: ValueError: invalid literal for int() with base 10: ",
    ),
    "None where a value must be": (
        domain(body="[row['phone'].strip(None)[0].nothing for row in found]"),
        "while solving: t.py:12 in ",
    ),
    "a validator that slips": (
        domain(validator=CHECK + "def _whole(cls, v): return [str(int(r)) for r in v]"),
        "parameter rows: t.py:11 in ",
    ),
    "a name that is not imported": (domain() + "\nLIMIT = math.inf\n", "t.py:21 in <module>: NameError"),
    "a typing mistake": (
        domain() + "\nclass U(mdap.Process[int])\n    pass\n",
        "t.py:21: SyntaxError: expected ':'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence_with_its_line(
    cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with `MDAP_TRACEBACK=1`, the traceback before it."""
    source, says = MISTAKES[name]
    (cli.folder / "t.py").write_text(source)
    command = (
        "run t.py:T --display none -p rows='[\"x\"]'" if "validator" in name else "run t.py:T --display none"
    )
    ended = cli.here(command)
    assert says in ended.sentence
    assert ended.sentence.endswith(HINT) is ("validator" not in name)
    assert ended.code == (2 if "validator" in name else 1)
    monkeypatch.setenv("MDAP_TRACEBACK", "1")
    (cli.folder / "u.py").write_text(source)  # not imported before
    shown = cli.here(command.replace("t.py", "u.py"))
    *trace, sentence = shown.err.splitlines()
    assert trace[0] == "Traceback (most recent call last):" if "typing" not in name else trace
    assert says.replace("t.py", "u.py") in sentence
    assert HINT not in sentence
    assert shown.code == ended.code


def test_what_a_validator_says_on_purpose_needs_no_line(cli: Cli) -> None:
    """A `raise` with words for whoever gives the parameter is told as it is."""
    refuse = CHECK + "def _few(cls, v): raise ValueError('at most 300 rows')"
    (cli.folder / "t.py").write_text(domain(validator=refuse))
    ended = cli.here("run t.py:T -p rows='[\"x\"]'")
    assert ended.sentence == """parameter rows: at most 300 rows (given ['x']); t.py:T has: rows"""


CHAIN = """
import mdap
class C(mdap.Chain[int, int]):
    def start(self): return 0
    def step(self, state): return None if state >= 4 else mdap.Step(user=f"{state}", parse=self.parse)
    def advance(self, state, answer): return state + 1
    def oracle(self, state): return state
    def mistakes(self, state, truth): return [truth + 1]
    def render(self, answer): return f"{answer}"
    def length(self): return 4
    def parse(self, text):
        if not text.isdigit(): raise mdap.RedFlag("no digit")
        return int(text)
"""


@pytest.mark.slow
def test_code_that_breaks_after_the_run(cli: Cli) -> None:
    """Resuming, deciding and verifying name the line as well."""
    (cli.folder / "c.py").write_text(CHAIN)
    run = "run c.py:C -M error_rate=0.4 -M seed=3 --max-samples 5 -k 5 --run-id one --display none"
    assert cli.here(run).code == 1
    (cli.folder / "c.py").write_text(CHAIN.replace("return int(text)", "return {}[text]"))
    # One after the other: a run that one command has claimed refuses the next.
    resumed = cli("resume one --display none")
    decided = cli("decide one 0 --answer 0 --reason r")
    verified = cli("audit verify one")
    frame = r"c\.py:13 in parse: KeyError: '\d'"
    for ended in (resumed, decided):
        assert re.search(frame + HINT, ended.err), ended.err
        assert ended.code == 1
    assert re.search(frame, verified.out + verified.err), verified


@pytest.mark.parametrize(
    "command", ["calibrate c.py:C --samples 8", "run c.py:C -k auto --run-id a --display none"]
)
def test_pilots_and_calibrations(cli: Cli, command: str) -> None:
    """What samples a task beforehand names the line of its code."""
    (cli.folder / "c.py").write_text(CHAIN.replace("return int(text)", "return {}[text]"))
    ended = cli.here(command)
    assert re.search(r"c\.py:13 in parse: KeyError: '\d'", ended.err)
    assert ended.code == 1


def test_json_has_the_word_and_the_traceback(cli: Cli) -> None:
    """One object, for programs; `runs` and `show` say the same of a run that is read later."""
    (cli.folder / "t.py").write_text(domain(parse="return {}[text]"))
    told = cli.here("run t.py:T --run-id one --json").json
    assert told["stop_cause"] == "error"
    assert told["traceback"].splitlines()[-1].startswith("KeyError")
    [listed] = cli.here("runs --json").json["runs"]
    assert (listed["status"], listed["stop_cause"]) == ("failed", "error")
    assert "failed: error" in cli.here("runs").out
    shown = cli.here("show one --json").json
    assert shown["traceback"] == told["traceback"]
    assert "error: task" in cli.here("show one").out


def test_a_batch_says_why_its_first_case_failed(cli: Cli) -> None:
    """Nobody need look into a file to see a mistake that all cases share."""
    (cli.folder / "t.py").write_text(domain(parse="return {}[text]"))
    (cli.folder / "cases.jsonl").write_text('{"rows": ["1"]}\n{"rows": ["2"]}\n')
    ended = cli.here("run t.py:T --inputs cases.jsonl --run-id b --display none --out out.jsonl")
    assert "2 cases did not finish; the first, b/0, failed: task" in ended.sentence
    assert "t.py:16 in parse: KeyError" in ended.sentence
    lines = [json.loads(line) for line in (cli.folder / "out.jsonl").read_text().splitlines()]
    assert [line["stop_cause"] for line in lines] == ["error", "error"]
