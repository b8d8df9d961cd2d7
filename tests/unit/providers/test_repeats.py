"""Responses that came before: by ids that mean something."""

from mdap.providers.wire import Repeats

ONE, TWO, THREE = ("chatcmpl-" + letter * 24 for letter in "abc")


def test_a_response_that_comes_again_is_noticed() -> None:
    """The same id with the same text, as soon as ids are seen to differ."""
    repeats = Repeats()
    assert not repeats.again(ONE, "x")
    assert not repeats.again(TWO, "x"), "equal texts with ids of their own are honest votes"
    assert repeats.again(ONE, "x")
    assert repeats.again(TWO, "x")
    assert not repeats.again(THREE, "x")


def test_ids_that_are_always_the_same_prove_nothing() -> None:
    """Neither while no other was seen, nor once one of them came with two texts."""
    repeats = Repeats()
    assert not any(repeats.again(ONE, "x") for _ in range(9))
    assert not repeats.again(ONE, "y")
    assert not repeats.again(TWO, "x")
    assert not any(repeats.again(TWO, "x") for _ in range(9))


def test_short_ids_and_none_prove_nothing() -> None:
    """A number below a thousand meets itself again soon."""
    repeats = Repeats()
    ids: list[object] = ["chatcmpl-123", "", None, 7, {}]
    for some_id in ids:
        assert not any(repeats.again(some_id, "x") for _ in range(3))


def test_it_forgets() -> None:
    """Memory is bounded."""
    repeats = Repeats(keep=2)
    for some_id in (ONE, TWO, THREE):
        assert not repeats.again(some_id, "x")
    assert not repeats.again(ONE, "x")
    assert repeats.again(ONE, "x")
