"""Candidates beside one another: what is marked as different."""

import pytest

from mdap.viewer.settling import compared


def marked(texts: list[str]) -> list[list[str]]:
    return [[piece for piece, differs in pieces if differs] for pieces in compared(texts)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["one"], [[]]),
        (["same text", "same text"], [[], []]),
        (["move [3, 0, 1]", "move [3, 0, 2]", "stay"], [["1"], ["2"], ["stay"]]),
        (["", "word"], [[], ["word"]]),
        ([], []),
    ],
)
def test_what_differs_is_marked(texts: list[str], expected: list[list[str]]) -> None:
    """The others beside the first, and the first beside the second."""
    assert marked(texts) == expected


@pytest.mark.parametrize("texts", [["a b c", "a x c"], ["<b>", "b"], ["\u202e1", "1"], ["x " * 900, "y"]])
def test_no_character_is_lost(texts: list[str]) -> None:
    """Put together, the pieces are the texts, however long."""
    assert ["".join(piece for piece, _ in pieces) for pieces in compared(texts)] == texts
