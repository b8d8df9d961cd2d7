"""Claims and answers of people for steps that wait for them.

mdap writes rows of `rulings` in short separate transactions, even while a process works on the run: they are
not part of a run's record. A process that works on a run finds the answers to its steps here.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from mdap.errors import ClaimedError
from mdap.journal.database import open_writing, transaction
from mdap.journal.statements import query
from mdap.records import encodable

__all__ = ["CLAIM_SECONDS", "Claimed", "Place", "Rulings"]

T = TypeVar("T")

CLAIM_SECONDS: Final = 600.0
"""Default lifetime of a claim: long enough to read a step, short enough for other people waiting."""

_CLAIM: Final = """
INSERT INTO rulings(run, step, kind, author, until)
VALUES (?1, ?2, 'claimed', ?3, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4)) RETURNING id, author, until"""
_INSERT: Final = """
INSERT INTO rulings(run, step, kind, author, answer, reason, about, goes_on)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id"""
_OUTCOME: Final = (
    "SELECT kind, reason, goes_on FROM rulings WHERE run = ?1 AND step = ?2 AND about = ?3 LIMIT 1"
)


class Place(NamedTuple):
    """A step that a person is working on.

    Attributes:
        run: the run's number.
        step: the step's number.
        name: the name of both in messages.
    """

    run: int
    step: int
    name: str


class Claimed(NamedTuple):
    """A claim.

    Attributes:
        number: the number that proves whose claim it is.
        author: the person who has the step.
        until: when the claim expires, in UTC.
    """

    number: int
    author: str
    until: str


class Rulings:
    """The table ``rulings`` of one database.

    Args:
        path: the database file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def claim(
        self, place: Place, author: str, claim: int | None = None, seconds: float = CLAIM_SECONDS
    ) -> Claimed:
        """Claim a step, or renew a claim on it.

        Args:
            place: the step.
            author: the person who claims it.
            claim: the number of *author*'s claim; without it, the same name is enough.
            seconds: its lifetime.

        Raises:
            ClaimedError: another person has it.
        """
        name = encodable(author)

        def work(connection: sqlite3.Connection) -> Claimed:
            _check_free(connection, place, name, claim)
            row = connection.execute(_CLAIM, (place.run, place.step, name, f"+{seconds} seconds")).fetchone()
            return Claimed(*row)

        return await self._write(work)

    async def check(self, place: Place, author: str, claim: int) -> None:
        """Check that *author* has a claim on a step, or an expired one that no other person has replaced.

        Raises:
            ClaimedError: another person has it.
        """
        name = encodable(author)
        await self._write(lambda connection: _check_free(connection, place, name, claim))

    async def release(self, place: Place, author: str, claim: int | None = None) -> None:
        """Release a claimed step.

        Raises:
            ClaimedError: another person has it.
        """
        name = encodable(author)

        def work(connection: sqlite3.Connection) -> None:
            _check_free(connection, place, name, claim)
            connection.execute(_INSERT, (place.run, place.step, "released", name, *[None] * 4)).fetchone()

        await self._write(work)

    async def add(self, place: Place, kind: str, author: str, **columns: Any) -> int:
        """Add an answer, or the result of one, as a row and return its number.

        Args:
            place: the step.
            kind: ``ruled``, ``settled`` or ``refused``.
            author: the person who answered.
            columns: *answer*, *reason*, *about* and *goes_on*, as far as they apply.
        """
        given = (columns.get(name) for name in ("answer", "reason", "about", "goes_on"))
        values = [encodable(value) if isinstance(value, str) else value for value in (author, *given)]

        def work(connection: sqlite3.Connection) -> int:
            number: int = connection.execute(_INSERT, (place.run, place.step, kind, *values)).fetchone()[0]
            return number

        return await self._write(work)

    async def outcome(self, place: Place, ruling: int) -> tuple[str, str | None, str | None] | None:
        """Return the result of an answer (kind, reason and the run that continues); None if there is none
        yet."""

        def work(connection: sqlite3.Connection) -> Any:
            return connection.execute(_OUTCOME, (place.run, place.step, ruling)).fetchone()

        row = await self._write(work)
        return None if row is None else (row[0], row[1], row[2])

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def within(connection: sqlite3.Connection) -> T:
            with transaction(connection):
                return work(connection)

        async with open_writing(self._path) as connection:
            return await connection.visit(within)


def _check_free(connection: sqlite3.Connection, place: Place, author: str, claim: int | None) -> None:
    row = query(connection, "latest_claim", place.run, place.step).fetchone()
    if row is None:
        return
    number, kind, holder, until, live = row
    if kind == "claimed":
        mine = holder == author
        free = mine and number == claim if claim is not None else mine or not live
        if not free:
            raise ClaimedError(
                f"{holder} has {place.name} until {until}: wait, or ask {holder} to give it back"
            )
    elif claim is not None:
        what = "settled by" if kind == "settled" else "given back by"
        raise ClaimedError(f"{place.name} was {what} {holder} meanwhile: look at it again")
