"""The strategy that the prompt states: what is right in a state, and what is plausibly wrong."""

from mdap_hanoi.state import Answer, Move, Pegs, State


def direction(disks: int) -> int:
    """Return the pegs that disk 1 goes up by at each of its moves, modulo 3: 1 is clockwise.

    The parity of the tower decides it: only so does every tower end on the third peg.
    """
    return 1 if disks % 2 == 0 else 2


def right_answer(state: State, disks: int) -> Answer:
    """Return the move that the strategy prescribes in *state*, and its effect.

    Where it prescribes nothing that is legal, as it can be after a wrong decision, the move is some other
    legal one: there always is one.
    """
    move = _prescribed(state.pegs, direction(disks), _small_disk_is_due(state))
    return Answer(move, _moved(state.pegs, move))


def mistakes(state: State, truth: Answer, disks: int) -> list[Answer]:
    """Return wrong answers that models do give in *state*, the likeliest first; all are well formed."""
    disk, source, target = truth.move
    third = 3 - source - target
    astray = (disk, source, third)
    out_of_turn = _prescribed(state.pegs, direction(disks), not _small_disk_is_due(state))
    candidates = (
        Answer(astray, _moved(state.pegs, astray)),  # the wrong way round
        Answer(out_of_turn, _moved(state.pegs, out_of_turn)),  # the wrong disk
        Answer(truth.move, state.pegs),  # the move forgotten in the next state
        Answer(truth.move, _moved(state.pegs, astray)),  # the disk put on the wrong peg there
    )
    return [answer for answer in candidates if answer != truth]


def state_after(moves: int, disks: int) -> State:
    """Return the state after the first so many moves of the shortest solution.

    Every disk goes round the pegs in one direction, neighbours in opposite ones, and disk d moves at every
    move that is an odd multiple of 2**(d-1).
    """
    pegs: list[list[int]] = [[], [], []]
    for disk in range(disks, 0, -1):
        pegs[_peg_after(moves, disk, disks)].append(disk)
    last = None
    if moves:
        disk = (moves & -moves).bit_length()
        last = (disk, _peg_after(moves - 1, disk, disks), _peg_after(moves, disk, disks))
    return State((tuple(pegs[0]), tuple(pegs[1]), tuple(pegs[2])), last)


def _peg_after(moves: int, disk: int, disks: int) -> int:
    made = (moves + (1 << disk - 1)) >> disk
    return made * (direction(disks) if disk % 2 else 3 - direction(disks)) % 3


def _small_disk_is_due(state: State) -> bool:
    return state.last_move is None or state.last_move[0] != 1


def _prescribed(pegs: Pegs, shift: int, small_disk_is_due: bool) -> Move:
    home = 0 if 1 in pegs[0] else 1 if 1 in pegs[1] else 2
    a, b = (home + 1) % 3, (home + 2) % 3
    # A wrong decision may have buried disk 1, or left nothing but disk 1 to move.
    if (small_disk_is_due and pegs[home][-1] == 1) or not (pegs[a] or pegs[b]):
        return pegs[home][-1], home, (home + shift) % 3
    if pegs[a] and (not pegs[b] or pegs[a][-1] < pegs[b][-1]):
        return pegs[a][-1], a, b
    return pegs[b][-1], b, a


def _moved(pegs: Pegs, move: Move) -> Pegs:
    _, source, target = move
    after = list(pegs)
    after[target] += after[source][-1:]
    after[source] = after[source][:-1]
    return after[0], after[1], after[2]
