"""Cancelled at every turn of the event loop, and taken up again.

A run is done once to its end, and then over and over, cancelled at the first turn of the event loop, the
second, the third, ... until one is over before its turn: so every await that anything in it waits at is
cancelled there. Each that was cut short is taken up, cut once more at a random turn, and taken up again.
Then it must be decided on the same votes as the run that was not cut, nothing may be decided twice, the log
must verify, and no task may be left behind.

It is cancelled in both ways there are: by anyio, as the scope around it, and by asyncio, as its task.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mdap
from benchmarks.common import finish, parser, print_environment, scratch, table
from benchmarks.fire.crash import decided
from benchmarks.fire.forked import Served, asked_twice, serving
from benchmarks.fire.toys import Crowd
from mdap.audit.verifying import verify
from mdap.plugins import make_task
from mdap_hanoi import Hanoi

SIM = {"latency": 0.001, "error_rate": 0.15, "flag_rate": 0.05}
WAYS = ("scope", "task")

Margin = int | Literal["robust"] | None
Work = Callable[[mdap.Session, Margin], Awaitable[object]]


async def chain(session: mdap.Session, k: Margin) -> None:
    await session.solve(Hanoi(disks=3), k=k or 3, run_id="r")


async def process(session: mdap.Session, k: Margin) -> None:
    await session.solve(Crowd(width=4, height=2), k=k or 2, run_id="r")


async def batch(session: mdap.Session, k: Margin) -> None:
    solutions = session.solve_all([Hanoi(disks=1), Hanoi(disks=2), Hanoi(disks=1)], k=2, run_id="r")
    assert [solution.status async for solution in solutions] == ["finished"] * 3


KINDS: dict[str, tuple[Work, str]] = {
    "chain, off": (chain, "off"),
    "chain, vote": (chain, "vote"),
    "chain, guess": (chain, "guess"),
    "process": (process, "vote"),
    "batch": (batch, "vote"),
    "HTTP": (chain, "vote"),
}


class Counted(asyncio.SelectorEventLoop):
    """An event loop that counts its turns, and does something after one of them.

    Attributes:
        turns: turns of the loop since it began, or since *strike* was set.
        strike: a turn, and the call to make after it; None for neither.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.strike: tuple[int, Callable[[], object]] | None = None

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc] # private, and the only place where a turn can be seen
        self.turns += 1
        if self.strike is not None and self.strike[0] <= self.turns:
            what, self.strike = self.strike[1], None
            what()


async def cut(work: Callable[[], Awaitable[object]], turn: int, way: str) -> bool:
    """Do *work*, cancelled after that many turns; return whether it had ended before."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Counted)
    scope = anyio.CancelScope()
    over = False

    async def scoped() -> None:
        nonlocal over
        with scope:
            await work()
            over = True

    task = asyncio.ensure_future(scoped())
    loop.turns, loop.strike = 0, (turn, scope.cancel if way == "scope" else task.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await task
    finally:
        loop.strike = None
    return over


class Storm:
    """The cuts of one kind of run.

    Args:
        kind: one of `KINDS`.
        place: a folder for its databases.
        server: where it asks, for HTTP.
        arguments: *k* of the runs, and the *seed* of the second cuts.
    """

    def __init__(self, kind: str, place: Path, server: Served | None, arguments: argparse.Namespace) -> None:
        self._work, self._speculate = KINDS[kind]
        self._k = arguments.k
        self._place = place
        self._rng = random.Random(arguments.seed)
        self._model = "sim" if server is None else "openai/m"
        self._options: dict[str, Any] = SIM if server is None else {"seed": 7, "base_url": server.url}
        self.cuts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def whole(self) -> int:
        """Do it once to its end; return the turns that it took."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Counted)
        loop.turns = 0
        await self._do(self._place / "whole.db")
        return loop.turns

    async def _do(self, db: Path) -> None:
        async with mdap.Session(
            self._model,
            db=db,
            options=self._options,
            limits=mdap.Limits(probe=False),
            speculate=self._speculate,
        ) as session:
            await self._work(session, self._k)

    async def cut_at(self, turn: int, way: str) -> bool:
        """Cut it after that many turns, check the outcome, and return whether it had ended before."""
        db = self._place / f"{way}-{turn}" / "mdap.db"
        db.parent.mkdir()
        alone = asyncio.all_tasks()
        over = await cut(lambda: self._do(db), turn, way)
        if not over:
            self.cuts[way] += 1
            self.cuts[way] += not await cut(lambda: self._do(db), self._rng.randrange(2 * turn + 10), way)
        if left := asyncio.all_tasks() - alone:
            self._complain(turn, way, f"tasks are left: {left}")
        await self._do(db)
        self._check(db, turn, way)
        return over

    def _check(self, db: Path, turn: int, way: str) -> None:
        if decided(db) != decided(self._place / "whole.db"):
            self._complain(turn, way, "it was decided otherwise")
        for complaint in asked_twice(db.parent):
            self._complain(turn, way, complaint)
        found = verify(db, "r", make_task)
        if found.verdict != "verified":
            self._complain(turn, way, json.dumps(found.to_dict()))
        for file in db.parent.iterdir():
            file.unlink()

    def _complain(self, turn: int, way: str, what: str) -> None:
        self.wrong.append(f"cut after turn {turn} by {way}: {what}")


async def storm(
    kind: str, place: Path, server: Served | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Cut one kind of run at regular turns, in both ways."""
    found = Storm(kind, place, server, arguments)

    def told(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        found.wrong.append(context["message"])  # such as of connections that nobody closed

    asyncio.get_running_loop().set_exception_handler(told)
    turns = await found.whole()
    for way in WAYS:
        turn = 0
        while not await found.cut_at(turn, way) and turn < 20 * turns:
            turn += arguments.every
    return {"turns": turns, "cuts": dict(found.cuts), "wrong": found.wrong}


def margin(written: str) -> Margin:
    return "robust" if written == "robust" else int(written)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="what is cut")
    cli.add_argument("--every", type=int, default=1, help="turns from one cut to the next")
    cli.add_argument("--seed", type=int, default=1, help="of the second cuts")
    cli.add_argument("-k", type=margin, help="of every run; with robust there are no batches")
    arguments = cli.parse_args()
    if arguments.k == "robust":
        arguments.kinds = [kind for kind in arguments.kinds if kind != "batch"]
    environment = print_environment("openai")
    results = {}
    with scratch() as folder, serving() as server:
        for kind in arguments.kinds:
            place = folder / kind.replace(", ", "-")
            place.mkdir()
            asked = (kind, place, server if kind == "HTTP" else None, arguments)
            with asyncio.Runner(loop_factory=Counted) as runner:
                results[kind] = runner.run(storm(*asked))
            print(kind, json.dumps(results[kind]), flush=True)
    rows = [
        [kind, str(one["turns"]), *(str(one["cuts"].get(way, 0)) for way in WAYS), str(len(one["wrong"]))]
        for kind, one in results.items()
    ]
    table("cut at every turn of the event loop", ["", "turns", "by scope", "by task", "wrong"], rows)
    finish(arguments, environment, results)
    sys.exit(1 if any(one["wrong"] for one in results.values()) else 0)


if __name__ == "__main__":
    main()
