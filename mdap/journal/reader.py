"""Read the vote log for resume, totals and people: read-only, in short separate queries."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from mdap.journal.database import Connection, Visited, open_reading
from mdap.journal.logfile import translated
from mdap.journal.rows import Billed, RunRow, prices_of, run_row, the_one
from mdap.journal.sealing import is_sealed, take_seal
from mdap.journal.statements import statement
from mdap.records import NOTED, ProbeTotals, Recorded, TallyShape, Totals, Usage, Verdict, encodable
from mdap.rules.digests import Seal, answer_key
from mdap.rules.ledger import Payments
from mdap.rules.money import Bill, Tokens, cost_of, saved_by_cache, saved_by_sharing, saved_in_batches
from mdap.rules.presence import Absence

__all__ = ["Reader", "RunRow", "open_log"]

T = TypeVar("T")

_PAGE: Final = 1_000


class Reader:
    """Queries over one read-only connection."""

    def __init__(self, path: Path, connection: Connection | Visited) -> None:
        self.path = path
        self._connection = connection

    async def visit(self, read: Callable[["Reader"], Coroutine[Any, Any, T]]) -> T:
        """Return the result of *read*, which may await only its reader, in one visit of the thread."""
        with translated(self.path), anyio.CancelScope(shield=True):
            found = await self._connection.visit(
                lambda connection: _at_once(read(Reader(self.path, Visited(connection))))
            )
        return found

    async def rows(self, name: str, *values: Any) -> Sequence[sqlite3.Row]:
        """Return all rows of the statement *name*."""
        with translated(self.path):
            # All rows in one call: while a statement of a connection runs, all of them see an old snapshot.
            return await self._connection.visit(
                lambda plain: plain.execute(statement(name), values).fetchall()
            )

    async def value(self, name: str, *values: Any) -> Any:
        """Return the only value of the statement *name*; None without a row."""
        rows = await self.rows(name, *values)
        return rows[0][0] if rows else None

    async def find(self, name: str) -> RunRow:
        """Return the run called *name*: its id, a unique prefix of it, or ``latest``.

        Raises:
            RunNotFoundError: there is no such run.
            UsageError: there are several.
        """
        numbers = [int(row["id"]) for row in await self.rows("find", encodable(name))]
        return await self.numbered(the_one(numbers, name, self.path))

    async def run(self, run_id: str) -> RunRow | None:
        """Return the run whose id is exactly *run_id*, or None."""
        number = await self.value("run_called", run_id)
        return None if number is None else await self.numbered(number)

    async def numbered(self, run: int) -> RunRow:
        """Return the run with that number."""
        return run_row(*await self.rows("run_of", run))

    async def runs(self, most: int) -> list[tuple[RunRow, int]]:
        """Return the newest top-level runs, each with its number of decided steps."""
        return [(run_row(row), int(row["steps"])) for row in await self.rows("runs", most)]

    async def unfinished(self) -> list[RunRow]:
        """Return the runs and batches to resume (interrupted, stopped or settled since), oldest first."""
        return [run_row(row) for row in await self.rows("unfinished")]

    async def parts(self, run: int, most: int) -> list[tuple[RunRow, int]]:
        """Return the first runs that are parts of *run*, each with its number of decided steps."""
        return [(run_row(row), int(row["steps"])) for row in await self.rows("parts", most, run)]

    async def paid(self, run: int) -> list[dict[str, Any]]:
        """Return the payments of *run* from its error budget, in order; see `mdap.records.EVENTS`."""
        return [json.loads(row[0]) for row in await self.rows("paid", run)]

    async def payments(self, run: int) -> Payments:
        """Return the payments of *run* and of its parts from their error budgets."""
        of_parts = await self.rows("paid_by_parts", run)
        return Payments(
            await self.paid(run),
            int(await self.value("count_independent", run)),
            [(row["run"], json.loads(row["data"])) for row in of_parts],
        )

    async def totals(self, run: int) -> Totals:
        """Return the totals of *run* and its parts."""
        counts: dict[str, int] = {}
        tokens_in = tokens_out = 0
        for verdict, count, given, made in await self.rows("totals", run):
            counts[verdict] = count
            tokens_in += given
            tokens_out += made
        probe = ProbeTotals()
        for billed in map(Billed._make, await self.rows("spent_beside", run)):
            tokens_in += billed.input_tokens
            tokens_out += billed.output_tokens
            if billed.kind == "probe":
                usage = Usage(billed.input_tokens, billed.output_tokens)
                probe += ProbeTotals(billed.samples, billed.failed_attempts, usage)
        return Totals(
            steps=await self.value("count_decisions", run),
            votes=counts.get(Verdict.VOTE, 0),
            red_flags=counts.get(Verdict.FLAG, 0),
            void=counts.get(Verdict.VOID, 0),
            cancelled=counts.get(Verdict.CANCELLED, 0),
            failed_attempts=await self.value("count_failed_attempts", run),
            usage=Usage(tokens_in, tokens_out),
            probe=probe,
        )

    async def polled(self, run: int) -> tuple[int, int]:
        """Return the votes of *run* and its parts, and the number of votes against the best answer."""
        rows = await self.rows("polled", run)
        votes = sum(row["votes"] for row in rows)
        return votes, votes - sum(row["best"] for row in rows)

    async def tallies(self, run: int) -> list[TallyShape]:
        """Return the distinct tallies of the voted decisions of *run* and its parts, with counts."""
        return [TallyShape(*row) for row in await self.rows("tallies", run)]

    async def cost(self, run: int) -> float | None:
        """Return the cost of *run* in USD; see `bill`."""
        bill = await self.bill(run)
        return None if bill is None else bill.usd

    async def bill(self, run: int) -> Bill | None:
        """Return the cost of *run* and its probe, at its last session's prices; None if one is unknown."""
        prices = prices_of(await self.value("prices", run))
        if not prices:  # skip the sums, which take as long as all the totals
            return None
        samples, beside = await self.rows("usage_by_model", run), await self.rows("spent_beside", run)
        usage = [*samples, *beside]
        if not usage or any(row["model"] not in prices for row in usage):
            return None
        usd = sum(cost_of(prices[row["model"]], Tokens.of(row)) for row in usage)
        for row in await self.rows("batched_usage", run):
            usd -= saved_in_batches(prices[row["model"]], Tokens.of(row))
        saved = sum(saved_by_cache(prices[row["model"]], Tokens.of(row)) for row in usage)
        for row in samples:
            saved += saved_by_sharing(prices[row["model"]], Tokens.of(row), row["prompts"], row["shared"])
        return Bill(usd, saved)

    async def batch_costs(self) -> dict[int, float]:
        """Return the cost of the recorded samples of each batch job in USD, as far as prices are known."""
        costs: dict[int, float] = {}
        for row in await self.rows("batch_costs"):
            price = prices_of(row["prices"]).get(row["model"])
            if price is not None:
                cost = cost_of(price, Tokens.of(row)) * price.batch
                costs[row["job"]] = costs.get(row["job"], 0.0) + cost
        return costs

    async def ending(self, run: int) -> tuple[str | None, dict[str, Any]]:
        """Return the reason and the data of the last end of *run*."""
        rows = await self.rows("last_ended", run)
        return (rows[0][0], json.loads(rows[0][1] or "{}")) if rows else (None, {})

    async def is_sealed(self, run: int) -> bool:
        """Return whether nothing has happened to *run* since its last seal."""
        with translated(self.path):
            return await self._connection.visit(partial(is_sealed, run=run))

    async def take_seal(self, run: int) -> Seal:
        """Return a seal over the current rows of *run*."""
        with translated(self.path):
            return await self._connection.visit(partial(take_seal, run=run))

    async def absences(self, run: int) -> tuple[Absence, ...]:
        """Return the models that *run* dropped, in order."""
        return tuple(Absence(*row) for row in await self.rows("left_out", run))

    async def recorded(self, run: int, step: int) -> Recorded:
        """Return the decision of *step* of *run*, a process; of a copied decision, the original."""
        if await self.taken_over(run, step):
            return await self.recorded(int(await self.value("source", run)), step)
        [decided] = await self.rows("winner", run, step)
        winner, tally, author = decided["winner"], decided["tally"], decided["author"]
        # Votes for the answer of an override, if any, are in the overridden run.
        where = run
        while not await self.rows("votes_of_step", where, step) and author is not None:
            above = await self.value("source", where)
            if above is None:
                break
            where = int(above)
        rows = await self.rows("winning_sample", where, step, answer_key(winner))
        if rows:
            return Recorded(winner, tally, rows[0]["body"], rows[0]["view"], author=author)
        votes = tuple((row["body"], row["view"]) for row in await self.rows("votes_of_step", where, step))
        return Recorded(winner, tally, None, None, votes, author)

    async def taken_over(self, run: int, step: int) -> bool:
        """Return whether *run* copied its decision of *step* from a run that it overrides."""
        [decided] = await self.rows("winner", run, step)
        if decided["author"] != NOTED:
            return False
        source = await self.value("source", run)
        return source is not None and bool(await self.rows("winner", source, step))

    async def whole_of(self, run: int) -> RunRow | None:
        """Return the run of a process in which *run* is nested; None if it is not."""
        rows = await self.rows("whole_of", run)
        return run_row(rows[0]) if rows else None

    async def is_independent(self, run: int) -> bool:
        """Return whether *run* is a part whose result stays in its own run: of `mdap.Ask.solve_all`."""
        return bool(await self.rows("is_independent", run))

    async def decided(self, run: int) -> AsyncIterator[sqlite3.Row]:
        """Yield the decisions of *run* in order, page by page."""
        place = 0
        while rows := await self.rows("decided", run, place, _PAGE):
            for row in rows:
                yield row
            place = rows[-1]["place"] + 1


def _at_once(reading: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits."""
    try:
        reading.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    reading.close()
    raise RuntimeError("what is read in one visit can wait for nothing but the log")


@asynccontextmanager
async def open_log(path: Path) -> AsyncIterator[Reader]:
    """Open the log at *path* for reading."""
    async with open_reading(path) as connection:
        yield Reader(path, connection)
