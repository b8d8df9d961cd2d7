"""Compare candidates: find the words of each that differ from the first."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final

__all__ = ["Piece", "compared"]

Piece = tuple[str, bool]
"""Some text, and whether it differs."""

_WORDS: Final = re.compile(r"\w+|\s+|[^\w\s]")
_MOST: Final = 400
"""Maximum number of words to compare: the time grows with its square."""


def compared(texts: Sequence[str]) -> list[list[Piece]]:
    """Return each text in pieces: compare the others with the first, and the first with the second.

    Args:
        texts: the candidates' texts, by votes, most first.
    """
    words = [_WORDS.findall(text) for text in texts]
    found = []
    for place, own in enumerate(words):
        beside = words[1] if place == 0 and len(words) > 1 else words[0]
        if len(words) == 1 or max(len(own), len(beside)) > _MOST:
            found.append([(texts[place], False)])
        else:
            found.append(_beside(own, beside))
    return found


def _beside(own: list[str], other: list[str]) -> list[Piece]:
    matcher = SequenceMatcher(None, other, own, autojunk=False)
    pieces = [
        ("".join(own[first:last]), kind != "equal")
        for kind, _, _, first, last in matcher.get_opcodes()
        if first < last
    ]
    return pieces or [("", False)]
