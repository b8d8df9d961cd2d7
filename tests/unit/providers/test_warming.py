"""One request goes ahead, so that those that begin alike find its beginning in the endpoint's cache."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from mdap.errors import TransientError
from mdap.providers.warming import Warmer, repeated
from mdap.records import Reply, SampleRequest

DOCUMENT = "d" * 4000


def ask(question: str = "?", document: str = DOCUMENT, **more: Any) -> SampleRequest:
    request = SampleRequest("Be exact.", document + question, "d", "0", (0,), 0.1, 100)
    return request._replace(shared=len(document), warm=True)._replace(**more)


class Endpoint:
    """Hold what is sent until it is answered, and say what was read from a cache."""

    def __init__(self, cached: int = 900) -> None:
        self.cached = cached
        self.sent: list[str] = []
        self.gates: list[anyio.Event] = []
        self.failing = False

    async def __call__(self, request: SampleRequest) -> Sequence[Reply]:
        self.sent.append(request.user)
        self.gates.append(gate := anyio.Event())
        await gate.wait()
        if self.failing:
            self.failing = False
            raise TransientError("no", kind="http_500")
        return [Reply("4", "m", cached_tokens=self.cached)]

    async def answer(self) -> None:
        """Answer all that was sent so far."""
        for gate in self.gates:
            gate.set()
        await anyio.wait_all_tasks_blocked()


async def test_siblings_leave_together_once_the_first_has_come_back() -> None:
    """Whatever they ask of the same document; another document waits for nobody."""
    endpoint, warmer = Endpoint(), Warmer()
    async with anyio.create_task_group() as group:
        for request in (ask("a?"), ask("b?"), ask("c?"), ask("a?", "e" * 4000)):
            group.start_soon(warmer.sample, request, endpoint)
        await anyio.wait_all_tasks_blocked()
        assert [user[-2:] for user in endpoint.sent] == ["a?", "a?"]
        await endpoint.answer()
        assert [user[-2:] for user in endpoint.sent] == ["a?", "a?", "b?", "c?"]
        group.start_soon(warmer.sample, ask("d?"), endpoint)
        await anyio.wait_all_tasks_blocked()
        assert len(endpoint.sent) == 5, "the beginning is warm"
        await endpoint.answer()


async def test_where_the_first_fails_another_goes_ahead() -> None:
    """A failure warms nothing, and holds nobody up for good."""
    endpoint, warmer = Endpoint(), Warmer()
    endpoint.failing = True

    async def try_to() -> None:
        with pytest.raises(TransientError):
            await warmer.sample(ask("a?"), endpoint)

    async with anyio.create_task_group() as group:
        group.start_soon(try_to)
        await anyio.wait_all_tasks_blocked()
        for question in ("b?", "c?"):
            group.start_soon(warmer.sample, ask(question), endpoint)
        await anyio.wait_all_tasks_blocked()
        await endpoint.answer()
        assert [user[-2:] for user in endpoint.sent] == ["a?", "b?"]
        await endpoint.answer()
        assert [user[-2:] for user in endpoint.sent] == ["a?", "b?", "c?"]
        await endpoint.answer()


@pytest.mark.parametrize(("cached", "held"), [(0, False), (900, True)])
async def test_nobody_waits_for_a_cache_that_keeps_nothing(cached: int, held: bool) -> None:
    """After eight that waited and read nothing, whatever the reason, the next ones leave at once."""
    endpoint, warmer = Endpoint(cached), Warmer()

    async def answered(request: SampleRequest) -> Sequence[Reply]:
        return [Reply("4", "m", cached_tokens=cached)]

    for _ in range(9):
        await warmer.sample(ask(), answered)
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(warmer.sample, ask("?", "e" * 4000), endpoint)
        await anyio.wait_all_tasks_blocked()
        assert len(endpoint.sent) == (1 if held else 2)
        await endpoint.answer()
        await endpoint.answer()


def test_what_is_repeated() -> None:
    """The author's beginning; all of it for the samples of a step; nothing where there is too little."""
    assert repeated(ask(warm=False)) == ()
    assert repeated(ask("?")) == (4000,)
    assert repeated(ask("?" * 3000)) == (4000, 7000)
    assert repeated(ask("?", shared=0)) == (4001,)
    assert repeated(ask("?", "short")) == ()
    assert repeated(ask("?", "short", system="s" * 3000)) == (5,)
