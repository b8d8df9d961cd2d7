"""How processes fan out, and what many tasks at once cost in memory and time.

*Fan-out*: a process asks 10,000 steps at once of a simulated model with a median latency of 200 ms, at a
concurrency of 500. The ideal is the sum of all samples' latencies, as the database has them, divided by 500:
every slot busy all the time, and no cost but waiting. Its last samples have nothing behind them, so even the
ideal scheduler is a little slower than that.

*Inputs*: `mdap run TASK --inputs FILE` over 100,000 cases of two steps each, in a process of its own whose
resident memory is read as it goes on.

``--steps 1000 --cases 2000`` makes it short.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mdap
from benchmarks.common import ROOT, finish, parser, print_environment, scratch, table

_LOOKS = 20


class Doubles(mdap.Process[int]):
    """Double many numbers concurrently, and add them up."""

    steps: int = 10_000

    async def solve(self, ask: mdap.Ask) -> int:
        return sum(await ask.map(double(number) for number in range(self.steps)))

    def oracle(self, step: mdap.Step[Any]) -> int:
        return 2 * int(step.input)

    def mistakes(self, step: mdap.Step[Any], truth: int) -> list[int]:
        return [truth - 1, truth + 1]

    def render(self, step: mdap.Step[Any], answer: int) -> str:
        return str(answer)


class Pair(Doubles):
    """Double one number, and another."""

    number: int = 0

    async def solve(self, ask: mdap.Ask) -> int:
        return await ask(double(self.number)) + await ask(double(self.number + 1_000_000))


def double(number: int) -> mdap.Step[int]:
    return mdap.Step(user=f"double {number}", parse=read, input=number)


def read(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise mdap.RedFlag("no number") from None


def fan_out(steps: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """Measure one wide process."""
    db = folder / "fan.db"
    limits = mdap.Limits(concurrency=concurrency)
    options = {"error_rate": 0.01, "latency": 0.2}
    began = time.perf_counter()
    solution = mdap.solve_sync(Doubles(steps=steps), k=3, db=db, options=options, limits=limits)
    wall = time.perf_counter() - began
    with closing(sqlite3.connect(db)) as log:
        [(waited,)] = log.execute("SELECT sum(latency) FROM samples")
    ideal = waited / concurrency
    return {
        "steps": steps,
        "samples": solution.totals.samples,
        "ideal_seconds": ideal,
        "seconds": wall,
        "ratio": wall / ideal,
    }


def inputs(cases: int, folder: Path) -> dict[str, Any]:
    """Measure one batch, in a process of its own."""
    file, out, db = folder / "cases.jsonl", folder / "out.jsonl", folder / "batch.db"
    with file.open("w") as lines:
        lines.writelines(f'{{"number": {number}}}\n' for number in range(cases))
    command = [sys.executable, "-m", "mdap", "run", f"{Path(__file__)}:Pair", "--inputs", str(file)]
    command += ["--out", str(out), "--db", str(db), "--json", "-M", "error_rate=0.01"]
    began = time.perf_counter()
    curve: list[tuple[int, float]] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(0.2)
            done = _lines(out)
            if done >= len(curve) * cases / _LOOKS and (rss := _resident(process.pid)):
                curve.append((done, rss))
        printed = json.loads(process.stdout.read() if process.stdout else "{}")
    wall = time.perf_counter() - began
    return {
        "cases": cases,
        "finished": printed["result"]["finished"],
        "seconds": wall,
        "cases_per_second": cases / wall,
        "resident_mb": curve,
    }


_counted: dict[Path, tuple[int, int]] = {}


def _lines(path: Path) -> int:
    """Return how many lines there are, looking only at what has been added since the last call."""
    if not path.exists():
        return 0
    offset, found = _counted.get(path, (0, 0))
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(1 << 20):
            found += block.count(b"\n")
        _counted[path] = (file.tell(), found)
    return found


def _resident(process: int) -> float | None:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return int(sizes[0]) / 1024 if sizes else None


def main() -> None:
    made: argparse.ArgumentParser = parser(__doc__)
    made.add_argument("--steps", type=int, default=10_000, help="steps of the process")
    made.add_argument("--concurrency", type=int, default=500, help="samples in flight")
    made.add_argument("--cases", type=int, default=100_000, help="cases of the batch")
    given = made.parse_args()
    environment = print_environment()
    with scratch() as folder:
        wide = fan_out(given.steps, given.concurrency, folder)
        table(
            "Fan-out",
            ("steps", "samples", "ideal s", "s", "ratio"),
            [(f"{wide['steps']:,}", f"{wide['samples']:,}", f"{wide['ideal_seconds']:.2f}",
              f"{wide['seconds']:.2f}", f"{wide['ratio']:.2f}")],
        )  # fmt: skip
        many = inputs(given.cases, folder)
    print(
        f"\n{many['finished']:,} of {many['cases']:,} cases in {many['seconds']:.0f} s, "
        f"{many['cases_per_second']:.0f} a second\n"
    )
    rows = [(f"{done:,}", f"{rss:.0f}") for done, rss in many["resident_mb"]]
    table("Memory as it goes on", ("cases done", "resident MB"), rows)
    finish(given, environment, {"fan_out": wide, "inputs": many})


if __name__ == "__main__":
    main()
