"""Votes a second in process, every sample, vote and decision in the database.

Three things take turns (B A B C, B A B C, ...) in one process after a warm-up, each after a garbage
collection:

A  engine    `mdap.solve_sync` on a tower of Hanoi with the simulated model, from opening a new database
             file to the closed file and the totals read back from it.
B  floor     a bare loop that for each step calls `task.step` and for each vote oracle, render, parse and
             tally, and nothing else: no red flags, draws, digests, records, journal or event loop. Its
             model is never wrong. A second floor does oracle, render and parse once a step, as the engine
             does for replies that are equal.
C  inserts   the rows of A's finished database written with `executemany` into an empty copy of its schema,
             1,000 rows a transaction, WAL, synchronous NORMAL, the file closed at the end. The rows are in
             memory before the clock starts, and are written table by table.

Each time is divided by the floor of its own round, the mean of one floor before A and one after: on a shared
machine, whose speed changes from one second to the next, medians of different times cannot be compared. The
figure that counts is the median of these ratios.

Left out: the interpreter's start and imports, and the cost of a real model's network client (see
over_http.py). Wall time and processor time (all threads) are both shown, since the engine writes in a
second thread: on a machine with a free second core its wall time is the smaller of the two.
"""

import argparse
import sqlite3
import sys
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mdap
from benchmarks.common import (
    ERROR_RATE,
    K,
    Measure,
    finish,
    measured,
    parser,
    print_environment,
    scratch,
    summary,
    table,
)
from mdap.rules.tally import Tally
from mdap_hanoi import Hanoi

_TABLES = ("runs", "run_events", "texts", "steps", "samples", "decisions")
_BATCH = 1_000
_WARM_UP_DISKS = 9
_NAMES = ("engine", "floor", "floor, read once", "inserts")


def engine(disks: int, k: int, seed: int, db: Path) -> mdap.Solution:
    options = {"error_rate": ERROR_RATE, "seed": seed}
    solution = mdap.solve_sync(Hanoi(disks=disks), k=k, db=db, options=options)
    if not solution.result["solved"]:
        raise SystemExit(f"a wrong answer won a vote: {solution}")
    return solution


def floor(task: Hanoi, k: int) -> int:
    """Return the votes it took."""
    state = task.start()
    votes = 0
    for _ in range(task.length()):
        step = task.step(state)
        tally = Tally(k)
        while tally.winner is None:
            answer = step.parse(task.render(task.oracle(state)))
            tally.add(answer)  # type: ignore[arg-type] # counted as it is, to save spelling it
            votes += 1
        state = task.advance(state, answer)
    return votes


def floor_once(task: Hanoi, k: int) -> int:
    """Do the same, but oracle, render and parse only once a step."""
    state = task.start()
    votes = 0
    for _ in range(task.length()):
        step = task.step(state)
        tally = Tally(k)
        answer = step.parse(task.render(task.oracle(state)))
        while tally.winner is None:
            tally.add(answer)  # type: ignore[arg-type] # counted as it is, to save spelling it
            votes += 1
        state = task.advance(state, answer)
    return votes


class Rows:
    """All rows of a finished database, and how to write them again."""

    def __init__(self, db: Path) -> None:
        connection = sqlite3.connect(db)
        self.schema = [
            sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOTNULL")
        ]
        self.page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        self.tables = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in _TABLES}
        connection.close()

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    def prepare(self, db: Path) -> sqlite3.Connection:
        """Return a connection to a new database with the same schema."""
        connection = sqlite3.connect(db, isolation_level=None)
        for pragma in (f"page_size = {self.page_size}", "journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
        for sql in self.schema:
            connection.execute(sql)
        return connection

    def write(self, connection: sqlite3.Connection) -> None:
        for name, rows in self.tables.items():
            statement = f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[0]))})"
            for start in range(0, len(rows), _BATCH):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(statement, rows[start : start + _BATCH])
                connection.execute("COMMIT")
        connection.close()


def one_round(arguments: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Measure each thing once; return seconds and counts by name."""
    db, copy = folder / f"engine-{seed}.db", folder / f"copy-{seed}.db"
    task = Hanoi(disks=arguments.disks)
    votes, before = measured(lambda: floor(task, arguments.k))
    solution, engine_took = measured(lambda: engine(arguments.disks, arguments.k, seed, db))
    _, after = measured(lambda: floor(task, arguments.k))
    floor_took = Measure((before.wall + after.wall) / 2, (before.cpu + after.cpu) / 2)
    _, once_took = measured(lambda: floor_once(task, arguments.k))
    rows = Rows(db)
    connection = rows.prepare(copy)
    _, inserts_took = measured(lambda: rows.write(connection))
    size = db.stat().st_size
    for file in (db, copy):
        file.unlink()
    return {
        "engine": (engine_took, solution.totals.votes),
        "floor": (floor_took, votes),
        "floor, read once": (once_took, votes),
        "inserts": (inserts_took, solution.totals.votes),
        "rows": len(rows),
        "bytes_per_vote": size / solution.totals.votes,
    }


def main() -> None:
    cli = parser(__doc__, repeat=9)
    cli.add_argument("--disks", type=int, default=13, help="height of the tower")
    cli.add_argument("-k", type=int, default=K, help="margin of every decision")
    cli.add_argument("--dir", type=Path, help="where the databases are put; the system's folder if not given")
    arguments = cli.parse_args()
    environment = print_environment()
    with scratch(arguments.dir) as folder:
        seeds = count()
        one_round(argparse.Namespace(disks=_WARM_UP_DISKS, k=arguments.k), folder, next(seeds))
        rounds = [one_round(arguments, folder, next(seeds)) for _ in range(arguments.repeat)]
    results = summed_up(rounds)
    show(arguments, results)
    finish(arguments, environment, results)


def summed_up(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name in _NAMES:
        taken: list[tuple[Measure, int]] = [each[name] for each in rounds]
        results[name] = {
            "wall_us_per_vote": summary([took.wall / votes * 1e6 for took, votes in taken]),
            "cpu_us_per_vote": summary([took.cpu / votes * 1e6 for took, votes in taken]),
            "votes_per_second": summary([votes / took.wall for took, votes in taken]),
            "votes": [votes for _, votes in taken],
        }
    for kind in ("wall", "cpu"):
        floors = results["floor"][f"{kind}_us_per_vote"]["all"]
        for name in _NAMES:
            took = results[name][f"{kind}_us_per_vote"]["all"]
            ratios = [one / base for one, base in zip(took, floors, strict=True)]
            results[name][f"times_floor_{kind}"] = summary(ratios)
    results["rows"] = [each["rows"] for each in rounds]
    results["bytes_per_vote"] = summary([each["bytes_per_vote"] for each in rounds])
    return results


def show(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    rows = []
    for name in _NAMES:
        wall, cpu = results[name]["wall_us_per_vote"], results[name]["cpu_us_per_vote"]
        rows.append(
            [
                name,
                f"{results[name]['votes_per_second']['median']:,.0f}",
                f"{wall['median']:.1f}",
                f"{wall['least']:.1f}-{wall['most']:.1f}",
                f"{cpu['median']:.1f}",
                f"{results[name]['times_floor_wall']['median']:.2f}",
                f"{results[name]['times_floor_cpu']['median']:.2f}",
            ]
        )
    title = f"Hanoi, {arguments.disks} disks, k = {arguments.k}, medians of {arguments.repeat} rounds in turn"
    heads = ["", "votes/s", "us/vote", "range", "CPU us/vote", "x floor", "x floor (CPU)"]
    table(title, heads, rows)
    print(f"database: {results['bytes_per_vote']['median']:.0f} bytes a vote, {results['rows'][0]:,} rows")
    ratio = results["engine"]["times_floor_wall"]
    least, most = ratio["least"], ratio["most"]
    print(f"engine / floor, wall: {ratio['median']:.2f} ({least:.2f}-{most:.2f} in single rounds)")


if __name__ == "__main__":
    main()
