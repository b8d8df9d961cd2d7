"""Verifying processes and batches: their own function is run again, given the recorded answers."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import mdap
from mdap.audit import Verification, verify
from mdap.plugins import make_task
from mdap.session import settle_step
from tests.integration.test_verify import edited
from tests.processes import CALLS, Changing, Double, Forgiving, HanoiProcess, Hurried, Tree

NOISY = {"error_rate": 0.15, "flag_rate": 0.05, "seed": 4, "latency": 0.0005}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "a.db"
    CALLS.clear()
    mdap.solve_sync(Tree(), k=4, options=NOISY, db=path, run_id="t")
    mdap.solve_sync(Changing(), k=3, options=NOISY, db=path, run_id="c")
    return path


def proven(path: Path, run_id: str, **how: Any) -> Verification:
    return verify(path, run_id, make_task, **how)


def test_a_process_is_verified_with_its_parts(log: Path) -> None:
    """Every way to ask; and what is to be done once is not done again."""
    calls = list(CALLS)
    came = proven(log, "t", oracle=True)
    assert (came.verdict, came.notes, came.mismatches) == ("verified", (), ())
    assert calls == CALLS
    with closing(sqlite3.connect(log)) as connection:
        sql = "SELECT count(*) FROM {} JOIN runs r ON r.id = run WHERE r.run_id LIKE 't%'"
        [decisions, samples] = [
            connection.execute(sql.format(table)).fetchone()[0] for table in ("decisions", "samples")
        ]
    assert (came.decisions, came.samples) == (decisions, samples)


async def test_a_process_is_verified_from_within_an_event_loop(log: Path) -> None:
    """As in a notebook: that a process is run for it in a loop of its own is nobody's concern."""
    assert proven(log, "t").verdict == "verified"


@pytest.mark.parametrize(
    ("statement", "kinds", "part"),
    [
        ("UPDATE samples SET latency = 9.5 WHERE run = 1 AND step = 5 AND ordinal = 1", {"chain"}, None),
        ("UPDATE steps SET input = '77' WHERE run = 1 AND step = 5", {"chain", "state"}, None),
        ("UPDATE steps SET key = 'x' WHERE run = 1 AND step = 5", {"chain", "prompt"}, None),
        ("UPDATE texts SET body = '77' WHERE id = (SELECT text FROM samples WHERE run = 1 AND step = 5)",
         {"text", "reading"}, None),
        ("UPDATE decisions SET winner = '77' WHERE run = 1 AND author = 'mdap' AND reason = 'once'",
         {"chain", "result"}, None),
        ("UPDATE decisions SET winner = '77' WHERE run = 1 AND reason LIKE 'run t/double%'",
         {"chain", "result", "decision"}, None),
        ("UPDATE decisions SET reason = 'because' WHERE run = 1 AND reason = 'once'",
         {"chain", "decision"}, None),
        ("UPDATE samples SET latency = 9.5 WHERE run = 2 AND step = 0 AND ordinal = 0", {"chain"}, "t/"),
        ("UPDATE run_events SET reason = 'x' WHERE run = 2 AND kind = 'started'", {"seal"}, "t/"),
    ],
)  # fmt: skip
def test_a_change_in_a_process_is_found(
    log: Path, tmp_path: Path, statement: str, kinds: set[str], part: str | None
) -> None:
    """By step, and in a part by the part's name."""
    came = proven(edited(log, tmp_path, statement), "t")
    assert came.verdict == "mismatch"
    assert set(came.counts) >= kinds
    first = came.mismatches[0]
    assert (first.run or "").startswith(part or "")
    assert (first.run is None) == (part is None)


def test_a_process_that_asks_otherwise_has_changed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record agrees with itself; a prompt that was never decided is none of it."""
    assert proven(log, "c").ok
    monkeypatch.setattr(Changing, "wording", "twice")
    came = proven(log, "c")
    assert (came.verdict, set(came.counts)) == ("plugin changed", {"prompt"})
    [found] = came.mismatches
    assert (found.step, found.expected, found.found) == (1, "'twice 2'", "'double 2'")


def test_a_process_that_fails_today_has_changed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was finished, and does not come to its end any more."""
    monkeypatch.setattr(Changing, "breaks", True)
    came = proven(log, "c")
    assert came.verdict == "plugin changed"
    assert re.fullmatch(
        r"processes\.py:\d+ in solve: ZeroDivisionError: by the author", came.mismatches[0].found
    )


def test_a_process_that_asks_for_less_is_told(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not ask for cannot be read again; and its result is another."""
    monkeypatch.setattr(Changing, "asks", (1, 3))
    came = proven(log, "c")
    assert (came.verdict, set(came.counts)) == ("plugin changed", {"result"})
    assert "without asking for 1 of its decisions" in came.notes[0]


def test_a_process_that_was_cut_goes_as_far_as_its_record(tmp_path: Path) -> None:
    """A budget ends it anywhere; what it came to is verified, and what it came to after a resume."""
    db = tmp_path / "a.db"
    task = HanoiProcess(disks=4)
    with pytest.raises(mdap.StoppedError):
        mdap.solve_sync(task, options=NOISY, db=db, run_id="h", budget=mdap.Budget(tokens=6_000))
    came = proven(db, "h")
    assert (came.verdict, came.status, came.mismatches) == ("verified", "stopped", ())
    assert 0 < came.decisions < 15
    mdap.solve_sync(task, options=NOISY, db=db, run_id="h")
    came = proven(db, "h", oracle=True)
    assert (came.verdict, came.status, came.decisions) == ("verified", "finished", 15)


@pytest.mark.slow
def test_a_process_that_goes_by_the_clock_is_not_taken_for_a_forged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not wait for its step when the run was made, and does now: its code is what differs."""
    monkeypatch.setattr("mdap.engine.scheduler._DRAIN_SECONDS", 0.1)  # the votes on their way take a minute
    db = tmp_path / "a.db"
    one = mdap.Limits(concurrency=1)  # so that most of its votes are not on their way yet
    solution = mdap.solve_sync(Hurried(), options={"latency": 60}, limits=one, db=db, run_id="h")
    assert solution.result is None
    came = proven(db, "h")
    assert (came.verdict, set(came.counts)) == ("plugin changed", {"plugin"})


def test_an_undecided_step_is_settled_and_verified(tmp_path: Path) -> None:
    """Undecided, then settled by a person, then resumed; or caught by the process itself."""
    db = tmp_path / "a.db"
    voting = mdap.VotingSettings(k=3, max_samples=5)
    wrong = {"error_rate": 1.0, "seed": 1}
    with pytest.raises(mdap.UndecidedError):
        mdap.solve_sync(Double(number=4), options=wrong, voting=voting, db=db, run_id="u")
    assert (proven(db, "u").verdict, proven(db, "u").status) == ("verified", "undecided")
    anyio.run(lambda: settle_step(db, "u", 0, answer="8", author="me", reason="counted"))
    assert proven(db, "u").ok
    assert mdap.solve_sync(Double(number=4), options=wrong, voting=voting, db=db, run_id="u").result == 8
    assert proven(db, "u", oracle=True).ok
    mdap.solve_sync(Forgiving(number=4), options=wrong, voting=voting, db=db, run_id="f")
    assert proven(db, "f").ok


async def batch(db: Path) -> None:
    tasks = [Double(number=number) for number in range(12)]
    async with mdap.Session("sim", options=NOISY, db=db) as session:
        assert len([solution async for solution in session.solve_all(tasks, k=3, run_id="b")]) == 12


def test_a_batch_is_verified_case_by_case(tmp_path: Path) -> None:
    """All of its runs; a change is found in the one it is in."""
    db = tmp_path / "a.db"
    anyio.run(batch, db)
    reports: list[tuple[int, int]] = []
    came = proven(db, "latest", progress=lambda done, total: reports.append((done, total)))
    assert (came.run_id, came.verdict, came.decisions, came.notes) == ("b", "verified", 12, ())
    assert reports[-1] == (12, 12)
    copy = edited(
        db,
        tmp_path,
        "UPDATE samples SET latency = 9 "
        "WHERE ordinal = 0 AND run = (SELECT id FROM runs WHERE run_id = 'b/7')",
    )
    came = proven(copy, "b")
    assert [(mismatch.run, mismatch.step) for mismatch in came.mismatches] == [("b/7", 0)]
    assert str(came.mismatches[0]).startswith("part b/7, step 0: digest of the decision")
