"""A database with very many runs: are its commands still quick?

One real run and one interrupted run are written; then copies of the real one, with all of their rows, are
added by SQL until there are as many as wanted. Each command is a process of its own, forked from one that
has imported everything; the figure is from the fork to its end, the median of several.
"""

import os
import sqlite3
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import finish, parser, print_environment, scratch, table
from benchmarks.fire.forked import Child

TABLES = ("run_events", "steps", "samples", "decisions")
REAL = "run hanoi -p disks=2 --display none"


def fill(db: Path, runs: int) -> None:
    """Copy the run called real, with its rows, until there are *runs*."""
    with closing(sqlite3.connect(db)) as database:
        database.execute("CREATE TEMP TABLE numbers AS WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL "
                         f"SELECT i + 1 FROM n WHERE i < {1000 + runs}) SELECT i FROM n")  # fmt: skip
        for name in ("runs", *TABLES):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
            given = {"run": "i", "run_id": "'copy-' || i"}
            if name == "runs":
                given["id"] = "i"
            if name == "run_events":
                columns.remove("id")
            values = ", ".join(given.get(column, f"t.{column}") for column in columns)
            which = "t.id = 1" if name == "runs" else "t.run = 1"
            which += " AND t.kind != 'sealed'" if name == "run_events" else ""
            into = f"INSERT INTO {name}({', '.join(columns)})"
            database.execute(f"{into} SELECT {values} FROM {name} t, numbers WHERE {which}")
        database.commit()


def timed(folder: Path, command: str) -> float:
    """Run a command and return how long it took, in seconds."""
    started = time.monotonic()
    child = Child(folder, command.split()).start()
    code = child.end()
    if code != 0:
        raise SystemExit(f"mdap {command} ended with {code}: {child.said()[1]}")
    return time.monotonic() - started


def interrupted(folder: Path, name: str) -> None:
    """Begin a run and kill it."""
    line = f"run hanoi -p disks=4 -M latency=0.02 --display none --run-id {name}"
    child = Child(folder, line.split()).start()
    child.ended(0.6)
    child.killed()


def main() -> None:
    cli = parser(__doc__, repeat=3)
    cli.add_argument("--runs", type=int, default=100_000, help="in one database")
    cli.add_argument("--quick", action="store_true", help="a tenth of it")
    arguments = cli.parse_args()
    environment = print_environment()
    runs = arguments.runs // (10 if arguments.quick else 1)
    commands = ("runs", "show real", "show latest", "audit verify real", "resume")
    figures: dict[str, dict[str, float]] = {name: {} for name in (*commands, "run")}
    with scratch() as folder:
        timed(folder, f"{REAL} --run-id real")
        for size in (1, runs):
            if size > 1:
                fill(folder / "mdap.db", runs)
            else:
                timed(folder, f"{REAL} --run-id copy-500")
            for command in figures:
                taken = []
                for number in range(arguments.repeat):
                    name = f"cut-{size}-{number}"
                    line = command
                    if command == "resume":
                        interrupted(folder, name)
                        line = f"resume {name} --display none"
                    elif command == "run":
                        line = f"{REAL} --run-id new-{size}-{number}"
                    taken.append(timed(folder, line))
                figures[command]["few" if size == 1 else "many"] = statistics.median(taken)
            if size == 1:
                with closing(sqlite3.connect(folder / "mdap.db")) as database:
                    [[found]] = database.execute("SELECT count(*) FROM runs")
                    print(f"few: {found} runs")
        megabytes = (folder / "mdap.db").stat().st_size / 1e6
    rows = [[name, f"{each['few']:.2f}", f"{each['many']:.2f}"] for name, each in figures.items()]
    table(f"seconds, with few runs and with {runs:,} ({megabytes:.0f} MB)", ["command", "few", "many"], rows)
    finish(arguments, environment, {"seconds": figures, "megabytes": megabytes})


if __name__ == "__main__":
    main()
