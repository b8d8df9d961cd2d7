"""Multiplication and sorting as processes. The cases are the first of those that the paper's authors use,
from cognizant-ai-lab/neuro-san-benchmarking."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mdap
from mdap.testing import check_task
from mdap.testing.walking import OracleAsk, solved
from mdap_arithmetic import Multiply, Sort

PRODUCTS = [
    ("46048", "42098", "1938528704"),
    ("23434", "98696", "2312842064"),
    ("14165", "13905", "196964325"),
]
NOISY: dict[str, Any] = {"error_rate": 0.2, "seed": 1}


def numbers(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(-99, 99) for _ in range(count)]


@pytest.mark.parametrize(
    "task",
    [
        Multiply(a="907", b="46"),
        Multiply(a="86", b="64", views=2),
        Multiply(a="86", b="64", views=2, style="compact"),
        Sort(numbers=numbers(30), batch=5),
    ],
    ids=["multiply", "views", "compact", "sort"],
)
def test_they_keep_what_the_engine_relies_on(task: mdap.Task) -> None:
    """Whatever the order of answers, wherever one is wrong, and whatever a reply says."""
    assert check_task(task).skipped == ()


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_any_product_is_right_if_every_step_is(a: int, b: int) -> None:
    """The decomposition itself makes no mistake."""
    task = Multiply(a=str(a), b=str(b))
    ask = OracleAsk(task, task.length())
    assert solved(task, ask) == {"solved": True, "product": str(a * b)}
    assert all(step.input["carry"] < 10 for step in ask.asked)


@given(st.lists(st.integers(-20, 20), max_size=60), st.integers(2, 9))
def test_any_list_is_sorted_if_every_step_is(values: list[int], batch: int) -> None:
    """Numbers that are there several times included; no step looks at more than a batch."""
    task = Sort(numbers=values, batch=batch)
    ask = OracleAsk(task, 10_000)
    assert solved(task, ask) == {"solved": True, "sorted": sorted(values)}
    assert all(len(step.input["numbers"]) <= batch for step in ask.asked)


@pytest.mark.parametrize(("a", "b", "product"), PRODUCTS)
def test_products_come_out_right_though_one_sample_in_five_is_wrong(
    tmp_path: Path, a: str, b: str, product: str
) -> None:
    """At k = 8 all their steps together fail once in a thousand products."""
    solution = mdap.solve_sync(Multiply(a=a, b=b, views=2), k=8, db=tmp_path / "a.db", options=NOISY)
    assert solution.result == {"solved": True, "product": product}


def test_a_list_comes_out_sorted_though_one_sample_in_five_is_wrong(tmp_path: Path) -> None:
    """No number is lost or made up, and every one is in its place."""
    values = numbers(150)
    solution = mdap.solve_sync(Sort(numbers=values), k=8, db=tmp_path / "a.db", options=NOISY)
    assert solution.result == {"solved": True, "sorted": sorted(values)}
    assert solution.totals.votes > solution.totals.steps * 8


def test_voting_is_what_does_it(tmp_path: Path) -> None:
    """With the first vote of each step, the same model sorts nothing; but no number is lost."""
    values = numbers(150)
    solution = mdap.solve_sync(Sort(numbers=values), k=1, db=tmp_path / "a.db", options=NOISY)
    assert solution.result["solved"] is False
    assert Counter(solution.result["sorted"]) == Counter(values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "less = [1, 2, 3]",
        "less = [7]",
        "sorted = [1]",
        "less = [1,]",
        "less = [1.5]",
        "less = [01]",
        "less = [1]\nThat is all.",
        "less = [" + "1, " * 3_000 + "1]",
    ],
    ids=lambda text: text[:30],
)
def test_a_number_that_was_not_given_is_a_red_flag(text: str) -> None:
    """So is any other form."""
    step = Sort(batch=3)._split([1, 2, 5], 4)
    with pytest.raises(mdap.RedFlag):
        step.parse(text)


def test_numbers_found_in_another_order_are_the_same_answer() -> None:
    """A model may name them as it comes upon them."""
    step = Sort(batch=3)._split([2, 1, 2, 5], 4)
    assert step.parse("2, 2 and 1.\nless = [2, 1, 2]") == step.parse("less = [1,2,2]\n") == [1, 2, 2]
