"""What became of a run besides its status: whether its result is good, who says so, and where it stands."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit import Verification, verify
from mdap.plugins import make_task
from mdap.records import Certificate, Outcome, RunStatus
from mdap.rules.certificate import outcome_of
from mdap_hanoi import Hanoi
from tests.helpers import Walk
from tests.processes import Double, double


class Says(Walk):
    """Says of its result what it is told to say."""

    word: Any = None

    def outcome(self, result: Any) -> Any:
        if self.word == "mistake":
            return result["there is no such thing"]
        result.clear()
        return self.word

    def result(self, state: tuple[int, int]) -> Any:
        return {"place": state[1]}


class Grown(Double):
    """A process that is good if its number has grown, with a tower as its part."""

    async def solve(self, ask: mdap.Ask) -> Any:
        await ask.solve(Hanoi(disks=2), key="tower")
        return await ask(double(self.number))

    def outcome(self, result: int) -> bool:
        return result > self.number


class Patient(Double):
    """A process that leaves open what has no winner."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return (await ask.decision(double(self.number))).answer


def asked(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER runs_no_update")
        connection.execute("DROP TRIGGER run_events_no_update")
        for statement in statements:
            connection.execute(statement)


def solved(path: Path, task: mdap.Task, **settings: Any) -> mdap.Solution:
    return mdap.solve_sync(task, db=path, run_id="one", **settings)


def ended(path: Path) -> Any:
    [[data]] = asked(path, "SELECT data FROM run_events WHERE run = 1 AND kind = 'finished'")
    return json.loads(data)["outcome"]


@pytest.mark.parametrize(
    ("k", "outcome", "word"), [(4, Outcome.SOLVED, "solved"), (1, Outcome.UNSOLVED, "unsolved")]
)
def test_a_task_says_whether_its_result_is_good(tmp_path: Path, k: int, outcome: Outcome, word: str) -> None:
    """Solution, JSON, the run's row, the event that ended it and the audit agree; so does a resume."""
    path = tmp_path / "a.db"
    options = {"error_rate": 0.25, "seed": 1}
    solution = solved(path, Hanoi(disks=5), k=k, options=options)

    assert (solution.status, solution.outcome) == (RunStatus.FINISHED, outcome)
    assert solution.to_dict()["outcome"] == str(outcome) == {"unsolved": "not solved"}.get(word, word)
    assert asked(path, "SELECT outcome FROM runs") == [(word,)]
    assert ended(path) == word
    came = verify(path, "one", make_task)
    assert (came.verdict, came.outcome, came.to_dict()["outcome"]) == ("verified", outcome, outcome)
    assert solved(path, Hanoi(disks=5), k=k, options=options) == solution
    with mdap.open_log(path) as log:
        assert [run.outcome for run in log.runs()] == [outcome]


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("mistake", "in outcome: KeyError: 'there is no such thing'"),
        ("rather good", "TypeError: outcome must return True, False or None, not 'rather good'"),
        (1, "TypeError: outcome must return True, False or None, not 1"),
    ],
)
def test_a_mistake_in_the_outcome_is_a_sentence_and_takes_nothing_from_the_run(
    tmp_path: Path, word: Any, what: str
) -> None:
    """It is finished with its result; a warning names task and place, and the audit takes it as it was."""
    path = tmp_path / "a.db"
    solution = solved(path, Says(word=word))

    assert (solution.status, solution.outcome) == (RunStatus.FINISHED, None)
    assert set(solution.result) == {"place"}
    [warning] = solution.warnings
    assert ":Says failed while giving its outcome: " in warning
    assert warning.endswith(what)
    assert (asked(path, "SELECT outcome FROM runs"), ended(path)) == ([(None,)], None)
    assert verify(path, "one", make_task).verdict == "verified"


def test_an_outcome_that_changes_the_result_changes_a_copy(tmp_path: Path) -> None:
    """What is recorded and returned is the result as it was."""
    solution = solved(tmp_path / "a.db", Says(word=True))
    assert (solution.outcome, set(solution.result)) == ("solved", {"place"})


async def outcome(self: Any, result: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"outcome": outcome}, "outcome is async, and mdap calls it without await"),
        ({"outcome": lambda self: True}, r"write `outcome\(self, result\)`"),
        ({"outcome": "x", "__annotations__": {"outcome": str}}, "parameter 'outcome', which hides a method"),
    ],
    ids=["async", "other arguments", "a parameter"],
)
@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
def test_an_outcome_that_cannot_be_called_is_refused_before_anything_is_paid(
    tmp_path: Path, wrong: dict[str, Any], what: str
) -> None:
    """With the sentence that every method of a task gets."""
    kind = type("Wrong", (Walk,), {"__module__": __name__, **wrong})
    with pytest.raises(mdap.UsageError, match=what):
        solved(tmp_path / "a.db", kind())
    assert asked(tmp_path / "a.db", "SELECT * FROM runs") == []


def certificate(p_zero_errors: float) -> Certificate:
    rates: dict[str, Any] = dict.fromkeys(
        ("error_rate", "error_rate_low", "error_rate_high", "p_hard", "hard_share"), 0.1
    )
    return Certificate(p_zero_errors=p_zero_errors, expected_errors=1.0, dispersion=None, **rates)


@pytest.mark.parametrize(
    ("word", "p", "undecided", "expected"),
    [
        ("solved", 0.1, 3, Outcome.SOLVED),
        ("unsolved", 0.99, 0, Outcome.UNSOLVED),
        (None, 0.5, 0, None),
        (None, 0.4999, 0, Outcome.DOUBTFUL),
        (None, 0.99, 1, Outcome.DOUBTFUL),
        (None, None, 1, Outcome.DOUBTFUL),
        (None, None, 0, None),
    ],
)
def test_what_is_doubtful(
    word: str | None, p: float | None, undecided: int, expected: Outcome | None
) -> None:
    """The task's word comes first; then undecided steps, or P(no errors) below one half, are doubtful."""
    assert outcome_of(word, None if p is None else certificate(p), undecided) == expected


def test_a_run_that_does_not_say_is_doubtful_where_its_votes_are(tmp_path: Path) -> None:
    """Nothing of it is in the row: it is read from the votes, by whoever asks."""
    path = tmp_path / "a.db"
    doubtful = solved(path, Walk(steps=300), k=2, options={"error_rate": 0.2, "seed": 1})
    clear = mdap.solve_sync(Walk(steps=20), k=5, db=path, options={"error_rate": 0.01})

    assert doubtful.p_zero_errors is not None
    assert doubtful.p_zero_errors < 0.5
    assert (doubtful.outcome, clear.outcome) == (Outcome.DOUBTFUL, None)
    assert asked(path, "SELECT DISTINCT outcome FROM runs") == [(None,)]


def test_a_process_that_leaves_a_step_undecided_is_doubtful(tmp_path: Path) -> None:
    """It finished, and what it left open is counted."""
    voting = mdap.VotingSettings(k=4, max_samples=4)
    solution = solved(tmp_path / "a.db", Patient(), voting=voting, options={"error_rate": 0.5, "seed": 2})
    assert (solution.status, solution.undecided, solution.outcome) == (RunStatus.FINISHED, 1, "doubtful")


def test_a_run_that_is_not_finished_has_no_outcome(tmp_path: Path) -> None:
    """Neither good nor bad; once it is resumed, its task is asked."""
    path = tmp_path / "a.db"
    with pytest.raises(mdap.StoppedError) as caught:
        solved(path, Hanoi(disks=6), budget=mdap.Budget(tokens=40_000))
    assert (caught.value.solution.outcome, asked(path, "SELECT outcome FROM runs")) == (None, [(None,)])
    assert solved(path, Hanoi(disks=6)).outcome == "solved"


def test_parts_and_pilots(tmp_path: Path) -> None:
    """A nested task is asked, too; a pilot, which ends before its task does, is not."""
    path = tmp_path / "a.db"
    assert solved(path, Grown(number=3)).outcome == "solved"
    mdap.solve_sync(Hanoi(disks=5), k="auto", db=path, run_id="two")
    assert asked(path, "SELECT run_id, kind, outcome FROM runs ORDER BY id") == [
        ("one", "run", "solved"),
        ("one/tower", "run", "solved"),
        ("two-pilot", "pilot", None),
        ("two", "run", "solved"),
    ]


async def test_a_batch_is_as_good_as_its_cases(tmp_path: Path) -> None:
    """It is solved if all cases are, and not solved if one is not; more cases may follow."""
    path = tmp_path / "a.db"

    async def batch(*words: Any) -> mdap.Solution | None:
        async with mdap.Session(db=path) as session:
            cases = session.solve_all([Says(word=word, seed=n) for n, word in enumerate(words)], run_id="b")
            assert [one.outcome async for one in cases] == [
                {True: Outcome.SOLVED, False: Outcome.UNSOLVED, None: None}[word] for word in words
            ]
            return await session.find("b")

    for words, outcome, counted in (
        ((True, True), "solved", {"solved": 2}),
        ((True, True, None), None, {"solved": 2}),
        ((True, True, None, False), "not solved", {"solved": 2, "unsolved": 1}),
    ):
        found = await batch(*words)
        assert found is not None
        assert found.outcome == outcome
        assert found.result == {"cases": len(words), "finished": len(words), **counted}
        assert verify(path, "b", make_task).verdict == "verified"


# --- the audit


def checked_as(path: Path, word: Any) -> Verification:
    def make(name: str, params: Mapping[str, Any]) -> mdap.Task:
        return Says(**{**params, "word": word})

    return verify(path, "one", make)


@pytest.mark.parametrize(("word", "kind"), [(False, "result"), (None, "result"), ("mistake", "plugin")])
def test_a_task_that_says_something_else_now_has_changed(tmp_path: Path, word: Any, kind: str) -> None:
    """The record agrees with itself."""
    solved(tmp_path / "a.db", Says(word=True))
    came = checked_as(tmp_path / "a.db", word)
    assert (came.verdict, set(came.counts)) == ("plugin changed", {kind})


@pytest.mark.parametrize("value", ["'unsolved'", "NULL"])
def test_a_changed_outcome_is_found(tmp_path: Path, value: str) -> None:
    """In the row, it contradicts the event; in both, the seal."""
    path = tmp_path / "a.db"
    solved(path, Hanoi(disks=3))
    change(path, f"UPDATE runs SET outcome = {value}")
    came = verify(path, "one", make_task)
    assert (came.verdict, set(came.counts)) == ("mismatch", {"run"})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"UPDATE run_events SET data = json_set(data, '$.outcome', {value}) WHERE kind = 'finished'"
        )
    assert {"seal", "result"} <= set(verify(path, "one", make_task).counts)


def test_an_outcome_is_written_once_and_nothing_else_with_it(tmp_path: Path) -> None:
    """The triggers refuse it."""
    path = tmp_path / "a.db"
    solved(path, Hanoi(disks=3))
    mdap.solve_sync(Walk(), db=path)
    for statement in (
        "UPDATE runs SET outcome = 'unsolved' WHERE id = 1",
        "UPDATE runs SET outcome = NULL WHERE id = 1",
        "UPDATE runs SET outcome = 'solved', k = 7 WHERE id = 2",
        "UPDATE runs SET outcome = 'good' WHERE id = 2",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            asked(path, statement)


def test_a_log_from_before_outcomes_is_verified(tmp_path: Path) -> None:
    """Its runs have none, though their tasks have something to say now."""
    path = tmp_path / "a.db"
    solved(path, Hanoi(disks=3))
    change(
        path,
        "UPDATE runs SET outcome = NULL",
        "UPDATE run_events SET data = json_remove(data, '$.outcome') WHERE kind = 'finished'",
    )
    counts = verify(path, "one", make_task).counts
    assert set(counts) == {"seal"}  # which was taken over the event as it was
