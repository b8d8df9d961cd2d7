"""Who asks: attempts are bounded, failures are no samples, and nobody waits for a hung one."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from mdap.engine.chain import ChainPolicy
from mdap.engine.config import RunConfig
from mdap.engine.scheduler import Came, Failed, GaveUp, Outcome, SamplerPool, decide
from mdap.errors import (
    PluginError,
    ProviderError,
    RateLimitError,
    RejectedError,
    TransientError,
    UnavailableError,
)
from mdap.groups import gathered
from mdap.protocols import Provider
from mdap.providers.paced import Paced
from mdap.records import (
    AttemptFailed,
    Decided,
    Reply,
    RunStatus,
    SampleRequest,
    SampleTaken,
    Trace,
)
from mdap.settings import Limits, Speculate, Speculation, VotingSettings
from mdap.testing import ScriptedProvider
from tests.helpers import NEW, Log, Model, Walk, recount

TASK = Walk(steps=4, seed=3)
MODEL = Model(TASK, right=0.8)
EITHER = pytest.mark.parametrize("nonblocking", [True, False])


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float | None]]:
    """Retry at once, and keep what each pause was computed from."""
    asked: list[tuple[int, float | None]] = []

    def backoff(attempt: int, jitter: float, retry_after: float | None, kind: str) -> float:
        assert 0 <= jitter < 1
        asked.append((attempt, retry_after))
        return retry_after or 0.0

    monkeypatch.setattr("mdap.engine.scheduler.backoff", backoff)
    return asked


class Always:
    """A provider that does the same to every request, and counts."""

    name = "always"
    max_n = 1

    def __init__(
        self, what: Exception | Sequence[Reply], *, nonblocking: bool = False, most: int = 1000
    ) -> None:
        self.nonblocking = nonblocking
        self.calls = 0
        self._what = what
        self._most = most

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        self.calls += 1
        if self.calls > self._most:
            pytest.fail(f"asked more than {self._most} times")
        if not self.nonblocking:
            await anyio.lowlevel.checkpoint()
        if isinstance(self._what, Exception):
            raise self._what
        return self._what

    def describe(self) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        pass


class Hanging:
    """A provider whose first attempt at some ordinals never ends."""

    name = "hanging"
    nonblocking = False
    max_n = 1

    def __init__(self, *hung: int) -> None:
        self.attempts: Counter[int] = Counter()
        self.active = 0
        self.started = anyio.Event()
        self._hung = hung

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        [ordinal] = request.ordinals
        self.attempts[ordinal] += 1
        self.active += 1
        self.started.set()
        try:
            if self.attempts[ordinal] == 1 and ordinal in self._hung:
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()
        finally:
            self.active -= 1
        return [MODEL.says(request.user, ordinal)]

    def describe(self) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        pass


def request(*ordinals: int) -> SampleRequest:
    return SampleRequest("", "3 0 0", "d", "0", ordinals or (0,), 0.1, 100, trace=Trace())


async def outcomes(provider: Provider, limits: Limits | None = None, *requests: SampleRequest) -> list[Any]:
    """Ask, and return what is posted until every request is answered or given up."""
    posted: list[Outcome[str]] = []
    async with gathered() as group:
        samplers: SamplerPool[str] = SamplerPool(provider, limits or Limits(), group)
        for number, each in enumerate(requests or [request()]):
            samplers.ask(f"ticket {number}", each)
        while sum(not isinstance(outcome, Failed) for outcome in posted) < len(requests or [0]):
            posted += await samplers.arrived()
        group.cancel_scope.cancel()
    return posted


async def decided(
    provider: Provider, limits: Limits | None = None, *, k: int = 3, depth: int = 0
) -> tuple[ChainPolicy, Log]:
    """Decide the toy chain with *provider*."""
    log = Log()
    speculation = Speculation(mode=Speculate.VOTE, depth=depth) if depth else Speculation()
    rules = RunConfig(1, VotingSettings(k=k), speculation, provider.max_n, task="walk")
    policy = ChainPolicy(TASK, rules, log)
    policy.begin(NEW)
    await decide(policy, provider, limits or Limits(), log)
    return policy, log


class Sending(Always):
    """A provider that sends what it put together one turn of the loop later, as some clients do."""

    def __init__(self) -> None:
        super().__init__([MODEL.says("3 0 0", 0)])
        self.log: list[str] = []

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        self.log.append("put together")
        await anyio.lowlevel.checkpoint()
        self.log.append("sent")
        return [MODEL.says(request.user, request.ordinals[0])]


async def test_a_request_leaves_before_all_the_others_are_put_together() -> None:
    """The samples of a step are asked for one by one, so that the first waits for no other."""
    provider = Sending()
    await decided(provider, k=9)

    assert provider.log[:9].count("sent") >= 3


class Withdrawing(Sending):
    """A provider during whose first request everything else is withdrawn, as a process may do."""

    def __init__(self) -> None:
        super().__init__()
        self.policy: ChainPolicy | None = None

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        request.trace.sent = True
        policy, self.policy = self.policy, None
        if policy is not None:
            policy.decider.withdraw_unsent()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        return await super().sample(request)


async def test_what_is_withdrawn_before_it_is_asked_is_not_asked() -> None:
    """It would be paid for, and nobody would hear of it: each sample that is asked for has its row."""
    provider, log = Withdrawing(), Log()
    policy = ChainPolicy(TASK, RunConfig(1, VotingSettings(k=9), task="walk"), log)
    provider.policy = policy
    policy.begin(NEW)
    await decide(policy, provider, Limits(), log)

    assert policy.decider.status is RunStatus.FINISHED
    assert provider.log.count("put together") == len(log.of(SampleTaken))


# --- when to stop trying


@EITHER
@pytest.mark.parametrize("error", [TransientError("500", kind="http_500"), RateLimitError("slow down")])
async def test_d7_a_provider_that_always_fails_is_given_up(error: ProviderError, nonblocking: bool) -> None:
    """D7 and D8: attempts at one sample are bounded, each one is reported, and then the end."""
    provider = Always(error, nonblocking=nonblocking)
    *failed, last = await outcomes(provider, Limits(max_attempts=5))
    assert [(outcome.attempt, outcome.error) for outcome in failed] == [(n, error) for n in range(1, 6)]
    assert last == GaveUp("ticket 0", failed[0].request, error)
    assert provider.calls == 5


@EITHER
async def test_d8_a_dead_provider_stops_the_run(nonblocking: bool) -> None:
    """D7 and D8: a run on a provider that always fails ends, stopped, after a bounded number of attempts."""
    provider = Always(TransientError("no luck", kind="http_500"), nonblocking=nonblocking)
    policy, log = await decided(provider, Limits(max_attempts=4), k=3)
    assert (policy.decider.status, policy.decider.reason) == (RunStatus.STOPPED, "no luck")
    assert provider.calls <= 4 * 3
    assert len(log.of(AttemptFailed)) == policy.decider.progress.failed_attempts >= 4
    assert log.of(SampleTaken) == []


@EITHER
@pytest.mark.parametrize("kind", ["connection", "disconnected"])
async def test_a_stranger_that_refuses_connections_is_given_up_sooner(nonblocking: bool, kind: str) -> None:
    """An endpoint that never answered is given three attempts: its address is probably wrong."""
    provider = Always(TransientError("refused", kind=kind), nonblocking=nonblocking)
    assert len(await outcomes(provider)) == 4
    assert provider.calls == 3


async def test_an_endpoint_that_has_answered_is_no_stranger() -> None:
    """Once it has answered, a lost connection is a fault like others, tried as often as allowed."""
    refused = TransientError("refused", kind="connection")
    provider = ScriptedProvider(["a", *[refused] * 8, "b"])
    posted = await outcomes(provider, None, request(0), request(1))
    assert [type(outcome) for outcome in posted] == [Came, *[Failed] * 8, Came]
    assert posted[-1].attempts == 9


@EITHER
@pytest.mark.parametrize("error", [UnavailableError("no key"), RejectedError("bad prompt")])
async def test_what_cannot_work_is_tried_once(error: ProviderError, nonblocking: bool) -> None:
    """No key, no quota, a refused prompt: another attempt would be pointless."""
    provider = Always(error, nonblocking=nonblocking)
    [failed, last] = await outcomes(provider)
    assert (failed.attempt, failed.error, last.error) == (1, error, error)


async def test_the_endpoints_own_pause_is_kept(waits: list[tuple[int, float | None]]) -> None:
    """A pause that the endpoint asked for goes to the pacing rule, with the number of failures so far."""
    slow = RateLimitError("slow down", retry_after=0.001)
    await outcomes(ScriptedProvider([slow, TransientError("reset"), slow, "a"]))
    assert waits == [(1, 0.001), (2, None), (3, 0.001)]


async def test_a_pause_beyond_the_time_allowed_ends_it() -> None:
    """P5: rather than sleep past max_retry_seconds, the sampler gives up, without sleeping."""
    provider = Always(RateLimitError("come back tomorrow", retry_after=86_400.0))
    assert len(await outcomes(provider, Limits(max_retry_seconds=600))) == 2
    assert provider.calls == 1


@EITHER
async def test_a_provider_that_returns_nothing_is_given_up(nonblocking: bool) -> None:
    """D7: a provider that neither answers nor fails must not be asked for ever."""
    provider = Always([], nonblocking=nonblocking, most=200)
    policy, log = await decided(provider, Limits(max_attempts=5))
    assert policy.decider.status in (RunStatus.STOPPED, RunStatus.FAILED)
    assert log.of(SampleTaken) == []


# --- what a failure is


@EITHER
@pytest.mark.parametrize("depth", [0, 3])
async def test_d9_failed_attempts_are_no_samples(nonblocking: bool, depth: int) -> None:
    """D9: with faults, the same samples are counted to the same end; each failure is one fact of its own."""
    failures: Counter[tuple[str, int]] = Counter()

    def faulty(request: SampleRequest, ordinal: int) -> Reply | Exception:
        failures[request.user, ordinal] += 1
        if failures[request.user, ordinal] <= ordinal % 3:
            return TransientError("reset", kind="reset")
        return MODEL.says(request.user, ordinal)

    clean, plain = await decided(ScriptedProvider(lambda request, n: MODEL.says(request.user, n)))
    policy, log = await decided(ScriptedProvider(faulty, nonblocking=nonblocking), depth=depth)
    assert (policy.decider.status, policy.state) == (clean.decider.status, clean.state)
    assert recount(log.facts, 3) == recount(plain.facts, 3)
    assert policy.decider.progress.failed_attempts == len(log.of(AttemptFailed)) > 0
    assert {fact.kind for fact in log.of(AttemptFailed)} == {"reset"}
    if depth == 0:
        for sample in log.of(SampleTaken):
            assert sample.attempts == 1 + sample.ordinal % 3


@EITHER
async def test_a_providers_bug_names_the_provider(nonblocking: bool) -> None:
    """An exception that is no `ProviderError` is the provider's fault: it fails the run, once, by name."""
    bug = ZeroDivisionError("oops")
    [last] = await outcomes(Always(bug, nonblocking=nonblocking))
    assert isinstance(last.error, PluginError)
    said = r"provider always failed while sampling: test_samplers.py:\d+ in sample: ZeroDivisionError: oops"
    assert re.fullmatch(said, str(last.error))
    assert last.error.__cause__ is bug

    policy, log = await decided(Always(bug, nonblocking=nonblocking))
    assert (policy.decider.status, policy.decider.reason) == (RunStatus.FAILED, str(last.error))
    assert log.of(SampleTaken) == []


@EITHER
async def test_a_parsers_bug_comes_out_bare(nonblocking: bool) -> None:
    """No `ExceptionGroup` reaches the caller, whatever is in flight when the task's own code raises."""

    class Broken(Walk):
        def read(self, text: str) -> int:
            raise LookupError(text)

    provider = ScriptedProvider(lambda request, ordinal: "1", nonblocking=nonblocking)
    log = Log()
    policy = ChainPolicy(Broken(), RunConfig(1, VotingSettings(k=3), task="walk"), log)
    policy.begin(NEW)
    with pytest.raises(PluginError, match=r"step 0: test_samplers.py:\d+ in read: LookupError"):
        await decide(policy, provider, Limits(), log)
    assert [sample.verdict for sample in log.of(SampleTaken)] == ["cancelled"]


async def test_an_error_of_the_body_comes_out_of_the_group_bare() -> None:
    """One error is itself; there is no group to unpack for whoever calls."""

    async def body() -> None:
        async with gathered() as group:
            group.start_soon(anyio.sleep_forever)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await body()


# --- what hangs


async def test_d20_a_step_with_a_hung_voter_ends() -> None:
    """D20: a sample that outlives its deadline is a failed attempt, drawn again under the same ordinal."""
    inner = Hanging(1, 4)
    policy, log = await decided(Paced(inner, Limits()), Limits(), k=1)
    assert (policy.decider.status, inner.attempts[1]) == (RunStatus.FINISHED, 0)

    limits = Limits(attempt_timeout=0.2)
    policy, log = await decided(Paced(inner, limits), limits, k=3)
    assert policy.decider.status is RunStatus.FINISHED
    assert {(fact.ordinal, fact.kind) for fact in log.of(AttemptFailed)} >= {(1, "timeout")}
    [again] = [fact for fact in log.of(SampleTaken) if (fact.step, fact.ordinal) == (0, 1)]
    assert again.attempts == 2
    assert len(recount(log.facts, 3)) == len(log.of(Decided)) == 4
    assert inner.active == 0


async def test_a_dropped_request_is_cancelled_and_never_heard_of() -> None:
    """A request that is of no use any more ends at once, and its outcome is not posted."""
    provider = Hanging(0)
    async with gathered() as group:
        samplers: SamplerPool[str] = SamplerPool(provider, Limits(), group)
        useless = request(0)
        samplers.ask("useless", useless)
        await provider.started.wait()
        samplers.drop(useless.trace)
        samplers.drop(Trace())
        samplers.ask("useful", request(1))
        [outcome] = await samplers.arrived()
        assert (outcome.ticket, provider.active) == ("useful", 0)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("nonblocking", [True, False])
async def test_a_dropped_request_that_was_not_sent_never_is(nonblocking: bool) -> None:
    """A request that is dropped before its turn does not reach the provider."""
    provider = ScriptedProvider(lambda request, ordinal: str(ordinal), nonblocking=nonblocking)
    async with gathered() as group:
        samplers: SamplerPool[str] = SamplerPool(provider, Limits(), group)
        useless = request(0)
        samplers.ask("useless", useless)
        samplers.drop(useless.trace)
        samplers.ask("useful", request(1))
        [outcome] = await samplers.arrived()
        assert outcome.ticket == "useful"
        group.cancel_scope.cancel()
    assert [asked.ordinals for asked in provider.requests] == [(1,)]


async def test_a_sampler_is_used_again_until_it_is_dropped() -> None:
    """Requests one after the other go through one task; whoever was dropped gets no other."""
    tasks = set()

    def says(request: SampleRequest, ordinal: int) -> str:
        tasks.add(asyncio.current_task())
        return str(ordinal)

    provider = ScriptedProvider(says, nonblocking=False)
    async with gathered() as group:
        samplers: SamplerPool[str] = SamplerPool(provider, Limits(), group)
        for ordinal in range(5):
            samplers.ask("ticket", request(ordinal))
            assert len(await samplers.arrived()) == 1
            await anyio.wait_all_tasks_blocked()
        assert len(tasks) == 1
        useless = request(5)
        samplers.ask("useless", useless)
        samplers.drop(useless.trace)
        for ordinal in (6, 7):
            samplers.ask("ticket", request(ordinal))
            assert len(await samplers.arrived()) == 1
            await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert len(tasks) == 2
    assert [asked.ordinals[0] for asked in provider.requests] == [0, 1, 2, 3, 4, 6, 7]


async def test_cancelling_a_run_leaves_nothing_behind() -> None:
    """Whoever cancels a run gets back every task and every slot."""
    before = asyncio.all_tasks()
    inner = Hanging(*range(100))
    provider = Paced(inner, Limits(concurrency=2))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(decided, provider)
            await inner.started.wait()
            scope.cancel()
    assert scope.cancelled_caught
    assert inner.active == 0
    assert asyncio.all_tasks() == before
    for _ in range(2):
        async with provider.gate.slot(0):
            pass


@pytest.mark.slow
async def test_an_instant_provider_does_not_starve_the_loop() -> None:
    """Even if no sample ever waits, other tasks get their turn, and the journal its back-pressure."""
    turns = 0
    over = False

    async def others() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await anyio.lowlevel.checkpoint()

    log = Log()
    async with anyio.create_task_group() as group:
        group.start_soon(others)
        task = Walk(steps=1_000)
        model = Model(task)
        provider = ScriptedProvider(lambda request, ordinal: model.says(request.user, ordinal))
        policy = ChainPolicy(task, RunConfig(1, VotingSettings(k=3), task="walk"), log)
        policy.begin(NEW)
        await decide(policy, provider, Limits(), log)
        over = True
    assert policy.decider.status is RunStatus.FINISHED
    assert turns > 10
    assert log.settled > 10
