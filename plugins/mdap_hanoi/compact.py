"""Prompts of `style=compact`: a few characters each way, for models too small to read a strategy."""

import re
from typing import Final

from mdap import RedFlag
from mdap_hanoi.state import Answer, Pegs, State
from mdap_hanoi.strategy import direction

MOST_DISKS: Final = 26
"""One letter a disk."""

SYSTEM: Final = """\
You make one move of the Towers of Hanoi. Disks are letters, a the smallest. Pegs are 0, 1 and 2. \
You read a sign,
the last move (disk, from, to) and the peg of each disk, the largest first. \
If the last move did not move disk a,
move a one peg on: + means 0 to 1 to 2 to 0, - the other way round. Else make the only legal move without a.
Write your move and the peg of each disk after it, and nothing else. Example: + b20 1201
a12 1202"""

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_SIGNS: Final = {1: "+", 2: "-"}
_REPLY: Final = re.compile("([a-z])([0-9])([0-9]) ([012]{1,26})")


def user(state: State, disks: int) -> str:
    """Return the user message, such as ``+ a01 0001``."""
    last = "none" if state.last_move is None else _move(*state.last_move)
    return f"{_SIGNS[direction(disks)]} {last} {_places(state.pegs)}"


def reply(answer: Answer) -> str:
    """Return a reply as a model would write it to give *answer*, such as ``b02 0021``."""
    return f"{_move(*answer.move)} {_places(answer.next_state)}"


def read(text: str, disks: int) -> Answer:
    """Read the last line of a reply.

    Raises:
        RedFlag: it is not a move and one peg for each of the disks.
    """
    found = _REPLY.fullmatch(text.rstrip("\n").rpartition("\n")[2])
    if found is None or len(found[4]) != disks:
        raise RedFlag("malformed last line")
    pegs: tuple[list[int], list[int], list[int]] = ([], [], [])
    for disk, peg in zip(range(disks, 0, -1), found[4], strict=True):
        pegs[int(peg)].append(disk)
    move = (_LETTERS.index(found[1]) + 1, int(found[2]), int(found[3]))
    return Answer(move, (tuple(pegs[0]), tuple(pegs[1]), tuple(pegs[2])))


def in_order(answer: Answer) -> Answer:
    """Return *answer* as this style can say it: no disk on a smaller one."""
    first, second, third = (tuple(sorted(peg, reverse=True)) for peg in answer.next_state)
    return Answer(answer.move, (first, second, third))


def _move(disk: int, source: int, target: int) -> str:
    return f"{_LETTERS[disk - 1]}{source}{target}"


def _places(pegs: Pegs) -> str:
    peg_of = {disk: str(number) for number, peg in enumerate(pegs) for disk in peg}
    return "".join(peg_of[disk] for disk in sorted(peg_of, reverse=True))
