"""`Ask.solve_all`: nested tasks that keep their results, dealt over workers where there are any."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import mdap
from mdap.audit import verify
from mdap.errors import FailedError, StoppedError, UsageError
from mdap.plugins import make_recorded
from mdap.session import dealing, settle_step
from mdap.session.preview import preview
from mdap.testing import check_task
from tests.processes import Double, Doubles, double
from tests.workers import LoopPool, loop_pool

SIM = {"error_rate": 0.1, "seed": 7}
BY = {"author": "ada", "reason": "I looked"}


def session(db: Path, workers: int | None = None, **more: Any) -> mdap.Session:
    cluster = None if workers is None else mdap.Cluster(workers=workers)
    return mdap.Session("sim", **{"options": SIM, "db": db, "cluster": cluster, **more})


def results(solution: mdap.Solution[Any]) -> list[Any]:
    return [result for _, result in solution.result["doubles"]]


def names(solution: mdap.Solution[Any]) -> list[str]:
    return [run_id for run_id, _ in solution.result["doubles"]]


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LoopPool]:
    async with loop_pool() as made:
        monkeypatch.setattr(dealing, "_pool_of", lambda cluster: made)
        yield made


async def test_results_come_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    """However long each takes; the log verifies, and the process itself has no step."""
    async with session(tmp_path / "a.db") as opened:
        solution = await opened.solve(Doubles(), run_id="r")
    assert names(solution) == ["r/n0", "r/n1", "r/tower", "r/n2", "r/n3", "r/n4", "r/n5"]
    doubles = [result for result in results(solution) if isinstance(result, int)]
    assert doubles == [0, 2, 4, 6, 8, 10]
    assert solution.steps == 9  # of the parts, with the tower's three
    assert solution.digest is None
    found = verify(tmp_path / "a.db", "r", make_recorded)
    assert (found.ok, found.decisions) == (True, 9)


@pytest.mark.slow
@pytest.mark.parametrize("noted", [False, True], ids=["solve_all", "solve"])
@pytest.mark.parametrize("k", [3, "robust"])
async def test_workers_come_to_the_same(tmp_path: Path, pool: LoopPool, k: Any, noted: bool) -> None:
    """Nested tasks are dealt as the cases of a batch are, with their part of the error budget."""
    task = Doubles(count=20, noted=noted)
    async with session(tmp_path / "one.db") as opened:
        alone = await opened.solve(task, run_id="r", k=k)
    async with session(tmp_path / "many.db", workers=3) as opened:
        spread = await opened.solve(task, run_id="r", k=k)
        again = await opened.solve(task, run_id="r", k=k)
    assert len(pool.channels) == 3
    assert spread.result == alone.result == again.result
    assert (spread.steps, spread.guarantee) == (alone.steps, alone.guarantee)
    assert verify(tmp_path / "many.db", "r", make_recorded).ok


@pytest.mark.slow
async def test_a_stopped_run_solves_nothing_twice(tmp_path: Path) -> None:
    """mdap reads finished tasks from the log, and buys only the others."""
    with pytest.raises(StoppedError, match="budget"):
        async with session(tmp_path / "a.db", budget=mdap.Budget(tokens=2_000)) as opened:
            await opened.solve(Doubles(count=40), run_id="r", k=3)
    async with session(tmp_path / "a.db") as opened:
        solution = await opened.solve(Doubles(count=40), run_id="r", k=3)
        again = await opened.solve(Doubles(count=40), run_id="r", k=3)
    assert again.totals == solution.totals
    async with session(tmp_path / "b.db") as opened:
        uncut = await opened.solve(Doubles(count=40), run_id="r", k=3)
    assert (solution.result, solution.totals.votes) == (uncut.result, uncut.totals.votes)


class Stage:
    """What `Staged` solves; a test changes it between two sessions."""

    number = 1


class Staged(mdap.Process[Any]):
    """Double whatever number the stage has."""

    async def solve(self, ask: mdap.Ask) -> Any:
        found: list[Any] = []
        task = Double(number=Stage.number)
        await ask.solve_all([("it", task), ("other", Double(number=9))], lambda *each: found.append(each))
        if Stage.number == 1:
            await ask(mdap.Step(user="never answered", parse=_refuse, key="last"))
        return found

    def oracle(self, step: mdap.Step[Any]) -> Any:
        return 0


def _refuse(text: str) -> Any:
    raise mdap.RedFlag("never")


async def test_a_changed_task_is_solved_anew_beside_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key stays, its run gets another id, and the unchanged ones are not solved again."""
    voting = mdap.VotingSettings(k=2, max_samples=2)
    async with session(tmp_path / "a.db", options={"error_rate": 0.0}) as opened:
        first = await opened.run(Staged(), run_id="r", voting=voting)
        assert first.status is not mdap.RunStatus.FINISHED
        monkeypatch.setattr(Stage, "number", 5)
        second = await opened.run(Staged(), run_id="r", voting=voting)
    [(changed, ten), (other, eighteen)] = second.result
    assert changed.startswith("r/it~")
    assert (other, ten, eighteen) == ("r/other", 10, 18)
    assert second.totals.votes - first.totals.votes == 2


async def test_a_part_is_settled_and_overridden_by_itself(tmp_path: Path) -> None:
    """The finished run goes on from it: it reads the other results again, and buys nothing."""
    async with session(tmp_path / "a.db") as opened:
        before = await opened.solve(Doubles(), run_id="r")
    assert await settle_step(tmp_path / "a.db", "r/n3", 0, answer="60", **BY) == "r"
    async with session(tmp_path / "a.db") as opened:
        after = await opened.resume("r")
    assert "r/n3-override-1" in names(after)
    assert results(after) == [60 if result == 6 else result for result in results(before)]
    assert after.totals.samples == before.totals.samples
    assert verify(tmp_path / "a.db", "r", make_recorded).ok
    assert await settle_step(tmp_path / "a.db", "r/n3-override-1", 0, answer="61", **BY) == "r"
    async with session(tmp_path / "a.db") as opened:
        assert 61 in results(await opened.resume("r"))


async def test_a_key_that_several_parts_have_names_none_of_them(tmp_path: Path) -> None:
    """The parts are listed instead; a part that replaces another takes over its keys."""
    Given.tasks = [("a", Keyed(number=1)), ("b", Keyed(number=2))]
    async with session(tmp_path / "a.db") as opened:
        await opened.solve(Given(), run_id="r")
    with pytest.raises(UsageError, match=r"2 parts of r have a step .* such as r/a 0, r/b 0"):
        await settle_step(tmp_path / "a.db", "r", "same", answer="10", **BY)
    for answer in ("10", "11"):
        assert await settle_step(tmp_path / "a.db", "r", "only 1", answer=answer, **BY) == "r"
    async with session(tmp_path / "a.db") as opened:
        assert (await opened.resume("r")).result == [11 + 2, 4 + 4]


class Keyed(Double):
    """Double a number twice, under a key that all have and one of its own."""

    async def solve(self, ask: mdap.Ask) -> int:
        return sum(await ask.map([double(self.number, "same"), double(self.number, f"only {self.number}")]))


async def test_a_key_that_looks_like_an_override_is_none(tmp_path: Path) -> None:
    """Both tasks can be overridden, and neither takes the other's place."""
    Given.tasks = [("a", Double(number=1)), ("a-override-1", Double(number=2))]
    async with session(tmp_path / "a.db") as opened:
        await opened.solve(Given(), run_id="r")
    for part, answer in (("r/a", "10"), ("r/a-override-1", "20")):
        assert await settle_step(tmp_path / "a.db", part, 0, answer=answer, **BY) == "r"
    async with session(tmp_path / "a.db") as opened:
        assert (await opened.resume("r")).result == [10, 20]
    assert verify(tmp_path / "a.db", "r", make_recorded).ok


async def test_robust_keeps_the_target_for_each_part(tmp_path: Path) -> None:
    """The solution tells how many parts there are, and what they spent together."""
    async with session(tmp_path / "a.db", options={"error_rate": 0.3, "seed": 3}) as opened:
        solution = await opened.solve(Doubles(count=12), run_id="r", k="robust", target=0.9)
        part = await opened.find("r/n3")
    assert solution.guarantee is not None
    assert part is not None
    assert part.guarantee is not None
    assert (solution.guarantee.parts, part.guarantee.target) == (13, 0.9)
    assert 0 < solution.guarantee.spent <= 13 * solution.guarantee.bound
    sentence = solution.guarantee.sentence(solution.steps)
    assert "each of the 13 parts by itself has a wrong decision with probability 10 % at most" in sentence
    await settle_step(tmp_path / "a.db", "r/n3", 0, answer="60", **BY)
    async with session(tmp_path / "a.db", options={"error_rate": 0.3, "seed": 3}) as opened:
        again = await opened.resume("r")
    assert again.guarantee == solution.guarantee  # the part that replaces another takes over its payments
    assert verify(tmp_path / "a.db", "r", make_recorded).ok


async def test_robust_counts_the_parts_that_have_steps(tmp_path: Path) -> None:
    """Of a process that only solves others which do so, too, those keep the target that ask for something."""
    Given.tasks = [("few", Doubles(count=2)), ("many", Doubles(count=5)), ("noted", Doubles(noted=True))]
    async with session(tmp_path / "a.db") as opened:
        solution = await opened.solve(Given(), run_id="r", k="robust")
    assert solution.guarantee is not None
    assert solution.guarantee.parts == 3 + 6 + 1


@pytest.mark.slow
async def test_one_k_is_chosen_for_all_parts(tmp_path: Path) -> None:
    """By a pilot, which the parts take part in, and which has no outside effects."""
    async with session(tmp_path / "a.db") as opened:
        solution = await opened.run(Lengthy(), run_id="r", k="auto")
        part, pilot = await opened.find("r/n1"), await opened.find("r-pilot")
    assert part is not None
    assert pilot is not None
    assert solution.k == part.k
    assert pilot.totals.votes >= 400


class Lengthy(Doubles):
    """As many as a pilot needs, and more."""

    count: int = 60

    def length(self) -> int:
        return 63


async def test_previews_and_checks_go_through_the_parts(tmp_path: Path) -> None:
    """The prompts of a dry run are those of the parts, and the conformance check looks at them, too."""
    shown = await preview("doubles", Doubles(count=3))
    assert [(each.part, each.step) for each in shown.asked][:2] == [("n0", 0), ("n1", 0)]
    assert check_task(Doubles(count=3)).skipped == ()


@pytest.mark.parametrize(
    "tasks",
    [[("a", 3)], [(3, Double())], [("", Double())], [("a", Double()), ("a", Double(number=2))]],
    ids=str,
)
async def test_what_is_no_pair_of_a_key_and_a_task_is_refused(tmp_path: Path, tasks: Any) -> None:
    """In one sentence, also two tasks with one key."""
    Given.tasks = tasks
    async with session(tmp_path / "a.db") as opened:
        with pytest.raises((FailedError, UsageError)) as caught:
            await opened.solve(Given(), run_id="r")
    assert "pairs of a key and a task" in str(caught.value) or "stands for a nested task" in str(caught.value)


class Given(mdap.Process[Any]):
    """Solve whatever a test gives."""

    tasks: ClassVar[Any] = None

    async def solve(self, ask: mdap.Ask) -> Any:
        found: list[Any] = []
        await ask.solve_all(Given.tasks, lambda run_id, result: found.append(result))
        return found
