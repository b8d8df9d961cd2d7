"""The prompts, and how a model answers them."""

from functools import cache

from mdap_hanoi.state import Answer, Pegs, State
from mdap_hanoi.strategy import direction

__all__ = ["reply", "system", "user"]

_SYSTEM = """\
You carry out single steps of the Towers of Hanoi puzzle.

There are three pegs, numbered 0, 1 and 2, and disks numbered by size, from 1, the smallest, to {disks}, the
largest. A state lists the disks of peg 0, peg 1 and peg 2, each from bottom to top. For example, in
[[4, 3], [1], [2]] peg 0 holds disk 4 with disk 3 on top of it, peg 1 only disk 1 and peg 2 only disk 2.

Rules:
1. A move takes the top disk of one peg and puts it on top of another peg.
2. A disk must never be put on a smaller disk.
3. The goal is to have all disks on peg {goal}.

You are given a strategy, the previous move and the current state. Find the one move that the strategy
prescribes now, and the state right after it. Do not think about later moves.

Reason in a few short sentences. Then end your reply with these two lines and nothing after them:
move = [disk, from, to]
next_state = [[...], [...], [...]]

In move, disk is the number of the disk, from is the peg it leaves and to is the peg it goes to. In
next_state, every disk from 1 to {disks} appears exactly once, and all but the moved one are where they were.

For example, moving disk 2 in the state above from peg 2 onto disk 3 is written:
move = [2, 2, 0]
next_state = [[4, 3, 2], [1], []]"""

_STRATEGY = """\
Strategy: if the previous move did not move disk 1, or there was none, move disk 1 one peg {direction}.
If the previous move did move disk 1, make the only legal move that does not move disk 1: look at the two pegs
without disk 1, and move the smaller of their top disks onto the other of them, which may be empty.
"""

_DIRECTIONS = {
    1: "clockwise (from 0 to 1, from 1 to 2, from 2 to 0)",
    2: "counterclockwise (from 0 to 2, from 2 to 1, from 1 to 0)",
}


# Cached, since the same few texts serve for each of a million steps.
@cache
def system(disks: int, goal: int = 2) -> str:
    """Return the system message, the same for every step of a task.

    Args:
        disks: the height of the tower.
        goal: the peg where it shall stand in the end.
    """
    return _SYSTEM.format(disks=disks, goal=goal)


def user(state: State, disks: int) -> str:
    """Return the user message: the strategy, the previous move and the current state.

    Args:
        state: the state that the step starts from.
        disks: the height of the tower.
    """
    previous = "none" if state.last_move is None else list(state.last_move)
    return f"{_strategy(disks)}\nPrevious move: {previous}\nCurrent state: {_written(state.pegs)}"


def reply(answer: Answer) -> str:
    """Return a reply as a model would write it to give *answer*.

    Args:
        answer: any answer, right or wrong.
    """
    disk, source, target = answer.move
    why = "It is the turn of disk 1" if disk == 1 else "Disk 1 has just moved, so another disk must"
    return (
        f"{why}. Disk {disk} goes from peg {source} to peg {target}.\n\n"
        f"move = [{disk}, {source}, {target}]\nnext_state = {_written(answer.next_state)}"
    )


@cache
def _strategy(disks: int) -> str:
    return _STRATEGY.format(direction=_DIRECTIONS[direction(disks)])


def _written(pegs: Pegs) -> str:
    first, second, third = pegs
    return f"[{list(first)}, {list(second)}, {list(third)}]"
