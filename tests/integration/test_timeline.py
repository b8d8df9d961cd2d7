"""When attempts began and ended: on record, and drawn."""

import re
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.testing import ScriptedProvider
from mdap.viewer.timeline import TimedAttempt, attempts_of, timeline
from mdap_hanoi import Hanoi
from tests.viewing import serving

FAULTY = {"latency": 0.002, "fault_rate": 0.3, "flag_rate": 0.1, "seed": 2}


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as log:
        return log.execute(sql).fetchall()


def sample(ordinal: int, began: Any, latency: float | None, **more: Any) -> Any:
    row = {"step": 0, "opening": 0, "ordinal": ordinal, "counted": ordinal + 1, "verdict": "vote"}
    return row | {"flag_reason": None, "began": began, "latency": latency} | more


def failure(ordinal: int, began: Any, ended: Any) -> Any:
    kind = {"kind": "timeout", "reason": "no reply"}
    return {"step": 0, "opening": 0, "ordinal": ordinal, "began": began, "ended": ended, **kind}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which three of ten attempts fail."""
    path = tmp_path_factory.mktemp("timeline") / "a.db"
    mdap.solve_sync(Hanoi(disks=4), db=path, run_id="faulty", options=FAULTY)
    return path


def test_every_attempt_has_its_times(path: Path) -> None:
    """Samples and failed attempts, each within its run; a retry begins after what it repeats has ended."""
    [(first, last)] = ask(path, "SELECT min(at), max(at) FROM run_events")
    moments = "SELECT strftime('%s', ?1) * 1000 - 1000, strftime('%s', ?2) * 1000 + 2000"
    with closing(sqlite3.connect(path)) as log:
        [(begun, over)] = log.execute(moments, (first, last)).fetchall()
    samples = ask(path, "SELECT began, latency FROM samples")
    failures = ask(
        path,
        "SELECT step, opening, data->>'ordinal', data->>'began', data->>'ended' FROM run_events "
        "WHERE kind = 'attempt_failed'",
    )
    assert len(failures) > 5
    assert all(begun <= began and began + latency * 1000 <= over for began, latency in samples)
    for step, opening, ordinal, began, ended in failures:
        assert begun <= began <= ended <= over
        later = f"SELECT began FROM samples WHERE (step, opening, ordinal) = ({step}, {opening}, {ordinal})"
        assert all(after >= ended for (after,) in ask(path, later))


def test_a_sample_that_waits_for_a_slot_has_not_begun(tmp_path: Path) -> None:
    """With one slot, one request ends before the next one begins, within a millisecond of rounding."""
    path = tmp_path / "a.db"
    limits = mdap.Limits(concurrency=1)
    mdap.solve_sync(Hanoi(disks=2), db=path, options={"latency": 0.01, "latency_sigma": 0}, limits=limits)
    rows = ask(path, "SELECT began, began + latency * 1000 FROM samples ORDER BY began")
    assert all(following[0] >= ended - 1 for (_, ended), following in pairwise(rows))


def test_times_are_no_part_of_the_digests(tmp_path: Path) -> None:
    """Equal samples give equal digests, whenever they were taken; the seal has the times."""
    solutions = [mdap.solve_sync(Hanoi(disks=3), db=tmp_path / f"{one}.db", run_id="r") for one in range(2)]
    assert solutions[0].digest == solutions[1].digest
    [(data,)] = ask(tmp_path / "0.db", "SELECT data->>'times' FROM run_events WHERE kind = 'sealed'")
    assert re.fullmatch("[0-9a-f]{64}", data)


def test_waits_lie_between_attempts() -> None:
    """From the end of a failed attempt to the next one at the same sample."""
    found, untimed = attempts_of(
        [sample(0, 1500, 0.5), sample(1, 1000, 0.1)], [failure(0, 1000, 1200), failure(0, 1300, 1400)]
    )
    assert untimed == 0
    assert [(one.ordinal, one.began, one.ended, one.kind) for one in found] == [
        (0, 1000, 1200, "failed"),
        (0, 1200, 1300, "wait"),
        (0, 1300, 1400, "failed"),
        (0, 1400, 1500, "wait"),
        (0, 1500, 2000, "vote"),
        (1, 1000, 1100, "vote"),
    ]


def test_a_hedge_ends_when_its_step_is_decided() -> None:
    """It never came back, so it has no latency."""
    hedge = sample(2, 1200, None, counted=None, verdict="cancelled")
    found, _ = attempts_of([sample(0, 1000, 0.8), sample(1, 1000, 0.3), hedge], [])
    assert found[-1] == TimedAttempt(0, 0, 2, 1200, 1800, "cancelled", "cancelled: not needed")


def test_what_has_no_time_is_counted() -> None:
    """Of an earlier log, or one that somebody has changed."""
    rows = [sample(0, None, 0.5), sample(1, "x", 0.5), sample(2, 1000, 0.5)]
    found, untimed = attempts_of(rows, [failure(0, None, None)])
    assert ([one.ordinal for one in found], untimed) == ([2], 3)
    assert timeline([], 3, by_sample=True) is None


def test_long_gaps_are_cut_out() -> None:
    """A run that was taken up a day later is drawn as two stretches; its numbers stay what they are."""
    day = 86_400_000
    attempts = [
        TimedAttempt(step, 0, 0, at, at + 100, "vote", "vote") for step, at in enumerate((0, 100, day))
    ]
    drawn = timeline(attempts, 0, by_sample=False)
    assert drawn is not None
    assert drawn.gaps == [(day - 200) / 1000]
    assert drawn.seconds == (day + 100) / 1000
    places = [re.findall(r'<rect class="try try-vote" x="([\d.]+)"', track.svg) for track in drawn.tracks]
    assert places == [["0.0"], ["320.5"], ["679.5"]]


def test_samples_that_overlap_lie_in_lanes() -> None:
    """Side by side they would hide each other."""
    attempts = [TimedAttempt(0, 0, one, at, at + 100, "vote", "vote") for one, at in enumerate((0, 50, 100))]
    drawn = timeline(attempts, 0, by_sample=False)
    assert drawn is not None
    assert re.findall(r'<rect class="try try-vote" x="[\d.]+" y="(\d+)"', drawn.tracks[0].svg) == [
        "0",
        "9",
        "0",
    ]


def test_the_pages_show_every_attempt(path: Path) -> None:
    """Of a step, and of all steps: failed ones, waits, votes and red flags."""
    failed = ask(path, "SELECT count(*) FROM run_events WHERE kind = 'attempt_failed'")[0][0]
    samples = ask(path, "SELECT count(*) FROM samples")[0][0]
    with serving(path) as site:
        page = site.page("/runs/1/timeline")
        steps = "".join(site.page(f"/runs/1/steps/{step}") for step in range(15))
    for text in (page, steps):
        assert text.count('<rect class="try try-failed" x=') - text.count('x="1" y="0"') <= failed
        bars = re.findall(r'<rect class="try try-(\w+)"[^>]*><title>', text)
        assert bars.count("failed") == failed
        assert len(bars) - bars.count("failed") - bars.count("wait") == samples
        assert {"wait", "flag", "vote"} <= set(bars)
    assert "Steps over time" in page
    assert 'href="/runs/1/steps/14"' in page


def test_a_run_without_times_says_so(path: Path, tmp_path: Path) -> None:
    """As of an earlier mdap: the page is there, without a line."""
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(copy)) as log:
        log.executescript(
            "DROP TRIGGER samples_no_update; DROP TRIGGER run_events_no_update;"
            "UPDATE samples SET began = NULL;"
            "UPDATE run_events SET data = 'no JSON' WHERE kind = 'attempt_failed'"
        )
    with serving(copy) as site:
        assert "No attempt at these steps is recorded with its time." in site.page("/runs/1/timeline")
        assert "try-vote" not in site.page("/runs/1/steps/3")


async def test_cancelled_requests_have_a_beginning(tmp_path: Path) -> None:
    """What hedging asked too much, too."""
    path = tmp_path / "a.db"
    slow = {"latency": 0.005, "seed": 3}
    voting = mdap.VotingSettings(k=2, hedge=3)
    await mdap.solve(Hanoi(disks=4), db=path, options=slow, voting=voting)
    rows = ask(path, "SELECT began FROM samples WHERE verdict = 'cancelled'")
    assert rows
    assert all(began for (began,) in rows)


def test_a_provider_of_one_s_own_is_timed_too(tmp_path: Path) -> None:
    """Whatever it says of its latency."""
    path = tmp_path / "a.db"
    provider = ScriptedProvider(lambda request, ordinal: mdap.Reply("yes", "toy"), name="toy")

    class One(mdap.Process[str]):
        async def solve(self, ask: mdap.Ask) -> str:
            return await ask(mdap.Step(user="?", parse=str.strip))

    mdap.solve_sync(One(), model=provider, db=path)
    assert all(began for (began,) in ask(path, "SELECT began FROM samples"))
