"""What a budget buys, and what another k, length or cut would take."""

import pytest

from mdap.errors import UsageError
from mdap.rules.planning import Each, by_margin, by_subtask, what_buys
from mdap.rules.scaling import plan

EACH = Each(600 * 0.4e-6, 538 * 1.6e-6)


def test_the_papers_run_costs_what_the_paper_says() -> None:
    """20 disks at k = 3 with gpt-4.1-mini: about 3.5 thousand USD."""
    assert EACH.cost(plan(1_048_575, 0.0022)) == pytest.approx(3500, rel=0.1)


def test_a_budget_is_spent_to_the_last_step_and_margin() -> None:
    wanted = plan(10_000, 0.01, 0.98)
    bought = what_buys(60.0, EACH, wanted)
    assert bought.enough
    assert bought.k is not None
    assert bought.k > wanted.k
    assert EACH.cost(plan(10_000, 0.01, 0.98, k=bought.k)) <= 60
    assert EACH.cost(plan(10_000, 0.01, 0.98, k=bought.k + 1)) > 60
    assert bought.p_zero_errors == plan(10_000, 0.01, 0.98, k=bought.k).p_zero_errors
    assert EACH.cost(plan(bought.steps, 0.01, 0.98)) <= 60
    assert EACH.cost(plan(bought.steps + 1, 0.01, 0.98)) > 60


def test_a_budget_may_be_too_small() -> None:
    wanted = plan(10_000, 0.01)
    some = what_buys(15.0, EACH, wanted)
    assert (some.enough, some.k) == (False, 1)
    assert 0 < some.steps < 10_000
    none = what_buys(0.0001, EACH, wanted)
    assert none == (False, None, None, 0)


def test_a_table_of_margins_has_the_plan_in_its_middle() -> None:
    wanted = plan(1000, 0.05)
    rows = by_margin(wanted)
    assert [row[0].steps for row in rows] == [10, 100, 1000, 10_000, 100_000]
    assert [made.k for made in rows[0]] == list(range(wanted.k - 2, wanted.k + 4))
    assert wanted in rows[2]
    for row in rows:
        chances = [made.p_zero_errors for made in row]
        assert chances == sorted(chances)


def test_larger_subtasks_cost_exponentially_more() -> None:
    """With m steps a sample, p^m nears one half, and k runs away; beyond that there is no plan at all."""
    cuts = by_subtask(plan(1000, 0.01))
    assert [made.steps_per_subtask for made in cuts] == [1, 2, 5, 10, 20, 50]
    margins = [made.k for made in cuts]
    assert margins == sorted(margins)
    output = [made.samples * made.steps_per_subtask for made in cuts]
    assert output[-1] > 20 * output[0]
    assert all(made.p_zero_errors >= 0.95 for made in cuts)
    with pytest.raises(UsageError, match="no k helps"):
        plan(1000, 0.01, steps_per_subtask=100)


def test_a_subtask_of_one_step_is_a_step() -> None:
    assert plan(1000, 0.01, 0.9, steps_per_subtask=1) == plan(1000, 0.01, 0.9)
    assert plan(5, 1.0, k=2, steps_per_subtask=5).p_zero_errors == 0


def test_short_tasks_are_not_cut_beyond_their_length() -> None:
    assert [made.steps_per_subtask for made in by_subtask(plan(7, 0.001))] == [1, 2, 5]
    assert by_margin(plan(50, 0.001, steps_per_subtask=10))[0][0].steps == 10
