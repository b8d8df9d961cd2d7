"""Auditing a recorded run: verifying it, its statistics and its exports, through the command line.

Runs `mdap run hanoi -p disks=N -k 3 -M error_rate=0.0022` first, unless --db names a log that holds a run
already (its latest one is audited). Then each `mdap audit` command in a process of its own: wall time,
processor time with that of the processes it starts, and the largest memory of any of them, as the kernel
counts them. The standard-library verifier of the documentation is timed beside them.

Left out: opening the results; the viewer, see the documentation.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    ERROR_RATE,
    ROOT,
    K,
    file_bytes,
    finish,
    parser,
    print_environment,
    scratch,
    table,
)

ALONE = ROOT / "docs" / "examples" / "verify_log.py"


def timed(command: list[str]) -> dict[str, Any]:
    """Run *command* to its end, and return what the kernel says of it and of what it started."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "output": output,
    }


def mdap(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mdap", *map(str, arguments)]


def measure(db: Path, folder: Path, run_id: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    found["verify"] = timed(mdap("audit", "verify", run_id, "--db", db, "--json"))
    found["verify, one process"] = timed(mdap("audit", "verify", run_id, "--db", db, "--json", "--jobs", 1))
    found["verify_log.py"] = timed([sys.executable, "-I", str(ALONE), str(db), run_id])
    found["stats"] = timed(mdap("audit", "stats", run_id, "--db", db, "--json"))
    for fmt in ("jsonl", "csv", "parquet", "samples-jsonl", "samples-csv", "samples-parquet"):
        file = folder / fmt
        found[f"export {fmt}"] = timed(
            mdap("audit", "export", run_id, "--db", db, "--format", fmt, "-o", file)
        )
        found[f"export {fmt}"]["bytes"] = file.stat().st_size
        file.unlink()
    return found


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--disks", type=int, default=14, help="height of the tower; 2**disks - 1 steps")
    cli.add_argument("--db", type=Path, help="a log that holds a run already")
    arguments = cli.parse_args()
    environment = print_environment("pyarrow")
    with scratch() as folder:
        db = (arguments.db or folder / "audit.db").absolute()
        if arguments.db is None:
            options = ["-p", f"disks={arguments.disks}", "-k", K, "-M", f"error_rate={ERROR_RATE}"]
            timed(mdap("run", "hanoi", *options, "--db", db, "--display", "none", "--json"))
        # `latest` is not known to the verifier that knows nothing of mdap.
        [newest, *_] = json.loads(timed(mdap("runs", "--db", db, "--json"))["output"])["runs"]
        size = file_bytes(db)
        results = measure(db, folder, newest["run_id"])
    checked = json.loads(results["verify"].pop("output"))
    title = (
        f"{checked['run_id']}: {checked['decisions']:,} decisions, {checked['samples']:,} samples, "
        f"{size / 1e6:,.1f} MB; {checked['verdict']}"
    )
    rows = []
    for name, one in results.items():
        one.pop("output", None)
        rate = f"{checked['samples'] / one['seconds']:,.0f}"
        rows.append(
            (name, f"{one['seconds']:.1f}", f"{one['cpu_seconds']:.1f}", f"{one['peak_mb']:.0f}", rate)
        )
    table(title, ("mdap audit", "seconds", "CPU s", "peak MB", "samples/s"), rows)
    finish(arguments, environment, {"checked": checked, "commands": results})


if __name__ == "__main__":
    main()
