"""`-k robust` over a real database: cut anywhere, replayed, overridden, settled, and proved from its log."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit import verify
from mdap.plugins import make_task
from mdap.records import RunStatus
from mdap.session import settle_step
from mdap.settings import Robust, VotingSettings
from mdap_hanoi import Hanoi
from tests.helpers import Walk, mostly_slow
from tests.integration.test_session import query
from tests.integration.test_tampering import alone_finds
from tests.processes import Impatient, Many, Tree, double

HARD = {"error_rate": 0.02, "flag_rate": 0.02, "hard_rate": 0.1, "hard_error_rate": 0.4, "seed": 1}
SQL = "SELECT step, winner, tally, margin FROM decisions WHERE run = 1 ORDER BY step"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


def paid(db: Path, run: int = 1) -> list[dict[str, Any]]:
    found = query(db, f"SELECT data FROM run_events WHERE kind = 'paid' AND run = {run} ORDER BY id")
    return [json.loads(data) for (data,) in found]


def proven(db: Path, run_id: str = "r") -> None:
    """Both verifiers find the run as it must be."""
    assert verify(db, run_id, make_task).mismatches == ()
    assert not alone_finds(db, run_id)


@pytest.mark.slow
async def test_a_chain_pays_for_its_contested_steps_and_for_no_others(db: Path) -> None:
    solution = await mdap.solve(Hanoi(disks=7), db=db, options=HARD, k="robust", run_id="r")
    assert solution.guarantee is not None
    assert (solution.k, solution.guarantee.floor, solution.guarantee.target) == (5, 0.6, 0.95)
    contested = [
        step
        for step, _, tally, margin in query(db, SQL)
        if (votes := sorted(json.loads(tally).values())) and sum(votes[:-1]) >= 5
    ]
    assert [payment["step"] for payment in paid(db)] == contested != []
    assert solution.guarantee.contested == len(contested)
    assert solution.guarantee.spent == sum(Fraction(payment["price"]) for payment in paid(db))
    assert solution.guarantee.spent < solution.guarantee.bound < Fraction(1, 20)
    assert list(solution.to_dict()["guarantee"]) == [
        "floor", "target", "contested", "undecided", "spent", "bound",
    ]  # fmt: skip
    assert query(db, "SELECT DISTINCT temperature FROM samples") == [(0.1,)]
    proven(db)


@pytest.mark.parametrize("speculate", mostly_slow(["vote", "off", "guess"]))
async def test_a_chain_that_is_cut_decides_and_pays_as_an_uncut_one(tmp_path: Path, speculate: str) -> None:
    """Wherever it is cut, and however far it works ahead: the same votes, decisions and payments."""
    options = {**HARD, "latency": 0.0003}

    async def run(name: str, budget: mdap.Budget, how: str) -> mdap.Solution:
        path = tmp_path / f"{name}.db"
        async with mdap.Session(db=path, options=options, budget=budget, speculate=how) as session:
            return await session.run(Hanoi(disks=6), k="robust", run_id="r")

    whole = await run("whole", mdap.Budget(), "off")
    tokens, cuts = 0, 0
    while (
        cut := await run("cut", mdap.Budget(tokens=tokens + 1), speculate)
    ).status is not RunStatus.FINISHED:
        tokens += 60_000
        cuts += 1
    assert cuts >= 3
    assert cut.guarantee == whole.guarantee
    assert query(tmp_path / "cut.db", SQL) == query(tmp_path / "whole.db", SQL)
    cut_paid, whole_paid = (
        [{**one, "opening": 0} for one in paid(tmp_path / f"{name}.db")] for name in ("cut", "whole")
    )
    assert cut_paid == whole_paid != []
    proven(tmp_path / "cut.db")


async def test_a_chain_of_unknown_length(db: Path) -> None:
    """The limits of its payments add up to its budget, however long it becomes."""
    task = Walk(steps=40, counted_beforehand=False)
    solution = await mdap.solve(task, db=db, options={"error_rate": 0.2}, k="robust", target=0.8, run_id="r")
    assert solution.guarantee is not None
    for place, payment in enumerate(paid(db)):
        assert Fraction(payment["price"]) <= Fraction(1, 5) / ((place + 1) * (place + 2))
    assert verify(db, "r", make_task).mismatches == ()


async def test_a_replay_decides_and_pays_alike(db: Path) -> None:
    first = await mdap.solve(Hanoi(disks=5, views=2), db=db, options=HARD, k="robust", run_id="r")
    again = await mdap.solve(Hanoi(disks=5, views=2), model="replay/r", db=db, k="robust", run_id="again")
    assert again.guarantee == first.guarantee
    assert again.digest == first.digest


@pytest.mark.slow
async def test_views_and_models_are_drawn_at_random_from_the_seed(db: Path) -> None:
    """Each sample has its own draw; another seed draws otherwise, and the log shows it."""
    models = ["sim/a?error_rate=0.1", "sim/b?error_rate=0.2"]
    for seed in (0, 1):
        voting = VotingSettings(robust=Robust(seed=seed))
        task = Hanoi(disks=6, views=3)
        await mdap.solve(task, model=models, db=db, k="robust", voting=voting, run_id=f"r{seed}")
    drawn = [
        query(db, f"SELECT model, view FROM samples WHERE run = {run} ORDER BY step, ordinal")
        for run in (1, 2)
    ]
    assert drawn[0][:100] != drawn[1][:100]
    for one in drawn:
        share = Counter(one)
        assert len(share) == 6
        assert all(abs(count / len(one) - 1 / 6) < 0.06 for count in share.values())
    proven(db, "r0")


async def test_an_override_inherits_all_that_was_spent(db: Path) -> None:
    """What the steps after the overridden one spent is not there again."""
    task = Hanoi(disks=5)
    first = await mdap.solve(task, db=db, options=HARD, k="robust", run_id="r")
    assert first.guarantee is not None
    answer = query(db, "SELECT winner FROM decisions WHERE step = 2")[0][0]
    name = await settle_step(db, "r", 2, answer=answer, author="ada", reason="looked at it")
    async with mdap.Session(db=db, options=HARD) as session:
        second = await session.resume(name)
    assert second.guarantee is not None
    again = [payment for payment in paid(db, 2) if payment["why"] == "contested"]
    assert paid(db, 2)[0]["why"] == "inherited"
    assert second.guarantee.spent == first.guarantee.spent + sum(Fraction(one["price"]) for one in again)
    assert first.guarantee.spent > 0
    proven(db, name)


async def settled(db: Path, task: Hanoi, run: mdap.Solution) -> None:
    state = task.start()
    for _ in range(run.totals.steps):
        state = task.advance(state, task.oracle(state))
    answer = mdap_json(task.oracle(state))
    await settle_step(db, "r", run.totals.steps, answer=answer, author="ada", reason="looked")


def mdap_json(answer: Any) -> str:
    return json.dumps({"move": answer.move, "next_state": answer.next_state})


async def test_contested_steps_are_left_to_a_person(db: Path) -> None:
    """With --contested stop and a floor below a half; a step pays once, whoever settles it."""
    task, options = Hanoi(disks=5), {**HARD, "hard_error_rate": 0.55}
    voting = VotingSettings(robust=Robust(contested="stop"))
    async with mdap.Session(db=db, options=options) as session:
        run = await session.run(task, k="robust", floor=0.45, target=0.5, voting=voting, run_id="r")
        assert "contested after" in (run.reason or "")
        people = 0
        while run.status is RunStatus.UNDECIDED:
            await settled(db, task, run)
            people += 1
            run = await session.resume("r")
    assert run.result["solved"]
    assert run.guarantee is not None
    assert run.guarantee.contested == people == len(paid(db))
    proven(db)


async def test_contested_steps_are_left_to_the_next_models(db: Path) -> None:
    """Each tier is a race of its own, with its own price; models are drawn within it."""
    voting = VotingSettings(robust=Robust(contested="stop"))
    solution = await mdap.solve(
        Hanoi(disks=6), model="sim/a", escalate_to="sim/b?hard_rate=0", db=db, options=HARD, k="robust",
        voting=voting, run_id="r",
    )  # fmt: skip
    assert solution.result["solved"]
    tiers = Counter(payment["tier"] for payment in paid(db))
    assert tiers[0] > 0
    assert query(db, "SELECT count(*) FROM run_events WHERE kind = 'escalated'") == [(tiers[0],)]
    proven(db)


async def test_what_samples_allow_is_settled_by_a_person_and_paid_once(db: Path) -> None:
    task, options = Hanoi(disks=5), {**HARD, "hard_rate": 0.3, "hard_error_rate": 0.5}
    voting = VotingSettings(max_samples=30, robust=Robust())
    async with mdap.Session(db=db, options=options) as session:
        run = await session.run(task, k="robust", voting=voting, run_id="r")
        while run.status is RunStatus.UNDECIDED:
            assert (await session.resume("r")).guarantee == run.guarantee
            await settled(db, task, run)
            run = await session.resume("r")
    assert [payment["why"] for payment in paid(db)].count("undecided") > 0
    assert len({payment["step"] for payment in paid(db)}) == len(paid(db))
    proven(db)


@pytest.mark.parametrize(
    ("voting", "said"),
    [
        ({"hedge": 1}, "cannot go with hedging"),
        ({"temperatures": (0.0, 0.1)}, "one temperature"),
    ],
)
def test_what_would_draw_samples_unlike_one_another_is_refused(voting: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VotingSettings(robust=Robust(), **voting)


async def test_a_model_that_is_left_out_is_refused(db: Path) -> None:
    async with mdap.Session(["sim/a", "sim/b"], db=db, on_dead="continue") as session:
        with pytest.raises(mdap.UsageError, match="--on-dead continue"):
            await session.run(Hanoi(disks=2), k="robust")


async def test_many_tasks_at_once_are_refused(db: Path) -> None:
    async with mdap.Session(db=db) as session:
        with pytest.raises(mdap.UsageError, match="for one run"):
            session.solve_all([Hanoi(disks=2)], voting=VotingSettings(robust=Robust()))
        with pytest.raises(mdap.UsageError, match="not for -k 3"):
            await session.run(Hanoi(disks=2), k=3, voting=VotingSettings(robust=Robust()))


# --- processes


@pytest.mark.slow
@pytest.mark.parametrize("latency", [0.0, 0.0005])
async def test_a_process_decides_in_the_order_of_its_steps(db: Path, latency: float) -> None:
    """However many are open, each has the rung that follows from the steps before it."""
    options = {**HARD, "latency": latency}
    solution = await mdap.solve(Many(width=150), db=db, options=options, k="robust", run_id="r")
    assert solution.result == [2 * number for number in range(150)]
    steps = [step for (step,) in query(db, "SELECT step FROM decisions ORDER BY place")]
    assert steps == sorted(steps)
    assert [payment["step"] for payment in paid(db)] == sorted(payment["step"] for payment in paid(db))
    assert len(paid(db)) > 2
    proven(db)


async def test_every_way_to_ask_and_nested_runs(db: Path) -> None:
    """A nested run is charged its share and returns what it did not spend; what both spend adds up."""
    solution = await mdap.solve(Tree(), db=db, options=HARD, k="robust", run_id="r")
    assert solution.result[:5] == Tree().expected("")[:5]
    whys = Counter(payment["why"] for payment in paid(db))
    assert whys["lent"] == whys["returned"] == 2
    nested = [Fraction(one["price"]) for run in (2, 3) for one in paid(db, run)]
    own = [Fraction(one["price"]) for one in paid(db) if one["why"] == "contested"]
    assert solution.guarantee is not None
    assert solution.guarantee.spent == sum(nested) + sum(own)
    proven(db)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_who_does_not_wait_any_more_holds_up_nobody_and_pays(db: Path, seed: int) -> None:
    """Askers that leave, one that comes back, nested runs: nothing waits for ever, and the log agrees."""
    options = {**HARD, "latency": 0.001, "seed": seed}
    solution = await mdap.solve(Impatient(), db=db, options=options, k="robust", run_id="r")
    assert solution.result[-1] == 2000
    assert solution.guarantee is not None
    assert solution.guarantee.spent <= Fraction(1, 20)
    proven(db)


@pytest.mark.slow
async def test_a_process_that_is_cut_pays_for_nothing_twice(db: Path) -> None:
    """Resumed again and again, it has each decision and payment once, stays within its budget, and is proven.

    Winners that wait for the decision of a step before them are no mismatch.
    """
    options = {**HARD, "latency": 0.0003, "seed": 1}
    tokens, cuts = 0, 0
    while True:
        tokens += 1500
        async with mdap.Session(db=db, options=options, budget=mdap.Budget(tokens=tokens)) as session:
            run = await session.run(Many(width=80), k="robust", run_id="r")
        if run.status is RunStatus.FINISHED:
            break
        proven(db)
        cuts += 1
    assert cuts >= 3
    assert run.result == [2 * number for number in range(80)]
    places = [(payment["step"], payment["tier"]) for payment in paid(db)]
    assert len(set(places)) == len(places)
    proven(db)


async def test_a_step_that_a_resumed_process_does_not_ask_for_is_passed_over(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It pays as if it were contested, and holds up nobody."""
    options = {**HARD, "latency": 0.0003}
    async with mdap.Session(db=db, options=options, budget=mdap.Budget(tokens=900)) as session:
        run = await session.run(Many(width=30), k="robust", run_id="r")
    assert run.status is RunStatus.STOPPED
    [(first,)] = query(
        db,
        "SELECT min(step) FROM samples WHERE verdict = 'vote' AND step NOT IN (SELECT step FROM decisions)",
    )

    async def solve(self: Many, ask: mdap.Ask) -> list[int]:
        return await ask.map(double(number) for number in range(self.width) if number != first)

    monkeypatch.setattr(Many, "solve", solve)
    async with mdap.Session(db=db, options=options) as session:
        run = await session.run(Many(width=30), k="robust", run_id="r")
    assert run.status is RunStatus.FINISHED
    assert ("abandoned", first) in {(payment["why"], payment["step"]) for payment in paid(db)}
    proven(db)


# --- the audit


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("robust") / "a.db"
    mdap.solve_sync(Hanoi(disks=6), db=path, options=HARD, k="robust", run_id="r")
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
    return path


CHANGES = {
    "a payment gone": "DELETE FROM run_events WHERE id = "
    "(SELECT max(id) FROM run_events WHERE kind = 'paid')",
    "a cheaper price": "UPDATE run_events SET data = json_set(data, '$.price', '1/900') WHERE kind = 'paid'",
    "another step": "UPDATE run_events SET data = json_set(data, '$.step', 0) WHERE id = "
    "(SELECT min(id) FROM run_events WHERE kind = 'paid')",
    "a lower m": "UPDATE run_events SET data = json_set(data, '$.m', 4) WHERE id = "
    "(SELECT min(id) FROM run_events WHERE kind = 'paid')",
    "an easier floor": "UPDATE runs SET settings = json_set(settings, '$.robust.floor', 0.7)",
    "another length": "UPDATE runs SET settings = json_set(settings, '$.robust.length', 1000000)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_budget_is_found_by_both_verifiers(log: Path, tmp_path: Path, change: str) -> None:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(log)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute(CHANGES[change])
        target.commit()
    assert verify(copy, "r", make_task).verdict == "mismatch"
    assert alone_finds(copy, "r")


def test_a_tally_changed_from_smooth_to_contested_is_found(log: Path, tmp_path: Path) -> None:
    """Votes that were turned against the winner call for a payment that nobody made."""
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(log)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("UPDATE samples SET answer_key = '0123456789abcdef' WHERE step = 0 AND ordinal < 2")
        target.commit()
    found = verify(copy, "r", make_task)
    assert "payment of a step that is not smooth" in {one.what for one in found.mismatches}
