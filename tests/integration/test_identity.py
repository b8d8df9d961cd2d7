"""What the nested tasks and the steps of a process are known by, over sessions."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

import mdap
from mdap.audit import verify
from mdap.plugins import make_task
from mdap.rules.parts import Part, Parts
from mdap_hanoi import Hanoi
from tests.integration.test_effects import SURE, Booking, Ordering, numbered


class French:
    class Label(Ordering):
        text: str = "tea"

        async def solve(self, ask: mdap.Ask) -> Any:
            return f"French {await ask(mdap.Step(user='f', parse=numbered, input=1))}"


class German:
    class Label(Ordering):
        text: str = "tea"

        async def solve(self, ask: mdap.Ask) -> Any:
            return f"German {await ask(mdap.Step(user='g', parse=numbered, input=2))}"


class Labels(Ordering):
    """Asks for the same parameters of two classes of one name, and for other tasks."""

    async def solve(self, ask: mdap.Ask) -> Any:
        labels = [await ask.solve(French.Label()), await ask.solve(German.Label())]
        keyed = await ask.solve(French.Label(text="jam"), key="jam")
        return [*labels, keyed, await ask.solve(Booking(case=3))]


RESULT = ["French 1", "German 2", "French 1", 4]


class Versions(Ordering):
    """Gives one key to two tasks that differ in a parameter."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return [await ask.solve(French.Label(text=text), key="label") for text in ("tea", "jam")]


class Doubles(Ordering):
    """Gives one key to two of many tasks."""

    async def solve(self, ask: mdap.Ask) -> Any:
        tasks = [("label", French.Label(text=text)) for text in ("tea", "jam")]
        await ask.solve_all(tasks, lambda name, result: None)


class Formless(Ordering):
    """Asks for an answer of a schema that cannot be written down."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask(mdap.Step(user="f", parse=numbered, input=1, schema={"type": object()}))


class Shared(Ordering):
    """Asks many prompts under one key, side by side."""

    wording: ClassVar[str] = "classify"

    async def solve(self, ask: mdap.Ask) -> Any:
        steps = (
            mdap.Step(user=f"{self.wording} {i}", parse=numbered, input=i, key="classify", max_tokens=20)
            for i in range(60)
        )
        return await ask.map(steps)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "mdap.db"


async def solved(db: Path, task: mdap.Task, tokens: int | None = None) -> mdap.Solution:
    async with mdap.Session(options=SURE, db=db, budget=mdap.Budget(tokens=tokens)) as session:
        return await session.run(task, run_id="r")


async def test_classes_of_one_name_are_told_apart(db: Path) -> None:
    """Nested tasks of one class name and equal parameters get results of their own, and are verified."""
    assert (await solved(db, Labels())).result == RESULT
    assert verify(db, "r", make_task).ok


@pytest.mark.parametrize("tokens", [10, 24, 34, 50, 70])
async def test_a_log_of_an_earlier_version_decides_nothing_twice(
    db: Path, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun or decided under the bare name of a class is found again by its own class only."""
    of = Parts.of

    def formerly(self: Parts, task: mdap.Task, key: str | None) -> tuple[Part, Part]:
        _, former = of(self, task, key)
        return former, former

    monkeypatch.setattr(Parts, "of", formerly)
    before = await solved(db, Labels(), tokens)
    monkeypatch.undo()
    after = await solved(db, Labels())
    assert after.status is mdap.RunStatus.FINISHED
    if before.status is not mdap.RunStatus.FINISHED:
        assert after.result == RESULT
        assert not after.warnings
        assert after.totals.votes == (await solved(db.with_name("uncut.db"), Labels())).totals.votes
        assert verify(db, "r", make_task).ok


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (Versions(), "key 'label' stands for a nested task of another class, version or parameters"),
        (Doubles(), "key 'label' stands for a nested task of another class, version or parameters"),
        (Formless(), "failed while giving the schema of step 0"),
    ],
)
async def test_a_mistake_of_the_author_fails_a_resumed_run_too(
    db: Path, task: mdap.Task, sentence: str
) -> None:
    """A key with other parameters, for one: one of the tasks would get the other's result."""
    for _ in range(3):
        solution = await solved(db, task)
        assert solution.status is mdap.RunStatus.FAILED
        assert sentence in str(solution.reason)


async def test_a_key_that_many_steps_share_is_no_change(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning where a prompt is new under a key that others have; one where a prompt has changed."""
    assert (await solved(db, Shared(), 500)).status is mdap.RunStatus.STOPPED
    assert (await solved(db, Shared())).warnings == ()
    monkeypatch.setattr(Shared, "wording", "sort")
    async with mdap.Session(options=SURE, db=db, budget=mdap.Budget(tokens=500)) as session:
        monkeypatch.setattr(Shared, "wording", "classify")
        await session.run(Shared(), run_id="s")
    monkeypatch.setattr(Shared, "wording", "sort")
    async with mdap.Session(options=SURE, db=db) as session:
        changed = await session.run(Shared(), run_id="s")
    assert any("its prompt changed" in warning for warning in changed.warnings)


async def test_a_run_of_before_a_parameter_came_goes_on_with_its_default(db: Path) -> None:
    """A domain that gains a parameter still resumes what it began without it, and nothing else."""
    begun = await solved(db, Hanoi(disks=3), tokens=5_000)
    with closing(sqlite3.connect(db)) as log, log:
        (guard,) = log.execute("SELECT sql FROM sqlite_master WHERE name = 'runs_no_update'").fetchone()
        log.execute("DROP TRIGGER runs_no_update")
        log.execute("UPDATE runs SET params = json_remove(params, '$.style')")
        log.execute(guard)
    with pytest.raises(mdap.UsageError, match='style = "full", not "compact"'):
        await solved(db, Hanoi(disks=3, style="compact"))
    resumed = await solved(db, Hanoi(disks=3))
    assert (begun.status, resumed.status) == ("stopped", "finished")
