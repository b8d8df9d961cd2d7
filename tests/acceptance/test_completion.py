"""What a shell offers after a few letters."""

import pytest

import mdap
from tests.acceptance.processes import Cli
from tests.helpers import Walk


def offered(cli: Cli, line: str) -> set[str]:
    """Return what bash would be offered at the end of *line*."""
    words = line.split()
    place = len(words) - (not line.endswith(" "))
    asked = {"_MDAP_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(place)}
    done = cli.here("", env=asked)
    assert (done.code, done.err) == (0, "")
    return {item.partition(",")[2] for item in done.out.split()}


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("mdap re", {"resume"}),
        ("mdap run ha", {"hanoi"}),
        ("mdap run hanoi -p ", {"disks="}),
        ("mdap run hanoi -p disks=3 -p di", {"disks="}),
        ("mdap run hanoi --model openai/gpt-4.1-m", {"openai/gpt-4.1-mini"}),
        ("mdap run hanoi --model si", {"sim"}),
        ("mdap run hanoi --escalate-to anth", {"anthropic"}),
        ("mdap calibrate ha", {"hanoi"}),
        ("mdap resume x --task ha", {"hanoi"}),
    ],
)
def test_what_begins_like_that_is_offered(cli: Cli, line: str, some: set[str]) -> None:
    """Commands, tasks, parameters and models."""
    assert some <= offered(cli, line)


def test_runs_of_the_database_are_offered(cli: Cli) -> None:
    """By beginning, where ``--db`` names the file as in the default one; without one, nothing."""
    assert offered(cli, "mdap show ") == set()
    mdap.solve_sync(Walk(steps=2), db=cli.folder / "mdap.db", run_id="walk-1")
    mdap.solve_sync(Walk(steps=2), db=cli.folder / "other.db", run_id="wide-2")
    assert offered(cli, "mdap show ") == {"latest", "walk-1"}
    assert offered(cli, "mdap audit verify --db other.db w") == {"wide-2"}
    assert offered(cli, "mdap runs --of w") == {"walk-1"}
