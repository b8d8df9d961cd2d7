"""A person settles any step of any run: processes too, decided or not, by number or by key, nested or not."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

import mdap
from mdap.audit import verify
from mdap.cli.main import main
from mdap.errors import UsageError
from mdap.plugins import make_task
from mdap.session.deciding import settle_step
from mdap.testing import ScriptedProvider
from tests.helpers import Walk
from tests.integration.test_decisions import DIVIDED, Table, says
from tests.integration.test_session import provide, query
from tests.integration.test_verify import edited
from tests.processes import Double, double

VOTING = mdap.VotingSettings(k=3, max_samples=12)
DECIDED = "SELECT winner FROM decisions JOIN runs r ON r.id = run WHERE r.run_id = ?"
BY_ADA = {"author": "ada", "reason": "I looked"}


class Office(Double):
    """Decide rows, do something once before and after, and have two parts; the second depends on a row."""

    done: ClassVar[list[str]] = []

    async def solve(self, ask: mdap.Ask) -> Any:
        first = await ask.once(lambda: self.note("before"), key="before")
        walked = await ask.solve(Walk(steps=4, seed=1), key="walk")
        rows = [await ask(double(number, key=f"row/c{number}")) for number in range(3)]
        last = await ask(double(sum(rows), key="sum"))
        part = await ask.solve(Double(number=rows[2]), key="part")
        second = await ask.once(lambda: self.note(f"after {last}"), key="after")
        return [first, walked, rows, last, part, second]

    def note(self, what: str) -> str:
        self.done.append(what)
        return what


class Numbered(Double):
    """Give keys that look like numbers."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.map(double(number, key=str(number + 1)) for number in range(3))


async def table(db: Path) -> mdap.Solution:
    model = provide(ScriptedProvider(says))
    return await mdap.solve(Table(), model=model, db=db, run_id="r", voting=VOTING)


async def resumed(db: Path, run_id: str, **session: Any) -> mdap.Solution:
    async with mdap.Session(db=db, **(session or {"model": provide(ScriptedProvider(says))})) as opened:
        return await opened.resume(run_id)


def samples(db: Path) -> int:
    return int(query(db, "SELECT count(*) FROM samples")[0][0])


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    Office.done.clear()


async def test_an_undecided_row_of_a_finished_run_reaches_its_result(tmp_path: Path) -> None:
    """Settled by key, one after the other, in the run itself, which goes on without a further sample."""
    db = tmp_path / "mdap.db"
    before = (await table(db)).result
    bought = samples(db)
    for number in (*DIVIDED, 5):
        assert await settle_step(db, "r", f"row/c{number}", answer=str(2 * number), **BY_ADA) == "r"
    assert verify(db, "r", make_task).verdict == "verified"
    solution = await resumed(db, "r")
    assert [row[0] for row in solution.result] == [2 * number for number in range(10)]
    assert [row[1:] for row in solution.result if row[0] in (6, 10, 14)] == [[True, None, None, "ada"]] * 3
    assert solution.result[0][3] == before[0][3]
    assert samples(db) == bought
    assert solution.undecided == 0
    assert verify(db, "r", make_task).verdict == "verified"


async def test_a_decided_row_is_overridden_by_a_run_that_takes_over(tmp_path: Path) -> None:
    """The others keep answer, votes and confidence; nothing on record changes; both runs are verified."""
    db = tmp_path / "mdap.db"
    model = provide(ScriptedProvider(lambda request, n: str(2 * int(request.user.split()[1]) + (n == 1))))
    old = await mdap.solve(Table(), model=model, db=db, run_id="r", voting=VOTING)
    decisions, bought = query(db, "SELECT * FROM decisions"), samples(db)
    name = await settle_step(db, "r", "row/c4", answer="88", **BY_ADA)
    assert name == "r-override-1"
    new = await resumed(db, name, model=model)
    assert new.result[4] == [88, True, None, None, "ada"]
    assert [row[:3] for row in new.result if row[0] != 88] == [row[:3] for row in old.result if row[0] != 8]
    assert new.result[0][3] == pytest.approx(old.result[0][3], abs=0.01)
    assert query(db, "SELECT * FROM decisions WHERE run = 1") == decisions
    assert samples(db) == bought
    for run in ("r", name):
        assert verify(db, run, make_task).verdict == "verified"
    # Once more, on what was taken over and on what a person decided.
    second = await settle_step(db, name, 4, answer="8", **BY_ADA)
    third = await settle_step(db, second, "row/c5", answer="55", **BY_ADA)
    assert (second, third) == ("r-override-2", "r-override-3")
    last = await resumed(db, third, model=model)
    assert [row[0] for row in last.result] == [0, 2, 4, 6, 8, 55, 12, 14, 16, 18]
    assert verify(db, third, make_task).verdict == "verified"


async def test_what_depends_on_the_answer_is_voted_on_and_made_again(tmp_path: Path) -> None:
    """A later step with another prompt, a nested run with other parameters, what was done once after it."""
    db = tmp_path / "mdap.db"
    options = {"error_rate": 0.0, "flag_rate": 0.0}
    old = await mdap.solve(Office(), db=db, k=3, options=options, run_id="o")
    assert old.result[2:] == [[0, 2, 4], 12, 8, "after 12"]
    name = await settle_step(db, "o", "row/c2", answer="5", **BY_ADA)
    new = await resumed(db, name, options=options)
    assert new.result == [*old.result[:2], [0, 2, 5], 14, 10, "after 14"]
    assert Office.done == ["before", "after 12", "after 14"]
    run = query(db, "SELECT id FROM runs WHERE run_id = ?", name)[0][0]
    sampled = query(db, "SELECT DISTINCT key FROM steps JOIN samples USING (run, step) WHERE run = ?", run)
    assert sampled == [("sum",)]
    assert query(db, "SELECT run_id FROM runs WHERE parent = ?", run) == [(f"{name}/part",)]
    assert verify(db, name, make_task).verdict == "verified"


async def test_a_step_of_a_nested_run_is_overridden_with_all_that_it_is_nested_in(tmp_path: Path) -> None:
    """Of a chain and of a process: the whole is taken over but for the result of that part."""
    db = tmp_path / "mdap.db"
    options = {"error_rate": 0.0, "flag_rate": 0.0}
    old = await mdap.solve(Office(), db=db, k=3, options=options, run_id="o")
    name = await settle_step(db, "o/part", 0, answer="9", **BY_ADA)
    assert name == "o-override-1"
    new = await resumed(db, name, options=options)
    assert new.result == [*old.result[:4], 9, "after 12"]
    assert query(db, "SELECT run_id FROM runs WHERE run_id LIKE 'o-over%'") == [
        (name,),
        (f"{name}/part",),
    ]
    assert verify(db, name, make_task).verdict == "verified"
    [(was,)] = query(db, f"{DECIDED} AND step = 1", "o/walk")
    other = "1" if was != "1" else "2"
    walked = await settle_step(db, "o/walk", 1, answer=other, **BY_ADA)
    again = await resumed(db, walked, options=options)
    assert query(db, f"{DECIDED} AND step < 2", f"{walked}/walk")[1] == (other,)
    assert query(db, f"{DECIDED} AND author IS NULL", f"{walked}/walk") != []
    assert again.result[2:5] == old.result[2:5]
    assert verify(db, walked, make_task).verdict == "verified"


async def test_what_was_not_voted_on_is_not_settled(tmp_path: Path) -> None:
    db = tmp_path / "mdap.db"
    await mdap.solve(Office(), db=db, k=3, run_id="o")
    with pytest.raises(UsageError, match=r"not voted on: its result is that of `once`"):
        await settle_step(db, "o", "once:before", answer='"x"', **BY_ADA)
    with pytest.raises(UsageError, match=r"that of a nested run: settle a step of that run"):
        await settle_step(db, "o", "solve:walk", answer='"x"', **BY_ADA)
    with pytest.raises(UsageError, match=r"no step with the key 'row/c9'"):
        await settle_step(db, "o", "row/c9", answer="1", **BY_ADA)
    with pytest.raises(UsageError, match=r"no answer to this step"):
        await settle_step(db, "o", "row/c1", answer='"x"', **BY_ADA)
    assert query(db, "SELECT count(*) FROM runs WHERE run_id LIKE '%override%'") == [(0,)]


class Twins(Double):
    """Ask two things under one key."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.map([double(1, key="twin"), double(2, key="twin")])


async def test_what_cannot_be_settled_says_what_can(tmp_path: Path) -> None:
    """A key of several steps names their numbers, and a step that nobody asked for where to look."""
    db = tmp_path / "mdap.db"
    await mdap.solve(Twins(), db=db, k=3, run_id="t")
    with pytest.raises(
        UsageError, match=r"t has several steps with the key 'twin': give the number of one, 0, 1"
    ):
        await settle_step(db, "t", "twin", answer="9", **BY_ADA)
    with pytest.raises(
        UsageError, match=r"step 7 is not one that voting left undecided: `mdap audit review`"
    ):
        await settle_step(db, "t", 7, answer="9", **BY_ADA)


class Person(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    country: str = Field(pattern="^[A-Z]{2}$")


class People(mdap.Process[Any]):
    """Read who somebody is."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask(mdap.Step(user="Ada, GB", parse=self.read))

    def read(self, text: str) -> Person:
        return Person.model_validate_json(text)

    def oracle(self, step: mdap.Step[Any]) -> Person:
        return Person(name="Ada", country="GB")

    def mistakes(self, step: mdap.Step[Any], truth: Person) -> list[Person]:
        return [Person(name="Ida", country="GB")]

    def render(self, step: mdap.Step[Any], answer: Person) -> str:
        return answer.model_dump_json()


@pytest.mark.parametrize(
    ("answer", "flaw"),
    [
        (
            '{"name": "Ada", "country": "gb"}',
            r"field country: String should match pattern .* \(given 'gb'\)$",
        ),
        ('{"country": "GB"}', r"field name: Field required$"),
        ('{"name": }', r"Expecting value: line 1 column 10"),
    ],
)
async def test_an_answer_that_cannot_be_says_what_is_wrong_with_it(
    tmp_path: Path, answer: str, flaw: str
) -> None:
    db = tmp_path / "mdap.db"
    await mdap.solve(People(), db=db, k=3, run_id="p")
    with pytest.raises(UsageError, match=f"is no answer to this step: {flaw}"):
        await settle_step(db, "p", 0, answer=answer, **BY_ADA)


async def test_a_key_that_could_be_a_number_is_asked_about(tmp_path: Path) -> None:
    """Nobody settles another row than the one that is meant."""
    db = tmp_path / "mdap.db"
    await mdap.solve(Numbered(), db=db, k=3, options={"error_rate": 0}, run_id="n")
    with pytest.raises(UsageError, match="1 is a number, and the key of step 0: write step:1 or key:1"):
        await settle_step(db, "n", "1", answer="7", **BY_ADA)
    async with mdap.Session(db=db, options={"error_rate": 0}) as session:
        by_key = await settle_step(db, "n", "key:1", answer="7", **BY_ADA)
        assert (await session.resume(by_key)).result == [7, 2, 4]
        by_number = await settle_step(db, "n", "step:1", answer="7", **BY_ADA)
        assert (await session.resume(by_number)).result == [0, 7, 4]
        assert await settle_step(db, "n", 0, answer="7", **BY_ADA) == "n-override-3"


async def test_a_process_with_an_error_budget_inherits_what_was_spent(tmp_path: Path) -> None:
    """-k robust keeps its promise over an override; the audit counts the budget again."""
    db = tmp_path / "mdap.db"
    options = {"error_rate": 0.1, "seed": 2}
    old = await mdap.solve(Table(width=40), k="robust", floor=0.7, db=db, options=options, run_id="r")
    name = await settle_step(db, "r", "row/c4", answer="9", **BY_ADA)
    new = await resumed(db, name, options=options)
    assert new.result[4][0] == 9
    assert old.guarantee is not None
    assert new.guarantee is not None
    assert new.guarantee.spent == old.guarantee.spent
    assert verify(db, name, make_task).verdict == "verified"


async def test_what_was_taken_over_is_compared_with_its_source(tmp_path: Path) -> None:
    """A source that was changed afterwards is found from the run that took it over."""
    db = tmp_path / "mdap.db"
    await mdap.solve(Table(), k=3, db=db, run_id="r")
    name = await settle_step(db, "r", "row/c4", answer="9", **BY_ADA)
    sql = "UPDATE decisions SET digest = replace(digest, 'a', 'b') WHERE run = 1 AND step = 2"
    found = verify(edited(db, tmp_path, sql), name, make_task)
    assert "where the decision is from" in [mismatch.what for mismatch in found.mismatches]


def test_the_command_takes_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says what to type next."""
    db = tmp_path / "mdap.db"
    mdap.solve_sync(Table(), k=3, db=db, run_id="r")
    words = ["decide", "r", "row/c4", "--answer", "9", "--reason", "I looked", "--db", str(db)]
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert f"row/c4 is settled; go on with: mdap resume r-override-1 --db {db}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["run_id"] == "r-override-2"
