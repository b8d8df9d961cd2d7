"""Votes a second, and client processor time per vote, through HTTP, by client and requests in flight.

(The file is not called http.py because that would hide the standard library's `http` from every script
in this folder.)

All clients ask one server (server.py, a process of its own, no latency) the same prompts, first moves of
a tower of Hanoi:

  sdk                AsyncOpenAI as it comes
  sdk, aiohttp       AsyncOpenAI with `DefaultAioHttpClient`
  sdk, aiohttp, raw  the same with `with_raw_response` and `json.loads`
  sdk, aiohttp, post the same client's `post` with a plain dict as the body and as the result, which
                     leaves out the SDK's own conversions of parameters and replies
  aiohttp            aiohttp and `json`, no SDK: the ceiling
  mdap               `openai` provider in one Session: many independent chains at once, no speculation,
                     every sample judged, tallied and written to the database on disk
  mdap, sdk          the same with `-M transport=sdk`, which sends through the SDK's own client
  mdap, n            the same with `-M n=true`: all samples of a step but the first share a request

A bare client reads the reply's text and throws it away; mdap's votes are parsed, counted and recorded.
Each measurement is a window of some seconds in a run already going, in which votes (replies, for bare
clients) and processor time of the whole client process are counted; what comes before and after the
window, such as connecting and opening runs, is left out. mdap gets two chains for every three requests
that may be in flight, which keeps its slots taken, since a step has 3, 2, then 1 samples out; `busy`
shows how many slots were in use on average over the window, by a look every 10 ms.
Clients take turns, round by round.

The last columns are the server's: the share of one core it used, and the requests/s it could answer if
that share were all (its ceiling). Where the client plus the server use all cores there are, the clock's
figures say as much about the machine as about the client: compare processor time then.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
import anyio
import openai

import mdap
from benchmarks.common import (
    K,
    Prefix,
    Server,
    beside,
    finish,
    parser,
    print_environment,
    scratch,
    served,
    summary,
    table,
    walk,
)

_DISKS = 20
_LOOK_SECONDS = 0.01
_WINDOW_LIMIT = 60.0
_ENDLESS = 1 << 20

Ask = Callable[[dict[str, Any]], Awaitable[str]]


@dataclass(slots=True)
class Tally:
    """What a client has done so far."""

    votes: int = 0
    started: bool = False
    busy: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """What happened in one window."""

    seconds: float
    cpu: float
    votes: int
    busy: float
    requests_per_second: float
    server_share: float


# -- bare clients ------------------------------------------------------------------------------------


@asynccontextmanager
async def _sdk(base_url: str) -> AsyncIterator[Ask]:
    async with openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0) as client:
        yield _through(client)


@asynccontextmanager
async def _sdk_aiohttp(base_url: str) -> AsyncIterator[Ask]:
    async with openai.AsyncOpenAI(
        api_key="none", base_url=base_url, max_retries=0, http_client=openai.DefaultAioHttpClient()
    ) as client:
        yield _through(client)


def _through(client: openai.AsyncOpenAI) -> Ask:
    async def ask(body: dict[str, Any]) -> str:
        completion: openai.types.chat.ChatCompletion = await client.chat.completions.create(**body)
        return completion.choices[0].message.content or ""

    return ask


@asynccontextmanager
async def _sdk_raw(base_url: str) -> AsyncIterator[Ask]:
    async with openai.AsyncOpenAI(
        api_key="none", base_url=base_url, max_retries=0, http_client=openai.DefaultAioHttpClient()
    ) as client:

        async def ask(body: dict[str, Any]) -> str:
            response = await client.chat.completions.with_raw_response.create(**body)
            text: str = json.loads(response.content)["choices"][0]["message"]["content"]
            return text

        yield ask


@asynccontextmanager
async def _sdk_post(base_url: str) -> AsyncIterator[Ask]:
    async with openai.AsyncOpenAI(
        api_key="none", base_url=base_url, max_retries=0, http_client=openai.DefaultAioHttpClient()
    ) as client:

        async def ask(body: dict[str, Any]) -> str:
            content: Any = await client.post("/chat/completions", cast_to=object, body=body)
            text: str = content["choices"][0]["message"]["content"]
            return text

        yield ask


@asynccontextmanager
async def _aiohttp(base_url: str) -> AsyncIterator[Ask]:
    url = f"{base_url}/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(body: dict[str, Any]) -> str:
            async with session.post(url, json=body) as response:
                text: str = json.loads(await response.read())["choices"][0]["message"]["content"]
                return text

        yield ask


_BARE: dict[str, Callable[[str], AbstractAsyncContextManager[Ask]]] = {
    "sdk": _sdk,
    "sdk, aiohttp": _sdk_aiohttp,
    "sdk, aiohttp, raw": _sdk_raw,
    "sdk, aiohttp, post": _sdk_post,
    "aiohttp": _aiohttp,
}


def _bodies() -> list[dict[str, Any]]:
    task = Prefix(disks=_DISKS, steps=1000)
    bodies = []
    for state in islice(walk(task), 1000):
        step = task.step(state)
        messages = [{"role": "system", "content": step.system}, {"role": "user", "content": step.user}]
        bodies.append(
            {"model": "sim", "messages": messages, "temperature": 0.1, "max_completion_tokens": 750}
        )
    return bodies


async def _run_bare(name: str, server: Server, width: int, seconds: float) -> Taken:
    bodies = cycle(_bodies())
    tally = Tally(started=True, busy=width)

    async def worker(ask: Ask) -> None:
        while True:
            text = await ask(next(bodies))
            if not text:
                raise SystemExit(f"{name}: the server sent no text")
            tally.votes += 1

    async with _BARE[name](server.base_url) as ask, anyio.create_task_group() as group:
        for _ in range(width):
            group.start_soon(worker, ask)
        taken = await _window(server, lambda: tally, width, seconds)
        group.cancel_scope.cancel()
    return taken


# -- mdap --------------------------------------------------------------------------------------------

_MDAP: dict[str, dict[str, bool | str]] = {
    "mdap": {},
    "mdap, sdk": {"transport": "sdk"},
    "mdap, n": {"n": True},
}


async def _run_mdap(server: Server, width: int, seconds: float, db: Path, **options: bool | str) -> Taken:
    chains = max(1, -(-2 * width // 3))
    progress = [mdap.Progress() for _ in range(chains)]
    task = Prefix(disks=_DISKS, steps=_ENDLESS)
    # One request asks at one temperature: with a first sample of its own, only the others come together.
    together = options.get("n")
    voting = mdap.VotingSettings(k=K, temperatures=(0.1,)) if together else mdap.VotingSettings(k=K)

    def look() -> Tally:
        return Tally(
            sum(each.votes for each in progress),
            all(each.votes for each in progress),
            min(width, sum(each.in_flight for each in progress)),
        )

    async with mdap.Session(
        "openai/sim",
        db=db,
        options={"base_url": server.base_url, **options},
        limits=mdap.Limits(concurrency=width, probe=False),
        speculate="off",
    ) as session:

        async def chain(number: int) -> None:
            await session.solve(task, voting=voting, run_id=f"chain-{number}", progress=progress[number])

        async with anyio.create_task_group() as group:
            for number in range(chains):
                group.start_soon(chain, number)
            taken = await _window(server, look, width, seconds)
            group.cancel_scope.cancel()
    return taken


# -- the window --------------------------------------------------------------------------------------


async def _window(server: Server, look: Callable[[], Tally], width: int, seconds: float) -> Taken:
    """Wait until the client is well under way, then count for *seconds*."""
    with anyio.fail_after(_WINDOW_LIMIT):
        while not look().started or look().votes < 2 * width:  # noqa: ASYNC110 - polled from outside
            await anyio.sleep(_LOOK_SECONDS)
    # Both requests to the server go through a thread: a client that is measured must not stand still.
    before_server = await anyio.to_thread.run_sync(server.counters)
    before, cpu, wall = look().votes, time.process_time(), time.perf_counter()
    busy, looks = 0, 0
    while (passed := time.perf_counter() - wall) < seconds:
        await anyio.sleep(_LOOK_SECONDS)
        busy += look().busy
        looks += 1
    votes, cpu = look().votes - before, time.process_time() - cpu
    after_server = await anyio.to_thread.run_sync(server.counters)
    # By the server's own clock, since its window is a little longer.
    served_for, requests, server_cpu = (
        after_server[name] - before_server[name] for name in ("clock", "requests", "cpu")
    )
    return Taken(passed, cpu, votes, busy / max(1, looks), requests / served_for, server_cpu / served_for)


def measure(name: str, server: Server, width: int, seconds: float, db: Path) -> Taken:
    server.configure()
    if name in _BARE:
        return anyio.run(_run_bare, name, server, width, seconds)

    async def through_mdap() -> Taken:
        return await _run_mdap(server, width, seconds, db, **_MDAP[name])

    return anyio.run(through_mdap)


# -- tables ------------------------------------------------------------------------------------------


def summed_up(taken: list[Taken]) -> dict[str, Any]:
    return {
        "votes_per_second": summary([each.votes / each.seconds for each in taken]),
        "cpu_ms_per_vote": summary([each.cpu / each.votes * 1e3 for each in taken]),
        "busy": summary([each.busy for each in taken]),
        "requests_per_vote": summary(
            [each.requests_per_second * each.seconds / each.votes for each in taken]
        ),
        "server_share": summary([each.server_share for each in taken]),
        "server_ceiling": summary([each.requests_per_second / each.server_share for each in taken]),
    }


def show(width: int, results: dict[str, dict[str, Any]]) -> None:
    sdk = [row for name, row in results.items() if name.startswith("sdk")]
    fastest = max(row["votes_per_second"]["median"] for row in sdk)
    thriftiest = min(row["cpu_ms_per_vote"]["median"] for row in sdk)
    rows = []
    for name, row in results.items():
        speed = row["votes_per_second"]
        rows.append(
            [
                name,
                f"{speed['median']:,.0f}",
                f"{speed['least']:,.0f}-{speed['most']:,.0f}",
                beside(speed["median"], fastest),
                f"{row['cpu_ms_per_vote']['median']:.2f}",
                beside(row["cpu_ms_per_vote"]["median"], thriftiest),
                f"{row['busy']['median']:.0f}",
                f"{row['requests_per_vote']['median']:.2f}",
                f"{row['server_share']['median']:.0%}",
                f"{row['server_ceiling']['median']:,.0f}",
            ]
        )
    heads = [
        "",
        "votes/s",
        "range",
        "x best sdk",
        "CPU ms/vote",
        "x thriftiest sdk",
        "busy",
        "requests/vote",
        "server core",
        "server could",
    ]
    table(f"{width} in flight", heads, rows)


def _arguments() -> argparse.Namespace:
    cli = parser(__doc__, repeat=3)
    cli.add_argument("--seconds", type=float, default=4.0, help="length of one window")
    cli.add_argument(
        "--in-flight", type=int, nargs="+", default=[1, 32, 256, 1024], metavar="N", help="requests at once"
    )
    cli.add_argument("--dir", type=Path, help="where databases are put; the system's folder if not given")
    return cli.parse_args()


def main() -> None:
    arguments = _arguments()
    environment = print_environment("openai", "aiohttp", "httpx", "httpx2")
    os.environ.pop("OPENAI_API_KEY", None)
    names = [*_BARE, *_MDAP]
    results: dict[str, Any] = {}
    with served() as server, scratch(arguments.dir) as folder:
        databases = (folder / f"http-{number}.db" for number in count())
        for width in arguments.in_flight:
            taken: dict[str, list[Taken]] = {name: [] for name in names}
            for _ in range(arguments.repeat):
                for name in names:
                    taken[name].append(measure(name, server, width, arguments.seconds, next(databases)))
            results[str(width)] = {name: summed_up(each) for name, each in taken.items()}
            show(width, results[str(width)])
    finish(arguments, environment, results)


if __name__ == "__main__":
    main()
