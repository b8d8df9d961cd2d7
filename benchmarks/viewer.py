"""How long the viewer takes for each page, and what being watched costs a run.

Pages: a tower is run with the simulated model, unless --db names a database that holds one. `mdap serve`
is started on it as a process of its own, so that nothing is counted yet, and every page is asked for over
loopback. Shown are the first answer and the slowest and the median of the later ones; the overview is
asked for until the whole run is counted, and the table says how often that was.

Watching: a tower is run by `mdap run`, alone, with a reader that asks for the run's live part every two
seconds, as an open page does, and with one that asks four times a second. Shown are its seconds, and the
size of the write-ahead log beside the database: a reader that stayed in a transaction would let it grow
without end.
"""

import argparse
import http.client
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ERROR_RATE, ROOT, finish, memory, parser, print_environment, scratch, table

_ASKED = 10
_LOOK = 0.05
_WATCHERS = {"alone": None, "an open page": 2.0, "four times a second": 0.25}
_PAGES = {
    "runs": "/",
    "steps, all": "/runs/1/steps",
    "steps, from the middle": "/runs/1/steps?from={middle}",
    "steps, divided": "/runs/1/steps?show=divided",
    "steps, flagged": "/runs/1/steps?show=flagged",
    "steps, undecided (none)": "/runs/1/steps?show=undecided",
    "steps, overridden (none)": "/runs/1/steps?show=overridden",
    "a step": "/runs/1/steps/{middle}",
    "search, found at once": "/runs/1/search?q=disk",
    "search, not there": "/runs/1/search?q=nowhere",
    "events": "/runs/1/events",
    "timeline": "/runs/1/timeline",
    "timeline, from the middle": "/runs/1/timeline?from={middle}",
    "tree": "/runs/1/tree",
    "tree, open in the middle": "/runs/1/tree?step={middle}",
    "compared with itself": "/compare?a=1&b=1",
    "runs by cost": "/?sort=-cost",
}


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of mdap."""
    return [sys.executable, "-m", "mdap", *map(str, arguments)]


def run_tower(db: Path, disks: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a run of a tower."""
    options = (
        "-p",
        f"disks={disks}",
        "-M",
        f"error_rate={ERROR_RATE}",
        "--display",
        "none",
    )
    return subprocess.Popen(
        command("run", "hanoi", *options, *more, "--db", db), stdout=subprocess.DEVNULL, cwd=ROOT
    )


@contextmanager
def viewer(db: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Serve *db* in a process of its own."""
    process = subprocess.Popen(
        command("serve", "--port", "0", "--db", db), stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
    assert found is not None
    try:
        yield int(found[1]), process
    finally:
        process.terminate()
        process.wait()


def ask(port: int, path: str, *, begun: bool = True) -> tuple[float, str]:
    """Return how long a page took, in milliseconds, and the page, which a run that has *begun* must have."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.perf_counter()
    connection.request("GET", path)
    response = connection.getresponse()
    text = response.read().decode()
    took = (time.perf_counter() - began) * 1000
    connection.close()
    assert response.status == 200 or not begun, f"{path}: {response.status}"
    return took, text


def pages(db: Path, steps: int) -> tuple[dict[str, list[float]], float]:
    """Return how long each page took each time, and the server's largest memory in MB."""
    times: dict[str, list[float]] = {}
    with viewer(db) as (port, process):
        whole: list[float] = []
        text = "Counted so far"
        while "Counted so far" in text:
            took, text = ask(port, "/runs/1")
            whole.append(took)
        times[f"overview, while counting ({len(whole)} times)"] = whole
        times["overview, counted"] = [ask(port, "/runs/1")[0] for _ in range(_ASKED)]
        for name, path in _PAGES.items():
            place = path.format(middle=steps // 2)
            times[name] = [ask(port, place)[0] for _ in range(_ASKED)]
        peak = (memory(process.pid) or (0.0, 0.0))[1]
    return times, peak


def watched(db: Path, disks: int, every: float | None) -> dict[str, float]:
    """Run a tower while a reader polls it at an interval; return its seconds and the largest log in MB."""
    log = Path(f"{db}-wal")
    with viewer_of_nothing(db) as (port, _):
        process = run_tower(db, disks)
        largest = asked = 0.0
        began = time.perf_counter()
        while process.poll() is None:
            passed = time.perf_counter() - began
            if every is not None and passed > (asked + 1) * every:
                ask(port, "/runs/2/live", begun=asked > 8)
                asked += 1
            largest = max(largest, log.stat().st_size / 1e6 if log.exists() else 0.0)
            time.sleep(_LOOK)
    return {"seconds": time.perf_counter() - began, "wal_mb": largest, "asked": asked}


@contextmanager
def viewer_of_nothing(db: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Serve a database in which nothing has been run yet but a tower of one disk."""
    run_tower(db, 1).wait()
    with viewer(db) as served:
        yield served


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    environment = print_environment("starlette", "uvicorn", "jinja2")
    results: dict[str, Any] = {}
    with scratch() as folder:
        db = arguments.db or folder / "tower.db"
        if arguments.db is None:
            run_tower(db, arguments.disks).wait()
        times, peak = pages(db, (1 << arguments.disks) - 1)
        results["pages_ms"], results["peak_mb"] = times, peak
        rows = [
            (
                name,
                f"{all_[0]:.0f}",
                f"{max(all_[1:], default=all_[0]):.0f}",
                f"{statistics.median(all_):.0f}",
            )
            for name, all_ in times.items()
        ]
        table(f"pages of {arguments.disks} disks, ms", ("page", "first", "slowest later", "median"), rows)
        print(f"the server took {peak:.0f} MB at most\n")
        if arguments.watch:
            both = {
                name: watched(folder / f"watched-{place}.db", arguments.watch, every)
                for place, (name, every) in enumerate(_WATCHERS.items())
            }
            results["watching"] = both
            shown = [(name, *(f"{value:.1f}" for value in one.values())) for name, one in both.items()]
            table(f"a run of {arguments.watch} disks", ("", "seconds", "largest WAL, MB", "asked"), shown)
    finish(arguments, environment, results)


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--disks", type=int, default=14, help="height of the tower")
    made.add_argument("--db", type=Path, help="a database whose run 1 is that tower, rather than a new one")
    made.add_argument("--watch", type=int, default=15, help="height of the tower that is watched; 0 for none")
    return made.parse_args()


if __name__ == "__main__":
    main()
