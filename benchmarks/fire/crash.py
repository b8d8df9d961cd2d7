"""Kill -9 storm, Ctrl-C storm and power loss, over chains, processes, batches and HTTP.

Every run is started by one command and killed again and again; the same command takes it up until it ends.
Then its result must be that of an uncut run of the same seed, decided on the same votes; `mdap audit verify`
and the verifier that needs no mdap must find nothing; no step may be decided twice. What is bought twice is
counted by the server's own log.

Where it is killed:

  uniform    at any time from its start to when an uncut run would have ended
  birth      within 40 ms of the moment the database file appears: creation, migration, the first rows
  commit     the moment the write-ahead log grows: in a commit, or between one and what follows from it
  rollback   the moment another sample is on record as void: while speculation is rolled back
  shutdown   within 40 ms of Ctrl-C: while what is in flight is drained and the run is sealed
  twice      not killed, but two Ctrl-C: it must end itself, at once

Power loss: the process is held (SIGSTOP) at a random instant, database and log are copied as they are, and
the copy's log is cut at a random byte, or bytes of its last pages are flipped; the copy is resumed.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import finish, parser, print_environment, scratch, table
from benchmarks.fire.forked import Child, Served, asked_twice, run, serving, verified

TOYS = Path(__file__).with_name("toys.py")
SIM = "-M latency=0.003 -M error_rate=0.15 -M flag_rate=0.05 -M seed={seed} -k {k}"
CHAIN = f"run hanoi -p disks=6 {SIM}"
LINES = {
    "chain, off": f"{CHAIN} --speculate off",
    "chain, vote": f"{CHAIN} --speculate vote",
    "chain, guess": f"{CHAIN} --speculate guess",
    "process": f"run {TOYS}:Crowd {SIM}",
    "batch": f"run hanoi --inputs cases.jsonl {SIM}",
    "HTTP": "run hanoi -p disks=5 --model openai/m -M seed={seed} -k {k} --no-probe --speculate off",
}
CASES = [{"disks": disks} for disks in (2, 3, 4, 3, 2)]
MOST_KILLS = 9
"""Kills of one run; after them it is left alone to end."""


@dataclass(slots=True)
class Storm:
    """What came of it."""

    rng: random.Random
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    twice: Counter[int] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    k: str = "4"
    power: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    seeds: dict[str, int] = field(default_factory=lambda: defaultdict(int))


# -- one run, and what is known of it --------------------------------------------------------------


@dataclass(slots=True)
class Cut:
    """A run to cut short, and the uninterrupted one."""

    kind: str
    folder: Path
    line: list[str]
    whole: dict[str, Any]
    seconds: float
    server: Served | None

    @property
    def env(self) -> dict[str, str]:
        return {} if self.server is None else self.server.env

    @property
    def db(self) -> Path:
        return self.folder / "mdap.db"

    def start(self) -> Child:
        """Start it, or take it up: the same command."""
        return Child(self.folder, [*self.line, "--display", "none", "--json"], self.env).start()


def prepared(storm: Storm, kind: str, folder: Path, server: Served | None) -> Cut:
    """Do the whole run, and return what the cut one will be held against."""
    storm.seeds[kind] += 1
    line = [*LINES[kind].format(seed=storm.seeds[kind], k=storm.k).split(), "--run-id", "r"]
    place = folder / f"{kind}-{storm.seeds[kind]}".replace(", ", "-")
    for name in ("whole", "cut"):
        (place / name).mkdir(parents=True)
        (place / name / "cases.jsonl").write_text("\n".join(map(json.dumps, CASES)) + "\n")
    started = time.monotonic()
    whole = run(place / "whole", line, None if server is None else server.env)
    seconds = time.monotonic() - started
    if whole["code"] != 0:
        raise SystemExit(f"the uncut run failed: {whole}")
    if server is not None:
        server.log()
    return Cut(kind, place / "cut", line, whole, seconds, server)


BY_CONTENT = """
SELECT r.run_id, p.key, p.input, d.winner, d.tally,
       (SELECT group_concat(v) FROM (SELECT s.ordinal || s.verdict || coalesce(s.answer_key, '') AS v
        FROM samples s WHERE s.run = d.run AND s.step = d.step AND s.opening = d.opening
        AND s.counted IS NOT NULL ORDER BY s.ordinal))
FROM decisions d JOIN runs r ON r.id = d.run
JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening ORDER BY 1, 2, 3"""


def query(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(sql).fetchall()


def decided(db: Path) -> list[tuple[Any, ...]]:
    """Return all decisions and the votes behind them, in no particular order."""
    return query(db, BY_CONTENT)


def check_end(storm: Storm, cut: Cut, folder: Path, ended: dict[str, Any], how: str) -> None:
    """Hold a run that has ended against the uncut one."""
    wrong = asked_twice(folder)
    names = [run_id for (run_id,) in query(folder / "mdap.db", "SELECT run_id FROM runs ORDER BY id")]
    for name in names:
        wrong += verified(folder, name)
    same = ("status", "result", "steps", "votes", "red_flags", "finished", "k", "guarantee")
    for name in same:
        if ended.get(name) != cut.whole.get(name):
            wrong.append(f"{name} is {ended.get(name)}, not {cut.whole.get(name)}: {ended['said']}")
    if decided(folder / "mdap.db") != decided(cut.folder.parent / "whole" / "mdap.db"):
        wrong.append("it was decided on other votes")
    storm.wrong += [f"{cut.kind}, {how}, {folder}: {what}" for what in wrong]


# -- where to kill ---------------------------------------------------------------------------------


def uniform(cut: Cut, child: Child, rng: random.Random) -> None:
    child.ended(rng.uniform(0, cut.seconds))


def birth(cut: Cut, child: Child, rng: random.Random) -> None:
    while not cut.db.exists() and not child.ended():
        pass
    child.ended(rng.uniform(0, 0.04))


def commit(cut: Cut, child: Child, rng: random.Random) -> None:
    log = cut.db.with_name("mdap.db-wal")
    for _ in range(rng.randint(1, 8)):
        size = _size(log)
        while _size(log) == size and not child.ended():
            pass
    if rng.random() < 0.5:
        child.ended(rng.uniform(0, 0.003))


def _size(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def rollback(cut: Cut, child: Child, rng: random.Random) -> None:
    child.ended(rng.uniform(0, cut.seconds / 2))
    before = _voided(cut.db)
    while not child.ended(0.001) and _voided(cut.db) == before:
        pass


def _voided(db: Path) -> int:
    try:
        return int(query(db, "SELECT count(*) FROM samples WHERE verdict = 'void'")[0][0])
    except sqlite3.Error:
        return 0


def shutdown(cut: Cut, child: Child, rng: random.Random) -> None:
    child.ended(rng.uniform(0.1, 0.8) * cut.seconds)
    child.kill(signal.SIGINT)
    child.ended(rng.uniform(0, 0.04))


AIMS: dict[str, Callable[[Cut, Child, random.Random], None]] = {
    "uniform": uniform,
    "birth": birth,
    "commit": commit,
    "rollback": rollback,
    "shutdown": shutdown,
}


def aims_of(kind: str, rng: random.Random) -> Iterator[str]:
    """Yield where to kill next, for a run of this *kind*."""
    yield rng.choice(["birth", "uniform"])
    later = ["uniform", "commit", "shutdown"] + (
        ["rollback"] if kind in ("chain, vote", "chain, guess") else []
    )
    while True:
        yield rng.choice(later)


# -- the storm -------------------------------------------------------------------------------------


def storm_one(storm: Storm, cut: Cut) -> None:
    """Kill one run until it has had enough, let it end, and check it."""
    known: dict[str, str] = {}
    aims = aims_of(cut.kind, storm.rng)
    kills = 0
    while True:
        child = cut.start()
        aim = next(aims) if kills < MOST_KILLS else "none"
        if aim != "none":
            AIMS[aim](cut, child, storm.rng)
        killed = aim != "none" and child.killed()
        if killed:
            kills += 1
            storm.kills[cut.kind, aim] += 1
            check_bought(storm, cut, known, time.monotonic())
        elif child.end() != 130:
            break
    out, err = child.said()
    if child.status != 0:
        storm.wrong.append(f"{cut.kind}: exit code {child.status}, {err}")
        return
    check_bought(storm, cut, known, None)
    storm.runs[cut.kind] += 1
    check_end(storm, cut, cut.folder, {**json.loads(out), "said": err}, "killed")


def check_bought(storm: Storm, cut: Cut, known: dict[str, str], killed: float | None) -> None:
    """Hold the rows against the server's log: what has a row must not have been asked for again."""
    if cut.server is None:
        return
    asked = cut.server.log()
    again = [body for _, _, _, body in asked if body in known]
    storm.wrong += [f"HTTP: {len(again)} recorded samples were bought again"] if again else []
    rows = query(cut.db, "SELECT request_id FROM samples UNION SELECT request_id FROM pending") if (
        cut.db.exists() and query(cut.db, "SELECT count(*) FROM sqlite_master")[0][0]
    ) else []  # fmt: skip
    recorded = {request for (request,) in rows}
    known.update({body: request for request, _, _, body in asked if request in recorded})
    if killed is not None:
        lost = [when for request, _, when, _ in asked if request not in recorded and when is not None]
        storm.lost.append(len(lost))
        storm.ages += [killed - when for when in lost]


def interrupt_twice(storm: Storm, cut: Cut) -> None:
    """Two Ctrl-C: it ends itself with 130, and is taken up."""
    child = cut.start()
    child.ended(storm.rng.uniform(0.1, 0.8) * cut.seconds)
    for _ in range(2):
        child.kill(signal.SIGINT)
        child.ended(storm.rng.uniform(0, 0.01))
    code = child.end()
    storm.twice[code] += 1
    said = child.said()[1]
    if code not in (0, 130) or "Traceback" in said:
        storm.wrong.append(f"{cut.kind}: two Ctrl-C ended with {code}: {said}")
    ended = cut.start()
    ended.end()
    check_end(storm, cut, cut.folder, {**json.loads(ended.said()[0]), "said": ""}, "interrupted twice")


# -- power loss ------------------------------------------------------------------------------------


def power_loss(storm: Storm, cut: Cut, copies: int) -> None:
    """Copy the files of a running run at random instants, tear them, and go on from the copies."""
    child = cut.start()
    snapshots = []
    for number in range(copies):
        if child.ended(storm.rng.uniform(0, 2 * cut.seconds / copies)):
            break
        child.kill(signal.SIGSTOP)
        place = cut.folder.parent / f"copy-{number}"
        place.mkdir()
        for name in ("mdap.db", "mdap.db-wal", "cases.jsonl"):
            if (cut.folder / name).exists():
                shutil.copyfile(cut.folder / name, place / name)
        child.kill(signal.SIGCONT)
        snapshots.append(place)
    child.end()
    for place in snapshots:
        storm.power[cut.kind] += 1
        storm.torn += tear(storm.rng, place / "mdap.db-wal")
        ended = run(place, [*cut.line, "--display", "none"], cut.env)
        if ended["code"] != 0:
            storm.wrong.append(f"{cut.kind}, power loss, {place}: {ended}")
        else:
            check_end(storm, cut, place, ended, "power loss")


def tear(rng: random.Random, log: Path) -> bool:
    """Cut the log anywhere, or flip bytes in its tail; return whether anything was torn."""
    if not log.exists() or log.stat().st_size == 0:
        return False
    content = bytearray(log.read_bytes())
    manner = rng.choice(["as it is", "cut", "flipped", "both"])
    if manner in ("flipped", "both"):
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(max(0, len(content) - 40_000), len(content))] ^= rng.randint(1, 255)
    if manner in ("cut", "both"):
        del content[rng.randrange(len(content)) :]
    log.write_bytes(content)
    return manner != "as it is"


# -- all of it -------------------------------------------------------------------------------------


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--kills", type=int, default=500, help="in all")
    cli.add_argument("--copies", type=int, default=120, help="of running databases, in all")
    cli.add_argument("--seed", type=int, default=8, help="of where to kill")
    cli.add_argument("-k", default="4", help="of every run; with robust there are no batches")
    cli.add_argument("--quick", action="store_true", help="a tenth of it")
    arguments = cli.parse_args()
    environment = print_environment("openai")
    scale = 10 if arguments.quick else 1
    storm = Storm(random.Random(arguments.seed), k=arguments.k)
    kinds = [kind for kind in LINES if (kind, arguments.k) != ("batch", "robust")]
    share = -(-arguments.kills // scale // len(kinds))
    copies = -(-arguments.copies // scale // len(kinds))
    with scratch() as folder, serving(latency=0.005) as server:
        for kind in kinds:
            there = server if kind == "HTTP" else None
            while sum(number for (which, _), number in storm.kills.items() if which == kind) < share:
                storm_one(storm, prepared(storm, kind, folder, there))
            for _ in range(max(1, 5 // scale)):
                interrupt_twice(storm, prepared(storm, kind, folder, there))
            while storm.power[kind] < copies:
                power_loss(storm, prepared(storm, kind, folder, there), 5)
            print(f"{kind}: {len(storm.wrong)} things wrong so far", flush=True)
    report(storm)
    finish(arguments, environment, summed(storm))
    sys.exit(1 if storm.wrong else 0)


def report(storm: Storm) -> None:
    heads = ["killed", *AIMS, "kills", "runs", "power cuts"]
    rows = [
        [kind, *[str(storm.kills[kind, aim]) for aim in AIMS],
         str(sum(storm.kills[kind, aim] for aim in AIMS)), str(storm.runs[kind]), str(storm.power[kind])]
        for kind in LINES
    ]  # fmt: skip
    totals = [sum(int(row[column]) for row in rows) for column in range(1, len(heads))]
    table("kill -9, by kind of run and where", heads, [*rows, ["all", *map(str, totals)]])
    print(f"two Ctrl-C: exit codes {dict(storm.twice)}")
    print(f"power loss: {storm.power.total()} copies resumed, {storm.torn} of them torn")
    print(f"samples lost by a kill over HTTP: {summed(storm)['lost']}")
    print(f"seconds before the kill that they had been asked for: {summed(storm)['lost_age']}")
    print(f"things wrong: {len(storm.wrong)}")
    for what in storm.wrong[:20]:
        print(" ", what[:1000])


def summed(storm: Storm) -> dict[str, Any]:
    def spread(values: list[Any]) -> dict[str, Any]:
        if not values:
            return {}
        return {
            "median": round(statistics.median(values), 4),
            "most": round(max(values), 4),
            "of": len(values),
        }

    return {
        "kills": {kind: {aim: storm.kills[kind, aim] for aim in AIMS} for kind in LINES},
        "kills_in_all": storm.kills.total(),
        "runs": dict(storm.runs),
        "interrupted_twice": dict(storm.twice),
        "power_loss": dict(storm.power),
        "torn": storm.torn,
        "lost": spread(storm.lost),
        "lost_age": spread(storm.ages),
        "wrong": storm.wrong,
    }


if __name__ == "__main__":
    main()
