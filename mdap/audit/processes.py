"""Check a process: its record first, then its function on the recorded answers.

The function runs with a special `Ask`: each step that it asks for must be on record with the same prompt, and
gets the recorded answer. The audit repeats nothing that the function does `once`.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import anyio

from mdap.audit.findings import AuditResult, Kind
from mdap.audit.process_record import Answered, ProcessRecord, StrayError
from mdap.audit.runs import RunFacts
from mdap.errors import UndecidedError, told
from mdap.groups import Group, first_of, gathered, of_its_own
from mdap.records import Identity
from mdap.rules.canonical import canonical
from mdap.rules.certificate import confident
from mdap.rules.digests import identify_named
from mdap.rules.parts import Parts
from mdap.settings import Waves
from mdap.tasks import Decision, Process, Step, Task

A = TypeVar("A")

_PATIENCE: Final = 600.0


class _Rehearsal:
    """An `mdap.Ask` that answers from the record alone, and waits forever where there is no answer yet."""

    def __init__(self, record: ProcessRecord, task: Process[Any]) -> None:
        self._record = record
        self._task = task
        self._parts = Parts(record.facts.run_id, task)

    @property
    def run_id(self) -> str:
        return self._record.facts.run_id

    @property
    def open_steps(self) -> int:
        """The maximum number of open steps: a function may ask for that many before it waits for any."""
        return Waves().width  # the widest session by default

    @property
    def dry_run(self) -> bool:
        return True

    async def __call__(self, step: Step[A]) -> A:
        [answer] = await self.map([step])
        return answer

    async def decision(self, step: Step[A]) -> Decision[A | None]:
        [decision] = await self.decisions([step])
        return decision

    async def decisions(self, steps: Iterable[Step[A]]) -> list[Decision[A | None]]:
        found = await self._there([self._record.answer(self._task, step) for step in steps])
        return confident([decision for decision, _ in found], [shape for _, shape in found])

    async def _there(self, found: list[Answered | None]) -> list[Answered]:
        there = [one for one in found if one is not None]
        if len(there) < len(found):
            await anyio.sleep_forever()
        return there

    async def map(self, steps: Iterable[Step[A]]) -> list[A]:
        asked = [self._record.answer(self._task, step) for step in steps]
        sentence = next((one.reason for one, _ in filter(None, asked) if one.reason), None)
        if sentence is not None:
            raise UndecidedError(sentence)
        return [decision.answer for decision, _ in await self._there(asked)]

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Group]:
        async with gathered() as tasks:
            yield Group(tasks, self)

    async def solve(self, task: Task, key: str | None = None) -> Any:
        part = self._record.part_of(self._parts, task, key)
        return await self._noted(part.identity, part.about, part.name)

    async def solve_all(self, tasks: Iterable[tuple[str, Task]], take: Callable[[str, Any], None]) -> None:
        for key, task in tasks:
            found = self._record.part_result(self._parts.named(key, task), task)
            if not found.finished:
                await anyio.sleep_forever()
            take(found.name, found.result)

    async def once(self, function: Callable[[], Any], key: str) -> Any:
        return await self._noted(identify_named("once", key), key)

    async def _noted(self, identity: Identity, about: Any, part: str | None = None) -> Any:
        there, result = self._record.noted(identity, about, part)
        if not there:
            await anyio.sleep_forever()
        return result


def audit_process(
    connection: sqlite3.Connection, facts: RunFacts, task: Process[Any], *, status: str, oracle: bool = False
) -> AuditResult:
    """Check a process: its record, and the requests and result of its function."""
    over = status == "finished" and facts.kind != "pilot"
    record = ProcessRecord(connection, facts, over=over, oracle=oracle)
    record.check()
    anyio.run(_rehearse, record, task)
    record.conclude()
    return record.part


async def _rehearse(record: ProcessRecord, task: Process[Any]) -> None:
    strayed, watching = anyio.Event(), anyio.CancelScope()
    record.strayed = strayed.set

    async def perform() -> None:
        try:
            result = await task.solve(_Rehearsal(record, task))
            record.part.over, record.part.result = True, canonical(result)
        except BaseException as error:
            if not of_its_own(first_of(error)):
                raise
            if record.over and not isinstance(first_of(error), StrayError):
                record.findings.add(Kind.PLUGIN, "solving", "a result", told(first_of(error)))
        finally:
            watching.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(perform)
        with watching:
            if record.over:
                # Only a process that gave up on a step waits here, until it gives up again.
                group.cancel_scope.deadline = anyio.current_time() + _PATIENCE
                await strayed.wait()
            # The process stops where its record ends.
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    if record.over and not record.strays and group.cancel_scope.cancelled_caught:
        record.findings.add(Kind.PLUGIN, "solving", "a result", f"none within {_PATIENCE:g} seconds")
