"""The prompts, and the parser of their replies.

The parser repairs nothing: what is not well formed must not vote.
"""

import re
from functools import cache
from json import JSONDecoder
from typing import Any, Final

from mdap import RedFlag
from mdap_hanoi.state import Answer, Pegs, State
from mdap_hanoi.strategy import direction

_SYSTEM: Final = """\
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

_STRATEGY: Final = """\
Strategy: if the previous move did not move disk 1, or there was none, move disk 1 one peg {direction}.
If the previous move did move disk 1, make the only legal move that does not move disk 1: look at the two pegs
without disk 1, and move the smaller of their top disks onto the other of them, which may be empty.
"""

_DIRECTIONS: Final = {
    1: "clockwise (from 0 to 1, from 1 to 2, from 2 to 0)",
    2: "counterclockwise (from 0 to 2, from 2 to 1, from 1 to 0)",
}

# The greedy start sends the search to the end of the text and backwards from there, so that the last
# assignment is found first and no text costs more than one pass. The name must be a whole word, or
# `last_move =` and `remove =` would count. (Putting `(?<!\w)` before the name would say it more plainly,
# but then every position is tried, not only those with the name's first letter.)
_MOVE: Final = re.compile(r".*move(?<!\wmove)\s*=\s*", re.DOTALL)
_STATE: Final = re.compile(r".*next_state(?<!\wnext_state)\s*=\s*", re.DOTALL)

# Characters that a value may take, generous with blanks; they bound what is decoded of a hostile text.
_MOVE_CHARS: Final = 128
_STATE_CHARS: Final = 256
_STATE_CHARS_PER_DISK: Final = 32

# The largest number that every reader of JSON carries exactly.
_LARGEST: Final = 2**53 - 1

_decode: Final = JSONDecoder().raw_decode


# Cached, since the same few texts serve for each of a million steps.
@cache
def system(disks: int, goal: int) -> str:
    """Return the system message, the same for every step of a task; the tower shall end on peg *goal*."""
    return _SYSTEM.format(disks=disks, goal=goal)


def user(state: State, disks: int) -> str:
    """Return the user message: the strategy, the previous move and the current state."""
    previous = "none" if state.last_move is None else list(state.last_move)
    strategy = _STRATEGY.format(direction=_DIRECTIONS[direction(disks)])
    return f"{strategy}\nPrevious move: {previous}\nCurrent state: {_written(state.pegs)}"


def reply(answer: Answer) -> str:
    """Return a reply as a model would write it to give *answer*, right or wrong."""
    disk, source, target = answer.move
    why = "It is the turn of disk 1" if disk == 1 else "Disk 1 has just moved, so another disk must"
    return (
        f"{why}. Disk {disk} goes from peg {source} to peg {target}.\n\n"
        f"move = [{disk}, {source}, {target}]\nnext_state = {_written(answer.next_state)}"
    )


def read(text: str, disks: int) -> Answer:
    """Read the last ``move = ...`` and the last ``next_state = ...`` of a reply.

    Both values must be JSON; what follows a value is ignored. Whether the move is legal, and whether
    the state follows from it, is not asked: that is what the vote is about.

    Raises:
        RedFlag: the move is missing or is not three integers; the state is missing or is not three
            lists that hold the disks 1 to *disks* exactly once.
    """
    move = _assigned(text, "move", _MOVE, _MOVE_CHARS)
    # Exact types: a bool is an int to `isinstance`, and 1.0 and True equal 1.
    if type(move) is not list or len(move) != 3 or set(map(type, move)) != {int}:
        raise RedFlag("malformed move")
    if not all(-_LARGEST <= number <= _LARGEST for number in move):
        raise RedFlag("malformed move")
    pegs = _assigned(text, "next_state", _STATE, _STATE_CHARS + _STATE_CHARS_PER_DISK * disks)
    if type(pegs) is not list or len(pegs) != 3 or set(map(type, pegs)) != {list}:
        raise RedFlag("malformed next_state")
    everything = [*pegs[0], *pegs[1], *pegs[2]]
    if set(map(type, everything)) != {int} or sorted(everything) != list(range(1, disks + 1)):
        raise RedFlag("malformed next_state")
    return Answer((move[0], move[1], move[2]), (tuple(pegs[0]), tuple(pegs[1]), tuple(pegs[2])))


def _written(pegs: Pegs) -> str:
    first, second, third = pegs
    return f"[{list(first)}, {list(second)}, {list(third)}]"


def _assigned(text: str, name: str, pattern: re.Pattern[str], most: int) -> Any:
    found = pattern.match(text)
    if found is None:
        raise RedFlag(f"missing {name}")
    start = found.end()
    try:
        return _decode(text[start : start + most])[0]
    except (ValueError, RecursionError):  # nested too deep: some thousand brackets are within bounds
        raise RedFlag(f"malformed {name}") from None
