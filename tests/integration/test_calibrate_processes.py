"""Calibrations of processes: which steps are sampled, and that -k auto goes by them."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

import mdap
from mdap.errors import PluginError, UsageError
from mdap.rules.scaling import minimal_k
from mdap.testing import ScriptedProvider
from tests.helpers import Walk
from tests.integration.test_pilots import Wide
from tests.integration.test_session import provide, query
from tests.processes import double

OPTIONS = {"error_rate": 0.1, "flag_rate": 0.0}


class Blind(Wide):
    """Know no right answer, as most tasks do."""

    def oracle(self, step: mdap.Step[Any]) -> int:
        raise NotImplementedError


class Deep(Wide):
    """Ask in rounds, in parts, and for something once at the end."""

    done: ClassVar[list[str]] = []

    async def solve(self, ask: mdap.Ask) -> Any:
        first = await ask.map(double(number) for number in range(20))
        second = await ask.map(double(number, key="again") for number in first)
        part = await ask.solve(Wide(width=30, number=7), key="part")
        await ask.solve(Walk(steps=10, seed=1), key="walk")
        await ask.once(lambda: self.done.append("done"), key="end")
        return [second, part]


async def test_the_rates_of_a_process_are_measured(tmp_path: Path) -> None:
    """By its oracle, over random ones of its steps, without a run; the oracle's own run costs nothing."""
    db = tmp_path / "mdap.db"
    made = await mdap.calibrate(Wide(width=3000), db=db, options=OPTIONS, samples=2000, run_id="c")
    assert (made.samples, made.steps, made.truth, made.source) == (2000, 500, "oracle", "oracle")
    assert made.error_rate.low < 0.1 < made.error_rate.high
    assert made.k == minimal_k(made.error_bound, 3000, 0.95)
    inputs = [int(row[0]) for row in query(db, "SELECT DISTINCT input FROM steps")]
    assert len(inputs) == 500
    assert max(inputs) > 2500  # not just the first of them


async def test_auto_goes_by_the_calibration_of_a_process(tmp_path: Path) -> None:
    db = tmp_path / "mdap.db"
    async with mdap.Session(db=db, options=OPTIONS) as session:
        made = await session.calibrate(Wide(), samples=1000, run_id="c")
        solution = await session.solve(Wide(), k="auto", run_id="r")
    assert solution.k == made.k
    assert query(db, "SELECT count(*) FROM runs WHERE kind = 'pilot'") == [(0,)]


@pytest.mark.slow
async def test_without_an_oracle_the_steps_are_those_of_a_pilot_or_a_run(tmp_path: Path) -> None:
    """Asked for again on what is recorded, also those that a pilot left out; winners stand for the truth."""
    db = tmp_path / "mdap.db"

    def says(request: mdap.SampleRequest, ordinal: int) -> str:
        number = int(request.user.split()[1])
        return str(2 * number + (hash((number, ordinal)) % 10 == 0))

    async with mdap.Session(provide(ScriptedProvider(says)), db=db) as session:
        first = await session.calibrate(Blind(), samples=2000, run_id="first")
        await session.solve(Blind(), k=3, run_id="run")
        second = await session.calibrate(Blind(), samples=2000, run_id="second")
    assert (first.source, second.source) == ("pilot first-pilot", "run run")
    assert (first.truth, first.consensus_k) == ("consensus", 8)
    for made in (first, second):
        assert made.error_rate.low < 0.1 < made.error_rate.high
        assert made.steps > 150
    [(last,)] = query(
        db, "SELECT max(CAST(input AS INT)) FROM steps JOIN runs r ON r.id = run WHERE run_id = 'first'"
    )
    assert last > 200  # far behind the fifty that the pilot opened


async def test_all_rounds_and_parts_are_sampled_and_nothing_is_done(tmp_path: Path) -> None:
    """What is asked for later, on the oracle's answers, and in nested chains and processes."""
    db = tmp_path / "mdap.db"
    Deep.done.clear()
    made = await mdap.calibrate(Deep(), db=db, options=OPTIONS, samples=4 * 80, run_id="c")
    assert made.steps == 20 + 20 + 30 + 10
    assert Deep.done == []


async def test_a_process_that_asks_nothing_cannot_be_calibrated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no step to sample"):
        await mdap.calibrate(Wide(width=0), db=tmp_path / "mdap.db")


async def test_an_error_of_the_author_names_the_task(tmp_path: Path) -> None:
    class Broken(Wide):
        async def solve(self, ask: mdap.Ask) -> Any:
            return (await ask(double(1))) / 0

    with pytest.raises(
        PluginError, match=r"Broken failed while solving with its oracle's answers: .*ZeroDivisionError"
    ):
        await mdap.calibrate(Broken(), db=tmp_path / "mdap.db")
