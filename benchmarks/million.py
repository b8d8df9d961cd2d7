"""The paper's run end to end: 20 disks, 1,048,575 steps, through the command line, then checked.

`mdap run hanoi -p disks=20 -k 3 -M error_rate=0.0022` runs in a process of its own, with the simulated
model in that process. From outside, every second: resident memory (from /proc), the database's size with
its write-ahead log, and the decisions that are durable (a read of the last row). Wall time is that of
the whole command, interpreter start and final totals included; processor time and peak memory are the
kernel's figures for the process.

Afterwards the decisions are read in order with nothing but `sqlite3`, and replayed: each input must be
the state before it, each move must be what the strategy prescribes and legal by the rules of the puzzle
(told here once more, without the plugin), each next state what the move makes of the pegs, and the last
state the whole tower on the third peg. Samples are counted per verdict, and the votes of all tallies
must add up to the votes recorded. This does not re-read replies; `mdap audit` is for that.

--kill-at 0.5 sends SIGKILL at that share of the steps and resumes with `mdap resume`, and reports the
seconds from starting that command until the first new decision is durable. --expect DIGEST compares the
final digest with that of an uncut run with the same seed (which this prints).

Left out: a real model. With one, the time is that of the network; see latency.py.
"""

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    ERROR_RATE,
    ROOT,
    K,
    file_bytes,
    finish,
    listing,
    memory,
    parser,
    print_environment,
    scratch,
)
from mdap_hanoi import Hanoi, State

_RUN = "million"
_POLL_SECONDS = 0.02


@dataclass(slots=True)
class Watched:
    """What was seen of one command from outside.

    Attributes:
        curve: seconds, resident MB, database MB, decisions; once a second.
        first_new: seconds until the first decision beyond those there before.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak_mb: float = 0.0
    code: int | None = None
    output: str = ""
    steps_before: int = 0
    first_new: float | None = None
    curve: list[tuple[float, float, float, int]] = field(default_factory=list)


def durable_steps(db: Path) -> int:
    """Return how many decisions a reader sees; 0 while there is no database yet."""
    if not db.exists():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT coalesce(max(place) + 1, 0) FROM decisions").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def watch(command: list[str], db: Path, kill_at: int | None) -> Watched:
    """Run *command* to its end, or kill it at the decision *kill_at*, looking at it from outside."""
    seen = Watched(steps_before=durable_steps(db))
    ours = (memory() or (0.0, 0.0))[1]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    # Only reaped below, so that the kernel's account of it can be read.
    over = threading.Event()
    output: list[str] = []

    def drain() -> None:
        assert process.stdout is not None
        output.append(process.stdout.read())
        over.set()

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    second = 0
    while not over.wait(_POLL_SECONDS if kill_at is not None or seen.first_new is None else 0.25):
        passed = time.perf_counter() - started
        steps = durable_steps(db)
        if seen.first_new is None and steps > seen.steps_before:
            seen.first_new = passed
        if kill_at is not None and steps >= kill_at:
            process.send_signal(signal.SIGKILL)
            kill_at = None
        resident = memory(process.pid)
        if resident is None:
            continue
        seen.peak_mb = resident[1]
        if passed >= second:
            second = int(passed) + 1
            seen.curve.append((round(passed, 2), resident[0], file_bytes(db) / 1e6, steps))
    reader.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = seen.code = os.waitstatus_to_exitcode(status)
    seen.seconds = time.perf_counter() - started
    seen.cpu = usage.ru_utime + usage.ru_stime
    # The kernel's account is exact, unless the peak in it is that of this process, from before the exec.
    if seen.peak_mb >= ours:
        seen.peak_mb = usage.ru_maxrss * 1024 / 1e6
    seen.output = output[0]
    return seen


# -- the check ---------------------------------------------------------------------------------------


def _wrong(place: int, what: str) -> NoReturn:
    raise SystemExit(f"CHECK FAILED at decision {place}: {what}")


def _legal(pegs: list[list[int]], move: list[int]) -> list[list[int]]:
    """Return the pegs after *move* by the rules of the puzzle; raise ValueError if it breaks one."""
    disk, source, target = move
    after = [list(peg) for peg in pegs]
    if not after[source] or after[source].pop() != disk:
        raise ValueError(f"disk {disk} is not on top of peg {source}")
    if after[target] and after[target][-1] < disk:
        raise ValueError(f"disk {disk} must not lie on disk {after[target][-1]}")
    after[target].append(disk)
    return after


def _decisions(connection: sqlite3.Connection, run: int) -> Iterator[tuple[int, int, str, str, str]]:
    return connection.execute(
        "SELECT d.place, d.step, p.input, d.winner, d.tally FROM decisions d "
        "JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening "
        "WHERE d.run = ? ORDER BY d.place",
        (run,),
    )


def check(db: Path, disks: int) -> dict[str, Any]:
    """Replay the decisions in *db*; end the program at the first that is wrong."""
    started = time.perf_counter()
    task = Hanoi(disks=disks)
    state = task.start()
    votes = steps = 0
    with contextlib.closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        ((run,),) = connection.execute("SELECT id FROM runs WHERE run_id = ?", (_RUN,))
        for place, step, given, winner, tally in _decisions(connection, run):
            if (place, step) != (steps, steps):
                _wrong(steps, f"the next row is decision {place} of step {step}")
            pegs = [list(peg) for peg in state.pegs]
            answer = json.loads(winner)
            if json.loads(given) != {
                "pegs": pegs,
                "last_move": None if state.last_move is None else list(state.last_move),
            }:
                _wrong(place, f"its input is {given}, and should be {state}")
            truth = task.oracle(state)
            if tuple(answer["move"]) != truth.move:
                _wrong(place, f"the move is {answer['move']}, and should be {truth.move}")
            try:
                after = _legal(pegs, answer["move"])
            except ValueError as error:
                _wrong(place, str(error))
            if after != answer["next_state"]:
                _wrong(place, f"the next state is {answer['next_state']}, and should be {after}")
            state = State((tuple(after[0]), tuple(after[1]), tuple(after[2])), truth.move)
            votes += sum(json.loads(tally).values())
            steps += 1
        verdicts: dict[str, int] = dict(
            connection.execute("SELECT verdict, count(*) FROM samples WHERE run = ? GROUP BY verdict", (run,))
        )
    if steps != task.length() or state.pegs != ((), (), tuple(range(disks, 0, -1))):
        _wrong(steps, f"the run ends here, with the disks on {state.pegs}")
    if votes != verdicts.get("vote", 0):
        _wrong(steps, f"the tallies hold {votes} votes, and the samples {verdicts.get('vote', 0)}")
    return {"steps": steps, "samples": verdicts, "seconds": time.perf_counter() - started}


# -- the run -----------------------------------------------------------------------------------------


def _commands(arguments: argparse.Namespace, db: Path) -> tuple[list[str], list[str]]:
    mdap = [sys.executable, "-m", "mdap"]
    common = ["--db", str(db), "--display", "none", "--json"]
    run = ["run", "hanoi", "-p", f"disks={arguments.disks}", "-k", str(arguments.k)]
    run += ["-M", f"error_rate={ERROR_RATE}", "-M", f"seed={arguments.seed}", "--run-id", _RUN]
    return [*mdap, *run, *common], [*mdap, "resume", _RUN, *common]


def _go(arguments: argparse.Namespace, db: Path) -> list[Watched]:
    run, resume = _commands(arguments, db)
    length = 2**arguments.disks - 1
    kill_at = None if arguments.kill_at is None else max(1, int(arguments.kill_at * length))
    parts = [watch(run, db, kill_at)]
    if kill_at is not None:
        if parts[0].code != -signal.SIGKILL:
            raise SystemExit("the run was over before it could be killed: use more disks")
        print(f"killed after {parts[0].seconds:.1f} s with {durable_steps(db):,} decisions durable\n")
        parts.append(watch(resume, db, None))
    if parts[-1].code != 0:
        raise SystemExit(f"mdap ended with code {parts[-1].code}: {parts[-1].output}")
    return parts


def _at_share(parts: list[Watched], share: float) -> float:
    """Return the resident memory at the first look after that share of the steps, or at the last look."""
    looks = [
        (steps, resident)
        for part in parts
        for _, resident, _, steps in part.curve
        if steps > part.steps_before
    ]
    if not looks:
        return 0.0
    return next((resident for steps, resident in looks if steps >= share * looks[-1][0]), looks[-1][1])


def summed_up(parts: list[Watched], db: Path, disks: int) -> dict[str, Any]:
    solution = json.loads(parts[-1].output)
    seconds = sum(part.seconds for part in parts)
    bytes_after = file_bytes(db)
    return {
        "solution": solution,
        "seconds": seconds,
        "cpu_seconds": sum(part.cpu for part in parts),
        "votes_per_second": solution["votes"] / seconds,
        "cpu_us_per_vote": sum(part.cpu for part in parts) / solution["votes"] * 1e6,
        "peak_mb": max(part.peak_mb for part in parts),
        "mb_at": {str(share): _at_share(parts, share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)},
        "bytes": bytes_after,
        "bytes_per_vote": bytes_after / solution["votes"],
        "resume_seconds": parts[1].first_new if len(parts) > 1 else None,
        "steps_at_kill": parts[1].steps_before if len(parts) > 1 else None,
        "steps_wanted": 2**disks - 1,
        "curves": [part.curve for part in parts],
    }


def show(results: dict[str, Any], expected: str | None) -> None:
    solution, checked = results["solution"], results["check"]
    rows = [
        ("steps", f"{solution['steps']:,}"),
        ("votes, red flags", f"{solution['votes']:,}, {solution['red_flags']:,}"),
        ("wall time", f"{results['seconds']:.1f} s"),
        ("processor time", f"{results['cpu_seconds']:.1f} s"),
        ("votes/s", f"{results['votes_per_second']:,.0f}"),
        ("CPU us/vote", f"{results['cpu_us_per_vote']:.1f}"),
        ("peak memory", f"{results['peak_mb']:.1f} MB"),
        (
            "memory at 10, 25, 50, 75, 100 % of the steps",
            ", ".join(f"{megabytes:.1f}" for megabytes in results["mb_at"].values()) + " MB",
        ),
        ("database", f"{results['bytes'] / 1e6:.1f} MB"),
        ("bytes/vote", f"{results['bytes_per_vote']:.0f}"),
    ]
    if results["resume_seconds"] is not None:
        rows.append(("resume: command to first new decision", f"{results['resume_seconds']:.2f} s"))
    rows += [
        ("replayed with sqlite3, every move right", f"{checked['steps']:,} ({checked['seconds']:.1f} s)"),
        ("digest", solution["digest"]),
    ]
    if expected is not None:
        rows.append(("as expected", "yes" if solution["digest"] == expected else f"NO: {expected}"))
    listing("mdap run hanoi", rows)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--disks", type=int, default=20, help="height of the tower; 2**disks - 1 steps")
    cli.add_argument("-k", type=int, default=K, help="margin of every decision")
    cli.add_argument("--seed", type=int, default=0, help="seed of the simulated model")
    cli.add_argument(
        "--kill-at", type=float, metavar="SHARE", help="kill -9 at this share of the steps, resume"
    )
    cli.add_argument("--expect", metavar="DIGEST", help="digest of an uncut run with the same seed")
    cli.add_argument("--db", type=Path, help="keep the database here; otherwise it is removed")
    arguments = cli.parse_args()
    if arguments.db is not None and arguments.db.exists():
        cli.error(f"{arguments.db} exists already")
    environment = print_environment()
    with scratch() as folder:
        db = (arguments.db or folder / "million.db").absolute()
        parts = _go(arguments, db)
        results = summed_up(parts, db, arguments.disks)
        results["check"] = check(db, arguments.disks)
    show(results, arguments.expect)
    finish(arguments, environment, results)
    if arguments.expect not in (None, results["solution"]["digest"]):
        raise SystemExit("the digest is not the expected one")


if __name__ == "__main__":
    main()
