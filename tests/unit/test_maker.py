"""The general MAKER: split, choose, solve, compose, choose again."""

import json
import sqlite3
from contextlib import closing
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mdap
from mdap.audit import verify
from mdap.plugins import make_task
from mdap.testing import check_task
from mdap.testing.walking import OracleAsk, solved
from mdap_maker import Failure, Maker, failures
from mdap_maker.arithmetic import answer_to, best_plan, is_good, wrong_plans
from mdap_maker.words import SIMPLE, checked_plan, choose_plan, choose_solution, propose_plan

PRODUCT = "Multiply 46048 by 42098."


def problem(a: int, b: int) -> str:
    return f"Multiply {a} by {b}."


def test_it_keeps_what_the_engine_relies_on() -> None:
    """Its parts, which are of its own kind, included."""
    assert check_task(Maker(problem=problem(47, 86), proposals=2), texts=60).skipped == ()


@pytest.mark.slow
@given(st.integers(0, 10**8), st.integers(0, 10**8))
def test_any_product_is_right_if_every_choice_is(a: int, b: int) -> None:
    """The plans of the simulation lead to the right answer; nothing is split forever."""
    task = Maker(problem=problem(a, b), proposals=1)
    ask = OracleAsk(task, 10_000)
    tree = solved(task, ask)
    assert tree["answer"] == str(a * b)
    assert list(failures(tree)) == []


@pytest.mark.slow
def test_noisy_agents_solve_a_product_of_five_digits(tmp_path: Path) -> None:
    """One proposal in five is bad and one discriminator in five wrong; the votes come out right."""
    options = {"error_rate": 0.2, "seed": 2}
    solution = mdap.solve_sync(Maker(problem=PRODUCT), k=8, db=tmp_path / "a.db", options=options)
    assert solution.result["answer"] == "1938528704"
    assert list(failures(solution.result)) == []
    with closing(sqlite3.connect(tmp_path / "a.db")) as log:
        nodes = log.execute("SELECT run_id, parent FROM runs").fetchall()
        margins = dict(log.execute("SELECT margin, count(*) FROM decisions WHERE votes > 0 GROUP BY margin"))
    names = {name for name, _ in nodes}
    assert len(nodes) == 49  # 25 products of two digits, and what they were split from
    assert all(name == solution.run_id or name.rpartition("/")[0] in names for name, _ in nodes)
    assert sum(parent is None for _, parent in nodes) == 1
    assert set(margins) == {1, 8}  # proposals, and votes on them


def test_without_votes_the_same_agents_fail_and_it_is_known_where(tmp_path: Path) -> None:
    """The first proposal and the first opinion: some node goes wrong, and the tree says which and why."""
    options = {"error_rate": 0.2, "seed": 2}
    solution = mdap.solve_sync(Maker(problem=PRODUCT), k=1, db=tmp_path / "a.db", options=options)
    assert solution.result["answer"] != "1938528704"
    found = list(failures(solution.result))
    assert found
    for failure in found:
        assert answer_to(failure.problem) != failure.answer
        assert set(failure.path) <= {"1", "2"}


@pytest.mark.slow
def test_the_law_holds_for_discriminators(tmp_path: Path) -> None:
    """Of 1,500 choices between two candidates, as many go wrong as the law says, within 4 standard errors."""

    class Choices(Maker):
        async def solve(self, ask: mdap.Ask) -> Any:
            steps = [choose_solution(problem(number, 7), [str(number * 7), "x"]) for number in range(1_500)]
            return sum(await ask.map(steps))

    error_rate, k = 0.3, 2
    options = {"error_rate": error_rate, "flag_rate": 0.05, "seed": 3}
    solution = mdap.solve_sync(Choices(), k=k, db=tmp_path / "a.db", options=options)
    expected = 1 / (1 + ((1 - error_rate) / error_rate) ** k)
    assert abs(solution.result / 1_500 - expected) <= 4 * sqrt(expected * (1 - expected) / 1_500)


def test_proposals_are_told_from_decisions_in_the_record(tmp_path: Path) -> None:
    """A run of both is verified, each by its own margin; a decision passed off as a proposal is found."""
    db = tmp_path / "a.db"
    task = Maker(problem=problem(12, 13), proposals=2)
    mdap.solve_sync(task, k=3, db=db, run_id="m", options={"error_rate": 0.05})
    assert verify(db, "m", make_task).verdict == "verified"
    with closing(sqlite3.connect(db)) as log:
        kinds = log.execute("SELECT reason, min(margin), max(margin) FROM decisions GROUP BY 1").fetchall()
        assert (None, 3, 3) in kinds
        assert ("proposal", 1, 1) in kinds
        log.execute("DROP TRIGGER decisions_no_update")
        log.execute(
            "UPDATE decisions SET reason = 'proposal' "
            "WHERE (run, place) = (SELECT run, place FROM decisions WHERE reason IS NULL LIMIT 1)"
        )
        log.commit()
    found = verify(db, "m", make_task)
    assert "what was asked for" in {mismatch.what for mismatch in found.mismatches}


@pytest.mark.slow
def test_a_proposal_says_nothing_of_how_sure_the_run_is(tmp_path: Path) -> None:
    """Where nothing was voted on, there is no certificate; and a chain has no proposals."""
    single = Maker(problem=problem(3, 4), proposals=1)
    solution = mdap.solve_sync(single, k=3, db=tmp_path / "a.db", options={"error_rate": 0.0})
    assert (solution.result["answer"], solution.totals.votes, solution.p_zero_errors) == ("12", 2, None)

    class Proposing(mdap.Chain[int, str]):
        def start(self) -> int:
            return 0

        def step(self, state: int) -> mdap.Step[str] | None:
            return mdap.Step(user="Well?", parse=str, proposal=True)

        def advance(self, state: int, answer: str) -> int:
            return state + 1

    with pytest.raises(mdap.FailedError, match="not a proposal"):
        mdap.solve_sync(Proposing(), db=tmp_path / "b.db")


def test_what_nobody_could_plan_or_answer_is_undecided_with_its_kind(tmp_path: Path) -> None:
    """The sentence begins with what was missing."""
    voting = mdap.VotingSettings(k=3, max_samples=6)
    divided = {"error_rate": 0.5, "flag_rate": 0.0, "seed": 1}
    with pytest.raises(mdap.UndecidedError, match="no agreement on"):
        mdap.solve_sync(Maker(problem=PRODUCT), db=tmp_path / "a.db", options=divided, voting=voting)
    useless = {"error_rate": 0.0, "flag_rate": 0.99, "seed": 1}
    with pytest.raises(mdap.UndecidedError, match="no plan: none of 5"):
        mdap.solve_sync(Maker(problem=PRODUCT), db=tmp_path / "b.db", options=useless, voting=voting)


def test_another_problem_needs_a_model(tmp_path: Path) -> None:
    """The simulation knows products of whole numbers alone, and says so."""
    with pytest.raises(mdap.FailedError, match="give a --model"):
        mdap.solve_sync(Maker(problem="Why is the sky blue?"), db=tmp_path / "a.db")


# --- plans


PLAN = {"first": "Multiply 46 by 98.", "second": "Multiply 04 by 98.", "compose": "Add the two."}


def test_a_plan_is_read_in_one_form() -> None:
    """Two that differ in blanks alone are one candidate."""
    spaced = {name: f"  {text} " for name, text in PLAN.items()}
    assert checked_plan(PLAN, (PRODUCT,)) == checked_plan(spaced, (PRODUCT,)) == PLAN
    assert checked_plan({"simple": True}, (PRODUCT,)) == SIMPLE


@pytest.mark.parametrize(
    "found",
    [
        None,
        {"simple": False},
        PLAN | {"third": "x"},
        PLAN | {"first": ""},
        PLAN | {"first": 7},
        PLAN | {"first": PRODUCT.upper()},
        PLAN | {"second": "Multiply 1 by 2."},
        PLAN | {"second": "x" * 200},
        PLAN | {"second": "Add 7 to the first result."},
    ],
    ids=str,
)
def test_a_plan_that_cannot_work_is_a_red_flag(found: Any) -> None:
    """It is the problem again, or one before it; it is larger; or it does not stand by itself."""
    with pytest.raises(mdap.RedFlag):
        checked_plan(found, ("Multiply 1 by 2.", PRODUCT))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_simulation_tells_good_plans_from_bad_ones(a: int, b: int) -> None:
    """Its best plan is good; one that leads elsewhere is not."""
    best = best_plan(problem(a, b))
    assert best is not None
    assert is_good(problem(a, b), best)
    for plan in wrong_plans(problem(a, b)):
        if plan == SIMPLE:
            assert not is_good(problem(a, b), plan)


def test_the_agents_are_asked_for_one_line_at_the_end() -> None:
    """What stands before it is theirs; what stands after it is not."""
    step = propose_plan((PRODUCT,), 1)
    assert step.parse(f"I would split the first.\n{json.dumps(PLAN)}\n") == PLAN
    choice = choose_plan(PRODUCT, [PLAN, SIMPLE])
    assert choice.parse("The second is too much for one step.\nchoice=1") == 0
    for text in ("choice=3", "choice=0", "choice=1.", "choice=1\nI hope", "1"):
        with pytest.raises(mdap.RedFlag):
            choice.parse(text)


# --- failures


def node(a: int, b: int, answer: int, *parts: Any, compose: str = "") -> dict[str, Any]:
    tree: dict[str, Any] = {"problem": problem(a, b), "answer": str(answer)}
    return tree | ({"parts": list(parts), "compose": compose} if parts else {})


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (node(12, 3, 36, node(1, 3, 3), node(2, 3, 6), compose="Append 1"), []),
        (node(12, 3, 46, node(1, 3, 4), node(2, 3, 6), compose="Append 1"), [("1", "answer")]),
        (node(12, 3, 37, node(1, 3, 3), node(2, 3, 6), compose="Append 1"), [("", "composition")]),
        (node(12, 3, 306, node(1, 3, 3), node(2, 3, 6), compose="Append 2"), [("", "plan")]),
    ],
    ids=["none", "answer", "composition", "plan"],
)
def test_failures_are_found_where_they_begin(tree: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """What only passes on a wrong part is not blamed."""
    if "compose" in tree:
        tree["compose"] += " zeros to the first result, then add the second result."
    found = list(failures(tree))
    assert [(failure.path, failure.kind) for failure in found] == expected
    assert all(isinstance(failure, Failure) for failure in found)
