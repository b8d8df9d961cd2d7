"""Read the facts of a run from its rows, in the order in which they took effect.

Events have their own order, and so do decisions. A step's samples come before its decision; samples of
undecided steps come before the event that ends the run. A `Cursor` marks the position of a reader.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from mdap.errors import UsageError
from mdap.journal.reader import Reader
from mdap.journal.rows import ENDED, decision_and_opening, sample_of
from mdap.records import AttemptFailed, Decided, Event, PromptSent, RunEvent, SampleTaken, StepOpened

_PAGE: Final = 200
_MOST_NUMBERS: Final = 1_000_000

_Place = tuple[int, int]
_Row = StepOpened | PromptSent | SampleTaken | AttemptFailed | Decided | RunEvent


@dataclass(slots=True)
class Cursor:
    """The position of a reader in the facts of a run.

    Attributes:
        event: the last event read.
        place: the first decision not read completely.
        at: the number of facts read of the current step.
        void: the last step read of those that will never be decided.
        open: the facts read of steps that are still undecided; see `_number`.
    """

    event: int = 0
    place: int = 0
    at: int = 0
    void: _Place = (-1, -1)
    open: dict[_Place, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """Parse a cursor, None for the beginning; raise UsageError for any other text."""
        try:
            event, place, at, void, opened = json.loads(text or "[0,0,0,[-1,-1],[]]")
            known = {(step, opening): _numbers(read) for step, opening, read in opened}
            return cls(int(event), int(place), int(at), (int(void[0]), int(void[1])), known)
        except (ValueError, TypeError, IndexError):
            raise UsageError(
                f"{text!r:.60} is no cursor: pass the `cursor` of an event that you got"
            ) from None

    def __str__(self) -> str:
        opened = [[*place, _shortly(read)] for place, read in self.open.items()]
        return json.dumps([self.event, self.place, self.at, self.void, opened], separators=(",", ":"))


def _shortly(numbers: list[int]) -> list[int] | str:
    numbers = sorted(numbers)
    low, high = numbers[0], numbers[-1]
    return f"{low}:{high}" if numbers == list(range(low, high + 1)) else numbers


def _numbers(read: list[int] | str) -> list[int]:
    if isinstance(read, str):
        low, high = map(int, read.split(":"))
        if high - low > _MOST_NUMBERS:  # a client may have made it up
            raise ValueError(read)
        return list(range(low, high + 1))
    return [int(number) for number in read]


def _number(fact: _Row) -> int:
    """Return the number of a step's *fact*: a sample's ordinal, or a negative one."""
    if isinstance(fact, SampleTaken):
        return fact.ordinal
    return -2 - fact.view if isinstance(fact, PromptSent) else -1


class Facts:
    """The facts of one run after *cursor*, which advances with each; no query stays open in between."""

    def __init__(self, reader: Reader, run: int, cursor: Cursor) -> None:
        self._reader = reader
        self._run = run
        self._cursor = cursor

    async def skip(self) -> None:
        """Advance the cursor past all recorded facts except samples of open steps."""
        [[event, place]] = await self._reader.rows("recorded_by_now", self._run)
        [[first]] = await self._reader.rows("first_open", self._run, -1)
        self._cursor.event, self._cursor.place = event, place
        self._cursor.void = (place if first is None else first - 1, _PAGE)

    async def fresh(self) -> AsyncIterator[Event]:
        """Yield the facts recorded so far."""
        while True:
            rows = await self._reader.rows("events_after", self._run, self._cursor.event, _PAGE)
            for row in rows:
                if row["kind"] in ENDED:
                    async for event in self._session(row["id"]):
                        yield event
                self._cursor.event = row["id"]
                yield self._event(_fact(self._run, row))
            if len(rows) < _PAGE:
                break
        if await self._ended() is None:
            async for event in self._decided(None):
                yield event

    async def is_over(self, *, quiet: bool) -> bool:
        """Return whether the run has ended and the reader has all of it.

        If no process works on the run (*quiet*), the reader does not wait for its seal either.
        """
        ended = await self._ended()
        return quiet if ended is None or ended["sealed"] is None else ended["sealed"] <= self._cursor.event

    def _event(self, fact: _Row) -> Event:
        return Event(str(self._cursor), fact)

    async def _ended(self) -> Any:
        """Return the event that ended the run, with the seal after it; None while the run goes on."""
        rows = await self._reader.rows("standing", self._run)
        return rows[0] if rows and rows[0]["kind"] in ENDED else None

    async def _session(self, ended: int) -> AsyncIterator[Event]:
        """Yield the decisions of the session that *ended* closes; at the end of the run, open steps too."""
        rows = await self._reader.rows("decided_at", self._run, ended)
        async for event in self._decided(rows[0][0] if rows else None):
            yield event
        last = await self._ended()
        if last is not None and last["id"] == ended:
            async for event in self._undecided():
                yield event

    async def _decided(self, end: int | None) -> AsyncIterator[Event]:
        cursor = self._cursor
        while end is None or cursor.place < end:
            rows = await self._reader.rows("decisions_after", self._run, cursor.place, _PAGE)
            for row in rows:
                decided, opened = decision_and_opening(row)
                if opened is None or (end is not None and decided.place >= end):
                    return
                facts = [*await self._unread(opened), decided]
                for fact in facts[cursor.at :]:
                    cursor.at += 1
                    if fact is decided:
                        cursor.open.pop((opened.step, opened.opening), None)
                        cursor.place, cursor.at = decided.place + 1, 0
                    yield self._event(fact)
            if not rows:
                return

    async def _unread(self, opened: StepOpened) -> list[_Row]:
        """Return a step's opening, prompts and samples, without facts read earlier."""
        read = self._cursor.open.get((opened.step, opened.opening), ())
        place = (opened.run, opened.step, opened.opening)
        facts: list[_Row] = [opened]
        facts += map(PromptSent._make, await self._reader.rows("prompts_of_step", *place))
        facts += map(sample_of, await self._reader.rows("samples_of_opening", *place))
        return [fact for fact in facts if _number(fact) not in read]

    async def _undecided(self) -> AsyncIterator[Event]:
        """Yield undecided steps; those before the first open one will never be decided."""
        cursor = self._cursor
        [[first]] = await self._reader.rows("first_open", self._run, cursor.void[0])
        place = cursor.void
        while rows := await self._reader.rows("openings_without_decision", self._run, *place, _PAGE):
            for row in rows:
                opened = StepOpened._make(row)
                place = (opened.step, opened.opening)
                facts = await self._unread(opened)
                if first is None or opened.step < first:
                    for fact in facts[cursor.at :]:
                        cursor.at += 1
                        yield self._event(fact)
                    cursor.void, cursor.at = place, 0
                    cursor.open.pop(place, None)
                else:
                    for fact in facts:
                        cursor.open.setdefault(place, []).append(_number(fact))
                        yield self._event(fact)


def _fact(run: int, row: Any) -> RunEvent | AttemptFailed:
    data: dict[str, Any] = json.loads(row["data"] or "{}")
    if row["kind"] != "attempt_failed":
        return RunEvent(run, row["kind"], row["reason"], row["author"], data or None)
    return AttemptFailed(run, row["step"], row["opening"], message=row["reason"], **data)
