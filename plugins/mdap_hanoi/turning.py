"""Rotating the pegs: the same puzzle, which another prompt describes.

A rotation keeps the direction in which disk 1 goes round, so that the strategy reads the same.
"""

from mdap_hanoi.state import Answer, Move, Pegs, State

__all__ = ["turned_answer", "turned_state"]


def turned_state(state: State, turns: int) -> State:
    """Return *state* with every peg moved on by *turns* places.

    Args:
        state: any state.
        turns: places to move on; negative to move back.
    """
    return State(_pegs(state.pegs, turns), None if state.last_move is None else _move(state.last_move, turns))


def turned_answer(answer: Answer, turns: int) -> Answer:
    """Return *answer* with every peg moved on by *turns* places.

    Args:
        answer: any answer, its move possibly between pegs that do not exist.
        turns: places to move on; negative to move back.
    """
    return Answer(_move(answer.move, turns), _pegs(answer.next_state, turns))


def _pegs(pegs: Pegs, turns: int) -> Pegs:
    first, second, third = (pegs[(peg - turns) % 3] for peg in range(3))
    return first, second, third


def _move(move: Move, turns: int) -> Move:
    disk, source, target = move
    return disk, _peg(source, turns), _peg(target, turns)


def _peg(peg: int, turns: int) -> int:
    # Only pegs that exist are turned: a model's peg 7 must not become a vote for peg 1.
    return (peg + turns) % 3 if 0 <= peg < 3 else peg
