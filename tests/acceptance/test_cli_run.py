"""Whole runs from the command line: what they print, what they record, and that both agree."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Cli

DOCUMENTED: dict[str, type | tuple[type, ...]] = {
    "run_id": str,
    "task": str,
    "status": str,
    "result": dict,
    "steps": int,
    "votes": int,
    "samples": int,
    "red_flags": int,
    "outcome": str,
    "void": int,
    "cancelled": int,
    "failed_attempts": int,
    "k": int,
    "usage": dict,
    "cost_usd": (float, type(None)),
    "seconds": float,
    "p_zero_errors": float,
}
"""The keys of ``mdap run --json`` (DESIGN.md section 7) and what they hold in a finished run."""

MIXED = (
    "run hanoi -p disks=6 -k 4 -M error_rate=0.1 -M flag_rate=0.1 -M fault_rate=0.05 -M latency=0.002 "
    "-M seed=3 --json"
)
"""A run in which everything happens that can happen to a sample."""


@pytest.fixture(scope="module")
def mixed(shared_cli: Cli) -> dict[str, Any]:
    ended = shared_cli.here(MIXED, "--run-id", "mixed")
    assert ended.code == 0, ended.err
    return ended.json


# What a run prints


def test_json_has_the_documented_keys_and_nothing_else_is_printed(cli: Cli) -> None:
    """Standard output is one JSON object with every key of the contract; standard error is silent."""
    ended = cli("run hanoi --json")

    assert (ended.code, ended.err) == (0, "")
    printed = ended.json
    assert DOCUMENTED.keys() - printed.keys() == set()
    wrong = {name: printed[name] for name, kind in DOCUMENTED.items() if not isinstance(printed[name], kind)}
    assert wrong == {}
    assert printed["usage"].keys() == {"input_tokens", "output_tokens"}
    assert (printed["task"], printed["status"], printed["k"]) == ("hanoi", "finished", 3)
    assert printed["result"] == {"solved": True, "moves": 1023}
    assert printed["steps"] == 1023


def test_people_are_told_the_outcome_the_log_and_a_next_command_that_works(cli: Cli) -> None:
    """Without --json, the summary gives result, votes, flags and database, and names a good command."""
    ended = cli.here("run hanoi -p disks=5 -M flag_rate=0.2 --display none")

    assert (ended.code, ended.err) == (0, "")
    headline, *lines = ended.out.splitlines()
    assert headline == "hanoi: finished, solved; 31 moves"
    said = dict(line.strip().split("  ", 1) for line in lines)
    said = {name: value.strip() for name, value in said.items()}
    [[run_id, votes, flags, samples]] = cli.query("SELECT run_id, votes, red_flags, samples FROM run_totals")
    assert flags > 0
    assert said["votes"] == f"{votes} of {samples} samples"
    assert said["red flags"] == str(flags)
    assert said["log"] == f"{cli.folder / 'mdap.db'}, run {run_id}"
    assert said["look at"].startswith("mdap show ")
    shown = cli.here(said["look at"].removeprefix("mdap ").partition("#")[0])
    assert shown.code == 0
    assert ": vote for " in shown.out


# That runs come out right


@pytest.mark.parametrize("disks", [1, 2, 5, 6])
def test_towers_of_every_parity_are_solved(cli: Cli, disks: int) -> None:
    """Even and odd towers end on the third peg, after exactly 2^n - 1 decided steps."""
    printed = cli.here(f"run hanoi -p disks={disks} --json").json

    moves = 2**disks - 1
    assert (printed["status"], printed["steps"]) == ("finished", moves)
    assert printed["result"] == {"solved": True, "moves": moves}


@pytest.mark.parametrize("seed", range(2))
def test_a_pilot_finds_a_margin_that_solves(cli: Cli, seed: int) -> None:
    """With -k auto, ten disks are solved at error rate 0.05, and the margin is recorded with the run."""
    rates = f"-M error_rate=0.05 -M flag_rate=0.02 -M seed={seed}"
    ended = cli.here(f"run hanoi -p disks=10 {rates} -k auto --target 0.999 --json")

    assert ended.code == 0
    printed = ended.json
    assert (printed["status"], printed["result"]) == ("finished", {"solved": True, "moves": 1023})
    # By the law, k = 5 reaches 0.999 at an error rate of 0.05; a bound on the rate asks for no less.
    assert printed["k"] >= 5
    assert cli.query("SELECT kind, k FROM runs ORDER BY id DESC LIMIT 1") == [("run", printed["k"])]


@pytest.mark.slow
def test_too_small_a_margin_ends_unsolved_and_says_so(cli: Cli) -> None:
    """At error rate 0.3, k = 1 decides a step wrongly and reports it; -k auto decides them all rightly."""
    run = "run hanoi -p disks=8 -M error_rate=0.3"
    wrong = cli.here(f"{run} -k 1 --run-id wrong --json")
    right, told = cli.here(f"{run} -k auto --run-id right --json"), cli.here("resume wrong")

    assert (wrong.code, right.code, told.code) == (0, 0, 0)
    assert (wrong.json["status"], wrong.json["steps"]) == ("finished", 255)
    assert wrong.json["result"]["solved"] is False
    assert right.json["result"]["solved"] is True
    assert (wrong.json["outcome"], right.json["outcome"]) == ("not solved", "solved")
    assert told.out.startswith("hanoi: finished, NOT SOLVED")
    differing = cli.query(
        "SELECT count(*) FROM decided_steps a JOIN decided_steps b USING (step, input) "
        "WHERE a.run_id = 'wrong' AND b.run_id = 'right' AND a.answer <> b.answer"
    )
    assert differing[0][0] >= 1


@pytest.mark.slow
def test_failed_attempts_are_neither_votes_nor_flags(cli: Cli) -> None:
    """A provider that drops attempts gives the same votes and flags as one that does not, only later."""
    run = "run hanoi -p disks=6 -M flag_rate=0.1 --json"
    sound, faulty = cli.here(f"{run} --db sound.db"), cli.here(f"{run} -M fault_rate=0.02")

    assert (sound.code, faulty.code) == (0, 0)
    same = ("steps", "votes", "red_flags", "samples", "usage", "result")
    assert [sound.json[name] for name in same] == [faulty.json[name] for name in same]
    assert sound.json["failed_attempts"] == 0
    assert sound.json["red_flags"] > 0
    assert faulty.json["failed_attempts"] > 0
    tried = cli.query(
        "SELECT s.attempts, (SELECT count(*) FROM run_events e WHERE e.run = s.run AND e.step = s.step "
        "AND e.kind = 'attempt_failed' AND e.data->>'ordinal' = s.ordinal) AS failed FROM samples s "
        "WHERE failed > 0"
    )
    assert sum(failed for _, failed in tried) == faulty.json["failed_attempts"]
    assert [attempts for attempts, _ in tried] == [1 + failed for _, failed in tried]


# The paper's table


PAPER = [
    ("gpt-4.1-nano", 0.3571, 29),
    ("gpt-4.1-mini at 1.0", 0.0040, 4),
    ("gpt-4.1-mini at 0.1", 0.0022, 3),
    ("o3-mini", 0.0018, 3),
    ("haiku-4.5", 0.1839, 12),
    ("gpt-oss-20B", 0.0358, 6),
    ("qwen3", 0.2342, 15),
    ("deepseek-v3.1", 0.0569, 6),
    ("kimi-k2", 0.0393, 6),
]


@pytest.mark.parametrize(("rate", "k"), [row[1:] for row in PAPER], ids=[row[0] for row in PAPER])
def test_plan_reproduces_the_margins_of_the_paper(cli: Cli, rate: float, k: int) -> None:
    """For each model of the paper's table, a million steps at t = 0.95 need the k_min given there."""
    ended = cli.here(f"plan --steps 1048575 --error-rate {rate} --json")

    assert (ended.code, ended.json["k"]) == (0, k)


def test_plan_refuses_where_the_paper_has_no_margin(cli: Cli) -> None:
    """llama-3.2-3B is always wrong: no k helps, and none is named."""
    ended = cli.here("plan --steps 1048575 --error-rate 1.0 --json")

    assert ended.code == 2
    assert "no k helps" in ended.sentence


def test_plan_tells_people_what_it_tells_programs(cli: Cli) -> None:
    """Votes, samples, cost and hours stand in both outputs, and follow from each other."""
    command = (
        "plan --steps 1000 --error-rate 0.01 --valid-rate 0.9 --input-tokens 600 --output-tokens 500 "
        "--input-price 1 --output-price 4 --rpm 1000"
    )
    told, printed = cli.here(command), cli.here(f"{command} --json")

    plan = printed.json
    assert plan["samples"] == pytest.approx(plan["votes"] / 0.9)
    assert plan["cost_usd"] == pytest.approx(plan["samples"] * (600 * 1 + 500 * 4) / 1e6)
    assert plan["seconds"] == pytest.approx(plan["samples"] / 1000 * 60)
    for number in (f"{plan['votes']:,.0f}", f"{plan['samples']:,.0f}", f"{plan['cost_usd']:,.2f} USD"):
        assert number in told.out


# That the record agrees


def test_totals_are_what_sql_says(shared_cli: Cli, mixed: dict[str, Any]) -> None:
    """Each number printed is what a query over the tables of record gives; the views agree."""
    verdicts = Counter(dict(shared_cli.query("SELECT verdict, count(*) FROM samples GROUP BY verdict")))
    printed = {"vote": "votes", "flag": "red_flags", "void": "void", "cancelled": "cancelled"}
    assert {verdict: mixed[name] for verdict, name in printed.items() if mixed[name]} == verdicts
    assert mixed["samples"] == verdicts.total()
    [[decisions]] = shared_cli.query("SELECT count(*) FROM decisions")
    assert mixed["steps"] == decisions == 63
    [[failed]] = shared_cli.query("SELECT count(*) FROM run_events WHERE kind = 'attempt_failed'")
    assert mixed["failed_attempts"] == failed
    [tokens] = shared_cli.query("SELECT sum(input_tokens), sum(output_tokens) FROM samples")
    assert (mixed["usage"]["input_tokens"], mixed["usage"]["output_tokens"]) == tokens
    names = "steps, samples, votes, red_flags, void, cancelled, failed_attempts"
    [totals] = shared_cli.query(f"SELECT {names} FROM run_totals")
    assert totals == tuple(mixed[name] for name in names.split(", "))
    # Otherwise some of these would compare nothing with nothing.
    assert min(verdicts["vote"], verdicts["flag"], verdicts["void"], failed) > 0


def test_every_decision_leads_by_the_margin(shared_cli: Cli, mixed: dict[str, Any]) -> None:
    """The votes in the tally are the sample rows, recounted, and the winner leads all others by k."""
    decided = shared_cli.query("SELECT step, opening, winner, tally, margin FROM decisions ORDER BY place")
    assert [step for step, *_ in decided] == list(range(63))
    for step, opening, winner, spelled, margin in decided:
        tally = json.loads(spelled)
        votes = shared_cli.query(
            "SELECT count(*) FROM samples WHERE step = ? AND opening = ? AND verdict = 'vote' "
            "GROUP BY answer_key ORDER BY 1",
            step,
            opening,
        )
        assert sorted(tally.values()) == [count for (count,) in votes]
        lead = tally.pop(winner) - max(tally.values(), default=0)
        assert lead == margin >= mixed["k"]


# Looking at runs


def test_runs_lists_them_newest_first(cli: Cli) -> None:
    """The list gives id, task, margin, status and decided steps, to people and to programs."""
    for disks in ("2", "3"):
        assert cli.here(f"run hanoi -p disks={disks} --run-id tower-{disks} --json").code == 0
    told, printed = cli.here("runs"), cli.here("runs --json")

    assert (told.code, told.err, printed.err) == (0, "", "")
    heads, *rows = [line.split() for line in told.out.splitlines()]
    assert heads == ["run", "kind", "task", "model", "k", "status", "outcome", "steps", "created"]
    assert [row[:8] for row in rows] == [
        ["tower-3", "run", "hanoi", "sim", "3", "finished", "solved", "7"],
        ["tower-2", "run", "hanoi", "sim", "3", "finished", "solved", "3"],
    ]
    listed = printed.json["runs"]
    assert [(run["run_id"], run["params"]["disks"], run["steps"]) for run in listed] == [
        ("tower-3", 3, 7),
        ("tower-2", 2, 3),
    ]


def test_show_gives_what_the_run_printed(shared_cli: Cli, mixed: dict[str, Any]) -> None:
    """A run can be looked at later, by id, a unique beginning of it, or as the latest."""
    whole, prefix, latest, told = map(
        shared_cli.here, ("show mixed --json", "show mix --json", "show latest --json", "show mixed")
    )

    assert whole.json == prefix.json == latest.json
    assert {name: whole.json[name] for name in mixed} == mixed
    assert whole.json["params"]["disks"] == 6
    assert [event["kind"] for event in whole.json["events"]] == ["started", "finished", "sealed"]
    assert (told.code, told.err) == (0, "")
    assert f"{mixed['samples']:,}: {mixed['votes']:,} votes, {mixed['red_flags']:,} flags" in told.out


def test_show_step_gives_every_sample_of_it(shared_cli: Cli, mixed: dict[str, Any]) -> None:
    """One step is shown with its input, its answer, and each sample with verdict and text."""
    [[step]] = shared_cli.query("SELECT step FROM samples WHERE verdict = 'flag' LIMIT 1")
    told, printed = map(shared_cli.here, (f"show mixed --step {step}", f"show mixed --step {step} --json"))

    assert printed.json["step"] == step
    decided = [opening for opening in printed.json["openings"] if opening["answer"] is not None]
    assert len(decided) == 1
    assert max(decided[0]["votes"].values()) - decided[0]["margin"] >= 0
    samples = [sample for opening in printed.json["openings"] for sample in opening["samples"]]
    recorded = shared_cli.query(
        "SELECT ordinal, verdict, flag_reason, text FROM sample_texts WHERE step = ? "
        "ORDER BY opening, ordinal",
        step,
    )
    names = ("ordinal", "verdict", "flag_reason", "text")
    assert [tuple(sample[name] for name in names) for sample in samples] == recorded
    for ordinal, verdict, reason, _ in recorded:
        assert f"sample {ordinal}: {verdict}" in told.out
        assert reason is None or f"({reason})" in told.out


def test_what_is_installed_is_listed(cli: Cli) -> None:
    """Tasks come with their parameters and providers with their options, to people and to programs."""
    tasks, tasks_json, models, models_json = map(
        cli.here, ("tasks", "tasks --json", "models", "models --json")
    )

    assert {ended.code for ended in (tasks, tasks_json, models, models_json)} == {0}
    assert "-p disks=10" in tasks.out
    [hanoi] = [task for task in tasks_json.json["tasks"] if task["name"] == "hanoi"]
    assert hanoi["params"]["disks"]["default"] == 10
    assert "-M error_rate=" in models.out
    listed = {model["name"]: model["options"] for model in models_json.json["models"]}
    assert {"sim", "openai"} <= listed.keys()
    assert {"error_rate", "flag_rate", "hard_rate", "latency", "fault_rate", "seed"} <= listed["sim"].keys()


# Naming a run


def test_the_same_command_again_changes_nothing(cli: Cli) -> None:
    """A finished run of that name is returned as it is, by run and by resume, and nothing is bought."""
    command = "run hanoi -p disks=4 --run-id mine --json"
    count = "SELECT (SELECT count(*) FROM samples), (SELECT count(*) FROM run_events), count(*) FROM runs"
    first = cli.here(command)
    rows = cli.query(count)
    again, resumed = cli.here(command), cli.here("resume mine --json")

    assert (again.code, resumed.code) == (0, 0)
    assert again.json == resumed.json == first.json
    assert cli.query(count) == rows


def test_the_same_name_with_other_settings_is_refused(cli: Cli) -> None:
    """Parameters, margin, temperature, model options or model: the refusal names which one differs."""
    named = "--run-id mine --json"
    assert cli.here(f"run hanoi -p disks=3 {named}").code == 0
    count = "SELECT count(*), (SELECT count(*) FROM run_events) FROM samples"
    rows = cli.query(count)
    differing = {
        "disks = 3, not 4": "-p disks=4",
        "k = 3, not 4": "-p disks=3 -k 4",
        "max_tokens = 750, not 500": "-p disks=3 --max-tokens 500",
        "error_rate": "-p disks=3 -M error_rate=0.2",
        "openai/other": "-p disks=3 --model openai/other -M base_url=http://127.0.0.1:9/v1",
    }
    refused = [cli.here(f"run hanoi {options} {named}") for options in differing.values()]

    assert [ended.code for ended in refused] == [2] * len(differing)
    for what, ended in zip(differing, refused, strict=True):
        assert ended.sentence.startswith("run mine was started with ")
        assert what in ended.sentence
        assert "start another run" in ended.sentence
        assert ended.json["error"] == ended.sentence
    assert cli.query(count) == rows


def test_the_environment_names_the_database(cli: Cli) -> None:
    """MDAP_DB stands for --db in every command, and an explicit --db comes before it."""
    env = {"MDAP_DB": "elsewhere.db"}
    assert cli.here("run hanoi -p disks=2 --run-id there --json", env=env).code == 0
    assert not (cli.folder / "mdap.db").exists()
    assert "there" in cli.here("runs", env=env).out

    ended = cli.here("run hanoi -p disks=2 --run-id here --db mdap.db --json", env=env)
    assert ended.code == 0
    assert cli.query("SELECT run_id FROM runs") == [("here",)]
    assert cli.query("SELECT run_id FROM runs", db="elsewhere.db") == [("there",)]


# Progress


def test_plain_progress_is_lines_on_standard_error(cli: Cli) -> None:
    """Off a terminal, progress is plain without being asked for, and its last line is the end."""
    asked = cli.here("run hanoi -p disks=4 --run-id one --display plain --json")
    unasked = cli.here("run hanoi -p disks=4 --run-id two --db two.db")

    printed = asked.json
    counted = f"step 15 of 15, {printed['votes']} votes, {printed['red_flags']} flags"
    assert asked.err.splitlines()[-1] == f"one: {counted}"
    assert unasked.err.splitlines()[-1] == f"two: {counted}"


@pytest.mark.slow
def test_log_is_one_json_object_a_line_for_each_fact(shared_cli: Cli) -> None:
    """Each decision, sample and failed attempt on record is one event on standard error."""
    ended = shared_cli(f"{MIXED} --run-id logged --db logged.db --display log")

    assert ended.code == 0
    events = [json.loads(line) for line in ended.err.splitlines()]
    counts = Counter(event["event"] for event in events)
    assert counts["step.decided"] == ended.json["steps"]
    assert counts["sample.taken"] == ended.json["samples"]
    assert counts["attempt.failed"] == ended.json["failed_attempts"] > 0
    assert (counts["run.started"], counts["run.finished"]) == (1, 1)
    assert [event["event"] for event in (events[0], *events[-2:])] == [
        "run.started",
        "run.finished",
        "run.sealed",
    ]
    assert all("timestamp" in event and "level" in event for event in events)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_there_is_a_bar(cli: Cli) -> None:
    """On a terminal, the bar is on standard error and the summary alone on standard output."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mdap", "run", "hanoi", "-p", "disks=4"],
        cwd=cli.folder,
        env={"PATH": os.defpath, "TERM": "xterm", "COLUMNS": "150"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=240)
    drawn = _drain(ours).decode()

    assert process.returncode == 0
    assert out.startswith("hanoi: finished, solved; 15 moves\n")
    assert "\x1b" not in out
    assert "15/15" in drawn


def _drain(terminal: int) -> bytes:
    """Return all that was written to the terminal, whose other end is closed by now."""
    written = b""
    with open(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(65536)
            except OSError:  # Linux's word for the end of a terminal
                part = b""
            if not part:
                return written
            written += part


def test_a_task_from_a_file_runs_like_an_installed_one(cli: Cli, tmp_path: Path) -> None:
    """TASK may be path/file.py:Class, from any folder, and module:Class; each can be resumed by its run."""
    (tmp_path / "count.py").write_text(COUNT)
    ended = cli.here("run count.py:Count -p most=4 -M flag_rate=0 --run-id counted --json")

    assert (ended.code, ended.err) == (0, "")
    assert (ended.json["status"], ended.json["steps"], ended.json["result"]) == ("finished", 4, 4)
    assert cli.here("resume counted --json").json == ended.json
    module = cli.here("run mdap_hanoi:Hanoi -p disks=2 --json")
    assert (module.code, module.json["task"]) == (0, "hanoi")


COUNT = '''
import mdap

class Count(mdap.Chain[int, int]):
    """Count to a number."""

    most: int = 3

    def start(self): return 0
    def step(self, state): return mdap.Step(user=f"What comes after {state}?", parse=int)
    def advance(self, state, answer): return answer
    def length(self): return self.most
    def oracle(self, state): return state + 1
    def mistakes(self, state, truth): return [truth + 1]
    def render(self, answer): return str(answer)
'''


# Planning and calibrating

PRICES = "--input-tokens 600 --output-tokens 538 --input-price 0.4 --output-price 1.6"


def test_plan_tells_what_a_budget_buys(cli: Cli) -> None:
    command = f"plan --steps 1048575 --error-rate 0.0022 {PRICES} --budget-usd 50 --latency 2 --rpm 5000"
    told, printed = cli.here(command), cli.here(f"{command} --json")

    plan = printed.json
    assert plan["budget"]["enough"] is False
    assert f"{plan['budget']['steps']:,} steps at this target" in told.out
    assert plan["seconds"] == pytest.approx(1048575 * 2)
    assert "2 seconds a step" in told.out


@pytest.mark.parametrize(("kind", "head"), [("margins", "k = 3"), ("subtasks", "steps a sample")])
def test_plan_shows_tables(cli: Cli, kind: str, head: str) -> None:
    command = f"plan --steps 1000 --error-rate 0.01 {PRICES} --table {kind}"
    told, printed = cli.here(command), cli.here(f"{command} --json")

    assert head in told.out
    assert len(printed.json["table"]) > 5
    assert all(row["cost_usd"] > 0 for row in printed.json["table"])


def test_plan_needs_prices_for_a_budget(cli: Cli) -> None:
    ended = cli.here("plan --steps 1000 --error-rate 0.01 --budget-usd 5")

    assert ended.code == 2
    assert "--input-tokens" in ended.sentence


def test_calibrate_compares_models_by_what_they_will_cost(cli: Cli) -> None:
    """Sorted by cost or, without prices, by samples; told to people and to programs alike."""
    models = "--model sim/bad?error_rate=0.2 --model sim/good?error_rate=0.01"
    command = f"calibrate hanoi -p disks=8 {models} --samples 800"
    printed, told = cli.here(f"{command} --json"), cli.here(command)

    assert (printed.code, told.code) == (0, 0)
    names = [made["models"] for made in printed.json["calibrations"]]
    assert names == [["sim/good?error_rate=0.01"], ["sim/bad?error_rate=0.2"]]
    good, bad = printed.json["calibrations"]
    assert good["k"] < bad["k"]
    assert good["error_rate"]["low"] <= 0.01 <= good["error_rate"]["high"]
    for made in (good, bad):
        assert f"{made['projection']['samples']['value']:,.0f}" in told.out
    assert told.out.index("sim/good?error_rate=0.01  ") < told.out.index("sim/bad?error_rate=0.2   ")


def test_a_run_takes_the_calibration_that_was_made_for_it(cli: Cli) -> None:
    rates = "-M error_rate=0.05"
    made = cli.here(f"calibrate hanoi -p disks=8 {rates} --samples 2000 --target 0.99 --json").json
    ran = cli.here(f"run hanoi -p disks=8 {rates} -k auto --target 0.99 --json").json

    assert ran["k"] == made["calibrations"][0]["k"]
    assert cli.query("SELECT kind FROM runs ORDER BY id") == [("calibration",), ("run",)]


def test_a_calibration_that_a_budget_ends_says_so(cli: Cli) -> None:
    ended = cli.here("calibrate hanoi -p disks=8 --samples 4000 --budget-tokens 50000")

    assert ended.code == 3
    assert "calibrate again for more" in ended.sentence
    assert "hanoi by sim: stopped" in ended.out
