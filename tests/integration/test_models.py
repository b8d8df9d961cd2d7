"""Several models, several views, escalation, a person's decision, prices and budgets: through a session."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import mdap
from mdap.providers.prices import price_of
from mdap.rules.canonical import canonical
from mdap.session import settle_step
from mdap_hanoi import Hanoi, State
from mdap_hanoi.state import turned_answer, turned_state

PRICES = {"sim": mdap.Price(input=0.4, output=1.6)}


def rows(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


# --- views


def test_turning_the_pegs_and_back_changes_nothing() -> None:
    """A rotation is undone by its opposite, in states and answers."""
    task = Hanoi(disks=5)
    state = task.start()
    for _ in range(20):
        answer = task.oracle(state)
        for turns in range(3):
            assert turned_state(turned_state(state, turns), -turns) == state
            assert turned_answer(turned_answer(answer, turns), -turns) == answer
        state = task.advance(state, answer)


@pytest.mark.parametrize("disks", [4, 5])
def test_each_view_asks_the_same_question(disks: int) -> None:
    """The right answer in a rotated view, written and read there, is the right answer of the step itself."""
    task = Hanoi(disks=disks, views=3)
    state = task.start()
    for _ in range(15):
        answer = task.oracle(state)
        step = task.step(state)
        prompts = {(view.system, view.user) for view in step.views} | {(step.system, step.user)}
        assert len(prompts) == 3
        for turns, view in enumerate(step.views, 1):
            assert view.render is not None
            assert view.parse(view.render(answer)) == answer
            # What the strategy prescribes does not depend on how the pegs are called.
            assert task.oracle(turned_state(state, turns)) == turned_answer(answer, turns)
        state = task.advance(state, answer)


async def test_samples_rotate_over_the_views(tmp_path: Path) -> None:
    """Each sample's row says which view it answered, and every view gets its share."""
    db = tmp_path / "views.db"
    solution = await mdap.solve(Hanoi(disks=4, views=3), k=3, db=db, options={"error_rate": 0.1})

    assert solution.result == {"solved": True, "moves": 15}
    assert rows(db, "SELECT DISTINCT view FROM samples ORDER BY 1") == [(0,), (1,), (2,)]
    assert rows(db, "SELECT count(*) FROM samples WHERE view <> ordinal % 3") == [(0,)]


@pytest.mark.slow
async def test_views_outvote_a_hard_prompt_where_more_votes_do_not(tmp_path: Path) -> None:
    """Errors that cling to prompts: plain voting elects the favourite mistake, rotation does not."""
    options = {"hard_rate": 0.02, "hard_error_rate": 0.9, "error_rate": 0.01, "seed": 3}
    plain = await mdap.solve(Hanoi(disks=8), k=8, db=tmp_path / "a.db", options=options)
    rotated = await mdap.solve(Hanoi(disks=8, views=3), k=8, db=tmp_path / "a.db", options=options)

    assert plain.result["solved"] is False
    assert rotated.result["solved"] is True


# --- ensembles


async def test_an_ensemble_outvotes_a_member_that_is_always_wrong_the_same_way(tmp_path: Path) -> None:
    """One model of three is wrong on four steps of ten; decisions are right, and the rows name it."""
    db = tmp_path / "three.db"
    models = ["sim/a?seed=1", "sim/b?seed=2", "sim/bad?seed=3&hard_rate=0.4&hard_error_rate=1"]
    solution = await mdap.solve(Hanoi(disks=7), model=models, k=6, db=db)

    assert solution.result["solved"] is True
    against = dict(
        rows(
            db,
            """SELECT s.model, avg(s.answer_key <> w.answer_key) FROM samples s
            JOIN (SELECT step, answer_key,
                         row_number() OVER (PARTITION BY step ORDER BY count(*) DESC) AS place
                  FROM samples WHERE verdict = 'vote' GROUP BY step, answer_key) w
            ON w.step = s.step AND w.place = 1 WHERE s.verdict = 'vote' GROUP BY s.model""",
        )
    )
    assert set(against) == {"sim/a", "sim/b", "sim/bad"}
    assert against["sim/bad"] > 0.25 > 0.1 > max(against["sim/a"], against["sim/b"])


async def test_a_model_named_twice_is_asked_twice_as_often(tmp_path: Path) -> None:
    """Weights are repetitions."""
    db = tmp_path / "weights.db"
    await mdap.solve(Hanoi(disks=4), model=["sim/a", "sim/a", "sim/b"], k=3, db=db, options={"error_rate": 0})

    counted = dict(rows(db, "SELECT model, count(*) FROM samples WHERE verdict = 'vote' GROUP BY model"))
    assert counted == {"sim/a": 30, "sim/b": 15}


async def test_an_ensemble_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    """Resuming with other models is refused."""
    db = tmp_path / "same.db"
    await mdap.solve(Hanoi(disks=2), model=["sim/a", "sim/b"], db=db, run_id="one")

    with pytest.raises(mdap.UsageError, match="was started with models"):
        await mdap.solve(Hanoi(disks=2), model=["sim/a"], db=db, run_id="one")


# --- escalation, and a person


async def test_an_undecided_step_goes_to_the_next_model(tmp_path: Path) -> None:
    """The next model votes afresh, with a race of its own; the event and the rows say so."""
    db = tmp_path / "up.db"
    voting = mdap.VotingSettings(k=4, max_samples=10)
    solution = await mdap.solve(
        Hanoi(disks=4),
        model="sim/cheap?error_rate=0.45",
        escalate_to="sim/dear?error_rate=0",
        voting=voting,
        db=db,
        options={"flag_rate": 0},
    )

    assert solution.status is mdap.RunStatus.FINISHED
    escalated = rows(db, "SELECT data ->> 'step', data ->> 'tier' FROM run_events WHERE kind = 'escalated'")
    assert escalated
    assert {tier for _, tier in escalated} == {1}
    steps = {step for step, _ in escalated}
    asked = rows(db, "SELECT DISTINCT step FROM samples WHERE model = 'sim/dear'")
    assert {step for (step,) in asked} == steps
    for step, tally, margin in rows(db, "SELECT step, tally, margin FROM decisions"):
        # The dear model alone decides what it was asked: its votes are not mixed with the cheap one's.
        assert margin == 4
        assert step not in steps or list(json.loads(tally).values()) == [4]


@pytest.mark.slow
async def test_an_escalated_run_that_is_cut_goes_on_in_its_tier(tmp_path: Path) -> None:
    """A resumed step is refolded tier by tier: same decisions, same digest as the uncut run."""
    arguments: dict[str, Any] = {
        "model": "sim/cheap?error_rate=0.45&latency=0.001",
        "escalate_to": "sim/dear?error_rate=0.1&latency=0.001",
        "voting": mdap.VotingSettings(k=4, max_samples=10),
        "speculate": "off",
    }
    whole = await mdap.solve(Hanoi(disks=5), db=tmp_path / "whole.db", **arguments)
    db = tmp_path / "cut.db"
    cut = 0
    while True:
        budget = mdap.Budget(tokens=5_000 * (cut + 1))
        try:
            pieces = await mdap.solve(Hanoi(disks=5), db=db, run_id="cut", budget=budget, **arguments)
            break
        except mdap.StoppedError:
            cut += 1
            assert cut < 100

    assert cut > 5
    assert pieces.digest == whole.digest


async def test_a_person_settles_what_no_model_could(tmp_path: Path) -> None:
    """Undecided, settled with author and reason, resumed: the record says who decided what."""
    db = tmp_path / "person.db"
    voting = mdap.VotingSettings(k=4, max_samples=6)
    options = {"hard_rate": 0.2, "hard_error_rate": 0.5, "error_rate": 0, "flag_rate": 0}
    task = Hanoi(disks=4)
    async with mdap.Session(db=db, options=options) as session:
        undecided = await session.run(task, voting=voting, run_id="r")
    assert undecided.status is mdap.RunStatus.UNDECIDED
    step = undecided.steps
    [(state,)] = rows(db, f"SELECT input FROM steps WHERE step = {step}")
    right = canonical(task.oracle(TypeAdapter(State).validate_json(state)))

    with pytest.raises(mdap.UsageError, match="not one that voting left undecided"):
        await settle_step(db, "r", step - 1, answer=right, author="ada", reason="I looked")
    with pytest.raises(mdap.UsageError, match="is no answer to this step"):
        await settle_step(db, "r", step, answer='{"move":[1]}', author="ada", reason="I looked")
    assert await settle_step(db, "r", step, answer=right, author="ada", reason="I looked") == "r"

    decided = f"SELECT winner, author, reason FROM decisions WHERE step = {step}"
    assert rows(db, decided) == [(right, "ada", "I looked")]
    async with mdap.Session(db=db, options=options) as session:
        going_on = await session.run(task, voting=voting, run_id="r")
    assert going_on.steps > step


# --- money


async def test_the_cost_is_tokens_times_price(tmp_path: Path) -> None:
    """Votes, red flags and void samples are all paid for."""
    solution = await mdap.solve(
        Hanoi(disks=5),
        db=tmp_path / "cost.db",
        prices=PRICES,
        options={"error_rate": 0.2, "flag_rate": 0.2, "latency": 0.001},
    )

    usage = solution.usage
    assert solution.totals.red_flags
    assert solution.totals.void
    assert solution.cost_usd == pytest.approx((usage.input_tokens * 0.4 + usage.output_tokens * 1.6) / 1e6)


async def test_an_unknown_price_is_null_and_never_zero(tmp_path: Path) -> None:
    """And a budget in USD cannot be kept without one."""
    assert (await mdap.solve(Hanoi(disks=2), db=tmp_path / "a.db")).cost_usd is None
    with pytest.raises(mdap.UsageError, match="no price is known for sim"):
        await mdap.solve(Hanoi(disks=2), db=tmp_path / "a.db", budget=mdap.Budget(usd=1))


@pytest.mark.parametrize("latency", [0.0, 0.001])
async def test_a_budget_stops_the_run_and_a_higher_one_goes_on(tmp_path: Path, latency: float) -> None:
    """At most the budget and one request's price, nothing lost, and the end is that of an uncut run."""
    options = {"latency": latency, "error_rate": 0.1}
    arguments: dict[str, Any] = {"prices": PRICES, "options": options, "speculate": "off"}
    whole = await mdap.solve(Hanoi(disks=5), db=tmp_path / "whole.db", **arguments)
    assert whole.cost_usd is not None
    db = tmp_path / "cut.db"
    for usd in (whole.cost_usd * 0.3, whole.cost_usd * 0.6):
        with pytest.raises(mdap.StoppedError, match="budget of") as stopped:
            await mdap.solve(Hanoi(disks=5), db=db, run_id="b", budget=mdap.Budget(usd=usd), **arguments)
        spent = stopped.value.solution.cost_usd
        one_request = 3 * whole.cost_usd / whole.totals.samples
        assert usd - 2 * one_request < spent <= usd + one_request
        assert stopped.value.solution.totals.failed_attempts == 0
    ended = await mdap.solve(Hanoi(disks=5), db=db, run_id="b", budget=mdap.Budget(usd=10), **arguments)
    assert ended.digest == whole.digest
    assert ended.cost_usd == pytest.approx(whole.cost_usd)


@pytest.mark.slow
async def test_a_session_that_is_out_of_time_stops_resumably(tmp_path: Path) -> None:
    """The clock ends the session, not the run."""
    options = {"latency": 0.02}
    with pytest.raises(mdap.StoppedError, match="seconds allowed are over"):
        await mdap.solve(
            Hanoi(disks=10),
            db=tmp_path / "t.db",
            run_id="t",
            options=options,
            budget=mdap.Budget(seconds=1),
        )
    [(kind,)] = rows(tmp_path / "t.db", "SELECT kind FROM run_events ORDER BY id DESC LIMIT 1 OFFSET 1")
    assert kind == "stopped"


def test_prices_come_from_a_file(tmp_path: Path) -> None:
    """A JSON object of models; anything else is one sentence."""
    good = tmp_path / "good.json"
    good.write_text('{"sim": {"input": 0.4, "output": 1.6}}')
    solution = mdap.solve_sync(Hanoi(disks=2), db=tmp_path / "p.db", prices=good)
    assert solution.cost_usd is not None
    bad = tmp_path / "bad.json"
    for text, sentence in (("[", "is not JSON"), ('{"sim": {"input": -1, "output": 1}}', "sim.input")):
        bad.write_text(text)
        with pytest.raises(mdap.UsageError, match=sentence):
            mdap.solve_sync(Hanoi(disks=2), db=tmp_path / "p.db", prices=bad)
    with pytest.raises(mdap.UsageError, match="cannot be read"):
        mdap.solve_sync(Hanoi(disks=2), db=tmp_path / "p.db", prices=tmp_path / "none.json")


# --- guesses


@pytest.mark.slow
async def test_a_good_guess_is_not_given_up_for_a_single_vote(tmp_path: Path) -> None:
    """A wrong first vote changes nothing of what is sampled ahead: only a decision outweighs a guess."""
    solution = await mdap.solve(
        Hanoi(disks=6),
        k=4,
        db=tmp_path / "g.db",
        options={"error_rate": 0.2, "latency": 0.001},
        speculate="guess",
        limits=mdap.Limits(concurrency=8),
    )

    [(split,)] = rows(
        tmp_path / "g.db", "SELECT count(*) FROM decisions d, json_each(d.tally) GROUP BY d.run"
    )
    assert split > solution.steps, "some steps had votes for several answers"
    assert solution.totals.void == 0


def test_public_prices_ship_with_mdap() -> None:
    """The tutorial's model has a price without any file; a file of one's own comes first."""
    listed = price_of("openai/gpt-4.1-mini", {})
    assert listed is not None
    assert 0 < listed.input < listed.output
    own = mdap.Price(input=1, output=2)
    assert price_of("openai/gpt-4.1-mini", {"openai/gpt-4.1-mini": own}) is own
    assert price_of("sim", {}) is None


def test_public_prices_are_those_of_prompts_of_usual_length() -> None:
    """This model charges twice as much for prompts of more than 200,000 tokens."""
    assert price_of("anthropic/claude-sonnet-4-5", {}) == mdap.Price(
        input=3.0, output=15.0, cached_input=0.3, cache_write=3.75
    )
