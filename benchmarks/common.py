"""What the benchmarks share: where they ran, how figures are summed up and printed, the model's stand-in."""

import argparse
import gc
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import Field

import mdap
from mdap_hanoi import Hanoi, State

__all__ = [
    "ERROR_RATE",
    "ROOT",
    "K",
    "Measure",
    "Prefix",
    "Server",
    "beside",
    "file_bytes",
    "finish",
    "listing",
    "measured",
    "memory",
    "parser",
    "print_environment",
    "raise_file_limit",
    "scratch",
    "served",
    "summary",
    "table",
    "walk",
]

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[1]
ERROR_RATE: Final = 0.0022
"""Wrong answers per valid sample: the paper's figure for gpt-4.1-mini at temperature 0.1."""
K: Final = 3


# -- the command line ------------------------------------------------------------------------------


def parser(description: str | None, *, repeat: int | None = None) -> argparse.ArgumentParser:
    """Return a parser that shows the module's docstring and knows ``--json`` and ``--repeat``."""
    made = argparse.ArgumentParser(description=description, formatter_class=_Help)
    made.add_argument("--json", metavar="FILE", type=Path, help="also write everything measured to FILE")
    if repeat is not None:
        made.add_argument("--repeat", type=int, default=repeat, help="repetitions; medians are shown")
    return made


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it is written, and every default."""


def finish(arguments: argparse.Namespace, environment: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write the JSON file if one was asked for."""
    if arguments.json is None:
        return
    options = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()
    }
    content = {"environment": environment, "options": options, "results": results}
    arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {arguments.json}")


# -- where it ran ----------------------------------------------------------------------------------


def print_environment(*packages: str) -> dict[str, Any]:
    """Print what the figures depend on besides the code, and return it.

    Args:
        packages: distributions whose versions matter.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()
    environment: dict[str, Any] = {
        "benchmark": Path(sys.argv[0]).name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_usable": usable,
        "load_average": [round(average, 2) for average in load],
        "mdap": mdap.__version__,
        "commit": _commit(),
        "packages": {name: _version(name) for name in ("anyio", "aiosqlite", *packages)},
    }
    print(
        f"{environment['python']}, SQLite {environment['sqlite']}, {environment['platform']}, "
        f"{usable} of {environment['cores']} cores ({environment['processor']}), "
        f"load {load[0]:.1f}\n"
    )
    return environment


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# -- measuring -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """Seconds that something took: by the clock, and of processor time in all threads of this process."""

    wall: float
    cpu: float


def measured(work: Callable[[], T]) -> tuple[T, Measure]:
    """Call *work* after a garbage collection and return its value and what it took."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    value = work()
    return value, Measure(time.perf_counter() - wall, time.process_time() - cpu)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes and all of *values*."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "all": list(values),
    }


def beside(value: float, base: float) -> str:
    """Return *value* as a multiple of *base*, for a table."""
    return f"{value / base:.2f}" if base else "-"


def memory(pid: int | str = "self") -> tuple[float, float] | None:
    """Return resident memory of a process in MB, now and at its peak; None once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    if "VmRSS" not in found:
        return None
    now, peak = (int(found[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, peak


def file_bytes(db: Path) -> int:
    """Return the bytes of a database with its write-ahead log."""
    files = (db, db.with_name(f"{db.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """Make a folder for databases and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="mdap-bench-", dir=folder) as made:
        yield Path(made)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    print(title)
    for row in (heads, ["-" * width for width in widths], *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    print(flush=True)


def listing(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print named figures, one a line."""
    width = max(len(name) for name, _ in rows)
    print(title)
    for name, value in rows:
        print(f"  {name.ljust(width)}  {value}")
    print(flush=True)


# -- the task --------------------------------------------------------------------------------------


class Prefix(Hanoi):
    """The first moves of a tower: prompts of full length, without its million steps."""

    steps: int = Field(255, ge=1)

    def length(self) -> int:
        """Return the number of moves made."""
        return min(self.steps, super().length())

    def result(self, state: State) -> dict[str, Any]:
        """Return where the disks are after them."""
        return {"pegs": [list(peg) for peg in state.pegs]}


def walk(task: Hanoi) -> Iterator[State]:
    """Yield every state of *task* by its oracle, the first one included."""
    state = task.start()
    yield state
    for _ in range(task.length()):
        state = task.advance(state, task.oracle(state))
        yield state


# -- the server ------------------------------------------------------------------------------------


class Server:
    """The process of `benchmarks/server.py`, as its clients see it.

    Attributes:
        base_url: where the API lives.
    """

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._control = f"http://127.0.0.1:{port}/control"

    def configure(
        self, *, latency: float = 0.0, sigma: float = 0.0, error_rate: float = 0.0, seed: int = 0
    ) -> None:
        """Set how the server answers, and start its counters again."""
        manner = {"latency": latency, "sigma": sigma, "error_rate": error_rate, "seed": seed}
        self._ask(json.dumps(manner).encode())

    def counters(self) -> dict[str, Any]:
        """Return what the server counted since it was configured; see there."""
        return self._ask(None)

    def _ask(self, data: bytes | None) -> dict[str, Any]:
        with urllib.request.urlopen(urllib.request.Request(self._control, data), timeout=30) as response:
            counters: dict[str, Any] = json.load(response)
            return counters


@contextmanager
def served() -> Iterator[Server]:
    """Run the server in a process of its own."""
    raise_file_limit()
    command = [sys.executable, str(ROOT / "benchmarks" / "server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline()))
        finally:
            process.stdin.close()


def raise_file_limit() -> None:
    """Allow as many open sockets as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
