"""The pilot of `-k auto` on processes: what it opens, what it counts, and where it ends."""

from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

import mdap
from mdap.engine.config import Pilot
from mdap.errors import UnavailableError, UsageError
from mdap.rules.certificate import error_upper_bound
from mdap.rules.scaling import minimal_k
from mdap.testing import ScriptedProvider
from tests.helpers import Walk
from tests.integration.test_session import provide, query
from tests.processes import Double, double

ERRORS = {"error_rate": 0.01, "seed": 4}
TALLIES = """SELECT d.votes, (SELECT sum(value) FROM json_each(d.tally)) FROM decisions d
JOIN runs r ON r.id = d.run WHERE r.kind = 'pilot' AND d.author IS NULL"""
OPEN = """SELECT count(*) FROM steps p JOIN runs r ON r.id = p.run WHERE r.kind = 'pilot' AND NOT EXISTS
(SELECT 1 FROM decisions d WHERE d.run = p.run AND d.step = p.step)"""


class Wide(Double):
    """Ask many independent questions, all of them at once."""

    width: int = 300

    def length(self) -> int | None:
        return self.width

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.map(double(number) for number in range(self.width))


class Endless(Wide):
    """Not tell how many questions there are."""

    def length(self) -> int | None:
        return None


class Hasty(Wide):
    """Take of each three questions the answer that is there first, and wait for no other."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return [await self.first(ask, number) for number in range(0, self.width, 3)]

    async def first(self, ask: mdap.Ask, number: int) -> Any:
        found: list[Any] = []

        async def one(step: mdap.Step[int], scope: anyio.CancelScope) -> None:
            found.append(await ask(step))
            scope.cancel()

        async with anyio.create_task_group() as group:
            for place in range(3):
                group.start_soon(one, double(number + place), group.cancel_scope)
        return found[0]


class Nested(Wide):
    """Ask nothing itself: its parts do, chains and processes."""

    results: ClassVar[list[Any]] = []

    async def solve(self, ask: mdap.Ask) -> Any:
        async with ask.group() as group:
            for number in range(self.width // 20):
                group.start(ask.solve, Walk(steps=10, seed=number), f"walk {number}")
                group.start(ask.solve, Wide(width=10, number=number), f"wide {number}")
        self.results.append("over")
        return None


class Stubborn(Wide):
    """Go on without the answers that there are not."""

    async def solve(self, ask: mdap.Ask) -> Any:
        async with ask.group() as group:
            for number in range(self.width):
                group.start(ask.decision, double(number))
        return None


async def pilot(db: Path, task: mdap.Process[Any], **options: Any) -> mdap.Solution:
    solution = await mdap.solve(task, k="auto", db=db, options={**ERRORS, **options}, run_id="r")
    assert solution.status is mdap.RunStatus.FINISHED
    return solution


def counted(db: Path) -> tuple[int, int]:
    """Return the votes of the pilot, and those against, as its decisions have them."""
    rows = query(db, TALLIES)
    return sum(total for _, total in rows), sum(total - won for won, total in rows)


@pytest.mark.parametrize(
    ("width", "latency"),
    [(20, 0.0), (20, 0.0005), (300, 0.0), (300, 0.0005), pytest.param(3000, 0.0, marks=pytest.mark.slow)],
)
async def test_a_wide_process_gets_the_k_of_its_votes(width: int, latency: float, tmp_path: Path) -> None:
    """The pilot opens the steps of 400 votes, whatever the width, finishes them, and counts nothing else."""
    db = tmp_path / "mdap.db"
    solution = await pilot(db, Wide(width=width), latency=latency)
    votes, against = counted(db)
    assert query(db, OPEN) == [(0,)]
    assert [(votes,)] == query(db, "SELECT votes FROM run_totals WHERE run_id = 'r-pilot'")
    assert min(400, 8 * width) <= votes <= min(400, 8 * width) + 8 + 2 * against
    assert solution.k == minimal_k(error_upper_bound(against, votes), width, 0.95)
    assert solution.steps == width


async def test_without_a_length_auto_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "mdap.db"
    with pytest.raises(UsageError, match=r"which .*Endless does not tell.* or use -k robust"):
        await mdap.solve(Endless(), k="auto", db=db)
    async with mdap.Session(db=db) as session:
        with pytest.raises(UsageError, match=r"define length\(\), or give k"):
            await session.choose_k([Wide(), Endless()], "batch")


async def test_what_is_not_waited_for_is_finished_too(tmp_path: Path) -> None:
    """A process that takes what comes first leaves long races behind: the pilot counts them, too."""
    db = tmp_path / "mdap.db"
    await pilot(db, Hasty(width=30), error_rate=0.2, latency=0.0005)
    assert query(db, OPEN) == [(0,)]
    votes, against = counted(db)
    assert len(query(db, TALLIES)) == 30
    assert against > 0.1 * votes


@pytest.mark.slow
async def test_nested_runs_share_what_a_pilot_wants(tmp_path: Path) -> None:
    """Their steps count like its own, and the pilot ends in the middle of them; no part gives a result."""
    db = tmp_path / "mdap.db"
    Nested.results.clear()
    solution = await pilot(db, Nested(width=400))
    votes, against = counted(db)
    assert 400 <= votes <= 400 + 2 * 8 + 2 * against
    assert solution.k == minimal_k(error_upper_bound(against, votes), 400, 0.95)
    assert solution.steps == 440
    assert Nested.results == ["over"]  # of the run, not of the pilot


async def test_a_step_without_a_winner_counts_by_its_best_answer(tmp_path: Path) -> None:
    """Its votes are of a model that is wrong there every other time: leaving them out would flatter it."""
    db = tmp_path / "mdap.db"

    def says(request: mdap.SampleRequest, ordinal: int) -> str:
        number = int(request.user.split()[1])
        return str(2 * number + (ordinal % 2 if number % 10 == 0 else 0))

    model = provide(ScriptedProvider(says))
    solution = await mdap.solve(Stubborn(width=20), model=model, k="auto", db=db, target=0.5, run_id="r")
    left = query(db, OPEN)[0][0]
    assert left == 2
    baseline = query(db, "SELECT data->>'against', data->>'votes' FROM run_events WHERE kind = 'baseline'")[0]
    assert baseline[1] == query(db, "SELECT votes FROM run_totals WHERE run_id = 'r-pilot'")[0][0]
    assert baseline[0] > counted(db)[1] + 50 * left
    assert solution.k == minimal_k(error_upper_bound(*baseline), 20, 0.5)


async def test_a_pilot_that_was_cut_goes_on(tmp_path: Path) -> None:
    """What it had is counted again, and no step is decided twice."""
    db = tmp_path / "mdap.db"
    seen: list[int] = []

    def says(request: mdap.SampleRequest, ordinal: int) -> str | Exception:
        seen.append(ordinal)
        if len(seen) == 200:
            return UnavailableError("gone")
        return str(2 * int(request.user.split()[1]) + (len(seen) % 50 == 0))

    model = provide(ScriptedProvider(says))
    with pytest.raises(mdap.StoppedError, match="the pilot r-pilot: gone"):
        await mdap.solve(Wide(), model=model, k="auto", db=db, run_id="r")
    before = len(query(db, TALLIES))
    solution = await mdap.solve(Wide(), model=model, k="auto", db=db, run_id="r")
    votes, against = counted(db)
    assert 0 < before < len(query(db, TALLIES)) <= 50
    assert 400 <= votes <= 400 + 8 + 2 * against
    assert solution.k == minimal_k(error_upper_bound(against, votes), 300, 0.95)


async def test_nothing_to_go_by_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to go by: no step of .*Wide was voted on; give k"):
        await mdap.solve(Wide(width=0), k="auto", db=tmp_path / "mdap.db")


def test_a_pilot_that_has_enough_is_over_at_once() -> None:
    """A resume of one whose last session got all that it wanted opens nothing."""
    over: list[str] = []
    pilot = Pilot(0)
    pilot.when_over = lambda: over.append("over")
    assert not pilot.admit()
    assert over
