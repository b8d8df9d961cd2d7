"""How a run came out, on every face of the command line: what its reader needs first, and what -v adds."""

import json
import re
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli

GOOD = "run hanoi -p disks=4 -M error_rate=0.2 -M seed=2 -k 4 --run-id good --display none"
BAD = "run hanoi -p disks=6 -M error_rate=0.3 -k 1 --run-id bad --display none"
DOUBTFUL = "run silent.py:Silent -k 2 -M error_rate=0.25 -M seed=3 --run-id doubtful --display none"
UNKNOWN = "run silent.py:Silent -k 6 -M error_rate=0.01 --run-id unknown --display none"

SILENT = '''
import mdap


class Silent(mdap.Chain[int, int]):
    """Adds ones, and does not say whether the sum is right."""

    def start(self):
        return 0

    def step(self, state):
        return mdap.Step(user=f"{state} + 1", parse=int)

    def advance(self, state, answer):
        return state + 1

    def length(self):
        return 200

    def oracle(self, state):
        return state + 1

    def mistakes(self, state, truth):
        return [truth + 1]

    def render(self, answer):
        return str(answer)
'''


@pytest.fixture(scope="module")
def ran(shared_cli: Cli) -> Cli:
    """One run of each outcome, and their summaries in files."""
    (shared_cli.folder / "silent.py").write_text(SILENT)
    for command in (GOOD, BAD, DOUBTFUL, UNKNOWN):
        ended = shared_cli.here(command)
        assert (ended.code, ended.err) == (0, "")
        name = re.search(r"--run-id (\w+)", command)
        assert name is not None
        (shared_cli.folder / f"{name[1]}.txt").write_text(ended.out)
    return shared_cli


def summary(ran: Cli, name: str) -> list[str]:
    return (ran.folder / f"{name}.txt").read_text().splitlines()


def rows(lines: list[str]) -> list[tuple[str, str]]:
    found = [re.fullmatch(r"  (\S.*?)  +(\S.*)", line) for line in lines]
    return [(row[1], row[2]) for row in found if row is not None]


OUTCOMES = {"good": "solved", "bad": "not solved", "doubtful": "doubtful", "unknown": None}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("good", "hanoi: finished, solved; 15 moves"),
        ("bad", "hanoi: finished, NOT SOLVED; 63 moves"),
        ("doubtful", "silent.py:Silent: finished, DOUBTFUL: P(no errors) is below 0.5; result 200"),
        ("unknown", "silent.py:Silent: finished; result 200"),
    ],
)
def test_the_first_line_says_how_it_came_out(ran: Cli, name: str, line: str) -> None:
    """Status, outcome and result; how sure one can be follows, and where to look."""
    first, *more = summary(ran, name)
    assert first.endswith(line)
    names = list(dict.fromkeys(label for label, _ in rows(more)))
    assert names[:3] == ["P(no errors)", "tokens", "look at"]
    assert not {"digest", "seal", "dispersion", "errors", "error rate"} & set(names)


def test_every_list_shows_the_outcome(ran: Cli) -> None:
    """`runs`, `show` and their JSON say the same."""
    listed = {row["run_id"]: row["outcome"] for row in ran.here("runs --json").json["runs"]}
    assert listed == OUTCOMES
    table = ran.here("runs").out.splitlines()
    assert re.search(r"status +outcome +steps", table[0])
    for name, outcome in OUTCOMES.items():
        [line] = [line for line in table if line.startswith(f"{name} ")]
        assert re.search(rf"finished +{outcome or '-'} +\d", line)
        assert ran.here(f"show {name} --json").json["outcome"] == outcome
        shown = dict(rows(ran.here(f"show {name}").out.splitlines()))
        assert shown["status"].lower().partition(":")[0] == ", ".join(filter(None, ["finished", outcome]))


def test_v_adds_what_most_readers_do_not_need(ran: Cli) -> None:
    """Digest, seal, and the estimates, which agree with P(no errors) to the last digit that is shown."""
    short, long = (dict(rows(ran.here(f"show good{v}").out.splitlines())) for v in ("", " -v"))
    assert long.keys() - short.keys() == {"promise", "errors", "error rate", "dispersion", "digest", "seal"}
    said = ran.here("show good --json").json
    assert (long["digest"], long["seal"]) == (said["digest"], said["seal"])
    p = float(long["P(no errors)"].partition(",")[0])
    found = re.fullmatch(
        r"(\d\.\d{4}) wrong decisions expected: (\d+\.\d\d)% of such runs have any, (\d+\.\d) on average",
        long["errors"],
    )
    assert found is not None, long["errors"]
    expected, share, each = map(float, found.groups())
    assert p + share / 100 == pytest.approx(1, abs=1e-4)
    assert share / 100 * each == pytest.approx(expected, rel=0.05)


def test_the_steps_to_look_at_are_the_most_doubtful_ones(ran: Cli) -> None:
    """As the review ranks them; each line is a command that shows its step."""
    looks = [value for label, value in rows(summary(ran, "doubtful")) if label == "look at"]
    commands = [re.fullmatch(r"mdap (show doubtful --step (\d+) .*?)  # (.*)", look) for look in looks]
    steps = [int(command[2]) for command in commands if command is not None]
    review = ran.here("audit review doubtful --most 3 --json").json["decisions"]
    assert steps == [one["step"] for one in review]
    for command, one in zip(commands, review, strict=True):
        assert command is not None
        votes = [candidate["votes"] for candidate in one["candidates"]]
        assert command[3] == f"{votes[0]} of {sum(votes)} votes, P(wrong) {one['doubt']:.4f}"
        shown = ran.here(command[1])
        assert (shown.code, shown.out.count(": vote for ")) == (0, sum(votes))


def test_an_undecided_step_is_the_first_to_look_at(cli: Cli) -> None:
    """It is the one that has no winner, not one that was sampled ahead of it."""
    ended = cli.here("run hanoi -p disks=3 -M error_rate=0.5 -k 5 --max-samples 6 --run-id u --display none")
    assert ended.code == 1
    first, *more = ended.out.splitlines()
    assert first == "hanoi: undecided"
    looks = [value for label, value in rows(more) if label == "look at"]
    step = cli.query("SELECT count(*) FROM decisions")[0][0]
    assert looks[0] == f"mdap show u --step {step} --db mdap.db  # undecided"
    assert cli.here(looks[0].removeprefix("mdap ").partition("#")[0]).code == 0


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (GOOD, 0, ""),
        (BAD, 1, "mdap: not solved: --fail-unsolved makes that a failure\n"),
        (DOUBTFUL, 1, "mdap: doubtful: --fail-unsolved makes that a failure\n"),
        (UNKNOWN, 0, ""),
        ("resume bad --display none", 1, "mdap: not solved: --fail-unsolved makes that a failure\n"),
    ],
)
def test_fail_unsolved_fails_where_the_result_is_not_good(
    ran: Cli, command: str, code: int, sentence: str
) -> None:
    """Exit code 1 and one sentence; a task that does not say, and whose votes are clear, passes."""
    ended = ran.here(f"{command} --fail-unsolved")
    assert (ended.code, ended.err) == (code, sentence)


def test_a_batch_counts_outcomes_and_its_file_carries_them(cli: Cli, tmp_path: Path) -> None:
    """Each line of --out has its own; the summary counts; with --fail-unsolved one bad case fails it."""
    (tmp_path / "cases.jsonl").write_text('{"disks": 2}\n{"disks": 6}\n')
    command = "run hanoi --inputs cases.jsonl --out out.jsonl -k 1 -M error_rate=0.2 -M seed=5 --display none"
    ended = cli.here(f"{command} --run-id one")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["solved", "not solved"]
    assert (ended.code, ended.out.splitlines()[0]) == (0, "2 of 2 cases finished, 1 solved, 1 not solved")
    failed = cli.here(f"{command} --run-id two --fail-unsolved --json")
    assert (failed.code, failed.json["outcome"]) == (1, "not solved")
    assert failed.json["result"] == {"cases": 2, "finished": 2, "solved": 1, "unsolved": 1}
    assert (
        failed.sentence
        == "1 came out not solved; `mdap runs --of two` lists all, and a file given with --out says why"
    )
    listed = cli.here("runs --of two --json").json["runs"]
    assert [row["outcome"] for row in listed] == ["solved", "not solved"]
