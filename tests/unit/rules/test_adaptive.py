"""The adaptive controller by example, within its bounds, and against servers that say nothing but 429."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.adaptive import Adaptive, Attempt
from mdap.rules.limiter import Pace
from mdap.rules.refusals import Change

NOW = 1_000.0
MINUTE = 60.0


def fill(control: Adaptive, now: float) -> list[Attempt]:
    """Send as many as slots are free, whatever the hold says."""
    return [control.begin(now) for _ in range(control.limit - control.in_flight)]


def clean_round(control: Adaptive, now: float, *, retried: bool = False) -> list[Change]:
    """Use every slot, and let all succeed a tenth of a second later."""
    changes = [control.succeeded(each, now + 0.1, retried=retried) for each in fill(control, now)]
    return [change for change in changes if change]


def refuse(control: Adaptive, attempts: list[Attempt], now: float) -> list[Change]:
    changes = [control.limited(each, now) for each in attempts]
    return [change for change in changes if change]


def grown(to: int, **bounds: int) -> Adaptive:
    """Return a controller that has doubled up to a limit."""
    control = Adaptive(**bounds)
    while control.limit < to:
        clean_round(control, NOW)
    return control


def cut_once(control: Adaptive, now: float, refusals: int = 2) -> list[Change]:
    """Use every slot, refuse the last few, let the others succeed."""
    attempts = fill(control, now)
    changes = refuse(control, attempts[-refusals:], now + 0.05)
    for each in attempts[:-refusals]:
        control.succeeded(each, now + 0.1, retried=True)
    return changes


# --- growth


def test_it_doubles_with_every_clean_round() -> None:
    """Slow start: 8, 16, 32, ... for as long as nothing is refused, to the bound."""
    control = Adaptive(start=8, most=100)
    changes = [clean_round(control, NOW + seconds)[0] for seconds in range(4)]
    assert [change.limit_after for change in changes] == [16, 32, 64, 100]
    assert changes[0] == Change("concurrency", 8, 16, "8 successes in a row")
    assert clean_round(control, NOW + 9) == []
    assert control.rate is None


def test_headroom_that_was_not_used_does_not_grow() -> None:
    """A hundred successes with half of the slots in use prove nothing; with 80 % in use they do."""
    control = Adaptive(start=10)
    for _ in range(20):
        for each in [control.begin(NOW) for _ in range(7)]:
            assert control.succeeded(each, NOW) is None
    for each in [control.begin(NOW) for _ in range(8)]:
        control.succeeded(each, NOW)
    assert control.limit == 20


def test_a_success_after_a_retry_is_neutral() -> None:
    """It neither completes a round nor spoils one."""
    control = Adaptive(start=8)
    for _ in range(5):
        assert clean_round(control, NOW, retried=True) == []
    assert control.limit == 8
    assert clean_round(control, NOW)


def test_other_failures_hold_growth_but_never_cut() -> None:
    """Where half of all attempts fail with 5xx or a timeout, the limit stays; with one in five it grows."""
    held, grows = Adaptive(start=8), Adaptive(start=8)
    for _ in range(50):
        for place, each in enumerate(fill(held, NOW)):
            if place % 2:
                held.troubled(each, NOW)
            else:
                assert held.succeeded(each, NOW) is None
        for place, each in enumerate(fill(grows, NOW)):
            if place % 5:
                grows.succeeded(each, NOW)
            else:
                grows.troubled(each, NOW)
    assert held.limit == 8
    assert grows.limit > 100
    for each in fill(held, NOW):
        held.troubled(each, NOW)
    assert (held.limit, held.rate) == (8, None)


def test_a_failure_that_names_a_wait_pauses() -> None:
    """A 503 with Retry-After holds everything back for so long."""
    control = Adaptive()
    control.troubled(control.begin(NOW), NOW, 7.0)
    assert control.ready_at(NOW) == NOW + 7.0


def test_what_was_given_up_says_nothing() -> None:
    """A cancelled attempt frees its slot, once."""
    control = Adaptive(start=1)
    attempt = control.begin(NOW)
    assert control.ready_at(NOW) == math.inf
    control.dropped(attempt)
    control.dropped(attempt)
    assert control.succeeded(attempt, NOW) is None
    assert control.limited(attempt, NOW) is None
    assert control.in_flight == 0
    assert control.ready_at(NOW) == NOW


# --- cuts


def test_one_refusal_proves_nothing() -> None:
    """A lone 429 changes no limit and starts no pause, unless it names one."""
    control = grown(64)
    attempts = fill(control, NOW)
    assert control.limited(attempts[0], NOW) is None
    assert control.limit == 64
    assert control.ready_at(NOW) == NOW
    for each in attempts[1:]:
        control.succeeded(each, NOW, retried=True)
    assert control.limited(control.begin(NOW), NOW, 3.0) is None
    assert control.ready_at(NOW) == NOW + 3.0


def regrow(control: Adaptive, now: float, to: int) -> None:
    for _ in range(20):
        clean_round(control, now)
    assert control.limit == to


def test_an_episode_cuts_once() -> None:
    """Two refusals cut by a fifth; more within 15 seconds do not, and later ones do again."""
    control = grown(64)
    (change,) = cut_once(control, NOW)
    assert change == Change("concurrency", 64, 51, "refused with 64 in flight")
    for seconds in (3, 6, 9, 12):
        assert not [each for each in cut_once(control, NOW + seconds) if each.what == "concurrency"]

    control = grown(64)
    cut_once(control, NOW)
    regrow(control, NOW + 1, 63)
    (change,) = cut_once(control, NOW + 14.9)
    assert (change.limit_before, change.limit_after) == (63, 62), "only what has grown since is taken back"
    (change,) = cut_once(control, NOW + 15.1)
    assert (change.limit_before, change.limit_after) == (62, 49)


def test_retry_after_extends_the_episode() -> None:
    """What comes within the wait that was asked for is no new episode."""
    control = grown(64)
    attempts = fill(control, NOW)
    assert [control.limited(each, NOW, 40.0) for each in attempts[:2]][1]
    for each in attempts[2:]:
        control.succeeded(each, NOW, retried=True)
    assert control.ready_at(NOW) == NOW + 40.0
    regrow(control, NOW + 1, 62)
    assert cut_once(control, NOW + 39)[0].limit_after == 61
    assert cut_once(control, NOW + 41)[0].limit_after == 48


def test_fewer_that_are_refused_speak_for_a_rate() -> None:
    """Soon after a cut far fewer are refused: what went through in the last minute becomes the rate."""
    control = grown(64)
    cut_once(control, NOW)
    changes = cut_once(control, NOW + 16)
    assert [change.what for change in changes] == ["requests_per_minute"]
    assert (changes[0].limit_before, changes[0].limit_after) == (None, control.rate)
    assert control.limit == 51


def test_a_volley_tells_how_many_were_borne() -> None:
    """Of 128 sent at once 64 are refused: the limit lands below 64, not below 128."""
    control = grown(128)
    attempts = fill(control, NOW)
    changes = refuse(control, attempts[64:], NOW + 0.05)
    assert 50 <= control.limit <= 64
    assert len(changes) < 10
    assert [change.limit_before for change in changes[1:]] == [change.limit_after for change in changes[:-1]]


def test_it_returns_to_just_below_the_refusal_and_waits_there() -> None:
    """Growth is 5 % a round up to the ceiling; beyond it only after a patience that doubles."""
    control, now = grown(64), NOW
    cut_once(control, now)
    reached = []
    for _ in range(200):
        now += 0.5
        clean_round(control, now)
        reached.append(control.limit)
    assert reached[:4] == [53, 55, 57, 59]
    assert 63 in reached
    assert control.limit > 66, "nothing was refused any more"


def test_a_fixed_limit_is_left_in_peace() -> None:
    """Beyond the last refusal it goes only after a patience that doubles with every attempt that fails."""
    control, now = grown(64), NOW
    cuts: list[float] = []
    while now < NOW + 30 * MINUTE:
        now += 0.5
        attempts = fill(control, now)
        for change in refuse(control, attempts[64:], now + 0.05):
            assert change.what == "concurrency"
            if change.limit_before and change.limit_after and change.limit_after < 0.9 * change.limit_before:
                cuts.append(now)
        for each in attempts[:64]:
            control.succeeded(each, now + 0.1)
    waits = [later - earlier for earlier, later in itertools.pairwise(cuts)]
    assert waits[0] < 60
    assert waits[-1] > 180
    assert len(cuts) < 20


def test_few_in_flight_are_blamed_only_where_many_are_refused() -> None:
    """Sporadic refusals leave four slots; a server that refuses most leaves one."""
    sporadic, now = Adaptive(start=8), NOW
    for _ in range(40):
        now += 16
        for _ in range(10):
            clean_round(sporadic, now, retried=True)
        cut_once(sporadic, now)
    assert sporadic.limit == 4

    strict, now = Adaptive(start=8), NOW
    for _ in range(40):
        now += 16
        attempts = fill(strict, now)
        strict.succeeded(attempts[0], now)
        refuse(strict, attempts[1:], now + 0.05)
    assert strict.limit <= 2


def test_an_explicit_number_wins() -> None:
    """With equal bounds nothing changes it."""
    control, now = Adaptive(least=20, most=20), NOW
    for _ in range(20):
        now += 16
        clean_round(control, now)
        assert not [change for change in cut_once(control, now) if change.what == "concurrency"]
    assert control.limit == 20


@pytest.mark.parametrize("bounds", [{"least": 0}, {"least": 5, "most": 4}, {"most": 0}])
def test_impossible_bounds_are_refused(bounds: dict[str, int]) -> None:
    """At least one must be allowed."""
    with pytest.raises(ValueError, match="bounds"):
        Adaptive(**bounds)


def test_the_start_is_within_the_bounds() -> None:
    """A start outside them is moved to the nearer."""
    assert Adaptive(start=8, most=3).limit == 3
    assert Adaptive(start=8, least=9).limit == 9


# --- pauses, and the rate


def test_the_pause_doubles_while_everything_is_refused() -> None:
    """Probes come one by one, ever rarer, to one in five seconds; an answer ends it."""
    control, now, pauses = grown(64), NOW, []
    refuse(control, fill(control, now), now)
    for _ in range(9):
        ready = control.ready_at(now)
        pauses.append(ready - now)
        now = ready
        control.limited(control.begin(now), now)
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.3
    assert pauses[-1] == 5.0
    now = control.ready_at(now)
    control.succeeded(control.begin(now), now + 1)
    assert control.ready_at(now + 10) == now + 10


def test_after_a_pause_requests_go_one_by_one() -> None:
    """There is no crowd when a pause ends: each gap is half of the one before."""
    control, now = grown(64), NOW
    refuse(control, fill(control, now), now)
    for _ in range(3):
        now = control.ready_at(now)
        control.limited(control.begin(now), now)
    went = [now]
    for _ in range(8):
        went.append(control.ready_at(went[-1]))
        control.begin(went[-1])
    gaps = [later - earlier for earlier, later in itertools.pairwise(went)]
    assert gaps[1:5] == pytest.approx([gaps[0] / 2, gaps[0] / 4, gaps[0] / 8, gaps[0] / 16])
    assert gaps[-1] < 0.01


def test_a_wall_teaches_the_rate() -> None:
    """A hundred went through in the last minute, then nothing: a hundred a minute."""
    control, now = Adaptive(start=8, most=8), NOW
    for _ in range(100):
        control.succeeded(control.begin(now), now + 0.3)
        now += 0.3
    changes = []
    while now < NOW + 55:
        now = control.ready_at(now)
        changes.append(control.limited(control.begin(now), now + 0.03))
        now += 0.03
    rates = [change for change in changes if change and change.what == "requests_per_minute"]
    assert rates[0].limit_before is None
    assert control.rate == rates[-1].limit_after
    assert control.rate == pytest.approx(100, rel=0.05)
    assert len(rates) < 30


# --- whatever happens


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "begin", "succeeded", "limited", "troubled", "dropped", "wait"]),
        st.integers(0, 50),
        st.booleans(),
    ),
    max_size=300,
)


@given(steps, st.integers(1, 20), st.integers(1, 10), st.integers(0, 30))
def test_the_bounds_hold_whatever_happens(
    steps: list[tuple[str, int, bool]], start: int, least: int, above: int
) -> None:
    """The limit stays within its bounds, every change is told truly, and nothing goes when it may not."""
    control, now = Adaptive(start, least, least + above), NOW
    flying: list[Attempt] = []
    for what, number, flag in steps:
        before: dict[str, float | None] = {
            "concurrency": control.limit,
            "requests_per_minute": control.rate,
        }
        change = None
        if what == "wait":
            now += number / 2
        elif what == "begin":
            if control.ready_at(now) <= now:
                flying.append(control.begin(now))
        elif flying:
            attempt = flying.pop(number % len(flying))
            if what == "succeeded":
                change = control.succeeded(attempt, now, retried=flag)
            elif what == "limited":
                change = control.limited(attempt, now, number if flag else None)
            elif what == "troubled":
                control.troubled(attempt, now)
            else:
                control.dropped(attempt)
        after = {"concurrency": control.limit, "requests_per_minute": control.rate}
        if change is None:
            assert after == before
        else:
            assert (before[change.what], after[change.what]) == (change.limit_before, change.limit_after)
            assert change.limit_before != change.limit_after
            assert change.reason
        assert least <= control.limit <= least + above
        assert control.rate is None or control.rate >= 1
        assert control.in_flight == len(flying)
        assert control.ready_at(now) >= now
        assert (control.ready_at(now) == math.inf) == (len(flying) >= control.limit)


# --- against servers that say nothing but 429


class Server(Protocol):
    """What decides over a request when it arrives."""

    def accepts(self, now: float) -> bool: ...

    def done(self) -> None: ...


class Slots:
    """So many at once."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._busy = 0

    def accepts(self, now: float) -> bool:
        if self._busy >= self.slots:
            return False
        self._busy += 1
        return True

    def done(self) -> None:
        self._busy -= 1


class Sliding:
    """So many in any window of some seconds."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._recent: deque[float] = deque()

    def accepts(self, now: float) -> bool:
        while self._recent and self._recent[0] <= now - self.seconds:
            self._recent.popleft()
        if len(self._recent) >= self.most:
            return False
        self._recent.append(now)
        return True

    def done(self) -> None: ...


class Bucket:
    """A bucket of tokens that starts full."""

    def __init__(self, per_minute: float, size: float) -> None:
        self._rate, self._size, self._level, self._at = per_minute / MINUTE, size, size, NOW

    def accepts(self, now: float) -> bool:
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def done(self) -> None: ...


class Between:
    """A server that for some time refuses everything, or a share of it always."""

    def __init__(
        self, inner: Server, share: float = 0.0, outage: tuple[float, float] = (0, 0), seed: int = 9
    ) -> None:
        self._inner, self._share, self._outage = inner, share, outage
        self._rng = random.Random(seed)

    def accepts(self, now: float) -> bool:
        out = self._outage[0] <= now - NOW < self._outage[1] or self._rng.random() < self._share
        return not out and self._inner.accepts(now)

    def done(self) -> None:
        self._inner.done()


class Run:
    """A client with work without end, before a server; both behind a network with jitter.

    Attributes:
        accepted: requests that the server took, by minute.
        refused: requests that it refused, by minute.
        limits: the concurrency limit at the end of each minute.
        changes: all changes of a limit.
    """

    def __init__(
        self,
        server: Server,
        *,
        minutes: int = 20,
        latency: float = 1.0,
        faults: float = 0.0,
        demand: float = math.inf,
        at: dict[float, Callable[[], None]] | None = None,
        seed: int = 0,
    ) -> None:
        self.accepted, self.refused, self.limits = [0] * minutes, [0] * minutes, [0] * minutes
        self.changes: list[Change] = []
        self._server, self._latency, self._faults, self._demand = server, latency, faults, demand
        self._rng = random.Random(seed)
        self._control, self._pace = Adaptive(), Pace()
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, Any]] = []
        self._timer: float | None = None
        for moment, what in (at or {}).items():
            self._push(NOW + moment, "happen", what)
        self._play(NOW + minutes * MINUTE)

    def _push(self, at: float, what: str, about: Any = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, about))

    def _play(self, end: float) -> None:
        now = NOW
        while now < end:
            self._kick(now)
            now, _, what, about = heapq.heappop(self._events)
            if now < end:
                minute = int((now - NOW) // MINUTE)
                self._happen(what, about, now, minute)
                self.limits[minute] = self._control.limit

    def _kick(self, now: float) -> None:
        if self._control.in_flight < self._demand:
            ready = max(self._control.ready_at(now), self._pace.ready_at(0, now))
            if ready < math.inf and ready != self._timer:
                self._timer = ready
                self._push(ready, "timer")

    def _happen(self, what: str, about: Any, now: float, minute: int) -> None:
        jitter = self._rng.uniform(0, 0.05 * min(1.0, self._latency))
        if what == "timer" and now == self._timer:
            self._timer = None
            while self._control.in_flight < self._demand and self._control.ready_at(now) <= now:
                if self._pace.reserve(0, now) is None:
                    break
                arrival = now + self._rng.uniform(0, 0.05 * min(1.0, self._latency))
                self._push(arrival, "arrive", self._control.begin(now))
        elif what == "arrive":
            self._arrive(about, now, minute, jitter)
        elif what == "done":
            self._server.done()
            self._push(now + jitter, "reply", about)
        elif what == "reply":
            self._note(self._control.succeeded(about, now), now)
        elif what == "refuse":
            self._note(self._control.limited(about, now), now)
        elif what == "fail":
            self._control.troubled(about, now)
        elif what == "happen":
            about()

    def _arrive(self, attempt: Attempt, now: float, minute: int, jitter: float) -> None:
        if self._rng.random() < self._faults:
            self._push(now + jitter, "fail", attempt)
        elif self._server.accepts(now):
            self.accepted[minute] += 1
            self._push(now + self._latency * self._rng.lognormvariate(0, 0.3), "done", attempt)
        else:
            self.refused[minute] += 1
            self._push(now + jitter, "refuse", attempt)

    def _note(self, change: Change | None, now: float) -> None:
        if change:
            self.changes.append(change)
            if change.what == "requests_per_minute":
                self._pace.set_limits(None, None, now, change.limit_after)

    def per_minute(self, since: int) -> float:
        return sum(self.accepted[since:]) / len(self.accepted[since:])

    def share_refused(self, since: int) -> float:
        refused, accepted = sum(self.refused[since:]), sum(self.accepted[since:])
        return refused / (refused + accepted)


SETTLED = 5  # minutes


@pytest.mark.parametrize("slots", [1, 2, 4, 10, 20, 64, 300])
def test_it_settles_where_slots_are_limited(slots: int) -> None:
    """Within 15 % of the server's slots, and hardly anything refused."""
    run = Run(Slots(slots), minutes=20 if slots < 100 else 8)
    typical = sorted(run.limits[SETTLED:])[len(run.limits[SETTLED:]) // 2]
    assert typical == pytest.approx(slots, rel=0.15)
    assert run.share_refused(SETTLED) < 0.03
    # Mean latency is e^0.045 s, and 0.06 s of a slot's time are the way.
    assert run.per_minute(SETTLED) > 0.85 * slots * MINUTE / 1.1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("most", "seconds", "latency"),
    [
        (600, 60, 1.0),
        (600, 60, 0.1),
        (600, 60, 5.0),
        (100, 10, 1.0),
        (10, 1, 1.0),
        (50, 1, 1.0),
        (60, 60, 1.0),
    ],
)
def test_it_settles_where_a_rate_is_limited(most: int, seconds: float, latency: float, seed: int) -> None:
    """Within 15 % of the server's rate, over windows of a minute, of ten seconds and of one."""
    since = SETTLED if seconds > 1 else 2 * SETTLED
    run = Run(Sliding(most, seconds), minutes=25, latency=latency, seed=seed)
    assert run.per_minute(since) > 0.85 * most * MINUTE / seconds
    assert run.share_refused(since) < 0.03


@pytest.mark.parametrize("size", [10, 600])
def test_it_settles_at_a_bucket(size: int) -> None:
    """A bucket that starts full gives more at first, and then no more than it is filled."""
    run = Run(Bucket(600, size), minutes=25)
    assert run.per_minute(SETTLED) == pytest.approx(600, rel=0.15)
    assert run.share_refused(SETTLED) < 0.03


@pytest.mark.parametrize("server", [Bucket(600, 30), Bucket(600, 60), Bucket(600, 300), Sliding(600, 60)])
def test_what_a_limit_refuses_is_never_taken_for_usual(server: Server) -> None:
    """Hours at one limit, which some refusals are always due to: they do not become more."""
    run = Run(server, minutes=150)
    assert run.per_minute(60) == pytest.approx(600, rel=0.05)
    assert run.share_refused(60) < 0.02


def test_it_follows_a_server_that_grows_and_shrinks() -> None:
    """A third of the slots from the tenth minute on, all of them again from the 20th."""
    server = Slots(60)
    run = Run(
        server,
        minutes=35,
        at={600: lambda: setattr(server, "slots", 20), 1_200: lambda: setattr(server, "slots", 60)},
    )
    assert run.limits[9] == pytest.approx(60, rel=0.15)
    assert run.per_minute(30) > 0.85 * 60 * MINUTE / 1.1
    assert sum(run.accepted[15:20]) > 0.7 * 5 * 20 * MINUTE / 1.1
    assert run.share_refused(30) < 0.03


@pytest.mark.parametrize("server", [Slots(50), Sliding(600, 60)])
def test_it_comes_back_after_sustained_refusal(server: Server) -> None:
    """Ten minutes of nothing but 429 neither freeze it nor make it hammer."""
    run = Run(Between(server, outage=(300, 900)), minutes=25)
    assert sum(run.refused[6:14]) < 8 * 15, "a probe in five seconds at most"
    assert run.per_minute(22) > 0.6 * run.per_minute(1) * 25 / 14
    assert run.share_refused(22) < 0.03


@pytest.mark.parametrize(("share", "least"), [(0.02, 0.7), (0.04, 0.6), (0.1, 0.3), (0.3, 0.02)])
def test_refusals_that_nothing_causes_do_not_freeze_it(share: float, least: float) -> None:
    """A chain's four samples at once, a fifth of all failing otherwise, and so many refused at random."""
    clean = Run(Slots(1_000), minutes=5, latency=0.05, demand=4)
    noisy = Run(Between(Slots(1_000), share=share), minutes=5, latency=0.05, demand=4, faults=0.2)
    assert noisy.per_minute(0) > least * clean.per_minute(0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.02, 0.04, 0.1])
def test_a_limit_is_found_behind_refusals_that_nothing_causes(share: float, seed: int) -> None:
    """A server of 50 slots that refuses so many at random: in the end half of it at least is used."""
    run = Run(Between(Slots(50), share, seed=seed), minutes=30, seed=seed)
    assert run.per_minute(20) > 0.5 * 50 * MINUTE
    assert run.share_refused(20) < 1.3 * share + 0.03


def test_changes_are_few_enough_to_be_recorded() -> None:
    """A settled controller changes a limit a few times a minute, not with every answer."""
    for server in (Slots(50), Sliding(600, 60), Sliding(10, 1)):
        run = Run(server, minutes=20)
        assert len(run.changes) < 10 * 20
