"""Tests of a domain need no model: its methods are pure functions."""

import pytest
from long_sum import Answer, LongSum, read

import mdap
from mdap.testing import check_task


def test_it_keeps_what_the_engine_relies_on():
    check_task(LongSum(a="95", b="7"))


def test_the_oracle_adds_one_column():
    task = LongSum(a="95", b="7")
    assert task.oracle(task.start()) == Answer(digit=2, carry=1)


@pytest.mark.parametrize("text", ["", "digit=12 carry=0", "digit=1 carry=2", "digit=1 carry=0\nI hope so."])
def test_a_reply_that_is_not_as_asked_for_is_discarded(text):
    with pytest.raises(mdap.RedFlag):
        read(text)


def test_a_whole_run(tmp_path):
    solution = mdap.solve_sync(LongSum(a="9" * 30, b="1"), k=4, db=tmp_path / "runs.db")

    assert solution.outcome == "solved"
    assert solution.result == {"sum": "1" + "0" * 30}
