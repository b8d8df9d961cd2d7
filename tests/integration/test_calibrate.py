"""Calibrations on record: what is sampled, what is said of it, and what ends one early."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.journal.reader import open_log
from mdap.records import SampleRequest
from mdap_hanoi import Hanoi, State
from tests.helpers import PROVIDED, Model, Walk
from tests.integration.test_session import query


class Blind(Walk):
    """A walk that does not know its right answers."""

    def oracle(self, state: tuple[int, int]) -> int:
        raise NotImplementedError


class Known:
    """A provider over a `Model`: it answers by what is asked, so that steps of equal inputs agree."""

    name = "known"
    nonblocking = True
    max_n = 8

    def __init__(self, model: Model) -> None:
        self._model = model

    async def sample(self, request: SampleRequest) -> Sequence[mdap.Reply]:
        return [
            self._model.says(request.user, 1000 * int(request.key) + ordinal) for ordinal in request.ordinals
        ]

    def describe(self) -> dict[str, Any]:
        return {"model": self.name}

    async def aclose(self) -> None:
        pass


async def test_rates_are_measured_apart_and_recorded(tmp_path: Path) -> None:
    db = tmp_path / "mdap.db"
    options = {"error_rate": 0.1, "flag_rate": 0.2}
    made = await mdap.calibrate(Hanoi(disks=8), db=db, options=options, samples=2000, run_id="c")
    assert made.samples == 2000
    assert made.steps == 500
    assert made.error_rate.low < 0.1 < made.error_rate.high
    assert made.valid_rate.low < 0.8 < made.valid_rate.high
    assert sum(made.red_flags.values()) == made.samples - made.votes
    assert (made.truth, made.source, made.bias_bound) == ("oracle", "sample_state", 0)
    assert made.projection is not None
    assert made.k == made.projection.k >= 4
    rows = query(db, "SELECT verdict, count(*) FROM samples GROUP BY verdict ORDER BY verdict")
    assert dict(rows) == {"vote": made.votes, "flag": 2000 - made.votes}
    [(kind, steps)] = query(db, "SELECT kind, (SELECT count(*) FROM steps) FROM runs")
    assert (kind, steps) == ("calibration", 500)
    [(recorded,)] = query(db, "SELECT data->'result' FROM run_events WHERE kind = 'finished'")
    assert json.loads(recorded) == json.loads(json.dumps(made.to_dict()))


async def test_equal_seeds_sample_equal_steps(tmp_path: Path) -> None:
    async def inputs(name: str, seed: int) -> list[Any]:
        db = tmp_path / f"{name}.db"
        await mdap.calibrate(Hanoi(disks=9), db=db, samples=80, seed=seed)
        return query(db, "SELECT input FROM steps ORDER BY step")

    first = await inputs("a", 1)
    assert first == await inputs("b", 1)
    assert first != await inputs("c", 2)
    assert len(set(first)) > 15


async def test_hard_prompts_are_told_of_in_words(tmp_path: Path) -> None:
    options = {"hard_rate": 0.05, "hard_error_rate": 0.9}
    made = await mdap.calibrate(Hanoi(disks=10), db=tmp_path / "d", options=options, samples=1000)
    assert made.uneven
    assert made.findings[0].startswith("steps are not equally hard")
    assert made.collisions > 3 * made.collisions_expected
    fair = await mdap.calibrate(Hanoi(disks=10), db=tmp_path / "d", samples=1000)
    assert not fair.uneven
    assert fair.findings[0] == "errors look independent: no step stands out as harder than others"
    assert fair.findings[1].startswith("with -k robust and a floor of 0.6, about 0.0 of 1,023 steps")


async def test_a_hopeless_model_gets_no_k(tmp_path: Path) -> None:
    made = await mdap.calibrate(Hanoi(disks=5), db=tmp_path / "d", options={"error_rate": 0.6})
    assert made.k is None
    assert made.projection is None
    assert "no k reaches the target" in made.findings[0]


@pytest.mark.slow
async def test_without_an_oracle_winners_of_races_stand_for_the_truth(tmp_path: Path) -> None:
    """The steps are those of a pilot, then of the run; the rate is right either way."""
    db, task = tmp_path / "mdap.db", Blind(steps=400)
    PROVIDED["calibrated"] = Known(Model(Walk(steps=400), right=0.8, flagged=0.1))
    async with mdap.Session("tests.helpers:provided/calibrated", db=db) as session:
        first = await session.calibrate(task, samples=4000, run_id="first")
        await session.run(task, k=6, run_id="run")
        second = await session.calibrate(task, samples=4000)
    assert (first.source, second.source) == ("pilot first-pilot", "run run")
    assert "only the first steps" in first.findings[-1]
    for made in (first, second):
        assert (made.truth, made.consensus_k) == ("consensus", 8)
        assert made.error_rate.low < 0.2 < made.error_rate.high
        assert made.valid_rate.low < 0.9 < made.valid_rate.high
        assert 0 < made.bias_bound < 0.01
        assert 4000 <= made.samples < 4000 + 100
    decided = query(db, "SELECT count(*) FROM decisions JOIN runs r ON r.id = run WHERE r.run_id = 'first'")
    assert decided == [(first.steps,)]


class Vague(mdap.Chain[int, int]):
    """Nobody knows the answer, and no two replies agree."""

    steps: int = 1

    def start(self) -> int:
        return 0

    def step(self, state: int) -> mdap.Step[int]:
        return mdap.Step(user=str(state), parse=read)

    def advance(self, state: int, answer: int) -> int:
        return state + 1

    def result(self, state: int) -> int:
        return state

    def length(self) -> int:
        return self.steps

    def sample_state(self, rng: random.Random) -> int:
        return rng.randrange(10**9)


class Babel(Known):
    """Every reply is another one."""

    async def sample(self, request: SampleRequest) -> Sequence[mdap.Reply]:
        return [mdap.Reply(f"{request.key}000{ordinal}", "toy") for ordinal in request.ordinals]


READ: list[str] = []


def read(text: str) -> int:
    READ.append(text)
    return int(text)


async def test_each_reply_is_read_once(tmp_path: Path) -> None:
    """Also where there are more different ones than a race remembers: the parser is the author's own."""
    READ.clear()
    PROVIDED["babel"] = Babel(Model(Walk()))
    made = await mdap.calibrate(
        Vague(), db=tmp_path / "mdap.db", model="tests.helpers:provided/babel", samples=300
    )
    assert made.samples == len(READ) == len(set(READ)) >= 300


async def test_a_budget_stops_it_with_what_it_has(tmp_path: Path) -> None:
    made = await mdap.calibrate(
        Hanoi(disks=10), db=tmp_path / "d", samples=4000, budget=mdap.Budget(tokens=100_000)
    )
    assert made.status is mdap.RunStatus.STOPPED
    assert "100,000 tokens" in (made.reason or "")
    assert 0 < made.samples < 400
    assert made.projection is not None


async def test_prices_give_costs(tmp_path: Path) -> None:
    prices = {"sim": mdap.Price(input=1.0, output=2.0)}
    made = await mdap.calibrate(Hanoi(disks=10), db=tmp_path / "d", prices=prices)
    assert made.cost_usd is not None
    assert made.projection is not None
    assert made.projection.cost_usd is not None
    each = made.cost_usd / made.samples
    assert made.projection.cost_usd.value == pytest.approx(made.projection.samples.value * each)
    assert made.projection.cost_usd.low < made.projection.cost_usd.value < made.projection.cost_usd.high


@pytest.mark.slow
async def test_a_real_run_takes_what_was_projected(tmp_path: Path) -> None:
    held = 0
    for seed in range(10):
        options = {"error_rate": 0.1, "seed": seed}
        async with mdap.Session(db=tmp_path / f"{seed}.db", options=options) as session:
            estimate = (await session.calibrate(Hanoi(disks=7))).projection
            assert estimate is not None
            solution = await session.run(Hanoi(disks=7), k=estimate.k)
        held += estimate.samples.low <= solution.totals.samples <= estimate.samples.high
    assert held >= 9


class Odd(Hanoi):
    """A task whose states cannot be sampled."""

    def sample_state(self, rng: random.Random) -> State:
        raise ValueError("no")


async def test_wrong_uses_are_refused(tmp_path: Path) -> None:
    async with mdap.Session(db=tmp_path / "d") as session:
        with pytest.raises(mdap.UsageError, match="samples takes a whole number of at least 1, not 0"):
            await session.calibrate(Hanoi(), samples=0)
        await session.calibrate(Hanoi(), samples=8, run_id="taken")
        with pytest.raises(mdap.UsageError, match="there is a run taken already"):
            await session.calibrate(Hanoi(), samples=8, run_id="taken")
        with pytest.raises(mdap.PluginError, match="sampling a state"):
            await session.calibrate(Odd())
        with pytest.raises(mdap.UsageError, match="is a calibration"):
            await session.resume("taken")


async def test_calibrations_are_no_runs_to_those_who_list_them(tmp_path: Path) -> None:
    db = tmp_path / "mdap.db"
    await mdap.calibrate(Hanoi(), db=db, samples=8, run_id="c")
    async with open_log(db) as reader:
        [(row, _)] = await reader.runs(10)
        assert row.kind == "calibration"
        assert row.status is mdap.RunStatus.FINISHED
