"""Read a reply, or refuse it. Nothing is repaired: what is not well formed must not vote."""

import re
from json import JSONDecoder
from typing import Any, Final

from mdap import RedFlag
from mdap_hanoi.state import Answer, Move, Pegs

__all__ = ["MALFORMED_MOVE", "MALFORMED_STATE", "MISSING_MOVE", "MISSING_STATE", "read"]

MISSING_MOVE: Final = "missing move"
MALFORMED_MOVE: Final = "malformed move"
MISSING_STATE: Final = "missing next_state"
MALFORMED_STATE: Final = "malformed next_state"

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


def read(text: str, disks: int) -> Answer:
    """Read the last ``move = ...`` and the last ``next_state = ...`` of a reply.

    Both values must be JSON; what follows a value is ignored. Whether the move is legal, and whether
    the state follows from it, is not asked: that is what the vote is about.

    Args:
        text: the reply, whatever it is.
        disks: the height of the tower.

    Returns:
        The answer that the reply votes for.

    Raises:
        RedFlag: the move is missing or is not three integers; the state is missing or is not three
            lists that hold the disks 1 to *disks* exactly once.
    """
    move = _as_move(_assigned(text, _MOVE, _MOVE_CHARS, MISSING_MOVE, MALFORMED_MOVE))
    most = _STATE_CHARS + _STATE_CHARS_PER_DISK * disks
    state = _assigned(text, _STATE, most, MISSING_STATE, MALFORMED_STATE)
    return Answer(move, _as_pegs(state, disks))


def _assigned(text: str, name: re.Pattern[str], most: int, missing: str, malformed: str) -> Any:
    found = name.match(text)
    if found is None:
        raise RedFlag(missing)
    start = found.end()
    try:
        return _decode(text[start : start + most])[0]
    except (ValueError, RecursionError):  # nested too deep: some thousand brackets are within bounds
        raise RedFlag(malformed) from None


def _as_move(value: Any) -> Move:
    # Exact types: a bool is an int to `isinstance`, and 1.0 and True equal 1.
    if type(value) is not list or len(value) != 3 or set(map(type, value)) != {int}:
        raise RedFlag(MALFORMED_MOVE)
    if not all(-_LARGEST <= number <= _LARGEST for number in value):
        raise RedFlag(MALFORMED_MOVE)
    return value[0], value[1], value[2]


def _as_pegs(value: Any, disks: int) -> Pegs:
    if type(value) is not list or len(value) != 3 or set(map(type, value)) != {list}:
        raise RedFlag(MALFORMED_STATE)
    first, second, third = value
    everything = first + second + third
    if set(map(type, everything)) != {int} or sorted(everything) != list(range(1, disks + 1)):
        raise RedFlag(MALFORMED_STATE)
    return tuple(first), tuple(second), tuple(third)
