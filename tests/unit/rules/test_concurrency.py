"""The concurrency limit by example, within its bounds, and against servers of many manners."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.concurrency import ConcurrencyLimit
from mdap.rules.limiter import Attempt, Change
from tests.endpoints import NOW, Batching, Bucket, Server, Sliding, Slots, Stray, World
from tests.helpers import mostly_slow

SETTLED = 5  # minutes


def fill(limit: ConcurrencyLimit, now: float) -> list[Attempt]:
    """Send as many as may be in flight, whatever pause there is."""
    attempts = []
    while limit.ready_at(now) < math.inf:
        attempts.append(limit.begin(now))
    return attempts


def grown(to: float, **options: bool) -> ConcurrencyLimit:
    """Return a limit that has doubled up to *to*, all replies taking a second."""
    limit, now = ConcurrencyLimit(**options), NOW
    while limit.limit < to:
        for attempt in fill(limit, now):
            limit.succeeded(attempt, now + 1)
        now += 1
    return limit


# --- by example


def test_the_limit_doubles_while_latency_stays() -> None:
    """From 2 by doubling to the bound, as long as replies take no longer and nothing is refused."""
    limit, now, changes = ConcurrencyLimit(most=100), NOW, list[Change]()
    for _ in range(20):
        changes += [each for one in fill(limit, now) if (each := limit.succeeded(one, now + 1))]
        now += 1
    assert [change.limit_after for change in changes] == [4, 8, 16, 32, 64, 100]
    assert changes[0] == Change("concurrency", 2, 4, "neither a queue nor a refusal")


def test_what_is_not_used_does_not_grow() -> None:
    """Replies to a few requests at a time say nothing of what more would do."""
    limit = grown(16)
    for second in range(50):
        for attempt in [limit.begin(NOW + second) for _ in range(4)]:
            limit.succeeded(attempt, NOW + second + 1)
    assert limit.limit == 16


def test_one_refusal_proves_nothing() -> None:
    """A lone 429 lowers no limit and starts no pause, unless it names one."""
    limit, now = grown(64), NOW + 600
    attempt, other = limit.begin(now), limit.begin(now)
    assert limit.limited(attempt, now) is None
    assert (limit.limit, limit.ready_at(now)) == (64, now)
    limit.limited(other, now, 7.0)
    assert limit.ready_at(now) >= now + 7


def test_a_volley_tells_how_many_were_served() -> None:
    """Of 64 sent at once 24 are refused: the limit lands at the 40 that were not."""
    limit, now = grown(64), NOW + 600
    for attempt in fill(limit, now)[40:]:
        limit.limited(attempt, now + 0.05)
    assert 38 <= limit.limit <= 41


def test_half_a_request_is_a_pause() -> None:
    """600 a minute at 50 ms: requests go one by one, a tenth of a second apart."""
    limit, now = World(Bucket(600, 10), minutes=8, latency=0.05).client.control, NOW + 500
    assert 0.4 < limit.limit < 0.8
    limit.close(limit.begin(now))
    limit.close(limit.begin(now))
    assert 0.06 < limit.ready_at(now) - now < 0.25


def test_the_pause_doubles_while_everything_is_refused() -> None:
    """Probes come ever rarer, to one in five seconds; a reply ends it."""
    limit, now, pauses = grown(8), NOW + 600, list[float]()
    for _ in range(9):
        limit.limited(limit.begin(now), now)
        ready = limit.ready_at(now)
        pauses.append(ready - now)
        now = ready
    assert pauses[-1] >= 5.0
    assert pauses[3] > 2 * pauses[1]


def test_timeouts_cut_to_a_quarter_once() -> None:
    """A server that computes for nobody is left alone: one cut for all that was sent before it."""
    limit, now = ConcurrencyLimit(), NOW
    while limit.limit < 64:
        for attempt in fill(limit, now):
            limit.succeeded(attempt, now + 100)
        now += 100
    changes = [change for one in fill(limit, now) if (change := limit.timed_out(one, now + 120))]
    assert [(change.limit_before, change.limit_after) for change in changes] == [(64, 16)]


def test_a_request_that_hangs_alone_lowers_nothing() -> None:
    """Where others are answered quickly, one that never is says nothing of the load."""
    limit = grown(64)
    assert limit.timed_out(limit.begin(NOW), NOW + 120) is None
    assert limit.limit == 64


def test_failures_hold_growth_but_never_cut() -> None:
    """Where half of all attempts fail with 5xx the limit stays; where one in five does it grows."""
    limits = {}
    for share in (2, 5):
        limit, now = ConcurrencyLimit(), NOW
        for place in range(600):
            attempt = limit.begin(now)
            if place % share:
                limit.succeeded(attempt, now + 1)
            else:
                limit.troubled(attempt, now + 1)
            now += 1
        limits[share] = limit.limit
    assert limits == {2: 2.0, 5: limits[5]}
    assert grown(64).troubled(Attempt(NOW, 1), NOW, 7.0)


def test_what_the_user_gave_is_lowered_by_refusals_alone() -> None:
    """It is used from the start, whatever the latency; refusals go below it, and never is it exceeded."""
    limit, now = ConcurrencyLimit(20, given=True), NOW
    for second in range(30):
        for place, attempt in enumerate(fill(limit, now)):
            limit.succeeded(attempt, now + place + second)
        now += 1
    assert limit.limit == 20
    for attempt in fill(limit, now + 100)[10:]:
        limit.limited(attempt, now + 100)
    assert 8 <= limit.limit <= 12


def test_what_was_given_up_frees_its_place_once() -> None:
    """A cancelled attempt says nothing of the endpoint."""
    limit = ConcurrencyLimit(1, given=True)
    attempt = limit.begin(NOW)
    assert limit.ready_at(NOW) == math.inf
    assert limit.close(attempt)
    assert not limit.close(attempt)
    assert limit.succeeded(attempt, NOW) is None
    assert limit.limited(attempt, NOW) is None
    assert (limit.in_flight, limit.ready_at(NOW)) == (0, NOW)


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "begin", "succeeded", "limited", "timed_out", "troubled", "wait"]),
        st.integers(0, 50),
        st.booleans(),
    ),
    max_size=300,
)


@given(steps, st.integers(1, 300), st.booleans())
def test_the_bounds_hold_whatever_happens(
    steps: list[tuple[str, int, bool]], most: int, by_user: bool
) -> None:
    """The limit stays within its bounds, every change is told truly, and nothing goes when it may not."""
    limit, now = ConcurrencyLimit(most, given=by_user), NOW
    flying: list[Attempt] = []
    for what, number, flag in steps:
        before, change = limit.limit, None
        if what == "wait":
            now += number / 2
        elif what == "begin":
            if limit.ready_at(now) <= now:
                flying.append(limit.begin(now))
        elif flying:
            attempt = flying.pop(number % len(flying))
            if what == "succeeded":
                change = limit.succeeded(attempt, now, number)
            elif what == "limited":
                change = limit.limited(attempt, now, float(number * flag))
            elif what == "timed_out":
                change = limit.timed_out(attempt, now)
            else:
                limit.troubled(attempt, now)
        assert (limit.limit != before) == (change is not None)
        if change is not None:
            assert change[:3] == ("concurrency", before, limit.limit)
            assert change.reason
        assert 0 < limit.limit <= most
        assert limit.in_flight == len(flying)
        assert limit.ready_at(now) >= now
        assert len(flying) <= most


# --- against servers, beside the best fixed setting


def slower(server: Slots | Batching) -> Callable[[], None]:
    """Return what halves the speed of a server."""
    return lambda: setattr(server, "speed", 0.5)


@pytest.mark.parametrize("seed", mostly_slow(range(2)))
@pytest.mark.parametrize(("latency", "timeout"), mostly_slow([(1.0, 120.0), (0.1, 12.0), (10.0, 120.0)]))
def test_one_slot_with_a_queue_wastes_no_work(latency: float, timeout: float, seed: int) -> None:
    """Ollama and its like: as many replies as one request at a time gets, and none computed for nobody."""
    world = World(
        Slots(1, queues=True), minutes=max(4, int(8 * latency)), latency=latency, timeout=timeout, seed=seed
    )
    client = world.client
    assert client.per_second() > 0.9 / latency
    assert sum(client.timeouts) == 0
    assert max(client.limits) < timeout / latency


@pytest.mark.parametrize("lengths", mostly_slow([1.0, 10.0]))
@pytest.mark.parametrize("make", [lambda: Slots(30, queues=True), lambda: Batching(30)])
def test_slots_that_slow_down_are_used_to_the_full(
    make: Callable[[], Slots | Batching], lengths: float
) -> None:
    """30 slots that queue, or share their speed, at half of it from the fifth minute on."""
    server, fixed = make(), make()
    client = World(server, minutes=10, lengths=lengths, at={300: slower(server)}).client
    best = World(
        fixed,
        minutes=10,
        lengths=lengths,
        at={300: slower(fixed)},
        control=lambda: ConcurrencyLimit(30, given=True),
    ).client
    assert client.per_second(2, 5) > 0.9 * best.per_second(2, 5)
    assert client.per_second(6) > 0.9 * best.per_second(6)
    assert max(client.limits) < 256


@pytest.mark.slow
def test_a_server_that_batches_is_used_to_the_full() -> None:
    """Latency doubles at 50 requests, and 200 still bring more replies: nothing is given away."""
    client = World(Batching(50, slope=1.0), minutes=5).client
    assert client.per_second(1) > 0.8 * 50 * 256 / (50 + 256)


@pytest.mark.parametrize("slots", mostly_slow([1, 12, 2, 4, 40], 2))
def test_slots_that_refuse(slots: int) -> None:
    """At least nine tenths of what the right number gets, and hardly anything refused."""
    client = World(Slots(slots), minutes=15).client
    assert client.per_second(SETTLED) > 0.9 * slots / 1.03
    assert client.share_refused(SETTLED) < 0.02


@pytest.mark.parametrize(
    ("make", "latency"),
    mostly_slow(
        [
            (lambda: Sliding(600, 60), 0.05),
            (lambda: Bucket(600, 60), 0.05),
            (lambda: Sliding(600, 60), 5.0),
            (lambda: Bucket(600, 60), 0.5),
            (lambda: Bucket(600, 10), 0.5),
        ],
        2,
    ),
)
def test_a_rate_that_refuses(make: Callable[[], Server], latency: float) -> None:
    """600 a minute, be it half a request or fifty at a time: 90 % are used, 2 % at most refused."""
    client = World(make(), minutes=20, latency=latency).client
    assert client.per_second(SETTLED) > 0.9 * 10
    assert client.share_refused(SETTLED) < 0.02


@pytest.mark.parametrize(("rate", "latency", "seed"), mostly_slow([(10, 1.0, 0), (30, 1.0, 1), (50, 0.5, 0)]))
def test_a_rate_within_a_second(rate: int, latency: float, seed: int) -> None:
    """So many in any second: requests keep their distance, and 85 % of the rate are used."""
    client = World(Sliding(rate, 1), minutes=12, latency=latency, seed=seed).client
    assert client.per_second(SETTLED) > 0.85 * rate
    assert client.share_refused(SETTLED) < 0.02


@pytest.mark.slow
def test_what_a_limit_refuses_is_never_taken_for_usual() -> None:
    """Hours at one limit: the refusals do not become more."""
    client = World(Bucket(600, 60), minutes=90, latency=0.05).client
    assert client.per_second(60) > 0.95 * 10
    assert client.share_refused(60) < 0.02


@pytest.mark.slow
def test_it_follows_slots_that_become_fewer_and_more() -> None:
    """A third of the slots from the fifth minute on, all of them again from the tenth."""
    server = Slots(60)
    client = World(
        server,
        minutes=17,
        at={300: lambda: setattr(server, "slots", 20), 600: lambda: setattr(server, "slots", 60)},
    ).client
    assert client.per_second(7, 10) > 0.85 * 20 / 1.03
    assert client.per_second(14) > 0.85 * 60 / 1.03


def test_it_comes_back_after_an_outage() -> None:
    """Ten minutes of nothing but 429 neither freeze it nor make it hammer."""
    client = World(Stray(Slots(50), outage=(180, 780)), minutes=20).client
    assert sum(client.refused[4:12]) < 8 * 15
    assert client.per_second(18) > 0.8 * 50 / 1.03


@pytest.mark.parametrize(("share", "seed"), mostly_slow([(0.02, 0), (0.005, 1), (0.05, 0)]))
def test_refusals_that_nothing_causes_cost_little(share: float, seed: int) -> None:
    """A server of 50 slots that refuses so many at random: 70 % are used from the first minute on."""
    client = World(Stray(Slots(50), share), minutes=10, seed=seed).client
    assert client.per_second() > 0.7 * 50
    assert client.share_refused(SETTLED) < 1.3 * share + 0.03


@pytest.mark.slow
def test_a_limit_is_found_behind_refusals_that_nothing_causes() -> None:
    """A server of 50 slots that refuses a tenth at random: in the end half of it at least is used."""
    share = 0.1
    client = World(Stray(Slots(50), share), minutes=24).client
    assert client.per_second(20) > 0.5 * 50
    assert client.share_refused(20) < 1.3 * share + 0.03


@pytest.mark.slow
def test_a_burst_of_strays_is_forgotten() -> None:
    """Twenty refusals in a row, and the limit is back within minutes."""
    client = World(Stray(Slots(1_000), burst=(100, 20)), minutes=5).client
    assert client.per_second(4) > 0.8 * 256 / 1.03


def test_hundreds_are_in_flight_within_seconds_where_nothing_holds_them_back() -> None:
    """A fast server of 10,000 slots: 256 at once after ten round trips or so."""
    world = World(Slots(10_000), minutes=1, latency=0.05, stop=2.0)
    assert world.client.limits[0] > 200


def test_a_model_that_loads_for_a_minute_is_no_queue() -> None:
    """The first replies take a minute; afterwards the server is used as if they had not."""
    client = World(Slots(64, queues=True, loading=60), minutes=4).client
    assert client.per_second(2) > 0.9 * 64
    assert sum(client.timeouts) == 0


@pytest.mark.slow
def test_two_processes_share_a_server() -> None:
    """One slot, or 30, or 40 that refuse: together they get all, without a timeout, hardly refused."""
    for server, capacity in (
        (Slots(1, queues=True), 1.0),
        (Slots(30, queues=True), 30.0),
        (Slots(40), 40 / 1.03),
    ):
        world = World(server, minutes=6, clients=2)
        assert sum(client.per_second(3) for client in world.clients) > 0.9 * capacity
        assert sum(sum(client.timeouts) for client in world.clients) == 0
        assert max(client.share_refused(3) for client in world.clients) < 0.02
