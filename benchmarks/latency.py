"""Wall time per step of a chain whose model takes its time, by how its samples are asked for.

A server in a process of its own (server.py) answers the first moves of a tower of Hanoi with lognormal
latency. What it draws depends on the round's seed, the prompt and how often that prompt came, so within
a round all policies meet the same latencies and the same wrong replies. Policies take turns, round by
round, each with a warm-up that opens its connections; medians of the rounds are shown.

  sequential       the algorithm as the paper states it (Algorithms 1 to 3), one request after another
                   through the synchronous `openai` SDK; our own writing. It runs on a shorter prefix.
  k in parallel    `--speculate off`: all samples of a step that are still short at once; the next step
                   waits for the decision
  vote             `--speculate vote`: the next step opens on the leading answer
  vote, hedge N    the same with N samples more in flight than could still matter
  guess            `--speculate guess`: steps open ahead on the task's own guess, which is never wrong here

A second table puts `guess` at high concurrency beside the sequential policy, with a slower model.

"extra" is the share of samples beyond those counted in decided races: by mdap's rows (void and
cancelled), and by what the server was asked for. Every run's last state is checked against the oracle.
Left out: rate limits, failures, a network further away than loopback, and a server that slows down
under load. The latencies are drawn, not queued for.
"""

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anyio
import openai

import mdap
from benchmarks.common import (
    ERROR_RATE,
    K,
    Prefix,
    Server,
    finish,
    parser,
    print_environment,
    scratch,
    served,
    summary,
    table,
    walk,
)
from mdap_hanoi import Answer

_WARM_UP_STEPS = 3


# -- the paper's algorithms --------------------------------------------------------------------------


class Sequential:
    """Algorithms 1 to 3 of arXiv 2511.09030, with one request at a time."""

    def __init__(self, client: openai.OpenAI, task: Prefix, k: int) -> None:
        self._client = client
        self._task = task
        self._k = k
        self.votes = 0

    def generate_solution(self) -> list[list[int]]:
        """Algorithm 1: decide each step in turn and go on from the winner. Return the last state."""
        state = self._task.start()
        for _ in range(self._task.length()):
            state = self._task.advance(state, self._do_voting(self._task.step(state)))
        return [list(peg) for peg in state.pegs]

    def _do_voting(self, step: mdap.Step[Answer]) -> Answer:
        """Algorithm 2: draw votes until one candidate is k ahead of every other."""
        votes: Counter[Answer] = Counter()
        while True:
            answer = self._get_vote(step, 0.1 if votes else 0.0)
            votes[answer] += 1
            others = max((number for other, number in votes.items() if other != answer), default=0)
            if votes[answer] >= others + self._k:
                return answer

    def _get_vote(self, step: mdap.Step[Answer], temperature: float) -> Answer:
        """Algorithm 3: sample until a reply has no red flag."""
        while True:
            completion = self._client.chat.completions.create(
                model="sim",
                messages=[
                    {"role": "system", "content": step.system},
                    {"role": "user", "content": step.user},
                ],
                temperature=temperature,
                max_completion_tokens=750,
            )
            self.votes += 1
            try:
                return step.parse(completion.choices[0].message.content or "")
            except mdap.RedFlag:
                continue


# -- policies ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """One row of a table. `speculate` None stands for the sequential algorithm."""

    name: str
    speculate: str | None
    steps: int
    concurrency: int = 64
    hedge: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """How the server answers."""

    latency: float
    sigma: float
    error_rate: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took. `needed` are the samples counted in decided races."""

    seconds_per_step: float
    cpu_per_step: float
    needed: int
    extra_rows: int
    asked: int
    dropped: int
    most_waiting: int


class Bench:
    """Run policies against one server.

    Args:
        server: which one.
        folder: where databases go.
        disks: height of the tower; only the first moves are made.
        k: margin of every decision.
    """

    def __init__(self, server: Server, folder: Path, disks: int, k: int) -> None:
        self._server = server
        self._databases = (folder / f"latency-{number}.db" for number in count())
        self._disks = disks
        self._k = k

    def run(self, policy: Policy, model: Model, seed: int) -> Taken:
        task = Prefix(disks=self._disks, steps=policy.steps)
        warm_up = Prefix(disks=self._disks, steps=_WARM_UP_STEPS)
        self._server.configure(seed=seed)
        if policy.speculate is None:
            return self._sequential(task, warm_up, model, seed)
        return anyio.run(self._through_mdap, policy, task, warm_up, model, seed)

    def _sequential(self, task: Prefix, warm_up: Prefix, model: Model, seed: int) -> Taken:
        with openai.OpenAI(api_key="none", base_url=self._server.base_url, max_retries=0) as client:
            Sequential(client, warm_up, self._k).generate_solution()
            self._configure(model, seed)
            run = Sequential(client, task, self._k)
            wall, cpu = time.perf_counter(), time.process_time()
            pegs = run.generate_solution()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return self._taken(task, pegs, (wall, cpu), run.votes, 0)

    async def _through_mdap(
        self, policy: Policy, task: Prefix, warm_up: Prefix, model: Model, seed: int
    ) -> Taken:
        settings: dict[str, Any] = {"k": self._k}
        limits: dict[str, Any] = {"concurrency": policy.concurrency, "probe": False}
        if policy.hedge:
            (settings if hedge_setting() is mdap.VotingSettings else limits)["hedge"] = policy.hedge
        async with mdap.Session(
            "openai/sim",
            db=next(self._databases),
            options={"base_url": self._server.base_url},
            limits=mdap.Limits(**limits),
            speculate=policy.speculate or "off",
        ) as session:
            voting = mdap.VotingSettings(**settings)
            await session.solve(warm_up, voting=voting)
            self._configure(model, seed)
            wall, cpu = time.perf_counter(), time.process_time()
            solution = await session.solve(task, voting=voting)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        totals = solution.totals
        needed, extra = totals.votes + totals.red_flags, totals.void + totals.cancelled
        return self._taken(task, solution.result["pegs"], (wall, cpu), needed, extra)

    def _configure(self, model: Model, seed: int) -> None:
        self._server.configure(
            latency=model.latency, sigma=model.sigma, error_rate=model.error_rate, seed=seed
        )

    def _taken(
        self, task: Prefix, pegs: list[list[int]], took: tuple[float, float], needed: int, extra: int
    ) -> Taken:
        *_, last = walk(task)
        if [list(peg) for peg in last.pegs] != pegs:
            raise SystemExit(f"a wrong answer won a vote: {pegs}")
        counters = self._server.counters()
        steps = task.length()
        return Taken(
            took[0] / steps,
            took[1] / steps,
            needed,
            extra,
            counters["replies"],
            counters["dropped"],
            counters["most_waiting"],
        )


def hedge_setting() -> type[mdap.VotingSettings | mdap.Limits] | None:
    """Return the settings that have a field *hedge*, or None in a version of mdap without it."""
    kinds: tuple[type[mdap.VotingSettings | mdap.Limits], ...] = (mdap.VotingSettings, mdap.Limits)
    return next((kind for kind in kinds if "hedge" in kind.model_fields), None)


def policies(arguments: argparse.Namespace) -> Iterator[Policy]:
    steps = arguments.steps
    yield Policy("sequential", None, arguments.sequential_steps)
    yield Policy("k in parallel", "off", steps)
    yield Policy("vote", "vote", steps)
    if hedge_setting() is not None:
        yield Policy(f"vote, hedge {arguments.hedge}", "vote", steps, hedge=arguments.hedge)
    yield Policy("guess", "guess", steps)


# -- tables ------------------------------------------------------------------------------------------


def compare(bench: Bench, title: str, rows: list[Policy], model: Model, repeat: int) -> dict[str, Any]:
    """Measure and print one table; return its figures by row."""
    taken: dict[str, list[Taken]] = {policy.name: [] for policy in rows}
    for seed in range(repeat):
        for policy in rows:
            taken[policy.name].append(bench.run(policy, model, seed))
    results = {policy.name: _row(policy, taken[policy.name], model) for policy in rows}
    base = results[rows[0].name]["seconds_per_step"]["median"]
    lines = []
    for policy in rows:
        row = results[policy.name]
        row["times_faster"] = base / row["seconds_per_step"]["median"]
        by_rows = "-" if policy.speculate is None else f"{row['extra_by_rows']:.1%}"
        lines.append(
            [
                policy.name,
                str(policy.steps),
                f"{row['seconds_per_step']['median'] * 1e3:.1f}",
                f"{row['latencies_per_step']:.2f}",
                f"{row['times_faster']:.2f}",
                by_rows,
                f"{row['extra_by_server']:.1%}",
                str(round(row["asked"]["median"])),
                str(row["most_waiting"]),
                f"{row['cpu_per_step']['median'] * 1e3:.1f}",
            ]
        )
    heads = [
        "",
        "steps",
        "ms/step",
        "latencies/step",
        "x sequential",
        "extra (rows)",
        "extra (server)",
        "asked",
        "at once",
        "CPU ms/step",
    ]
    table(title, heads, lines)
    return results


def _row(policy: Policy, taken: list[Taken], model: Model) -> dict[str, Any]:
    needed = sum(each.needed for each in taken)
    seconds = summary([each.seconds_per_step for each in taken])
    return {
        "policy": {name: getattr(policy, name) for name in policy.__slots__},
        "seconds_per_step": seconds,
        "cpu_per_step": summary([each.cpu_per_step for each in taken]),
        "latencies_per_step": seconds["median"] / model.latency,
        "needed": [each.needed for each in taken],
        "extra_by_rows": sum(each.extra_rows for each in taken) / needed,
        "extra_by_server": sum(each.asked for each in taken) / needed - 1,
        "asked": summary([each.asked for each in taken]),
        "dropped": sum(each.dropped for each in taken),
        "most_waiting": max(each.most_waiting for each in taken),
    }


def _arguments() -> argparse.Namespace:
    cli = parser(__doc__, repeat=3)
    cli.add_argument("--steps", type=int, default=255, help="steps of the chain")
    cli.add_argument("--sequential-steps", type=int, default=60, help="steps of the sequential policy")
    cli.add_argument("--disks", type=int, default=20, help="height of the tower that is begun")
    cli.add_argument("-k", type=int, default=K, help="margin of every decision")
    cli.add_argument("--latency", type=float, default=0.05, help="median seconds of a reply")
    cli.add_argument("--sigma", type=float, default=0.5, help="standard deviation of the latency's logarithm")
    cli.add_argument("--error-rate", type=float, default=ERROR_RATE, help="wrong answers per reply")
    cli.add_argument("--hedge", type=int, default=2, help="samples in flight beyond need")
    cli.add_argument("--wide-steps", type=int, default=4095, help="second table: steps; 0 leaves it out")
    cli.add_argument("--wide-sequential-steps", type=int, default=12, help="second table: sequential steps")
    cli.add_argument("--wide-latency", type=float, default=0.5, help="second table: median latency")
    cli.add_argument("--wide-concurrency", type=int, default=256, help="second table: samples in flight")
    return cli.parse_args()


def main() -> None:
    arguments = _arguments()
    environment = print_environment("openai", "aiohttp")
    os.environ.pop("OPENAI_API_KEY", None)
    results: dict[str, Any] = {}
    with served() as server, scratch() as folder:
        bench = Bench(server, folder, arguments.disks, arguments.k)
        model = Model(arguments.latency, arguments.sigma, arguments.error_rate)
        what = f"sigma {model.sigma:g}, error {model.error_rate:g}"
        title = f"median latency {model.latency * 1e3:g} ms, {what}"
        results["latency"] = compare(bench, title, list(policies(arguments)), model, arguments.repeat)
        if hedge_setting() is None:
            print("this mdap has no hedging: that row is left out\n")
        if arguments.wide_steps:
            model = Model(arguments.wide_latency, arguments.sigma, arguments.error_rate)
            width = arguments.wide_concurrency
            rows = [
                Policy("sequential", None, arguments.wide_sequential_steps),
                Policy(f"guess, {width} at once", "guess", arguments.wide_steps, width),
            ]
            title = f"median latency {model.latency * 1e3:g} ms, {what}"
            results["wide"] = compare(bench, title, rows, model, arguments.repeat)
    _show_ratios(results)
    finish(arguments, environment, results)


def _show_ratios(results: dict[str, Any]) -> None:
    first = {name: row["seconds_per_step"]["median"] for name, row in results["latency"].items()}
    if {"vote", "k in parallel"} <= first.keys():
        print(f"k in parallel / vote: {first['k in parallel'] / first['vote']:.2f}")
    spread = [row["seconds_per_step"] for row in results["latency"].values()]
    widest = statistics.fmean((each["most"] - each["least"]) / each["median"] for each in spread)
    print(f"mean range of the rounds: {widest:.0%} of the median")


if __name__ == "__main__":
    main()
