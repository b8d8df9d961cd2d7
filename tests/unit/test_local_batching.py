"""Requests to a model in this process: batched, bounded, cancellable. No model is needed for that."""

import threading
from collections.abc import Sequence

import anyio
import pytest

from mdap_local.provider import Batcher, Job

Doubling = Job[int, int]


class Machine:
    """Doubles numbers, a batch at a time, once it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let_go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, jobs: Sequence[Doubling]) -> None:
        self.batches.append([job.wanted for job in jobs])
        self.begun.set()
        assert self.let_go.wait(30)
        for job in jobs:
            if job.wanted < 0:
                raise ValueError("below zero")
            job.settle(job.wanted * 2)


async def wait_for(event: threading.Event) -> None:
    assert await anyio.to_thread.run_sync(event.wait, 30)


async def test_requests_that_wait_are_computed_together() -> None:
    """What comes while a batch is computed makes the next one, up to its limit and in order."""
    machine = Machine()
    batcher: Batcher[int, int] = Batcher(machine, 4, "machine")
    results: dict[int, int] = {}

    async def ask(number: int, size: int = 1) -> None:
        results[number] = await batcher.ask(number, size)

    async with anyio.create_task_group() as group:
        group.start_soon(ask, 0)
        await wait_for(machine.begun)
        for number in range(1, 7):
            group.start_soon(ask, number)
        group.start_soon(ask, 7, 3)
        await anyio.wait_all_tasks_blocked()
        machine.let_go.set()
    await batcher.aclose()
    assert results == {number: number * 2 for number in range(8)}
    assert machine.batches == [[0], [1, 2, 3, 4], [5, 6], [7]]


async def test_a_cancelled_request_is_not_computed() -> None:
    machine = Machine()
    batcher: Batcher[int, int] = Batcher(machine, 4, "machine")
    with anyio.CancelScope() as cancelled:
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.ask, 0, 1)
            await wait_for(machine.begun)
            group.start_soon(batcher.ask, 1, 1)
            await anyio.wait_all_tasks_blocked()
            cancelled.cancel()
    machine.let_go.set()
    assert await batcher.ask(2, 1) == 4
    await batcher.aclose()
    assert machine.batches == [[0], [2]]


async def test_an_error_reaches_those_who_wait_and_nobody_else() -> None:
    machine = Machine()
    machine.let_go.set()
    batcher: Batcher[int, int] = Batcher(machine, 4, "machine")
    with pytest.raises(ValueError, match="below zero"):
        await batcher.ask(-1, 1)
    assert await batcher.ask(3, 1) == 6
    await batcher.aclose()


async def test_it_can_be_closed_twice_and_begun_again() -> None:
    machine = Machine()
    machine.let_go.set()
    batcher: Batcher[int, int] = Batcher(machine, 4, "machine")
    await batcher.aclose()
    assert await batcher.ask(1, 1) == 2
    await batcher.aclose()
    await batcher.aclose()
    assert await batcher.ask(2, 1) == 4
    await batcher.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name == "machine"]


def test_it_can_be_used_from_one_loop_after_another() -> None:
    machine = Machine()
    machine.let_go.set()
    batcher: Batcher[int, int] = Batcher(machine, 4, "machine")
    assert [anyio.run(batcher.ask, number, 1) for number in range(3)] == [0, 2, 4]
    anyio.run(batcher.aclose)
