"""Facts of runs as records of the standard library's `logging`; nothing printed unless that is configured."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, Walk

SCRIPT = """
import logging, sys
{configured}
import mdap
sys.path.insert(0, {root!r})
from tests.helpers import PROVIDED, Walk
from mdap.testing import ScriptedProvider
PROVIDED["it"] = ScriptedProvider([mdap.TransientError("busy", kind="http_503"), "SECRET", "1", "1", "1"])
mdap.solve_sync(Walk(steps=1), model="tests.helpers:provided/it", db="a.db", run_id="one")
"""


@pytest.fixture(autouse=True)
def _providers() -> Iterator[None]:
    PROVIDED.clear()
    yield
    PROVIDED.clear()


def run(folder: Path, configured: str = "") -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    script = SCRIPT.format(configured=configured, root=root)
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=240, check=True
    )


def test_nothing_is_printed_by_default(tmp_path: Path) -> None:
    """A program that configures no logging sees none, neither of failed attempts nor of anything else."""
    ended = run(tmp_path)
    assert (ended.stdout, ended.stderr) == ("", "")


@pytest.mark.slow
def test_basic_config_shows_what_happens(tmp_path: Path) -> None:
    """One line a fact, with the run's id in it, and no text of a model."""
    lines = run(tmp_path, "logging.basicConfig(level=logging.INFO)").stderr.splitlines()
    named = [line for line in lines if line.startswith(("INFO:mdap.run:", "WARNING:mdap.run:"))]
    assert named[0] == "INFO:mdap.run:run.started run_id=one run=1"
    failed = "attempt.failed run_id=one run=1 step=0 ordinal=0 attempt=1 kind='http_503' error=busy"
    assert f"WARNING:mdap.run:{failed}" in named
    assert "INFO:mdap.run:step.decided run_id=one run=1 step=0 votes=3 margin=3" in named
    assert all("run_id=one" in line for line in named)
    assert "SECRET" not in "".join(lines)


async def records(
    caplog: pytest.LogCaptureFixture, level: int, task: mdap.Task, db: Path, **settings: Any
) -> list[Any]:
    with caplog.at_level(level, logger="mdap"):
        async with mdap.Session(db=db, **settings) as session:
            await session.run(task, run_id="one")
    return [record for record in caplog.records if record.name == "mdap.run"]


class Broken(Walk):
    """Has a parser that fails."""

    def read(self, text: str) -> int:
        raise KeyError("fone")


async def test_every_record_has_the_runs_id(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """As an attribute, for formats and filters; and so have its other fields."""
    found = await records(caplog, logging.DEBUG, Walk(steps=2), tmp_path / "a.db")
    assert {record.run_id for record in found} == {"one"}
    decided = [record for record in found if record.event == "step.decided"]
    assert [(record.step, record.votes, record.levelname) for record in decided] == [
        (0, 3, "INFO"),
        (1, 3, "INFO"),
    ]
    assert {record.levelname for record in found if record.event == "sample.taken"} == {"DEBUG"}
    assert (found[0].event, found[-1].event) == ("run.started", "run.sealed")


async def test_at_warning_only_what_is_wrong(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A run that goes well is silent; one that fails says so once, with its traceback."""
    assert await records(caplog, logging.WARNING, Walk(steps=2), tmp_path / "a.db") == []
    [failed] = await records(caplog, logging.WARNING, Broken(steps=1), tmp_path / "b.db")
    assert (failed.levelname, failed.event, failed.stop_cause) == ("ERROR", "run.failed", "error")
    assert failed.getMessage().startswith("run.failed run_id=one run=1 reason=")
    assert failed.getMessage().endswith("KeyError: 'fone'")


async def test_batches_and_calibrations_have_ids(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Every run of a session, whatever its kind."""
    with caplog.at_level(logging.DEBUG, logger="mdap"):
        async with mdap.Session(db=tmp_path / "a.db") as session:
            async for _ in session.solve_all([Walk(steps=1), Walk(steps=2)], run_id="b"):
                pass
            await session.calibrate(Walk(steps=2), samples=4, run_id="c")
    found = {record.__dict__["run_id"] for record in caplog.records if record.name == "mdap.run"}
    assert found == {"b", "b/0", "b/1", "c"}


async def test_a_handler_that_fails_costs_nothing(tmp_path: Path) -> None:
    """A log is not the record: what goes wrong in it is not the run's."""

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError

    logger = logging.getLogger("mdap.run")
    logger.addFilter(refuse)
    try:
        PROVIDED["it"] = ScriptedProvider(["no", "no", "1", "1", "1"])
        solution = await mdap.solve(Walk(steps=1), model="tests.helpers:provided/it", db=tmp_path / "a.db")
    finally:
        logger.removeFilter(refuse)
    assert solution.totals.votes == 3
