"""Margins that nobody gives: from a calibration or a pilot; and the drift alarm."""

import json
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap_hanoi import Hanoi
from tests.integration.test_session import query

OPTIONS = {"error_rate": 0.05, "flag_rate": 0.02}


def events(db: Path, kind: str) -> list[Any]:
    found = query(db, f"SELECT data FROM run_events WHERE kind = '{kind}' ORDER BY id")
    return [json.loads(data) for (data,) in found]


@pytest.mark.slow
async def test_auto_takes_the_newest_calibration_that_fits(tmp_path: Path) -> None:
    db = tmp_path / "mdap.db"
    async with mdap.Session(db=db, options=OPTIONS) as session:
        await session.calibrate(Hanoi(disks=7), samples=4000, run_id="other")
        await session.calibrate(Hanoi(disks=8), samples=100, run_id="old")
        newest = await session.calibrate(Hanoi(disks=8), samples=2000, target=0.999, run_id="new")
        solution = await session.solve(Hanoi(disks=8), k="auto", target=0.999, run_id="run")
    assert solution.k == newest.k
    assert query(db, "SELECT count(*) FROM runs WHERE kind = 'pilot'") == [(0,)]
    assert events(db, "margin")[0] == {"from": 0, "k": newest.k, "target": 0.999, "source": "new"}
    assert events(db, "baseline")[0]["source"] == "new"


@pytest.mark.parametrize(
    "change", [{"options": {**OPTIONS, "seed": 3}}, {"voting": mdap.VotingSettings(max_tokens=900)}]
)
async def test_a_calibration_of_something_else_does_not_serve(tmp_path: Path, change: Any) -> None:
    db = tmp_path / "mdap.db"
    await mdap.calibrate(Hanoi(disks=6), db=db, options=OPTIONS, samples=400)
    await mdap.solve(Hanoi(disks=6), db=db, k="auto", **{"options": OPTIONS, **change})
    assert query(db, "SELECT count(*) FROM runs WHERE kind = 'pilot'") == [(1,)]


@pytest.mark.slow
async def test_the_choice_holds_when_the_run_is_named_again(tmp_path: Path) -> None:
    """A newer calibration does not change what was chosen; another target is refused."""
    db = tmp_path / "mdap.db"
    async with mdap.Session(db=db, options=OPTIONS, budget=mdap.Budget(tokens=200_000)) as session:
        await session.calibrate(Hanoi(disks=8), samples=100)
        cut = await session.run(Hanoi(disks=8), k="auto", run_id="run")
    assert cut.status is mdap.RunStatus.STOPPED
    async with mdap.Session(db=db, options=OPTIONS) as session:
        newer = await session.calibrate(Hanoi(disks=8), samples=4000)
        with pytest.raises(mdap.UsageError, match=r"target of 0.95, not 0.9: "):
            await session.run(Hanoi(disks=8), k="auto", target=0.9, run_id="run")
        solution = await session.solve(Hanoi(disks=8), k="auto", run_id="run")
    assert solution.k == cut.k != newer.k


async def test_hard_steps_in_the_calibration_are_warned_of(tmp_path: Path) -> None:
    options = {"hard_rate": 0.05}
    async with mdap.Session(db=tmp_path / "d", options=options) as session:
        await session.calibrate(Hanoi(disks=8), samples=1000, run_id="c")
        solution = await session.run(Hanoi(disks=8), k="auto")
    assert "of the steps are hard, by c: one k for all steps does not reach" in solution.warnings[0]


@pytest.mark.slow
async def test_drift_is_warned_of_once_and_not_again_after_a_resume(tmp_path: Path) -> None:
    """The calibration saw the same model, as far as its settings tell, when it still did better."""
    db = tmp_path / "mdap.db"
    await mdap.calibrate(Hanoi(disks=8), db=db, options={"error_rate": 0.02}, samples=1000, run_id="c")
    async with mdap.Session(db=db, options={"error_rate": 0.02}) as session:
        quiet = await session.solve(Hanoi(disks=8), k=4, run_id="quiet")
    assert quiet.warnings == ()
    # What the calibration was of is on record; give it the description of the model that is worse now.
    worse = {"error_rate": 0.15}
    copy = tmp_path / "copy.db"
    _rename_options(db, copy, worse)
    async with mdap.Session(db=copy, options=worse, budget=mdap.Budget(tokens=400_000)) as session:
        cut = await session.run(Hanoi(disks=8), k=4, run_id="run")
    assert cut.status is mdap.RunStatus.STOPPED
    async with mdap.Session(db=copy, options=worse) as session:
        after = await session.run(Hanoi(disks=8), k=4, run_id="run")
    said = [warning for warning in after.warnings if warning.startswith("drift")]
    assert len(said) == 1
    assert "votes are against the winner so far, where c leads to expect" in said[0]


def _rename_options(db: Path, copy: Path, options: dict[str, float]) -> None:
    import shutil
    import sqlite3

    shutil.copy(db, copy)
    with sqlite3.connect(copy) as connection:
        connection.execute("DROP TRIGGER runs_no_update")
        connection.execute(
            "UPDATE runs SET provider = json_set(provider, '$.about.error_rate', ?) WHERE run_id = 'c'",
            (options["error_rate"],),
        )
    connection.close()


def mdap_state(task: Hanoi, text: str) -> Any:
    from mdap.engine.guarded import GuardedTask

    return GuardedTask("hanoi", task).states.read(text)


def task_answer(task: Hanoi, state: Any) -> Any:
    from mdap.rules.canonical import canonical

    return json.loads(canonical(task.oracle(state)))


def test_settings_of_earlier_versions_are_read() -> None:
    """A row without a word of -k adaptive is read as it is; a run of it is refused in a sentence."""
    earlier = {"k": 4, "max_samples": None, "max_tokens": 750, "temperatures": [0.0, 0.1], "hedge": 0}
    assert mdap.VotingSettings.recorded({**earlier, "adaptive_target": None}).k == 4
    with pytest.raises(mdap.UsageError, match="-k adaptive"):
        mdap.VotingSettings.recorded({**earlier, "adaptive_target": 0.95})
