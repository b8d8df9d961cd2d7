"""The confidence of a step's winner, as processes and people see it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from mdap.records import TallyShape
from mdap.rules.certificate import doubts
from mdap.tasks import A, Decision

__all__ = ["confident", "shape_of"]

# Nothing is ever certain, and the last digits may differ from one machine to the next.
_DIGITS: Final = 6
_MOST: Final = 1 - 10**-_DIGITS


def shape_of(winner: str, votes: Mapping[str, int]) -> TallyShape:
    """Return how the votes of a step fell.

    Args:
        winner: the winning answer in canonical JSON.
        votes: the votes of each candidate.
    """
    others = max((count for answer, count in votes.items() if answer != winner), default=0)
    return TallyShape(votes.get(winner, 0), others, sum(votes.values()), 1)


def confident(decisions: Sequence[Decision[A]], shapes: Sequence[TallyShape | None]) -> list[Decision[A]]:
    """Return *decisions* with the chance that each winner is right, by the votes on all of them.

    It is one minus the doubt of the certificate, taken over these steps alone, so that it follows from what
    was asked and decided: it is the same after a resume and in an audit.

    Args:
        decisions: the decisions.
        shapes: how the votes of each fell; None where no vote decided.
    """
    found = _confidences(tuple(sorted(Counter(shape for shape in shapes if shape is not None).items())))
    return [
        replace(decision, confidence=None if shape is None else found.get(shape))
        for decision, shape in zip(decisions, shapes, strict=True)
    ]


@lru_cache(maxsize=256)
def _confidences(counted: tuple[tuple[TallyShape, int], ...]) -> dict[TallyShape, float]:
    known = doubts([shape._replace(steps=count) for shape, count in counted])
    return {shape._replace(steps=1): min(round(1 - doubt, _DIGITS), _MOST) for shape, doubt in known}
