"""`ask.decision`: how the vote went, also where nobody won, the same after a resume."""

from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

import mdap
from tests.unit.test_conformance import Tree


class Votes(Tree):
    """Returns the outcome of two votes, one of them on a hard question."""

    async def solve(self, ask: mdap.Ask) -> Any:
        outcomes = [await ask.decision(self.pair(one, 1)) for one in (1, 50)]
        return [[vote.step, vote.answer, vote.decided, dict(vote.votes)] for vote in outcomes]

    def oracle(self, step: mdap.Step[Any]) -> int:
        return int(sum(step.input))

    def mistakes(self, step: mdap.Step[Any], truth: int) -> list[int]:
        return [truth + 1, truth - 1] if step.input[0] == 1 else list(range(100, 150))


class Interrupted(Votes):
    """The same, but it fails after its votes as long as a file is missing."""

    flag: str

    async def solve(self, ask: mdap.Ask) -> Any:
        outcomes = await super().solve(ask)
        self._fail_once()
        return outcomes

    def _fail_once(self) -> None:
        if not Path(self.flag).exists():
            raise RuntimeError("not yet")


def test_the_votes_are_those_of_the_record(tmp_path: Path) -> None:
    """The winner's votes lead by k; a step without a winner has an outcome, too, and ends nothing."""
    options = {"error_rate": 0.45, "flag_rate": 0.0, "seed": 5}
    voting = mdap.VotingSettings(k=4, max_samples=8)
    solution = mdap.solve_sync(Votes(), db=tmp_path / "a.db", options=options, voting=voting)
    outcomes = solution.result
    for step, (number, answer, decided, votes) in enumerate(outcomes):
        assert number == step
        counts = sorted(votes.values())
        lead = counts[-1] - (counts[-2] if len(counts) > 1 else 0)
        assert decided is (lead == 4) is (answer is not None)
        assert sum(counts) <= 8
        assert not decided or votes[str(answer)] == counts[-1]
    assert solution.totals.votes == sum(sum(votes.values()) for *_, votes in outcomes)


class Twice(Tree):
    """Asks for each step twice, the second time a little later, each time by another number of turns."""

    async def solve(self, ask: mdap.Ask) -> Any:
        async def later(turns: int) -> int:
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            return await ask(self.pair(turns, 1))

        for turns in range(60):
            async with ask.group() as group:
                group.ask(self.pair(turns, 1))
                group.start(later, turns)
        return None


def test_what_two_ask_for_is_decided_once(tmp_path: Path) -> None:
    """Also where it is decided just when the second one comes, at whichever turn that is."""
    solution = mdap.solve_sync(Twice(), db=tmp_path / "a.db", options={"error_rate": 0.1})
    assert solution.totals.steps == 60


def test_a_resumed_run_finds_the_same_votes(tmp_path: Path) -> None:
    """Nothing is sampled again, and a step without a winner still has none."""
    task = Interrupted(flag=str(tmp_path / "flag"))
    settings: dict[str, Any] = {
        "db": tmp_path / "a.db",
        "options": {"error_rate": 0.45, "flag_rate": 0.0, "seed": 5},
        "voting": mdap.VotingSettings(k=4, max_samples=8),
        "run_id": "votes",
    }
    with pytest.raises(mdap.FailedError) as failed:
        mdap.solve_sync(task, **settings)
    Path(task.flag).touch()
    resumed = mdap.solve_sync(task, **settings)
    whole = mdap.solve_sync(task, **settings | {"db": tmp_path / "b.db"})
    assert resumed.result == whole.result
    assert {decided for _, _, decided, _ in resumed.result} == {True, False}
    assert resumed.totals.votes == failed.value.solution.totals.votes
