"""What recording prompts costs: bytes on disk and processor time, with and without.

Two runs take turns, with the simulated model, which answers at once: a tower of Hanoi, a chain, whose prompts
mdap records only on request; and extraction from made-up invoices by fields, a process, whose prompts it
records unless told otherwise. Processor time of a round with recording is divided by that of the round
without it beside it; the median of these ratios is shown. Sizes are those of the closed databases.

Left out: what the audit takes to read the recorded prompts.
"""

import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mdap
from benchmarks.common import (
    ERROR_RATE,
    K,
    file_bytes,
    finish,
    measured,
    parser,
    print_environment,
    scratch,
    table,
)
from benchmarks.extract import SCHEMA, invented
from mdap_extract import Extract
from mdap_hanoi import Hanoi


def main() -> None:
    cli = parser(__doc__, repeat=7)
    cli.add_argument("--disks", type=int, default=12)
    cli.add_argument("--documents", type=int, default=300)
    arguments = cli.parse_args()
    environment = print_environment()
    with scratch() as folder:
        invoices = folder / "invoices.jsonl"
        lines = [json.dumps(invented(number, 0)) for number in range(arguments.documents)]
        invoices.write_text("\n".join(lines) + "\n", encoding="utf-8")
        schema = folder / "invoice.schema.json"
        schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
        tasks: dict[str, Callable[[], mdap.Task]] = {
            f"hanoi, {arguments.disks} disks": lambda: Hanoi(disks=arguments.disks),
            f"extract, {arguments.documents} documents": lambda: Extract(
                input=str(invoices), schema=str(schema), truth="gold"
            ),
        }
        results = {name: _compared(make, folder, arguments.repeat) for name, make in tasks.items()}
    heads = ("run", "steps", "bytes without", "bytes with", "a step more", "time with/without", "from", "to")
    table("recording prompts", heads, [_row(name, found) for name, found in results.items()])
    finish(arguments, environment, results)


def _compared(make: Callable[[], mdap.Task], folder: Path, rounds: int) -> dict[str, Any]:
    """Run a task in turns, with and without recorded prompts; the first round of each is left out."""
    sizes: dict[bool, int] = {}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    steps = 0
    for place in range(rounds + 1):
        for record in (place % 2 == 0, place % 2 == 1):
            db = folder / f"{place}-{record}.db"
            solution, took = measured(partial(_solved, make(), db, record=record))
            sizes[record], steps = file_bytes(db), solution.totals.steps
            db.unlink()
            if place:
                seconds[record].append(took.cpu)
    ratios = [with_ / without for with_, without in zip(seconds[True], seconds[False], strict=True)]
    return {
        "steps": steps,
        "bytes": {"with": sizes[True], "without": sizes[False]},
        "cpu": {"with": seconds[True], "without": seconds[False]},
        "ratios": ratios,
    }


def _solved(task: mdap.Task, db: Path, *, record: bool) -> mdap.Solution:
    options = {"error_rate": ERROR_RATE}
    return mdap.solve_sync(task, k=K, db=db, options=options, record_prompts=record)


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    sizes, ratios = found["bytes"], found["ratios"]
    more = (sizes["with"] - sizes["without"]) / found["steps"]
    return (
        name,
        f"{found['steps']:,}",
        f"{sizes['without']:,}",
        f"{sizes['with']:,}",
        f"{more:,.0f}",
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}",
        f"{max(ratios):.2f}",
    )


if __name__ == "__main__":
    main()
