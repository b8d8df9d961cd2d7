"""What a shell offers after a few letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mdap
from tests.helpers import Walk


def offered(folder: Path, line: str) -> set[str]:
    """Return what bash would be offered at the end of *line*."""
    words = line.split()
    place = len(words) - (not line.endswith(" "))
    asked = {"_MDAP_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(place)}
    command = [sys.executable, "-m", "mdap"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **asked}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return {item.partition(",")[2] for item in done.stdout.split()}


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
def test_what_begins_like_that_is_offered(tmp_path: Path, line: str, some: set[str]) -> None:
    """Commands, tasks, parameters and models."""
    assert some <= offered(tmp_path, line)


async def test_runs_of_the_database_are_offered(tmp_path: Path) -> None:
    """By beginning, where ``--db`` names the file as in the default one; without one, nothing."""
    assert offered(tmp_path, "mdap show ") == set()
    await mdap.solve(Walk(steps=2), db=tmp_path / "mdap.db", run_id="walk-1")
    await mdap.solve(Walk(steps=2), db=tmp_path / "other.db", run_id="wide-2")
    assert offered(tmp_path, "mdap show ") == {"latest", "walk-1"}
    assert offered(tmp_path, "mdap audit verify --db other.db w") == {"wide-2"}
    assert offered(tmp_path, "mdap runs --of w") == {"walk-1"}
