"""The state before a step and its answer, and both with all pegs rotated by some places.

A rotation keeps the direction in which disk 1 moves, so the strategy in the prompt reads the same.
"""

from dataclasses import dataclass
from typing import TypeAlias

Pegs: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The disks on pegs 0, 1 and 2, each from bottom to top; disk 1 is the smallest."""

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


def turned_state(state: State, turns: int) -> State:
    """Return *state* with every peg moved on by *turns* places; negative to move back."""
    return State(_pegs(state.pegs, turns), None if state.last_move is None else _move(state.last_move, turns))


def turned_answer(answer: Answer, turns: int) -> Answer:
    """Return *answer* with every peg moved on by *turns* places, also one with a peg that does not exist."""
    return Answer(_move(answer.move, turns), _pegs(answer.next_state, turns))


def _pegs(pegs: Pegs, turns: int) -> Pegs:
    first, second, third = (pegs[(peg - turns) % 3] for peg in range(3))
    return first, second, third


def _move(move: Move, turns: int) -> Move:
    # Only pegs that exist are turned: a model's peg 7 must not become a vote for peg 1.
    disk, *pegs = move
    source, target = ((peg + turns) % 3 if 0 <= peg < 3 else peg for peg in pegs)
    return disk, source, target
