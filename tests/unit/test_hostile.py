"""Hostile replies through every bundled parser: a small version of `benchmarks/fire/hostile.py`."""

import signal
from dataclasses import replace

import pytest

from benchmarks.fire.hostile import Target, attack, targets, texts
from mdap.testing.hostile import OverdueError, deadline

CASES = 2_000


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_no_parser_breaks_hangs_or_grants_what_a_strict_reader_refuses(target: Target) -> None:
    """Votes or red flags, in bounded time, and of votes only those that a second reader grants too."""
    for text in texts(target, CASES // len(targets()), seed=1):
        attack(target, text)

    assert target.wrong == []
    assert target.votes > 0
    assert target.flags.total() > target.votes
    assert len(target.flags) < 20, "a reason of a red flag is counted: it must not hold what was said"


@pytest.mark.parametrize("after", ["\x0b", "\u00a0", "\u2028", "\ufeff", "."])
def test_nothing_but_blanks_of_json_may_stand_beside_json(after: str) -> None:
    """An answer with something after it is not what was asked for, even if it cannot be seen."""
    [target] = [target for target in targets() if target.name == "maker, solver"]
    attack(target, target.replies[0] + after)
    assert (target.votes, target.wrong) == (0, [])
    attack(target, target.replies[0] + " ")
    assert (target.votes, target.wrong) == (1, [])


def test_the_comparison_sees_a_parser_that_is_too_kind() -> None:
    """A test of the test: a reader that repairs what it is given is found out."""
    [target] = [target for target in targets() if target.name == "maker, judge"]
    kind = replace(target, step=replace(target.step, parse=lambda text: 0))
    attack(kind, "choice=1.")
    attack(kind, "choice=2")

    assert len(kind.wrong) == 2


class Swallows:
    """What is raised while it is deleted goes no further."""

    def __del__(self) -> None:
        while True:
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer of processor time")
def test_a_deadline_that_was_swallowed_comes_again() -> None:
    """Or a parser would go on for ever."""

    def read() -> None:
        Swallows()
        while True:
            pass

    with pytest.raises(OverdueError), deadline(0.02):
        read()
