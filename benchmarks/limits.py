"""What holds requests back: limits that are discovered, and asyncio-throttle beside mdap's `Pace`.

**Discovered**: `mdap.rules.concurrency` against servers of many manners in virtual time, none of which says
what it allows. "of best" is the work that came back over what a client gets that is given the right number
or rate; "refused" the share of answers after the first third, "late" the replies that came after the
timeout, for nobody.

**Paced**, the rest of this text:

Thousands of tasks wait to be let through, and join the queue again as soon as they were: the queue never
empties. The benchmark measures each way to let them through in a process of its own, one after another:

  nobody           nothing is let through: what the waiters and the measuring itself cost
  every waiter     each waiter calls `Throttler.acquire` itself, as the README of asyncio-throttle has it
  whole minute     one dispatcher calls `acquire` for all of them; rate_limit a minute
  61 seconds       the same with a second's margin for the network's jitter
  portions         the same in portions of a tenth of a second
  pace             one dispatcher with one timer asks `Pace`
  pace + throttle  `Pace` decides, then the dispatcher passes a throttle of a whole minute too

"CPU" is the process's share of one core, waking the waiters included; "lag" is how late a task wakes that
sleeps for five milliseconds at a time. Of the moments at which requests went, "achieved" is their rate over
that of the limit, "in 60 s" and "in 1 s" are the most in any such window, and "rejected" is the share that a
server would refuse which enforces the limit in a sliding window, with 0 to 50 ms of network before it.

Left out: tokens per minute, refunds, pauses and a change of the rate at run time. asyncio-throttle has none
of them but the last, so here both do the only thing that both can.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio
from asyncio_throttle.throttler import Throttler

from benchmarks.common import finish, parser, print_environment, table
from mdap.rules.concurrency import ConcurrencyLimit
from mdap.rules.limiter import Pace
from tests.endpoints import Batching, Bucket, Server, Sliding, Slots, Stray, World

_MINUTE = 60.0
_TICK = 0.005
_JITTER = 0.05
_WAYS = ("nobody", "every waiter", "whole minute", "61 seconds", "portions", "pace", "pace + throttle")


# -- the waiters, and who lets them through ----------------------------------------------------------


class Queue:
    """Tasks that wait for their turn, in order, and the moments at which they got it."""

    def __init__(self) -> None:
        self._waiting: deque[anyio.Event] = deque()
        self._joined = anyio.Event()
        self.went: list[float] = []

    async def waiter(self) -> None:
        while True:
            event = anyio.Event()
            self._waiting.append(event)
            self._joined.set()
            await event.wait()

    def admit(self) -> None:
        self._waiting.popleft().set()
        self.went.append(time.monotonic())

    async def someone(self) -> None:
        """Wait until anybody waits; at a burst they need a moment to join again."""
        if not self._waiting:
            self._joined = anyio.Event()
            await self._joined.wait()


async def by_throttle(queue: Queue, throttles: Sequence[Any]) -> None:
    while True:
        await queue.someone()
        for throttle in throttles:
            await throttle.acquire()
        queue.admit()


async def by_pace(queue: Queue, pace: Pace, then: Callable[[], Awaitable[None]]) -> None:
    while True:
        await queue.someone()
        now = time.monotonic()
        if pace.reserve(0, now) is None:
            await anyio.sleep(pace.ready_at(0, now) - now)
            continue
        await then()
        queue.admit()


async def nothing() -> None:
    """Pass no further gate."""


async def polling_waiter(queue: Queue, throttle: Any) -> None:
    while True:
        await throttle.acquire()
        queue.went.append(time.monotonic())


def portions(rpm: int) -> Any:
    """Return a throttle that lets a tenth of a second's worth through at a time."""
    portion = max(1, rpm // 600)
    period = _MINUTE * portion / rpm
    return Throttler(portion, period, retry_interval=min(0.01, period / 10))


# -- measuring ---------------------------------------------------------------------------------------


async def tick(late: list[float]) -> None:
    """Note how late a short sleep ends, again and again."""
    while True:
        before = time.monotonic()
        await anyio.sleep(_TICK)
        late.append(time.monotonic() - before - _TICK)


async def measure(way: str, waiters: int, rpm: int, seconds: float) -> dict[str, Any]:
    queue, late = Queue(), list[float]()
    async with anyio.create_task_group() as group:
        throttle = Throttler(rpm, 61.0 if way == "61 seconds" else _MINUTE)
        for _ in range(waiters):
            if way == "every waiter":
                group.start_soon(polling_waiter, queue, throttle)
            else:
                group.start_soon(queue.waiter)
        await anyio.sleep(0.5)
        if way == "portions":
            group.start_soon(by_throttle, queue, [portions(rpm)])
        elif way.startswith("pace"):
            then = throttle.acquire if "throttle" in way else nothing
            group.start_soon(by_pace, queue, Pace(rpm), then)
        elif way not in ("nobody", "every waiter"):
            group.start_soon(by_throttle, queue, [throttle])
        group.start_soon(tick, late)
        cpu, wall = time.process_time(), time.monotonic()
        await anyio.sleep(seconds)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        group.cancel_scope.cancel()
    late.sort()
    return {
        "cpu": cpu / wall,
        "lag_p50_ms": 1000 * statistics.median(late),
        "lag_p99_ms": 1000 * late[int(0.99 * len(late))],
        "lag_most_ms": 1000 * late[-1],
        **seen(queue.went, rpm, wall),
    }


def seen(went: Sequence[float], rpm: int, wall: float) -> dict[str, Any]:
    """Return what the moments at which requests went come to."""
    rng = random.Random(1)
    arrived = sorted(at + rng.uniform(0, _JITTER) for at in went)
    return {
        "achieved": len(went) / (rpm * wall / _MINUTE),
        "in_60_s": most_within(went, _MINUTE),
        "in_1_s": most_within(went, 1.0),
        "rejected": rejections(arrived, rpm) / max(1, len(went)),
    }


def most_within(moments: Sequence[float], seconds: float) -> int:
    recent: deque[float] = deque()
    most = 0
    for at in moments:
        recent.append(at)
        while recent[0] < at - seconds:
            recent.popleft()
        most = max(most, len(recent))
    return most


def rejections(arrived: Sequence[float], rpm: int) -> int:
    """Count what a server refuses that lets `rpm` through in any 60 seconds."""
    recent: deque[float] = deque()
    refused = 0
    for at in arrived:
        while recent and recent[0] <= at - _MINUTE:
            recent.popleft()
        if len(recent) < rpm:
            recent.append(at)
        else:
            refused += 1
    return refused


def apart(arguments: argparse.Namespace, way: str, rpm: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", way, "--rpm", str(rpm)]
    command += ["--waiters", str(arguments.waiters), "--seconds", str(arguments.seconds)]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return result


# -- limits that are discovered ----------------------------------------------------------------------


def manners() -> dict[str, tuple[Callable[[], Server], dict[str, Any], int | float]]:
    """Return servers, how they are asked, and the right setting: concurrency, or requests a second."""
    halved: dict[str, Any] = {"halve_at": 300.0}
    long = {"lengths": 10.0, "sigma": 0.5}
    return {
        "one slot, queue": (lambda: Slots(1, queues=True), {}, 1),
        "one slot, queue, replies x10": (lambda: Slots(1, queues=True), long, 1),
        "one slot, queue, 60 s to load": (lambda: Slots(1, queues=True, loading=60), {}, 1),
        "one slot, queue, two clients": (lambda: Slots(1, queues=True), {"clients": 2}, 1),
        "30 slots, queue, half as fast later": (lambda: Slots(30, queues=True), halved, 30),
        "30 slots, shared, half as fast later": (lambda: Batching(30), halved, 30),
        "batches, twice as slow at 50": (lambda: Batching(50, slope=1.0), {}, 256),
        "40 slots, refuse": (lambda: Slots(40), {}, 40),
        "40 slots, refuse, replies x10": (lambda: Slots(40), long, 40),
        "40 slots, refuse, two clients": (lambda: Slots(40), {"clients": 2}, 20),
        "600 a minute, 50 ms": (lambda: Sliding(600, 60), {"latency": 0.05}, 10.0),
        "600 a minute, 500 ms": (lambda: Sliding(600, 60), {"latency": 0.5}, 10.0),
        "600 a minute, 5 s": (lambda: Sliding(600, 60), {"latency": 5.0}, 10.0),
        "600 a minute, bucket of 60": (lambda: Bucket(600, 60), {}, 10.0),
        "10 a second": (lambda: Sliding(10, 1), {}, 10.0),
        "50 slots, 2 % refused at random": (lambda: Stray(Slots(50), 0.02), {}, 50),
        "10,000 slots": (lambda: Slots(10_000), {"minutes": 3}, 256),
    }


def discovered(seeds: int) -> dict[str, dict[str, float]]:
    return {name: discover(*manner, seeds) for name, manner in manners().items()}


def discover(
    make: Callable[[], Server], how: dict[str, Any], best: int | float, seeds: int
) -> dict[str, float]:
    worlds = [simulated(make, how, seed) for seed in range(seeds)]
    fixed = [
        best * _MINUTE * world.minutes if isinstance(best, float) else came(simulated(make, how, seed, best))
        for seed, world in enumerate(worlds)
    ]
    return {
        "of_best": statistics.mean(came(world) / most for world, most in zip(worlds, fixed, strict=True)),
        "worst": min(came(world) / most for world, most in zip(worlds, fixed, strict=True)),
        "refused": max(
            client.share_refused(world.minutes // 3) for world in worlds for client in world.clients
        ),
        "late": sum(sum(client.timeouts) for world in worlds for client in world.clients)
        / sum(world.computed for world in worlds),
        "limit": statistics.median(worlds[0].client.limits),
    }


def simulated(make: Callable[[], Server], how: dict[str, Any], seed: int, given: int | None = None) -> World:
    options = {"minutes": 10, **how}
    server = make()
    if halve_at := options.pop("halve_at", None):
        options["at"] = {halve_at: lambda: setattr(server, "speed", 0.5)}
    if given is not None:
        options["control"] = lambda: ConcurrencyLimit(given, given=True)
    return World(server, seed=seed, **options)


def came(world: World) -> float:
    return sum(sum(client.replies) for client in world.clients)


def show_discovered(found: dict[str, dict[str, float]]) -> None:
    rows = [
        [
            name,
            f"{one['of_best']:.1%}",
            f"{one['worst']:.1%}",
            f"{one['refused']:.2%}",
            f"{one['late']:.1%}",
            f"{one['limit']:.3g}",
        ]
        for name, one in found.items()
    ]
    table("discovered", ["", "of best", "worst seed", "refused", "late", "limit"], rows)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--waiters", type=int, default=5_000, help="tasks that wait")
    cli.add_argument("--rpm", type=int, nargs="+", default=[600, 6_000], help="requests per minute")
    cli.add_argument("--seconds", type=float, default=95.0, help="how long each way is watched")
    cli.add_argument("--ways", nargs="+", choices=_WAYS, default=list(_WAYS), help="what is measured")
    cli.add_argument("--seeds", type=int, default=3, help="of what is discovered, in virtual time")
    cli.add_argument("--discovered", action="store_true", help="only that, which takes a minute or two")
    cli.add_argument("--one", choices=_WAYS, help=argparse.SUPPRESS)
    arguments = cli.parse_args()
    if arguments.one:
        measuring = measure(arguments.one, arguments.waiters, arguments.rpm[0], arguments.seconds)
        print(json.dumps(anyio.run(lambda: measuring)))
        return
    environment = print_environment("asyncio-throttle")
    found = discovered(arguments.seeds)
    show_discovered(found)
    rates = [] if arguments.discovered else arguments.rpm
    results = {str(rpm): {way: apart(arguments, way, rpm) for way in arguments.ways} for rpm in rates}
    for rpm, ways in results.items():
        show(arguments, int(rpm), ways)
    finish(arguments, environment, {"discovered": found, **results})


def show(arguments: argparse.Namespace, rpm: int, ways: dict[str, dict[str, Any]]) -> None:
    heads = ["", "CPU", "lag p50", "p99", "most ms", "achieved", "in 60 s", "in 1 s", "rejected"]
    rows = [
        [
            way,
            f"{found['cpu']:.1%}",
            *(f"{found[f'lag_{name}_ms']:.1f}" for name in ("p50", "p99", "most")),
            f"{found['achieved']:.1%}",
            f"{found['in_60_s']:,}",
            f"{found['in_1_s']:,}",
            f"{found['rejected']:.2%}",
        ]
        for way, found in ways.items()
    ]
    table(f"{rpm:,} a minute, {arguments.waiters:,} waiting, {arguments.seconds:.0f} s each", heads, rows)


if __name__ == "__main__":
    main()
