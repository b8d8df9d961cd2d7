"""Extraction from many documents: one process against workers whose head is killed, and how memory grows.

`mdap run extract` fills in four fields of made-up documents with the simulated model. It runs

- over a tenth of the documents and over all of them, in one process: the peak of memory tells what a document
  costs;
- over all of them with workers, killed (`kill -9`) as often as asked at random moments and resumed each time
  by the same command: the output must be that of the unbroken run, byte for byte.

`mdap audit verify` checks the log of the killed run at the end.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.common import finish, parser, print_environment, scratch, table

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "vendor": {"type": "string"},
        "total": {"type": "number"},
        "day": {"type": "string", "format": "date"},
        "kind": {"enum": ["invoice", "reminder"]},
    },
    "required": ["vendor", "total", "day", "kind"],
}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--documents", type=int, default=20_000)
    cli.add_argument("--workers", type=int, default=4)
    cli.add_argument("--kills", type=int, default=2)
    cli.add_argument("--seed", type=int, default=0)
    arguments = cli.parse_args()
    environment = print_environment()
    with scratch() as folder:
        results = measured(arguments, folder)
    columns = ["run", "s", "processor s", "peak MiB"]
    rows = [[str(result[name]) for name in columns] for result in results["runs"]]
    table(f"{arguments.documents:,} documents of four fields", columns, rows)
    print(f"\noutput of the killed run is that of the unbroken one: {results['same']}; {results['verified']}")
    finish(arguments, environment, results)


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all three, and return their figures."""
    count, rng = arguments.documents, random.Random(arguments.seed)
    (folder / "schema.json").write_text(json.dumps(SCHEMA), "utf-8")
    write(folder / "few.jsonl", count // 10, arguments.seed)
    write(folder / "all.jsonl", count, arguments.seed)
    runs = [run(folder, "few", []), run(folder, "all", [])]
    expected = (folder / "all.out").read_bytes()
    workers = ["--workers", str(arguments.workers)]
    moments = [runs[-1]["s"] * rng.uniform(0.1, 0.4) for _ in range(arguments.kills)]
    killed = [run(folder, "all", workers, "cut.db", after) for after in (*moments, None)]
    for number, each in enumerate(killed):
        each["run"] = f"{arguments.workers} workers, {'killed' if number < len(moments) else 'to the end'}"
    verify = [sys.executable, "-m", "mdap", "audit", "verify", "r", "--db", "cut.db"]
    said = subprocess.run(verify, cwd=folder, capture_output=True, text=True, check=False)
    return {
        "runs": [*runs, *killed],
        "same": (folder / "all.out").read_bytes() == expected,
        "verified": f"audit verify: exit code {said.returncode}",
    }


def write(path: Path, count: int, seed: int) -> None:
    """Write made-up documents with their right records."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            gold = {
                "vendor": f"Firm {number % 97}",
                "total": rng.randrange(100_000) / 100,
                "day": str(date(2026, 1, 1) + timedelta(days=number % 300)),
                "kind": rng.choice(("invoice", "reminder")),
            }
            text = " ".join([*map(str, gold.values()), *["and so on"] * 40])
            file.write(json.dumps({"id": f"d{number}", "text": text, "gold": gold}) + "\n")


def run(
    folder: Path, name: str, more: list[str], db: str | None = None, after: float | None = None
) -> dict[str, Any]:
    """Run the command to its end, or kill it *after* that many seconds; return its figures."""
    db = db or f"{name}.db"
    given = {"input": f"{name}.jsonl", "schema": "schema.json", "truth": "gold", "output": f"{name}.out"}
    params = [word for pair in given.items() for word in ("-p", "=".join(pair))]
    command = [sys.executable, "-m", "mdap", "run", "extract", *params, "-M", "error_rate=0.05"]
    command += ["--run-id", "r", "--db", db, "--display", "none", *more]
    began = time.monotonic()
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
    if after is not None:
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if after is None and process.returncode:
        raise SystemExit((folder / "said.txt").read_text())
    return {
        "run": f"{name}, one process",
        "s": round(time.monotonic() - began, 1),
        "processor s": round(used.ru_utime + used.ru_stime, 1),
        "peak MiB": round(used.ru_maxrss / 1024),
        "exit": process.returncode,
    }


if __name__ == "__main__":
    main()
