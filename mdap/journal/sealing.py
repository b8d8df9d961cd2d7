"""Taking the seal of a run at the end of a session, from the rows that are durable."""

import anyio

from mdap.journal.reader import Reader
from mdap.journal.writer import Writer
from mdap.records import RunEvent
from mdap.rules.digests import CHAIN_START
from mdap.rules.seals import REST, SEALED, SIGNED, TIMES_STEPS, Lines, Seal, Times

__all__ = ["Sealer"]


class Sealer:
    """Takes seals, one at a time.

    Args:
        writer: of the database.
        reader: of the same database, and used for nothing else meanwhile: as long as one statement of a
            connection is under way, all of them see what was there when it began.
    """

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader
        self._lock = anyio.Lock()

    async def sealed(self, run: int) -> str:
        """Return the last seal of *run*, after taking one if something has happened since.

        Raises:
            DatabaseError: the database cannot be written any more.
        """
        last = await self._reader.rows("last_event_but", run, SIGNED)
        found = await self._reader.seal(run) if last and last[0]["kind"] == SEALED else None
        if found is None:
            found = await self.seal(run)
            await self._writer.flush()
        return found

    async def seal(self, run: int) -> str:
        """Make everything appended durable, append a seal over what there is of *run*, and return it.

        Raises:
            DatabaseError: the database cannot be written any more.
        """
        with anyio.CancelScope(shield=True):
            async with self._lock:
                await self._writer.flush()
                seal = await _seal(self._reader, run)
            self._writer.append(RunEvent(run, SEALED, data=seal.to_dict()))
        return seal.seal


async def _seal(reader: Reader, run: int) -> Seal:
    events, rest = Lines(), Lines()
    [row] = await reader.rows("sealed_run", run)
    events.add(row)
    async for event in reader.scan("sealed_events", run):
        events.add(event)
    async for opened in reader.scan("sealed_openings", run):
        rest.add(opened)
    for name in REST:
        async for sample in reader.scan(name, run):
            rest.add_sample(sample)
    async for prompt in reader.scan("sealed_prompts", run):
        rest.add(prompt)
    last = await reader.rows("last_decision", run)
    decisions, head = (last[0]["place"] + 1, last[0]["digest"]) if last else (0, CHAIN_START)
    [(newest,)] = await reader.rows("newest_event")
    parts = await reader.rows("sealed_parts", run, newest)
    times = await _times(reader, run)
    if not parts:
        return Seal(decisions, head, events.digest, rest.digest, times=times)
    lines = Lines()
    for part in parts:
        lines.add(part)
    return Seal(decisions, head, events.digest, rest.digest, lines.digest, newest, times)


async def _times(reader: Reader, run: int) -> str | None:
    times = Times()
    [(last,)] = await reader.rows("last_sampled_step", run)
    for first in range(0, 0 if last is None else last + 1, TIMES_STEPS):
        for row in await reader.rows("sealed_times", run, first, TIMES_STEPS):
            times.add(row)
    return times.digest
