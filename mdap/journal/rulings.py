"""Claims and answers of people for steps that wait for them.

mdap writes rows of `rulings` in short separate transactions, even while a process works on the run: they are
not part of a run's record. A process that works on a run finds the answers to its steps here.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from mdap.errors import ClaimedError
from mdap.journal.database import open_writing, transaction
from mdap.journal.statements import query
from mdap.records import encodable

# A claim expires after 600 seconds: long enough to read a step, short enough for other people waiting.
_CLAIM: Final = """
INSERT INTO rulings(run, step, kind, author, until) VALUES
(?1, ?2, 'claimed', ?3, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+600 seconds')) RETURNING id, author, until"""
_INSERT: Final = """
INSERT INTO rulings(run, step, kind, author, answer, reason, about, goes_on)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id"""
_OUTCOME: Final = (
    "SELECT kind, reason, goes_on FROM rulings WHERE run = ?1 AND step = ?2 AND about = ?3 LIMIT 1"
)


class Place(NamedTuple):
    """A step that a person is working on, by the numbers of its run and itself; messages use its *name*."""

    run: int
    step: int
    name: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A person's claim on a step.

    Attributes:
        number: the number that proves whose claim it is.
        author: the person who has the step.
        until: when the claim expires, in UTC.
    """

    number: int
    author: str
    until: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"claim": self.number, "author": self.author, "until": self.until}


class Rulings:
    """The table ``rulings`` of one database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def claim(self, place: Place, author: str, claim: int | None = None) -> Claim:
        """Claim a step for ten minutes, or renew a claim on it.

        *claim* is the number of the author's claim; without it, the same name is enough.

        Raises:
            ClaimedError: another person has it.
        """
        name = encodable(author)
        return Claim(*await self._write(_CLAIM, (place.run, place.step, name), (place, name, claim)))

    async def check(self, place: Place, author: str, claim: int) -> None:
        """Check that *author* has a claim on a step, or an expired one that no other person has replaced.

        Raises:
            ClaimedError: another person has it.
        """
        await self._write("SELECT 1", (), (place, encodable(author), claim))

    async def release(self, place: Place, author: str, claim: int | None = None) -> None:
        """Release a claimed step; raise ClaimedError if another person has it."""
        name = encodable(author)
        values = (place.run, place.step, "released", name, *[None] * 4)
        await self._write(_INSERT, values, (place, name, claim))

    async def add(self, place: Place, kind: str, author: str, **columns: Any) -> int:
        """Add an answer (``ruled``), or its result (``settled`` or ``refused``), and return its number.

        The columns are *answer*, *reason*, *about* and *goes_on*, as far as they apply.
        """
        given = (columns.get(name) for name in ("answer", "reason", "about", "goes_on"))
        values = [encodable(value) if isinstance(value, str) else value for value in (author, *given)]
        [number] = await self._write(_INSERT, (place.run, place.step, kind, *values))
        return int(number)

    async def outcome(self, place: Place, ruling: int) -> tuple[str, str | None, str | None] | None:
        """Return kind, reason and continuing run of the result of an answer; None without one yet."""
        row: tuple[str, str | None, str | None] | None
        row = await self._write(_OUTCOME, (place.run, place.step, ruling))
        return row

    async def _write(
        self, sql: str, values: Sequence[Any], claimed: tuple[Place, str, int | None] | None = None
    ) -> Any:
        """Return the first row of a statement; check before that the person in *claimed* has the step."""

        def work(connection: sqlite3.Connection) -> Any:
            with transaction(connection):
                if claimed is not None:
                    _check_free(connection, *claimed)
                return connection.execute(sql, values).fetchone()

        async with open_writing(self._path) as connection:
            return await connection.visit(work)


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
