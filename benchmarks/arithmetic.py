"""All products and sort lists of the paper's authors, through a simulated model that errs, as one batch.

Every problem is a process of micro-steps (`mdap_arithmetic`). k is the smallest margin at which the whole
set, all problems together, comes out without any error with a chance of --target. The answers are compared
with those that the problems come with. With --kill-at the batch is killed with SIGKILL at that share of its
decisions, and the same command given again; then everything decided before must still be there, and nothing
decided twice.

The problems are those of cognizant-ai-lab/neuro-san-benchmarking, one JSON object a line with question and
answer.
"""

import argparse
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

import mdap
from benchmarks.common import ROOT, finish, parser, print_environment, scratch, table
from mdap.rules.scaling import minimal_k
from mdap.testing.walking import OracleAsk, solved
from mdap_arithmetic import Multiply, Sort

SETS = {
    "5 x 5 digits": "long_mul_5_5__200.first100.jsonl",
    "6 x 6 digits": "long_mul_6_6__200.first100.jsonl",
    "10 x 10 digits": "long_mul_10_10__200.first100.jsonl",
    "500 numbers": "sort_len_500.first20.jsonl",
}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--data", type=Path, required=True, help="the folder with the problems")
    cli.add_argument("--error-rate", type=float, default=0.02)
    cli.add_argument("--target", type=float, default=0.999)
    cli.add_argument(
        "--kill-at", type=float, help="kill the batch at this share of its decisions, and resume"
    )
    cli.add_argument("--batch", type=Path, help=argparse.SUPPRESS)
    cli.add_argument("--margin", type=int, default=0, help=argparse.SUPPRESS)
    arguments = cli.parse_args()
    if arguments.batch is not None:
        anyio.run(one_batch, arguments, arguments.batch)
        return
    environment = print_environment()
    problems = list(all_problems(arguments.data))
    steps = {name: sum(steps_of(task) for kind, task, _ in problems if kind == name) for name in SETS}
    arguments.margin = minimal_k(arguments.error_rate, sum(steps.values()), arguments.target)
    with scratch(None) as folder:
        results = watched(arguments, folder / "arithmetic.db", problems, steps)
    finish(arguments, environment, results)


def all_problems(folder: Path) -> Iterator[tuple[str, mdap.Task, Any]]:
    """Yield each problem's set, task and right answer."""
    for name, file in SETS.items():
        for line in (folder / file).read_text("utf-8").splitlines():
            problem = json.loads(line)
            if "sort" in file:
                given = json.loads(problem["question"].rpartition("\n")[2])
                answer = problem["answer"]
                yield name, Sort(numbers=given), json.loads(answer) if isinstance(answer, str) else answer
            else:
                a, b = re.findall(r"[0-9]+", problem["question"])
                yield name, Multiply(a=a, b=b), problem["answer"]


def steps_of(task: Any) -> int:
    ask = OracleAsk(task, 100_000)
    solved(task, ask)
    return len(ask.asked)


async def one_batch(arguments: argparse.Namespace, db: Path) -> None:
    """Solve everything, and print each result as a line."""
    tasks = [task for _, task, _ in all_problems(arguments.data)]
    options = {"error_rate": arguments.error_rate, "seed": 1}
    async with mdap.Session("sim", db=db, options=options) as session:
        async for solution in session.solve_all(tasks, k=arguments.margin, run_id="arithmetic"):
            print(json.dumps([str(solution.status), solution.result, solution.steps, solution.totals.votes]))


def watched(
    arguments: argparse.Namespace, db: Path, problems: list[Any], steps: dict[str, int]
) -> dict[str, Any]:
    before = killed(arguments, db, sum(steps.values())) if arguments.kill_at else {}
    started = time.monotonic()
    ended = subprocess.run(command(arguments, db), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.monotonic() - started
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    rows, right = [], 0
    for name in SETS:
        own = [
            (line, answer) for line, (kind, _, answer) in zip(lines, problems, strict=True) if kind == name
        ]
        good = sum(given(line[1]) == answer for line, answer in own)
        right += good
        decided, votes = sum(line[2] for line, _ in own), sum(line[3] for line, _ in own)
        rows.append([name, f"{good} of {len(own)}", f"{decided:,}", f"{votes:,}"])
    title = (
        f"error rate {arguments.error_rate:g}, target {arguments.target:g} for all: k = {arguments.margin}"
    )
    table(title, ["problems", "right", "steps", "votes"], rows)
    print(f"{right} of {len(problems)} right in {seconds:.1f} s")
    after = decisions(db)
    kept = all(after.get(place) == digest for place, digest in before.items())
    if before:
        print(
            f"killed after {len(before):,} decisions; all of them kept: {kept}; decisions now: {len(after):,}"
        )
    return {"right": right, "of": len(problems), "k": arguments.margin, "seconds": seconds, "kept": kept}


def killed(arguments: argparse.Namespace, db: Path, steps: int) -> dict[Any, str]:
    """Kill a batch once it has decided its share, and return what was decided."""
    process = subprocess.Popen(command(arguments, db), cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and (not db.exists() or len(decisions(db)) < arguments.kill_at * steps):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return decisions(db)


def command(arguments: argparse.Namespace, db: Path) -> list[str]:
    own = [sys.executable, "-m", "benchmarks.arithmetic", "--data", str(arguments.data.resolve())]
    return [
        *own,
        "--error-rate",
        str(arguments.error_rate),
        "--batch",
        str(db),
        "--margin",
        str(arguments.margin),
    ]


def decisions(db: Path) -> dict[Any, str]:
    """Return the digest of each decision by run and step; the table's key lets none be there twice."""
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as log:
        try:
            return {
                (run, step): digest
                for run, step, digest in log.execute("SELECT run, step, digest FROM decisions")
            }
        except sqlite3.OperationalError:
            return {}


def given(result: Any) -> Any:
    return None if result is None else result.get("product", result.get("sorted"))


if __name__ == "__main__":
    main()
