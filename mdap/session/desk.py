"""Settle steps while runs continue: one person per step and one writer per run at a time.

If no process works on the step's run, the desk settles the step like `mdap decide`. If a process waits for
the step, the desk leaves the answer in the table `rulings`, and that process records it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from mdap.audit.review import Claim, Ruling, Settled, Waiting, waiting
from mdap.errors import ClaimedError, MdapError, UsageError
from mdap.journal.claims import is_claimed
from mdap.journal.reader import Reader, RunRow, open_log
from mdap.journal.rulings import Place, Rulings
from mdap.records import CANDIDATE
from mdap.rules.digests import answer_key
from mdap.session.deciding import find_step, settle_step

_PATIENCE: Final = 5.0
"""Seconds to wait for a run's process to use an answer."""

_LOOK: Final = 0.1
_LONGEST_NAME: Final = 100
_LONGEST_REASON: Final = 2_000
_LONGEST_ANSWER: Final = 1_000_000


class Desk:
    """A desk at which people settle steps of the runs of one database.

    It calls *may_load* with a task's name before it loads its code; an error raised there forbids that.
    """

    def __init__(self, path: Path, may_load: Callable[[str], None] | None = None) -> None:
        self._path = path
        self._may_load = may_load
        self._rulings = Rulings(path)

    async def waiting(self, run_id: str | None = None, most: int = 50) -> list[Waiting]:
        """Return the steps that wait for a person; see `mdap.audit.review.waiting`."""
        found = await anyio.to_thread.run_sync(partial(waiting, self._path, run_id, most))
        return [
            # The process that waited for it has ended.
            replace(one, state="undecided")
            if one.state == "waiting" and is_claimed(self._path, one.run) is False
            else one
            for one in found
        ]

    async def claim(self, run_id: str, step: int, author: str, claim: int | None = None) -> Claim:
        """Claim a step for some minutes, or renew the one of the number *claim*.

        Raises:
            ClaimedError: another person has it.
        """
        author = _checked("name", author, _LONGEST_NAME)
        async with open_log(self._path) as reader:
            place = await _opened(reader, run_id, step)
        return await self._rulings.claim(place, author, claim)

    async def release(self, run_id: str, step: int, author: str, claim: int | None = None) -> None:
        """Release a claimed step.

        Raises:
            ClaimedError: another person has it.
        """
        async with open_log(self._path) as reader:
            place = await _opened(reader, run_id, step)
        await self._rulings.release(place, _checked("name", author, _LONGEST_NAME), claim)

    async def settle(self, run_id: str, step: int | str, ruling: Ruling, moved: str | None = None) -> Settled:
        """Settle a step; claim it first unless its author already has it.

        Args:
            run_id: the step's run: its id, a unique prefix of it, or ``latest``.
            step: its number or its key.
            ruling: the person's answer.
            moved: the run's task, where that has moved to another file, module or name.

        Raises:
            ClaimedError: another person has the step, or has settled it meanwhile.
            RunBusyError: another process is working on the run, and does not wait for the step.
        """
        ruling = _checked_ruling(ruling)
        async with open_log(self._path) as reader:
            row, place = await _place(reader, run_id, step)
            decided = await reader.rows("settled_by", *place[:2])
            if decided:
                if ruling.override is False:  # the person viewed the step as undecided
                    who = decided[0]["author"] or "votes"
                    raise ClaimedError(f"{place.name} was decided by {who} meanwhile: look at it again")
                ruling = replace(ruling, answer=await _spelled(reader, place, ruling.answer))
            elif ruling.override:
                raise UsageError(f"{place.name} is not decided, so there is nothing to override")
            waits = not decided and bool(await reader.rows("waits_for_person", *place[:2]))
        own = None if ruling.claim is not None else await self._rulings.claim(place, ruling.author)
        if ruling.claim is not None:
            await self._rulings.check(place, ruling.author, ruling.claim)
        try:
            # If mdap cannot read locks, the process that waits for the step may still run.
            if waits and is_claimed(self._path, row.number) is not False:
                return await self._leave(row, place, ruling)
            return await self._record(row, place, ruling, moved)
        except MdapError:
            if own is not None:
                await self._rulings.release(place, ruling.author, own.number)
            raise

    async def _record(self, row: RunRow, place: Place, ruling: Ruling, moved: str | None) -> Settled:
        """Settle or override a step of a run without a process."""
        if self._may_load is not None:
            self._may_load(row.task)
        who = {"author": ruling.author, "reason": ruling.reason}
        run_id = await settle_step(
            self._path, row.run_id, place.step, answer=ruling.answer, moved=moved, **who
        )
        await self._rulings.add(
            place, "settled", ruling.author, answer=ruling.answer, reason=ruling.reason, goes_on=run_id
        )
        return Settled(run_id, place.step, ruling.author, goes_on=False)

    async def _leave(self, row: RunRow, place: Place, ruling: Ruling) -> Settled:
        """Leave an answer for the process that waits for it."""
        number = await self._rulings.add(
            place, "ruled", ruling.author, answer=ruling.answer, reason=ruling.reason
        )
        outcome = None
        with anyio.move_on_after(_PATIENCE):
            while outcome is None:
                await anyio.sleep(_LOOK)
                outcome = await self._rulings.outcome(place, number)
        if outcome is not None and outcome[0] == "refused":
            raise UsageError(str(outcome[1]))
        return Settled(row.run_id, place.step, ruling.author, goes_on=outcome is not None)


async def _place(reader: Reader, run_id: str, step: int | str) -> tuple[RunRow, Place]:
    row, number = await find_step(reader, await reader.find(run_id), step)
    return row, Place(row.number, number, f"step {number} of {row.run_id}")


async def _opened(reader: Reader, run_id: str, step: int) -> Place:
    row, place = await _place(reader, run_id, step)
    if not await reader.rows("openings_of_step", *place[:2]):
        raise UsageError(f"{row.run_id} has no step {step}")
    return place


async def _spelled(reader: Reader, place: Place, answer: str) -> str:
    """Return the answer to a decided step as JSON, from the candidates of its tally."""
    if not answer.startswith(CANDIDATE):
        return answer
    key = answer.removeprefix(CANDIDATE)
    for row in await reader.rows("tally_of", *place[:2]):
        if answer_key(row["answer"]) == key:
            return str(row["answer"])
    raise UsageError(f"nobody voted for an answer with the key {key!r:.80}")


def _checked_ruling(ruling: Ruling) -> Ruling:
    return replace(
        ruling,
        answer=_checked("answer", ruling.answer, _LONGEST_ANSWER),
        author=_checked("name", ruling.author, _LONGEST_NAME),
        reason=_checked("reason", ruling.reason, _LONGEST_REASON),
    )


def _checked(what: str, text: str, most: int) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"give your {what}: it goes on record with the decision")
    if len(text) > most:
        raise UsageError(f"the {what} may have {most:,} characters, not {len(text):,}")
    if what == "name" and not text.strip().isprintable():
        raise UsageError("the name may have no hidden characters: it goes on record with the decision")
    return text.strip()
