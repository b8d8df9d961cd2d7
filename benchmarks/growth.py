"""How cost per step, bytes per vote and memory grow with the length of a run.

Towers of 10 to 18 disks, 1,023 to 262,143 steps, each in a fresh process: `mdap.solve_sync` with the
simulated model and a new database on disk, after a small run in another database that warms the process
up. Taken are the wall and processor time of that call, the closed database's size, and the process's
peak resident memory (which includes what the interpreter and imports take; "idle" is what was resident
before the call).

More disks make a longer run, but also longer states, prompts and replies: every disk adds some three
characters to every text. So there is a second series, the first 2**n - 1 moves of a tower that always
has 18 disks, in which nothing grows but the run itself.

Short runs carry fixed costs, such as the empty schema's pages and opening the file, which show at 10
disks. Left out: what resuming or auditing a longer run costs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mdap
from benchmarks.common import (
    ERROR_RATE,
    ROOT,
    K,
    Prefix,
    file_bytes,
    finish,
    measured,
    memory,
    parser,
    print_environment,
    scratch,
    summary,
    table,
)

_BASE = 12
_WARM_UP_STEPS = 255
_FIGURES = {
    "wall_us": "us/step",
    "cpu_us": "CPU us/step",
    "bytes_per_vote": "bytes/vote",
    "peak_mb": "peak MB",
}


def child(disks: int, steps: int, k: int, folder: Path) -> dict[str, Any]:
    """Measure one run in this process."""
    options = {"error_rate": ERROR_RATE}
    mdap.solve_sync(Prefix(disks=disks, steps=_WARM_UP_STEPS), k=k, db=folder / "warm.db", options=options)
    idle = memory() or (0.0, 0.0)
    db, task = folder / "growth.db", Prefix(disks=disks, steps=steps)
    solution, took = measured(lambda: mdap.solve_sync(task, k=k, db=db, options=options))
    peak = memory() or (0.0, 0.0)
    return {
        "steps": solution.steps,
        "votes": solution.totals.votes,
        "wall_us": took.wall / solution.steps * 1e6,
        "cpu_us": took.cpu / solution.steps * 1e6,
        "bytes_per_vote": file_bytes(db) / solution.totals.votes,
        "idle_mb": idle[0],
        "peak_mb": peak[1],
    }


def measure(disks: int, steps: int, k: int, folder: Path | None) -> dict[str, Any]:
    """Measure one run in a process of its own."""
    with scratch(folder) as databases:
        command = [sys.executable, str(Path(__file__).resolve()), "-k", str(k)]
        command += ["--child", str(disks), str(steps), str(databases)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def series(arguments: argparse.Namespace, fixed: int | None) -> dict[str, Any]:
    """Measure one series: of growing towers, or with *fixed* disks of growing prefixes."""
    taken: dict[int, list[dict[str, Any]]] = {size: [] for size in arguments.disks}
    for _ in range(arguments.repeat):
        for size in arguments.disks:
            taken[size].append(measure(fixed or size, 2**size - 1, arguments.k, arguments.dir))
    results: dict[str, Any] = {}
    for size, runs in taken.items():
        results[str(size)] = {name: summary([run[name] for run in runs]) for name in (*_FIGURES, "idle_mb")}
        results[str(size)] |= {"steps": runs[0]["steps"], "votes": runs[0]["votes"]}
    return results


def show(title: str, results: dict[str, Any]) -> None:
    origin = str(_BASE) if str(_BASE) in results else next(iter(results))
    base = results[origin]
    heads = ["", "steps"]
    for head in _FIGURES.values():
        heads += [head, "rel."]
    rows = []
    for size, result in results.items():
        row = [f"2^{size} - 1", f"{result['steps']:,}"]
        for name in _FIGURES:
            value, relative = result[name]["median"], result[name]["median"] / base[name]["median"]
            row += [f"{value:.1f}", f"{relative:.2f}"]
        rows.append([*row, f"{result['idle_mb']['median']:.1f}"])
    table(f"{title}, relative to 2^{origin} - 1 steps", [*heads, "idle MB"], rows)


def main() -> None:
    cli = parser(__doc__, repeat=3)
    cli.add_argument("--disks", type=int, nargs="+", default=[10, 12, 14, 16, 18], help="sizes to measure")
    cli.add_argument("--fixed", type=int, default=18, help="disks of the second series; 0 leaves it out")
    cli.add_argument("-k", type=int, default=K, help="margin of every decision")
    cli.add_argument("--dir", type=Path, help="where databases are put; the system's folder if not given")
    cli.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = cli.parse_args()
    if arguments.child:
        disks, steps, folder = arguments.child
        print(json.dumps(child(int(disks), int(steps), arguments.k, Path(folder))))
        return
    if arguments.fixed and arguments.fixed < max(arguments.disks):
        cli.error(f"a tower of {arguments.fixed} disks has no {2 ** max(arguments.disks) - 1} moves")
    environment = print_environment()
    results = {"towers": series(arguments, None)}
    show("growing towers", results["towers"])
    if arguments.fixed:
        results["prefixes"] = series(arguments, arguments.fixed)
        show(f"growing prefixes of {arguments.fixed} disks", results["prefixes"])
    finish(arguments, environment, results)


if __name__ == "__main__":
    main()
