"""What a step starts from and what it decides."""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Answer", "Move", "Peg", "Pegs", "State"]

Peg: TypeAlias = tuple[int, ...]
"""The disks on one peg, from bottom to top; disk 1 is the smallest."""

Pegs: TypeAlias = tuple[Peg, Peg, Peg]
"""All three pegs, numbered 0, 1 and 2."""

Move: TypeAlias = tuple[int, int, int]
"""The disk that is moved, the peg it leaves, and the peg it goes to."""


# Plain dataclasses: one of each is made for every sample, and nothing here needs pydantic's checks a
# second time. The engine rebuilds both from their JSON by their annotations.


@dataclass(frozen=True, slots=True)
class State:
    """Where the disks are and how they came there.

    Attributes:
        pegs: the disks on each peg.
        last_move: the previous move; None before the first.
    """

    pegs: Pegs
    last_move: Move | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A move together with the state it leads to; a vote is for both.

    Attributes:
        move: the move.
        next_state: the disks on each peg after it.
    """

    move: Move
    next_state: Pegs
