"""One gate for the requests of all workers: each turn is leased from the head's."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import anyio

from mdap.providers.gate import Gate, Turn
from mdap.rules.headers import Told
from mdap.rules.limiter import Change, Reservation

_OUTCOMES = frozenset({"succeeded", "refused", "timed_out", "troubled"})


class _LeasedTurn(Turn):
    """A turn that reports its end to the head."""

    __slots__ = ("number", "outcome")

    def __init__(self, gate: Gate, priority: int, likely: Callable[[], int]) -> None:
        super().__init__(gate, priority, likely)
        self.number = -1
        self.outcome: list[Any] = []

    def succeeded(self, tokens: int | None, longest: int = 0) -> None:
        self.outcome = ["succeeded", tokens, longest]

    def refused(self, retry_after: float | None) -> None:
        self.outcome = ["refused", retry_after]

    def timed_out(self) -> None:
        self.outcome = ["timed_out"]

    def troubled(self, retry_after: float | None = None) -> None:
        self.outcome = ["troubled", retry_after]


class LeasedGate(Gate):
    """A worker's gate: it waits for the head's gate, and has only the *local* limit on open files itself."""

    def __init__(self, local: Gate, send: Callable[..., None]) -> None:
        super().__init__(local.most)
        self._send = send
        self._numbers = itertools.count()
        self._asked: dict[int, _LeasedTurn] = {}
        self._last: Told | None = None

    def slot(self, priority: int, likely: Callable[[], int] = lambda: 0) -> Turn:
        """Return a turn; entering it waits for the head."""
        return _LeasedTurn(self, priority, likely)

    def queue(self, turn: Turn) -> None:
        """Ask the head for *turn*."""
        assert isinstance(turn, _LeasedTurn)
        turn.number = next(self._numbers)
        self._asked[turn.number] = turn
        self._send("want", turn.number, turn.priority, turn.likely())

    def grant(self, number: int) -> None:
        """Let the turn of that *number* go."""
        turn = self._asked.pop(number, None)
        if turn is None or turn.gone:
            return
        now = time.monotonic()
        turn.attempt, turn.reservation = self.concurrency.begin(now), Reservation(0, now)
        self.pace.outstanding += 1
        if turn.granted is not None:
            turn.granted()

    def leave(self, turn: Turn, *, held: bool) -> None:
        """Report the end of *turn* to the head."""
        assert isinstance(turn, _LeasedTurn)
        self._asked.pop(turn.number, None)
        if turn.attempt is not None:
            self.concurrency.close(turn.attempt)
            self.pace.outstanding -= 1
        self._send("left", turn.number, held, turn.outcome)

    def learn(self, told: Told) -> None:
        """Forward the limits in the endpoint's headers."""
        if told != self._last:
            self._last = told
            self._send("limits", told.requests_per_minute, told.tokens_per_minute)

    async def serve(self) -> None:
        """Do nothing: the head's gate admits."""

    async def changed(self) -> None:
        """Wait forever: the head records changes."""
        await anyio.sleep_forever()

    def changes(self) -> list[Change]:
        """Return nothing: the head records changes."""
        return []


class Lessor:
    """The turns that one worker has, or waits for, at the head's gates; it tells which ones they grant."""

    def __init__(self, gates: tuple[Gate, ...], grant: Callable[[int, int], None]) -> None:
        self._gates = gates
        self._grant = grant
        self._turns: dict[tuple[int, int], Turn] = {}

    def want(self, place: int, number: int, priority: int, tokens: int) -> None:
        """Queue a turn at the gate of that *place*."""
        turn = self._gates[place].slot(priority, lambda: tokens)
        turn.granted = lambda: self._grant(place, number)
        self._turns[place, number] = turn
        self._gates[place].queue(turn)

    def left(self, place: int, number: int, held: bool, outcome: list[Any]) -> None:
        """End a turn as the worker reports."""
        turn = self._turns.pop((place, number), None)
        if turn is None:
            return
        if turn.attempt is not None and outcome and outcome[0] in _OUTCOMES:
            getattr(turn, outcome[0])(*outcome[1:])
        turn.end(held=held)

    def limits(self, place: int, requests: int | None, tokens: int | None) -> None:
        """Apply the limits that a worker read in the headers of its endpoint."""
        self._gates[place].learn(Told(requests_per_minute=requests, tokens_per_minute=tokens))

    def drop(self) -> None:
        """End all turns: the worker is lost, and its requests' usage is unknown."""
        turns, self._turns = self._turns, {}
        for turn in turns.values():
            turn.gone = True  # so that none gets the slot of another one
        for turn in turns.values():
            turn.end(held=turn.attempt is not None)
