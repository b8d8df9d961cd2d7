"""Drive one run: request the samples that its policy wants, each by a sampler, until the run ends.

A sampler only asks and posts what came, failures included.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from mdap.engine.budget_guard import BUDGET, LATE, BudgetGuard
from mdap.engine.policy import Effect, Policy
from mdap.engine.recording import RUNNING, Opening
from mdap.errors import (
    PARKED,
    MdapError,
    PluginError,
    ProviderError,
    RateLimitError,
    TransientError,
    UnavailableError,
    UsageError,
)
from mdap.groups import cancelled_itself, gathered, of_its_own
from mdap.protocols import Journal, Provider
from mdap.records import Reply, RunStatus, SampleRequest, Trace
from mdap.rules.limiter import backoff
from mdap.settings import Budget, Limits

K = TypeVar("K")

Beside = Callable[[], Coroutine[Any, Any, None]]
"""What runs beside the voting of a run."""

# An endpoint that never answered is given this many attempts: it is more likely absent than busy.
_ATTEMPTS_AT_A_STRANGER: Final = 3
_ABSENT: Final = frozenset({"connection", "disconnected"})
# An answer that was paid for and cannot be read is likely to be the same each time.
_UNREADABLE_ATTEMPTS: Final = 10
# Spreads retries over time, nothing else; one for all, since seeding one takes as long as a short run.
_JITTER: Final = random.Random()

# A provider that answers immediately would starve all other tasks. Yielding more often would starve the
# writing thread: each time, the loop releases the interpreter's lock briefly, which restarts the 5 ms
# that a thread waits before it may demand the lock.
_TURNS_WITHOUT_YIELDING: Final = 64

_DRAIN_SECONDS: Final = 10.0


@dataclass(slots=True)
class Came(Generic[K]):
    """Replies came, after `attempts` attempts."""

    ticket: K
    request: SampleRequest
    replies: Sequence[Reply]
    attempts: int


@dataclass(slots=True)
class Failed(Generic[K]):
    """One attempt failed; another follows or `GaveUp` does."""

    ticket: K
    request: SampleRequest
    attempt: int
    error: ProviderError
    ended: int | None = None  # in milliseconds of Unix time


@dataclass(slots=True)
class GaveUp(Generic[K]):
    """No further attempt is made at this request."""

    ticket: K
    request: SampleRequest
    error: MdapError


Outcome = Came[K] | Failed[K] | GaveUp[K]


def _now() -> int:
    return time.time_ns() // 1_000_000


def _check(replies: Sequence[Reply]) -> None:
    """Refuse what is no sequence of replies: a provider may be anybody's."""
    for reply in replies:
        if not (isinstance(reply, Reply) and isinstance(reply[0], str)):
            raise TypeError(f"sample must return mdap.Reply objects with a text, not {reply!r:.80}")


class _Worker(Generic[K]):
    """A task that asks one request after the other, since beginning a task costs more than waking one."""

    __slots__ = ("job", "news", "scope")

    def __init__(self, job: tuple[K, SampleRequest]) -> None:
        self.job = job
        self.news = anyio.Event()
        self.scope = anyio.CancelScope()


class SamplerPool(Generic[K]):
    """Ask a provider on behalf of one run, and hand out what comes in the order in which it comes.

    Samplers run and wait for work in *group* until it is cancelled; then nothing more is posted.
    """

    def __init__(
        self, provider: Provider, limits: Limits, group: TaskGroup, budget_guard: BudgetGuard | None = None
    ) -> None:
        self.nonblocking = provider.nonblocking
        self._provider = provider
        self._limits = limits
        self._group = group
        self._budget_guard = budget_guard or BudgetGuard(Budget(), ())
        self._attempt = self._paid if self._budget_guard.limited else provider.sample
        self._began_at = time.monotonic()
        self._answered_at: float | None = None
        self._posted: list[Outcome[K]] = []
        self._waiting: deque[tuple[K, SampleRequest]] = deque()
        self._working: dict[Trace, _Worker[K]] = {}
        self._idle: list[_Worker[K]] = []
        self._news: anyio.Event | None = None  # only while somebody waits for it
        self._woken = False

    def ask(self, ticket: K, request: SampleRequest) -> None:
        """Send *request* on its way; its outcomes carry *ticket*."""
        if self.nonblocking:
            # Nothing would be gained by a task for a provider that never waits.
            self._waiting.append((ticket, request))
        else:
            self._put_to_work(ticket, request)

    def _put_to_work(self, ticket: K, request: SampleRequest) -> None:
        if self._idle:
            worker = self._idle.pop()
            worker.job = (ticket, request)
            worker.news.set()
        else:
            worker = _Worker((ticket, request))
            self._group.start_soon(self._work, worker)
        self._working[request.trace] = worker

    async def arrived(self) -> list[Outcome[K]]:
        """Return what has come, waiting for something if need be; nothing if `wake` came first."""
        while self._waiting:
            await self._sample(*self._waiting.popleft())
            if isinstance(self._posted[-1], GaveUp):
                break  # and what was not sent by then need not be
        if not (self._posted or self._woken):
            self._news = anyio.Event()
            await self._news.wait()
            self._news = None
        self._woken = False
        arrived, self._posted = self._posted, []
        return arrived

    def wake(self) -> None:
        """Make whoever waits for an outcome look whether there is something else to do."""
        self._woken = True
        self._tell()

    def drop(self, trace: Trace) -> None:
        """Cancel the request that carries *trace*, if it is still under way."""
        worker = self._working.pop(trace, None)
        if worker is not None:
            worker.scope.cancel()  # which is its end: it never waits for work again
        elif self._waiting:
            self._waiting = deque(waiting for waiting in self._waiting if waiting[1].trace is not trace)

    def _post(self, outcome: Outcome[K]) -> None:
        self._posted.append(outcome)
        self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _work(self, worker: _Worker[K]) -> None:
        with worker.scope:
            while not worker.scope.cancel_called:
                ticket, request = worker.job
                await self._sample(ticket, request)
                if self._working.pop(request.trace, None) is None:
                    return  # dropped meanwhile, as it came
                worker.news = anyio.Event()
                self._idle.append(worker)
                await worker.news.wait()

    async def _sample(self, ticket: K, request: SampleRequest) -> None:
        attempt = 0
        started = time.monotonic()
        while True:
            attempt += 1
            request.trace.began = _now()  # unless the provider knows better: it may let the request wait
            try:
                replies = await self._attempt(request)
                if not replies:
                    raise TransientError("the provider returned no reply at all", kind="no_reply")
                _check(replies)
            except ProviderError as error:
                request.trace.sent = False
                if error.kind not in (BUDGET, PARKED):  # then nothing was attempted
                    self._post(Failed(ticket, request, attempt, error, _now()))
                wait = self._wait(error, attempt, time.monotonic() - started)
                if wait is None:
                    self._post(GaveUp(ticket, request, error))
                    return
                await anyio.sleep(wait)
            except (PluginError, UsageError) as error:  # of the task that the reply is simulated for
                self._post(GaveUp(ticket, request, error))
                return
            except BaseException as error:
                if not of_its_own(error):
                    raise
                failure = PluginError(f"provider {self._provider.name}", "sampling", error)
                self._post(GaveUp(ticket, request, failure))
                return
            else:
                self._answered_at = time.monotonic()
                self._post(Came(ticket, request, replies, attempt))
                return

    async def _paid(self, request: SampleRequest) -> Sequence[Reply]:
        hold = await self._budget_guard.hold(request)
        replies: Sequence[Reply] = ()
        failure: ProviderError | None = None
        try:
            replies = await self._provider.sample(request)
        except ProviderError as error:
            failure = error
            raise
        finally:
            self._budget_guard.settle(request, hold, replies, failure)
        return replies

    def _wait(self, error: ProviderError, attempt: int, spent: float) -> float | None:
        """Return how many seconds to wait before the next attempt, or None if there is to be none."""
        if not isinstance(error, TransientError) or attempt >= self._limits.max_attempts:
            return None
        if self._answered_at is None and error.kind in _ABSENT and attempt >= _ATTEMPTS_AT_A_STRANGER:
            return None
        if error.output_tokens is not None and attempt >= _UNREADABLE_ATTEMPTS:
            return None
        silence = time.monotonic() - (self._answered_at or self._began_at)
        asked = error.retry_after if isinstance(error, RateLimitError) else None
        wait = backoff(attempt, _JITTER.random(), asked, error.kind)
        patience = min(self._limits.max_retry_seconds - spent, self._limits.max_silence - silence)
        return wait if wait <= patience else None


async def decide(
    policy: Policy,
    provider: Provider,
    limits: Limits,
    journal: Journal,
    budget_guard: BudgetGuard | None = None,
    beside: Sequence[Beside] = (),
) -> None:
    """Drive the run of *policy*, already begun, until it ends or its time is over.

    It raises what its task or the journal raises. What runs *beside* it never raises, and is cancelled when
    the run ends.
    """
    with anyio.move_on_after(None if budget_guard is None else budget_guard.seconds) as clock:
        async with gathered() as group:
            samplers: SamplerPool[Opening] = SamplerPool(provider, limits, group, budget_guard)
            policy.decider.news = samplers.wake
            scope, turn = anyio.CancelScope(), 0
            if beside:
                group.start_soon(_within, scope, beside)
            await _bring_about(policy.effects(), journal)
            while policy.decider.status is RUNNING:
                await _send(policy, samplers, policy.decider.wanted())
                if policy.stalled:
                    await _pass_over(policy)
                else:
                    _take(policy, samplers, await samplers.arrived())
                if effects := policy.effects():
                    await _bring_about(effects, journal)
                turn += 1
                if journal.behind or turn % _TURNS_WITHOUT_YIELDING == 0:
                    await anyio.lowlevel.checkpoint()
                    await journal.wait_for_room()
            scope.cancel()
            await _drain(policy, samplers)
            await _bring_about(policy.effects(), journal)
            group.cancel_scope.cancel()
    if policy.decider.reason is not None or policy.decider.status is RunStatus.FINISHED:
        return
    if clock.cancelled_caught and budget_guard is not None:
        policy.decider.stop(UnavailableError(budget_guard.too_late(), kind=LATE))
    else:  # its tasks have ended by no scope of mdap's
        who = f"provider {provider.name} or the task"
        policy.decider.stop(PluginError(who, "sampling", cancelled_itself()))


async def _within(scope: anyio.CancelScope, works: Sequence[Beside]) -> None:
    with scope:
        async with gathered() as group:
            for work in works:
                group.start_soon(work)


async def _send(
    policy: Policy, samplers: SamplerPool[Opening], wanted: list[tuple[Opening, SampleRequest]]
) -> None:
    _drop(policy, samplers)
    for place, (opening, request) in enumerate(wanted):
        if place and not samplers.nonblocking:
            # A client may put what it has to send on the wire a turn of the loop later: let the one before
            # leave first, or it would wait until the last of them is put together.
            await anyio.lowlevel.checkpoint()
        # Meanwhile a process may have stopped, or given up what it had asked.
        if policy.decider.status is RUNNING and opening.flying.get(request.ordinals) is request:
            samplers.ask(opening, request)


async def _pass_over(policy: Policy) -> None:
    # A cancelled run ends here, or it would take the cancelled askers for ones that gave up.
    await (anyio.lowlevel.checkpoint if policy.decider.in_flight else anyio.wait_all_tasks_blocked)()
    policy.pass_over()


async def _bring_about(effects: list[Effect], journal: Journal) -> None:
    for effect in effects:
        await journal.flush()
        await effect.perform()
        journal.append(effect.done)


def _take(policy: Policy, samplers: SamplerPool[Opening], arrived: list[Outcome[Opening]]) -> None:
    for outcome in arrived:
        policy.decider.take(outcome)
    _drop(policy, samplers)


def _drop(policy: Policy, samplers: SamplerPool[Opening]) -> None:
    for trace in policy.decider.dropped():
        samplers.drop(trace)


async def _drain(policy: Policy, samplers: SamplerPool[Opening]) -> None:
    """Take in what has been sent before the run was over: it is paid for, and a resume can use it."""
    policy.decider.withdraw_unsent()
    _drop(policy, samplers)
    try:
        with anyio.move_on_after(_DRAIN_SECONDS):
            while policy.decider.in_flight:
                _take(policy, samplers, await samplers.arrived())
    finally:
        policy.decider.give_up_left()
