"""Limits around a provider: slots by priority, requests a minute, a deadline for every attempt."""

import random
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdap.errors import ProviderError, RateLimitError, TransientError, UnavailableError
from mdap.protocols import Provider
from mdap.providers.gate import FIXED, MOST, Gate
from mdap.providers.paced import Paced
from mdap.records import Reply, SampleRequest, Trace
from mdap.rules.headers import Told
from mdap.settings import Limits
from mdap.testing import ScriptedProvider
from tests.endpoints import taken


def request(priority: int = 0) -> SampleRequest:
    return SampleRequest("", "?", "d", "0", (0,), 0.1, 100, priority=priority, trace=Trace())


@dataclass
class Clock:
    """A clock for the gate and its throttle that only their own waiting moves."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        for _ in range(3):  # whoever can go on does so before time passes
            await anyio.lowlevel.checkpoint()
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("asyncio_throttle.throttler.time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr("asyncio_throttle.throttler.asyncio", SimpleNamespace(sleep=clock.sleep))
    monkeypatch.setattr("mdap.providers.gate.time", SimpleNamespace(monotonic=clock.monotonic))
    nap = Gate._nap

    async def pass_time(self: Gate, seconds: float | None) -> None:
        await (nap(self, None) if seconds is None else clock.sleep(seconds))

    monkeypatch.setattr(Gate, "_nap", pass_time)
    return clock


@dataclass
class Crowd:
    """Many who want a slot of one gate, and what came of it."""

    gate: Gate
    concurrency: int
    inside: int = 0
    most: int = 0
    admitted: list[int] = field(default_factory=list)

    async def visit(self, priority: int, turns: int = 1) -> None:
        async with self.gate.slot(priority):
            self.admitted.append(priority)
            self.inside += 1
            self.most = max(self.most, self.inside)
            assert self.inside <= self.concurrency
            try:
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
            finally:
                self.inside -= 1

    async def all_slots_are_free(self) -> None:
        """Every slot can be had at once, and not one more."""
        async with AsyncExitStack() as stack:
            for _ in range(self.concurrency):
                await stack.enter_async_context(self.gate.slot(0))
            with anyio.move_on_after(0) as scope:
                await stack.enter_async_context(self.gate.slot(0))
            assert scope.cancelled_caught


# --- slots


@pytest.mark.slow
@settings(max_examples=100)
@given(st.integers(1, 5), st.lists(st.integers(0, 4), max_size=30))
async def test_smaller_priorities_go_first(concurrency: int, priorities: list[int]) -> None:
    """Of those who wait, the smallest priority is admitted next; among equals, whoever came first."""
    crowd = Crowd(Gate(concurrency), concurrency)
    async with anyio.create_task_group() as group, AsyncExitStack() as held:
        for _ in range(concurrency):
            await held.enter_async_context(crowd.gate.slot(0))
        for priority in priorities:
            group.start_soon(crowd.visit, priority)
        await anyio.wait_all_tasks_blocked()
        assert crowd.admitted == []
        await held.aclose()
    assert crowd.admitted == sorted(priorities)
    assert crowd.most == min(concurrency, len(priorities))


async def test_equals_are_admitted_in_the_order_in_which_they_came() -> None:
    """Nobody is overtaken by a later one of the same priority."""
    gate, admitted = Gate(1), []

    async def visit(number: int) -> None:
        async with gate.slot(number % 2):
            admitted.append(number)

    async with anyio.create_task_group() as group, gate.slot(0):
        for number in range(8):
            group.start_soon(visit, number)
        await anyio.wait_all_tasks_blocked()
    assert admitted == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.slow
@settings(max_examples=150)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.none() | st.integers(0, 12)), max_size=25),
)
async def test_cancelled_visitors_leak_no_slots(
    concurrency: int, visitors: list[tuple[int, int, int | None]]
) -> None:
    """Cancel anyone at any turn, waiting, being admitted or inside: all slots come back, the rest get in."""
    crowd = Crowd(Gate(concurrency), concurrency)

    async def visit(priority: int, turns: int, patience: int | None) -> None:
        async with anyio.create_task_group() as group:

            async def lose_patience(after: int) -> None:
                for _ in range(after):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()

            if patience is not None:
                group.start_soon(lose_patience, patience)
            await crowd.visit(priority, turns)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for visitor in visitors:
            group.start_soon(visit, *visitor)
    patient = sum(patience is None for _, _, patience in visitors)
    assert len(crowd.admitted) >= patient
    assert crowd.inside == 0
    await crowd.all_slots_are_free()


async def test_an_error_inside_gives_the_slot_back() -> None:
    """Whatever ends a visit, the slot is free."""
    crowd = Crowd(Gate(1), 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with crowd.gate.slot(0):
                raise ZeroDivisionError
    await crowd.all_slots_are_free()


# --- requests per minute


@pytest.mark.parametrize("rpm", [1, 7, 60, 599, 600, 601, 1301, 5000])
async def test_no_minute_admits_more_than_its_limit(rpm: int, clock: Clock) -> None:
    """Under any demand, no window of 60 seconds has more than the limit, and few have much less."""
    gate = Gate(8, rpm)
    times: list[float] = []
    wanted = min(3 * rpm, rpm + 1500)

    async def demand() -> None:
        while len(times) < wanted:
            async with gate.slot(0):
                times.append(clock.now)

    async with anyio.create_task_group() as group:
        group.start_soon(gate.serve)
        async with anyio.create_task_group() as crowd:
            for _ in range(4):
                crowd.start_soon(demand)
        group.cancel_scope.cancel()
    del times[wanted:]
    assert max(place - bisect_left(times, at - 60 + 1e-6) + 1 for place, at in enumerate(times)) <= rpm
    # A second of every minute is left for the network's jitter.
    assert times[-1] - times[0] <= 61 * wanted / rpm * 1.05


async def test_a_rate_admits_by_priority_and_keeps_the_slots(clock: Clock) -> None:
    """With a rate, too: smallest priority first, and never more inside than there are slots."""
    crowd = Crowd(Gate(2, 6000), 2)
    priorities = [random.Random(4).randrange(5) for _ in range(40)]
    async with anyio.create_task_group() as group:
        async with anyio.create_task_group() as visitors:
            for priority in priorities:
                visitors.start_soon(crowd.visit, priority, 3)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(crowd.gate.serve)
        group.cancel_scope.cancel()
    assert crowd.admitted == sorted(priorities)


async def test_waiters_that_left_use_up_no_rate(clock: Clock) -> None:
    """Those who were cancelled while they waited do not hold up those who still wait."""
    crowd = Crowd(Gate(1, 60), 1)
    async with anyio.create_task_group() as group:
        async with anyio.create_task_group() as impatient:
            for _ in range(50):
                impatient.start_soon(crowd.visit, 0)
            await anyio.wait_all_tasks_blocked()
            impatient.cancel_scope.cancel()
        assert crowd.admitted == []
        group.start_soon(crowd.gate.serve)
        started = clock.now
        for _ in range(3):
            await crowd.visit(1)
        group.cancel_scope.cancel()
    assert clock.now - started <= 3 * 1.2


async def test_without_a_rate_a_free_slot_is_taken_at_once() -> None:
    """Only a rate or a pause needs the dispatcher."""
    gate = Gate(1)
    async with gate.slot(0):
        pass
    async with gate.slot(0):
        pass


class Asked:
    """A provider that answers with a given size, or fails, and notes when it was asked."""

    name, nonblocking, max_n = "asked", False, 1

    def __init__(self, *outcomes: int | ProviderError) -> None:
        self.outcomes = list(outcomes)
        self.at: list[float] = []

    async def sample(self, request: SampleRequest) -> list[Reply]:
        self.at.append(anyio.current_time())
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, ProviderError):
            raise outcome
        return [Reply("x", self.name, input_tokens=0, output_tokens=outcome)]

    def describe(self) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        pass


def asked_for(max_tokens: int) -> SampleRequest:
    return SampleRequest("", "", "d", "0", (0,), 0.0, max_tokens)


@pytest.mark.slow
async def test_tokens_a_minute_hold_back_what_is_too_much() -> None:
    """What is foreseen is reserved and what came is settled: the second request waits for its share."""
    inner = Asked(600, 600)
    paced = Paced(inner, Limits(tokens_per_minute=60_000))
    async with anyio.create_task_group() as group:
        group.start_soon(paced.gate.serve)
        for _ in range(2):
            await paced.sample(asked_for(2_000))
        group.cancel_scope.cancel()

    # 600 tokens are 0.6 s of the allowance; a second's worth of 1,000 may go at once.
    assert taken(paced.gate.pace, time.monotonic())[1] == 1_200
    assert paced.gate.pace.outstanding == 0
    assert inner.at[1] - inner.at[0] > 0.5


async def test_a_refusal_holds_back_every_request() -> None:
    """One shared pause: whoever comes next waits as long as the endpoint asked the first to wait."""
    inner = Asked(RateLimitError("slow down", retry_after=0.3), 1)
    paced = Paced(inner, Limits())
    async with anyio.create_task_group() as group:
        group.start_soon(paced.gate.serve)
        with pytest.raises(RateLimitError):
            await paced.sample(asked_for(10))
        await paced.sample(asked_for(10))
        group.cancel_scope.cancel()

    assert inner.at[1] - inner.at[0] >= 0.3


# --- around a provider


async def test_an_attempt_that_outlives_its_deadline_is_a_transient_fault() -> None:
    """D20: a hung provider is abandoned at the deadline, its slot is free, and another attempt may follow."""
    ended: list[str] = []

    class Hung(ScriptedProvider):
        async def sample(self, request: SampleRequest) -> Sequence[Reply]:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("cancelled")
            raise AssertionError

    provider = Paced(Hung([], nonblocking=False), Limits(attempt_timeout=0.001, concurrency=1))
    for _ in range(3):
        with pytest.raises(TransientError, match=r"no reply within 0\.001 seconds") as raised:
            await provider.sample(request())
        assert raised.value.kind == "timeout"
    assert ended == ["cancelled"] * 3


async def test_waiting_for_a_slot_is_not_part_of_an_attempt() -> None:
    """The deadline begins with the slot: a long queue times nothing out."""

    class Quick(ScriptedProvider):
        async def sample(self, request: SampleRequest) -> Sequence[Reply]:
            return [Reply("a", "quick")]

    provider = Paced(Quick([], nonblocking=False), Limits(attempt_timeout=1e-9, concurrency=1))
    replies: list[Sequence[Reply]] = []

    async def ask() -> None:
        replies.append(await provider.sample(request()))

    async with anyio.create_task_group() as group, provider.gate.slot(0):
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
    assert [reply.text for [reply] in replies] == ["a"]


async def test_a_request_notes_that_it_was_sent() -> None:
    """Until there is a slot for it, a request costs nothing, and its trace says so."""
    provider = Paced(ScriptedProvider(["a"], nonblocking=False), Limits(concurrency=1))
    asked = request()
    async with anyio.create_task_group() as group, provider.gate.slot(0):
        group.start_soon(provider.sample, asked)
        await anyio.wait_all_tasks_blocked()
        assert not asked.trace.sent
    assert asked.trace.sent


async def test_cancelling_a_request_is_no_timeout() -> None:
    """Who cancels from outside gets the cancellation, and the slot is free again."""
    provider = Paced(ScriptedProvider(["a"], nonblocking=False), Limits(concurrency=1))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await provider.sample(request())
    assert scope.cancelled_caught
    assert [reply.text for reply in await provider.sample(request())] == ["a"]


async def test_what_the_provider_raises_passes_through() -> None:
    """Errors of the provider are not wrapped, and give the slot back."""
    gone = UnavailableError("no key")
    provider = Paced(ScriptedProvider([gone, "a"], nonblocking=False), Limits(concurrency=1))
    with pytest.raises(UnavailableError) as raised:
        await provider.sample(request())
    assert raised.value is gone
    assert len(await provider.sample(request())) == 1


def test_a_paced_provider_is_the_provider_it_paces() -> None:
    """Name, n and settings are the inner provider's; it is instant only where no rate makes it wait."""

    class Inner(ScriptedProvider):
        def describe(self) -> dict[str, Any]:
            return {"options": 1}

    inner = Inner([], name="mine", max_n=7)
    provider: Provider = Paced(inner, Limits())
    assert (provider.name, provider.max_n, provider.nonblocking) == ("mine", 7, True)
    assert provider.describe() == {"options": 1}
    assert not Paced(inner, Limits(requests_per_minute=60)).nonblocking
    assert not Paced(Inner([], nonblocking=False), Limits()).nonblocking


async def test_no_reservation_outlives_its_request() -> None:
    """Answered, failed, broken, or cancelled while asking or while waiting: nothing stays outstanding."""
    inner = Asked(5, TransientError("reset"), UnavailableError("no key"))
    paced = Paced(inner, Limits(concurrency=1))
    await paced.sample(asked_for(10))
    for kind in (TransientError, UnavailableError, IndexError):
        with pytest.raises(kind):
            await paced.sample(asked_for(10))
    assert paced.gate.pace.outstanding == 0

    hung = Paced(Hung(), Limits(concurrency=1))
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(hung.sample, asked_for(10))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert hung.gate.pace.outstanding == 0


class Hung(Asked):
    """A provider that never answers."""

    async def sample(self, request: SampleRequest) -> list[Reply]:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")


async def test_a_pause_is_bounded_by_the_patience_of_all() -> None:
    """An endpoint that says tomorrow holds the others back no longer than they would wait for an answer."""
    assert RateLimitError("past", retry_after=-5).retry_after == 0.0
    assert RateLimitError("none", retry_after=float("nan")).retry_after is None
    paced = Paced(Asked(RateLimitError("tomorrow", retry_after=86_400.0)), Limits(max_silence=5))
    with pytest.raises(RateLimitError):
        await paced.sample(asked_for(10))

    now = time.monotonic()
    assert 0 < paced.gate.concurrency.ready_at(now) - now <= 5


# --- limits that are found out


class Remote(Asked):
    """A provider of an endpoint that bears so many at once, and may tell of its limits in headers."""

    remote = True

    def __init__(self, bears: int, told: Told | None = None) -> None:
        super().__init__()
        self.bears, self.told = bears, told or Told()
        self.inside = self.most = 0

    async def sample(self, request: SampleRequest) -> list[Reply]:
        if self.inside >= self.bears:
            raise RateLimitError("slow down")
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        self.inside -= 1
        return [Reply("x", self.name, input_tokens=1, output_tokens=1)]


async def demand(paced: Paced, samples: int) -> None:
    """Have a crowd of 600 take so many samples; a refused one comes again."""
    left = samples

    async def one() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            with suppress(RateLimitError):
                await paced.sample(request())

    async with anyio.create_task_group() as group:
        group.start_soon(paced.gate.serve)
        async with anyio.create_task_group() as crowd:
            for _ in range(600):
                crowd.start_soon(one)
        group.cancel_scope.cancel()


@pytest.mark.slow
async def test_without_a_number_an_endpoint_is_asked_ever_more_at_once(clock: Clock) -> None:
    """From 2 by doubling, to the most that is ever tried; what changed is told as one change."""
    inner = Remote(10_000)
    paced = Paced(inner, Limits())
    await demand(paced, 6_000)
    assert (inner.most, paced.gate.concurrency.limit) == (MOST, MOST)
    [change] = paced.gate.changes()
    assert change[:3] == ("concurrency", 2, MOST)
    assert paced.gate.changes() == []


async def test_refusals_bring_the_number_down(clock: Clock) -> None:
    """An endpoint that serves 40 is not asked for hundreds at once."""
    paced = Paced(Remote(40), Limits())
    await demand(paced, 2_000)
    assert paced.gate.concurrency.limit < 64
    assert {change.what for change in paced.gate.changes()} == {"concurrency"}


@pytest.mark.parametrize(("limits", "most"), [(Limits(concurrency=30), 30), (Limits(concurrency=1), 1)])
async def test_an_explicit_number_is_neither_raised_nor_lowered(limits: Limits, most: int) -> None:
    """The user's number wins, whatever the endpoint says."""
    for bears in (10_000, most):
        inner = Remote(bears)
        paced = Paced(inner, limits)
        await demand(paced, 200)
        assert inner.most == most
        assert paced.gate.concurrency.limit == most


async def test_a_provider_in_this_process_has_no_limit_to_find() -> None:
    """It gets a fixed number of slots from the start."""
    paced = Paced(Asked(), Limits())
    assert (paced.gate.concurrency.limit, paced.gate.most) == (FIXED, FIXED)


async def test_limits_told_in_headers_hold_where_nobody_gave_any() -> None:
    """The gate takes them on, says so once, and leaves what the user gave."""
    inner = Remote(9, Told(requests_per_minute=6_000, tokens_per_minute=90_000))
    paced = Paced(inner, Limits(tokens_per_minute=70_000))
    await demand(paced, 2)
    pace = paced.gate.pace
    assert (pace.requests.limit, pace.tokens.limit) == (6_000, 70_000)
    [change] = paced.gate.changes()
    assert change[:3] == ("requests_per_minute", None, 6_000)

    inner.told = Told(requests_per_minute=600)
    await demand(paced, 1)
    inner.told = Told()
    await demand(paced, 1)
    assert paced.gate.pace.requests.limit == 600
    told = [change[:3] for change in paced.gate.changes() if change.what != "concurrency"]
    assert told == [("requests_per_minute", 6_000, 600)]


@pytest.mark.slow
async def test_a_limit_that_comes_back_to_where_it_was_is_no_change() -> None:
    """However often an endpoint changes its mind between two looks, one change is told, or none."""
    inner = Remote(9)
    paced = Paced(inner, Limits())
    for _ in range(10):
        for limit in (500_000, 600_000):
            inner.told = Told(requests_per_minute=limit)
            await demand(paced, 1)
    assert [change[:3] for change in paced.gate.changes()] == [("requests_per_minute", None, 600_000)]
    for limit in (500_000, 600_000):
        inner.told = Told(requests_per_minute=limit)
        await demand(paced, 1)
    assert paced.gate.changes() == []


async def test_where_max_tokens_are_charged_nothing_is_given_back() -> None:
    """With reserve_max_tokens, a request counts with all that it might have taken."""
    paced = Paced(Asked(5), Limits(tokens_per_minute=60_000, reserve_max_tokens=True))
    async with anyio.create_task_group() as group:
        group.start_soon(paced.gate.serve)
        await paced.sample(asked_for(700))
        group.cancel_scope.cancel()
    assert taken(paced.gate.pace, time.monotonic())[1] == 700


async def test_trouble_holds_growth_back() -> None:
    """Where half of all attempts fail otherwise, the number stays where it is."""

    class Troubled(Remote):
        async def sample(self, request: SampleRequest) -> list[Reply]:
            replies = await super().sample(request)
            self.turn = not getattr(self, "turn", False)
            if self.turn:
                raise TransientError("reset")
            return replies

    paced = Paced(Troubled(10_000), Limits())
    async with anyio.create_task_group() as group:
        for _ in range(400):
            group.start_soon(_try, paced)
    assert paced.gate.concurrency.limit == 2


async def _try(paced: Paced) -> None:
    with suppress(TransientError):
        await paced.sample(request())


async def test_what_was_withdrawn_while_it_waited_is_not_sent() -> None:
    """It would be billed, and nobody would take it in; its slot is free once its cancellation arrives."""
    inner = Asked(5)
    paced = Paced(inner, Limits(concurrency=1))
    withdrawn = request()
    withdrawn.trace.withdrawn = True
    async with anyio.create_task_group() as group:
        group.start_soon(paced.gate.serve)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as asking:
                asking.start_soon(paced.sample, withdrawn)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert (inner.at, withdrawn.trace.sent) == ([], False)
        await paced.sample(request())
        group.cancel_scope.cancel()
    assert len(inner.at) == 1
