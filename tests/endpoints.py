"""Servers of many manners, and clients that ask them, in virtual time: minutes pass in a moment."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mdap.rules.concurrency import ConcurrencyLimit
from mdap.rules.limiter import Attempt, Change, Pace

NOW: Final = 1_000.0
MINUTE: Final = 60.0
MEAN_TOKENS: Final = 100.0


@dataclass
class Job:
    """A request on the server's side."""

    client: "Client"
    attempt: Attempt
    tokens: int
    work: float  # seconds, alone on the server
    timer: int = 0
    given_up: bool = False


class Server:
    """Serve requests; `take` says whether one is accepted."""

    world: "World"

    def take(self, job: Job, now: float) -> bool:
        raise NotImplementedError

    def over(self, job: Job, now: float) -> None:
        """Hear that a job is done."""


@dataclass
class Slots(Server):
    """So many at once; what is more is refused, or waits in a queue.

    Attributes:
        slots: how many.
        queues: whether more wait.
        speed: how fast, 1 to begin with.
        loading: until this second after the start nothing is begun.
        goes_on: whether a request that the client gave up is computed all the same.
    """

    slots: int
    queues: bool = False
    speed: float = 1.0
    loading: float = 0.0
    goes_on: bool = True
    busy: int = 0
    waiting: deque[Job] = field(default_factory=deque)

    def take(self, job: Job, now: float) -> bool:
        if self.busy < self.slots:
            self._start(job, now)
        elif self.queues:
            self.waiting.append(job)
        else:
            return False
        return True

    def _start(self, job: Job, now: float) -> None:
        self.busy += 1
        self.world.push(max(now, NOW + self.loading) + job.work / self.speed, "done", job)

    def over(self, job: Job, now: float) -> None:
        self.busy -= 1
        while self.waiting and self.busy < self.slots:
            waiting = self.waiting.popleft()
            if self.goes_on or not waiting.given_up:
                self._start(waiting, now)


@dataclass
class Batching(Server):
    """All at once, each the slower the more there are: *alone* at full speed, or as a batch slows down.

    Attributes:
        full: with so many, each takes *slope* times its time more.
        slope: 0 where only those beyond *full* share its speed.
    """

    full: int
    slope: float = 0.0
    speed: float = 1.0
    running: dict[int, Job] = field(default_factory=dict)
    left: dict[int, float] = field(default_factory=dict)
    at: float = NOW
    version: int = 0

    def pace(self) -> float:
        n = len(self.running)
        if self.slope:
            return self.speed / (1 + self.slope * n / self.full)
        return self.speed * min(1.0, self.full / max(1, n))

    def _advance(self, now: float) -> None:
        done = (now - self.at) * self.pace()
        self.at = now
        for key in self.left:
            self.left[key] -= done

    def _plan(self, now: float) -> None:
        self.version += 1
        if self.left:
            key = min(self.left, key=self.left.__getitem__)
            self.world.push(now + max(0.0, self.left[key]) / self.pace(), "batch", (self, key, self.version))

    def take(self, job: Job, now: float) -> bool:
        self._advance(now)
        self.running[id(job)], self.left[id(job)] = job, job.work
        self._plan(now)
        return True

    def finish(self, key: int, version: int, now: float) -> None:
        if version != self.version:
            return
        self._advance(now)
        job = self.running.pop(key)
        del self.left[key]
        self._plan(now)
        self.world.push(now, "done", job)


@dataclass
class Sliding(Server):
    """So many in any window of some seconds; the rest is refused."""

    most: int
    seconds: float
    recent: deque[float] = field(default_factory=deque)

    def take(self, job: Job, now: float) -> bool:
        while self.recent and self.recent[0] <= now - self.seconds:
            self.recent.popleft()
        if len(self.recent) >= self.most:
            return False
        self.recent.append(now)
        self.world.push(now + job.work, "done", job)
        return True


@dataclass
class Bucket(Server):
    """A bucket of so many tokens that starts full; the rest is refused."""

    per_minute: float
    size: float
    level: float = -1.0
    at: float = NOW

    def take(self, job: Job, now: float) -> bool:
        level = self.size if self.level < 0 else self.level
        self.level = min(self.size, level + (now - self.at) * self.per_minute / MINUTE)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        self.world.push(now + job.work, "done", job)
        return True


@dataclass
class Stray(Server):
    """Refuse some of what another server would take: a share always, everything for a time."""

    inner: Server
    share: float = 0.0
    outage: tuple[float, float] = (0.0, 0.0)
    burst: tuple[float, int] = (0.0, 0)  # from when, and how many
    bursted: int = 0

    def take(self, job: Job, now: float) -> bool:
        self.inner.world = self.world
        since = now - NOW
        if self.outage[0] <= since < self.outage[1] or self.world.rng.random() < self.share:
            return False
        if self.burst[1] > self.bursted and since >= self.burst[0]:
            self.bursted += 1
            return False
        return self.inner.take(job, now)

    def over(self, job: Job, now: float) -> None:
        self.inner.over(job, now)


class Client:
    """Work without end, or so much at a time.

    Attributes:
        replies, refused, timeouts: counts by minute.
        work: seconds of work that came back, by minute.
        limits: the limit at the end of each minute.
        changes: all changes of the limit.
    """

    def __init__(self, world: "World", control: ConcurrencyLimit, demand: float, timeout: float) -> None:
        self.world, self.control, self.demand, self.timeout = world, control, demand, timeout
        minutes = world.minutes
        self.replies, self.refused, self.timeouts = [0] * minutes, [0] * minutes, [0] * minutes
        self.work, self.limits = [0.0] * minutes, [0.0] * minutes
        self.changes: list[Change] = []
        self.flying = 0
        self.next: float | None = None

    def kick(self, now: float) -> None:
        while self.flying < self.demand:
            ready = self.control.ready_at(now)
            if ready > now:
                if ready < math.inf and ready != self.next:
                    self.next = ready
                    self.world.push(ready, "kick", self)
                return
            self.send(now)

    def send(self, now: float) -> None:
        world = self.world
        self.flying += 1
        tokens, work = world.reply()
        job = Job(self, self.control.begin(now), tokens, work)
        world.push(now + world.way(), "arrive", job)
        world.push(now + self.timeout, "timeout", job)

    def note(self, change: Change | None) -> None:
        if change is not None:
            self.changes.append(change)

    def per_second(self, since: int = 0, until: int | None = None) -> float:
        """Return the replies a second from one minute to another."""
        replies = self.replies[since:until]
        return sum(replies) / (MINUTE * len(replies))

    def share_refused(self, since: int) -> float:
        refused, through = sum(self.refused[since:]), sum(self.replies[since:])
        return refused / max(1, refused + through)


class World:
    """Clients before a server, behind a network with jitter.

    Args:
        server: who answers.
        minutes: how long.
        latency: seconds of a reply of mean length.
        sigma: of a reply's lognormal speed.
        lengths: by how much replies differ in length: the longest over the shortest.
        prompt: the share of a mean reply's time that does not depend on its length.
        clients: how many.
        demand: of each.
        faults: share of requests that fail with a server's error.
        hangs: share that is never answered.
        at: what happens at which second.
        stop: the second after which nothing happens any more.
        control: makes the controller of each client.
    """

    def __init__(
        self,
        server: Server,
        *,
        minutes: int = 20,
        latency: float = 1.0,
        sigma: float = 0.3,
        lengths: float = 1.0,
        prompt: float = 0.2,
        clients: int = 1,
        demand: float = math.inf,
        faults: float = 0.0,
        hangs: float = 0.0,
        timeout: float = 120.0,
        at: dict[float, Callable[[], None]] | None = None,
        stop: float = math.inf,
        seed: int = 0,
        control: Callable[[], ConcurrencyLimit] | None = None,
    ) -> None:
        self.minutes = minutes
        self.rng = random.Random(seed)
        self._latency, self._sigma, self._lengths, self._prompt = latency, sigma, lengths, prompt
        self._faults, self._hangs = faults, hangs
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = itertools.count()
        self.server = server
        server.world = self
        self.computed = 0
        make = control or (lambda: ConcurrencyLimit())
        self.clients = [Client(self, make(), demand, timeout) for _ in range(clients)]
        self.client = self.clients[0]
        for moment, what in (at or {}).items():
            self.push(NOW + moment, "happen", what)
        self._play(NOW + min(stop, minutes * MINUTE))

    def push(self, at: float, what: str, about: Any) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, about))

    def way(self) -> float:
        return self.rng.uniform(0.1, 1.0) * 0.03 * min(1.0, self._latency)

    def reply(self) -> tuple[int, float]:
        """Return the tokens of the next reply and the seconds that it takes alone."""
        length = self._lengths ** self.rng.uniform(-0.5, 0.5)
        work = self._prompt + (1 - self._prompt) * length
        noise = self.rng.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        return max(1, round(MEAN_TOKENS * length)), self._latency * work * noise

    def _play(self, end: float) -> None:
        now = NOW
        for client in self.clients:
            client.kick(now)
        while self._events and now < end:
            now, _, what, about = heapq.heappop(self._events)
            if now < end:
                self._happen(what, about, now)

    def _happen(self, what: str, about: Any, now: float) -> None:
        minute = int((now - NOW) // MINUTE)
        if what == "kick":
            about.next = None
            about.kick(now)
        elif what == "happen":
            about()
        elif what == "arrive":
            self._arrive(about, now)
        elif what == "batch":
            server, key, version = about
            server.finish(key, version, now)
        elif what == "done":
            self.computed += 1
            self.server.over(about, now)
            self.push(now + self.way(), "reply", about)
        elif not about.given_up and about.attempt.open:
            self._answer(what, about, now, minute)

    def _arrive(self, job: Job, now: float) -> None:
        if job.given_up:
            return
        luck = self.rng.random()
        if luck < self._faults:
            self.push(now + self.way(), "fail", job)
        elif luck < self._faults + self._hangs:
            pass
        elif not self.server.take(job, now):
            self.push(now + self.way(), "refuse", job)

    def _answer(self, what: str, job: Job, now: float, minute: int) -> None:
        client = job.client
        control = client.control
        client.flying -= 1
        if what == "reply":
            client.replies[minute] += 1
            client.work[minute] += job.work
            client.note(control.succeeded(job.attempt, now, job.tokens))
        elif what == "refuse":
            client.refused[minute] += 1
            client.note(control.limited(job.attempt, now))
        elif what == "fail":
            control.troubled(job.attempt, now)
        elif what == "timeout":
            job.given_up = True
            client.timeouts[minute] += 1
            client.note(control.timed_out(job.attempt, now))
        client.limits[minute] = control.limit
        client.kick(now)


def taken(pace: Pace, now: float) -> tuple[int, int]:
    """Return the requests and the tokens of the last minute."""
    return pace.requests.window.since(MINUTE, now), pace.tokens.window.since(MINUTE, now)
