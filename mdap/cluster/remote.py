"""A worker's stand-ins for the database, the claims and the budget, which the head holds."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio

from mdap import errors
from mdap.cluster.frames import packed
from mdap.engine.budget_guard import BUDGET, BudgetGuard
from mdap.errors import (
    DatabaseError,
    FailedError,
    MdapError,
    RunError,
    StoppedError,
    UnavailableError,
    UsageError,
)
from mdap.journal.batch import Batch
from mdap.journal.claims import Claims
from mdap.journal.reader import Reader
from mdap.journal.runs import RunRecord, Runs, RunStart
from mdap.journal.writer import Writer
from mdap.records import Fact, RunEvent
from mdap.rules.money import Hold
from mdap.settings import Budget, Price

T = TypeVar("T")

FENCED: Final = "the head has given this worker up"


class Caller:
    """Call the head and wait for its answers."""

    def __init__(self, send: Callable[..., None]) -> None:
        self.send = send
        self._numbers = itertools.count()
        self._open: dict[int, tuple[anyio.Event, list[Any]]] = {}
        self._closed = False

    async def call(self, name: str, *arguments: Any) -> Any:
        """Return the head's answer.

        Raises:
            MdapError: the head's error.
            StoppedError: the connection to the head is closed.
        """
        if self._closed:
            raise StoppedError(FENCED)
        number, event = next(self._numbers), anyio.Event()
        found: list[Any] = []
        self._open[number] = event, found
        self.send("call", number, name, *arguments)
        try:
            await event.wait()
        finally:
            del self._open[number]
        if not found:
            raise StoppedError(FENCED)
        if found[0] == "raised":
            raise raised(found[1], found[2])
        return found[1]

    def answered(self, number: int, *found: Any) -> None:
        """Handle an answer of the head: ``returned`` and a value, or ``raised``, a kind and a sentence."""
        if number in self._open:
            event, place = self._open[number]
            place += found
            event.set()

    def close(self) -> None:
        """Fail all calls: no answer will come."""
        self._closed = True
        for event, _ in self._open.values():
            event.set()


def raised(kind: str, sentence: str) -> MdapError:
    """Return the other side's error."""
    if kind == "UnavailableError":
        return UnavailableError(sentence, kind=BUDGET)
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, UsageError | DatabaseError | RunError):
        return found(sentence)
    return FailedError(sentence)


class RemoteWriter(Writer):
    """A worker's journal: it sends facts at each commit window, and the head commits them."""

    def __init__(self, path: Path, caller: Caller) -> None:
        super().__init__(path, None, lambda fact: None)  # type: ignore[arg-type] # only the head has one
        self._caller = caller
        self._sent = itertools.count()

    async def begin_run(self, columns: Mapping[str, Any]) -> int:
        """Have the head insert a row into *runs*, and claim it for this worker."""
        with anyio.CancelScope(shield=True):
            number: int = await self._caller.call("begin", dict(columns))
        return number

    async def send_all(self) -> None:
        """Wait until the head has every fact appended so far."""
        await super().flush()

    async def flush(self) -> None:
        """Wait until every fact appended so far is durable."""
        await self.send_all()
        await self._call("flush")

    async def _write(self, batch: Batch, facts: Sequence[Fact]) -> None:
        # The head answers before its commit: facts that gather meanwhile would be lost with this worker.
        await self._call("facts", next(self._sent), packed(facts))

    async def _call(self, name: str, *arguments: Any) -> None:
        try:
            await self._caller.call(name, *arguments)
        except StoppedError as error:
            raise DatabaseError(str(error)) from None


class RemoteClaims(Claims):
    """A worker's claims, which the head holds; if another process has a run, the head ends the case."""

    def __init__(self, path: Path, send: Callable[..., None]) -> None:
        super().__init__(path)
        self._send = send
        self._loop = asyncio.get_running_loop()

    def take(self, run: int, run_id: str, *, shared: bool = False) -> None:
        """Claim *run*, in any thread: a resumed run is claimed while it is read."""
        self._loop.call_soon_threadsafe(self._send, "claim", run, run_id)

    def drop(self, run: int) -> None:
        """Give *run* back."""
        self._send("drop", run)


class RemoteReader(Reader):
    """The log on the head's machine, for a worker on another one."""

    def __init__(self, path: Path, caller: Caller) -> None:
        super().__init__(path, None)  # type: ignore[arg-type] # only the head has one
        self._caller = caller

    async def visit(self, read: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
        """Return the result of *read*."""
        return await read(self)

    async def rows(self, name: str, *values: Any) -> Sequence[Any]:
        """Return all rows of the statement *name*."""
        names, rows = await self._caller.call("rows", name, values)
        return [_Row(names, row) for row in rows]


class _Row(tuple[Any, ...]):
    """A row with columns by position or by name, like one of `sqlite3`."""

    names: list[str]

    def __new__(cls, names: list[str], values: Sequence[Any]) -> Self:
        row = super().__new__(cls, values)
        row.names = names
        return row

    def __getitem__(self, place: Any) -> Any:
        return super().__getitem__(self.names.index(place) if isinstance(place, str) else place)

    def keys(self) -> list[str]:
        return self.names


class RemoteRuns(Runs):
    """Begin and end runs in the head's log."""

    _writer: RemoteWriter

    def __init__(self, writer: RemoteWriter, claims: RemoteClaims, caller: Caller) -> None:
        super().__init__(writer, None, claims)  # type: ignore[arg-type] # only the head reads the log
        self._caller = caller

    async def begin(
        self, columns: Mapping[str, Any], *, known: bool, process: bool = False, effects: bool = False
    ) -> RunStart:
        """Begin or resume a run, and claim it."""
        with anyio.CancelScope(shield=True):
            start: RunStart = await self._caller.call("take_up", dict(columns), known, process, effects)
        return start

    async def end(self, ended: RunEvent, *, record: bool = True) -> RunRecord | None:
        """Record how a run ended, seal it, and make all of it durable."""
        with anyio.CancelScope(shield=True):
            await self._writer.send_all()
            try:
                found: RunRecord | None = await self._caller.call("end", packed([ended]), record)
            except StoppedError as error:
                raise DatabaseError(str(error)) from None
        return found


class LeasedBudget(BudgetGuard):
    """A worker's budget guard: the head reserves money."""

    def __init__(self, budget: Budget, prices: Sequence[Price | None], caller: Caller) -> None:
        super().__init__(budget, prices)
        self._caller = caller
        self._numbers = itertools.count()
        self._holds: dict[int, int] = {}

    def spent_before(self, usd: float, tokens: float) -> None:
        """Do nothing: the head counts the spending of earlier sessions."""

    async def reserve(self, usd: float, tokens: float) -> Hold:
        """Have the head reserve money."""
        number, hold = next(self._numbers), Hold(usd, tokens)
        try:
            await self._caller.call("hold", number, usd, tokens)
        except BaseException:
            self._caller.send("spent", number, 0.0, 0.0)
            raise
        self._holds[id(hold)] = number
        return hold

    def spend(self, hold: Hold, usd: float, tokens: float) -> None:
        """Report the spending to the head."""
        self._caller.send("spent", self._holds.pop(id(hold)), usd, tokens)
