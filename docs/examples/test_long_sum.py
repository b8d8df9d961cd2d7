"""Tests of a domain need no model: its methods are pure functions."""

import pytest
from long_sum import Answer, LongSum, read

import mdap


def test_what_render_writes_read_reads():
    task = LongSum(a="95", b="7")
    state = task.start()
    truth = task.oracle(state)

    assert truth == Answer(digit=2, carry=1)
    for answer in [truth, *task.mistakes(state, truth)]:
        assert read(task.render(answer)) == answer


@pytest.mark.parametrize("text", ["", "digit=12 carry=0", "digit=1 carry=2", "digit=1 carry=0\nI hope so."])
def test_a_reply_that_is_not_as_asked_for_is_discarded(text):
    with pytest.raises(mdap.RedFlag):
        read(text)


def test_a_whole_run(tmp_path):
    solution = mdap.solve_sync(LongSum(a="9" * 30, b="1"), k=4, db=tmp_path / "runs.db")

    assert solution.result == {"solved": True, "sum": "1" + "0" * 30}
