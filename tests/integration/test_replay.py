"""A recorded run as the source of samples: the same decisions and digests, and no network."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.errors import DatabaseError, StoppedError, UsageError
from mdap.settings import VotingSettings
from mdap.testing import Faults, FaultyServer
from mdap_hanoi import Hanoi
from tests.acceptance.player import play
from tests.helpers import Walk

ROUGH = {"error_rate": 0.2, "flag_rate": 0.1, "latency": 0.0003, "fault_rate": 0.03, "seed": 5}
COLUMNS = """s.step, s.ordinal, s.verdict, s.answer_key, s.flag_reason, s.model, s.view, s.temperature,
    s.input_tokens, s.output_tokens, s.cached_tokens, s.latency, s.attempts, s.request_id, s.finish_reason"""


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


def query(db: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql, values).fetchall()


def decided(db: Path, run_id: str) -> list[tuple[Any, ...]]:
    return query(
        db,
        """SELECT d.place, d.step, p.input, d.winner, d.tally, d.votes, d.margin, d.digest FROM decisions d
        JOIN runs r ON r.id = d.run JOIN steps p USING (run, step, opening)
        WHERE r.run_id = ? ORDER BY d.place""",
        run_id,
    )


def counted(db: Path, run_id: str) -> list[tuple[Any, ...]]:
    return query(
        db,
        f"""SELECT {COLUMNS}, t.body FROM samples s JOIN runs r ON r.id = s.run
        JOIN texts t ON t.id = s.text
        WHERE r.run_id = ? AND s.counted IS NOT NULL AND s.verdict <> 'void' ORDER BY s.step, s.ordinal""",
        run_id,
    )


async def replayed(db: Path, task: Any, run_id: str, **settings: Any) -> mdap.Solution:
    """Replay the run *a* as *run_id*; check that it comes out byte for byte as it did."""
    solution = await mdap.solve(task, model="replay/a", db=db, run_id=run_id, **settings)
    assert decided(db, run_id) == decided(db, "a")
    assert counted(db, run_id) == counted(db, "a")
    return solution


@pytest.mark.parametrize("speculate", ["off", "vote", "guess"])
@pytest.mark.slow
async def test_a_replay_repeats_every_decision_and_digest(db: Path, speculate: str) -> None:
    """With flags, failed attempts and samples on wrong guesses in the run that is replayed."""
    task = Hanoi(disks=6)
    first = await mdap.solve(task, db=db, run_id="a", k=3, options=ROUGH, speculate=speculate)
    again = await replayed(db, task, "b", k=3)
    assert (again.digest, again.result) == (first.digest, first.result)
    assert first.totals.failed_attempts > 0
    assert again.totals.failed_attempts == 0


async def test_an_ensemble_with_views_and_an_escalation_is_replayed_by_its_name_alone(db: Path) -> None:
    """The replay takes every place that the models of the run had."""
    task = Hanoi(disks=5, views=3)
    voting = VotingSettings(k=4, max_samples=9, temperatures=(0.0, 0.3, 0.7))
    models = ["sim/a?seed=1&error_rate=0.3", "sim/b?seed=2&error_rate=0.4"]
    await mdap.solve(
        task, model=models, escalate_to="sim/judge?error_rate=0.05", db=db, run_id="a", voting=voting
    )
    assert query(db, "SELECT count(*) > 0 FROM run_events WHERE kind = 'escalated'") == [(1,)]
    await replayed(db, task, "b", voting=voting)
    assert {row[0] for row in query(db, "SELECT DISTINCT model FROM samples")} == {
        "sim/a",
        "sim/b",
        "sim/judge",
    }


@pytest.mark.slow
async def test_a_run_over_http_is_replayed_without_a_network(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Request ids, latencies and tokens come from the record, and the server is gone."""
    with FaultyServer.in_thread(play, faults=Faults(server_error=0.1)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        await mdap.solve(Hanoi(disks=5), model="openai/m", db=db, run_id="a", k=3)
    asked = len(server.log)
    await replayed(db, Hanoi(disks=5), "b", k=3)
    assert len(server.log) == asked


async def test_a_smaller_k_needs_fewer_of_the_recorded_samples(db: Path) -> None:
    """It reads a part of what was recorded, and decides as a run with that k would have."""
    options = {"error_rate": 0.1, "seed": 3}
    await mdap.solve(Hanoi(disks=6), db=db, run_id="a", k=5, options=options)
    small = await mdap.solve(Hanoi(disks=6), db=db, run_id="b", k=2, model="replay/a")
    fresh = await mdap.solve(Hanoi(disks=6), db=db, run_id="c", k=2, options=options)
    assert small.digest == fresh.digest
    assert small.totals.samples < len(counted(db, "a"))


@pytest.mark.parametrize(
    ("task", "voting", "sentence"),
    [
        (Walk(steps=4), VotingSettings(k=3), "no sample 2 of step 0: .* a k that is no greater"),
        (Walk(steps=4, seed=9), VotingSettings(k=2), "no sample 0 of step 0: it was never asked this"),
        (Walk(steps=5), VotingSettings(k=2), "no sample 0 of step 4: it was never asked this"),
        (
            Walk(steps=4),
            VotingSettings(k=2, temperatures=(0.5,)),
            r"no sample 0 of step 0 at temperature 0\.5: .* its own --temperatures",
        ),
    ],
)
async def test_what_is_not_on_record_stops_the_run(
    db: Path, task: Walk, voting: VotingSettings, sentence: str
) -> None:
    """With one sentence that names run, sample and step; nothing is made up, and it can be resumed."""
    await mdap.solve(Walk(steps=4), db=db, run_id="a", k=2, options={"error_rate": 0})
    with pytest.raises(StoppedError, match=f"run a has {sentence}"):
        await mdap.solve(task, model="replay/a", db=db, voting=voting)


async def test_a_view_that_was_not_asked_is_not_made_up(db: Path) -> None:
    """Two places where the run had one give the second sample to another view."""
    await mdap.solve(Hanoi(disks=3, views=3), db=db, run_id="a", k=3, options={"error_rate": 0})
    with pytest.raises(StoppedError, match=r"no sample 1 of step 0 in view 0: .* as many models"):
        await mdap.solve(Hanoi(disks=3, views=3), model=["replay/a"] * 2, db=db, k=3)


async def test_a_recorded_run_may_be_in_another_database(db: Path, tmp_path: Path) -> None:
    """As an option of the provider, for all models or in the name of one."""
    await mdap.solve(Walk(), db=db, run_id="a", k=2)
    other = tmp_path / "other.db"
    one = await mdap.solve(Walk(), model="replay/a", options={"db": str(db)}, db=other, k=2)
    two = await mdap.solve(Walk(), model=f"replay/a?db={db}", db=other, k=2)
    assert one.digest == two.digest


async def test_a_replay_is_resumed_as_it_was_started(db: Path) -> None:
    """The name `latest` is kept as the run that it meant."""
    await mdap.solve(Walk(steps=8), db=db, run_id="a", k=2)
    async with mdap.Session("replay/latest", db=db, limits=mdap.Limits(requests_per_minute=6_000)) as session:
        first = await session.run(Walk(steps=8), k=2, run_id="b")
    async with mdap.Session("replay/a", db=db) as session:
        assert await session.run(Walk(steps=8), k=2, run_id="b") == first
    assert query(db, """SELECT provider->>'models' FROM runs WHERE run_id = 'b'""") == [('["replay/a"]',)]


@pytest.mark.parametrize(
    ("model", "options", "error", "sentence"),
    [
        ("replay/b", {}, UsageError, "there is no run 'b'"),
        ("replay", {}, UsageError, "replay needs the name of a run"),
        ("replay/a", {"seed": 1}, UsageError, "there is no replay option 'seed'"),
        ("replay/a", {"db": "nowhere.db"}, UsageError, "there is no database nowhere.db"),
    ],
)
async def test_a_run_that_is_not_there_is_wrong_use(
    db: Path, model: str, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    """It is said before anything is begun."""
    await mdap.solve(Walk(steps=1), db=db, run_id="a", k=1)
    with pytest.raises((error, DatabaseError), match=sentence):
        await mdap.solve(Walk(steps=1), model=model, options=options, db=db, run_id="new")
    assert query(db, "SELECT run_id FROM runs") == [("a",)]


class Sums(mdap.Process[int]):
    """Adds digits side by side, and walks a chain as a part of it."""

    async def solve(self, ask: mdap.Ask) -> int:
        parts = await ask.map(mdap.Step(user=f"{n} + 1 = ?", parse=int) for n in range(5))
        walked = await ask.solve(Walk(steps=3))
        return sum(parts) + int(walked[0])

    def oracle(self, step: mdap.Step[Any]) -> int:
        return int(step.user.split()[0]) + 1

    def mistakes(self, step: mdap.Step[Any], truth: int) -> list[int]:
        return [truth + 1]

    def render(self, step: mdap.Step[Any], answer: int) -> str:
        return str(answer)


async def test_a_process_is_replayed_with_its_parts(db: Path) -> None:
    """Its steps are found by their content, and those of the chain within it too."""
    first = await mdap.solve(Sums(), db=db, run_id="a", k=2, options={"error_rate": 0.2})
    again = await mdap.solve(Sums(), model="replay/a", db=db, run_id="b", k=2)
    assert again.result == first.result
    # What a part came to is recorded with the part's name, which begins with that of the run.
    assert [row[:-1] for row in decided(db, "b")] == [row[:-1] for row in decided(db, "a")]
    assert decided(db, "b")[:5] == decided(db, "a")[:5]
    parts = query(db, "SELECT count(*) FROM runs WHERE parent IS NOT NULL")
    assert parts == [(2,)]
