"""`mdap` as processes that begin at once: forked from one that has imported it all, and killed as easily."""

import faulthandler
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.common import ROOT
from mdap.cli.main import main

__all__ = ["Child", "Served", "asked_twice", "run", "serving", "verified"]

PATIENCE: Final = 60.0
"""Seconds after which a process is taken to hang."""


@dataclass(slots=True)
class Child:
    """One forked ``mdap``; what it prints goes to files in its folder."""

    folder: Path
    arguments: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0
    status: int | None = None

    def start(self) -> "Child":
        """Fork it."""
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._become()
        return self

    def _become(self) -> None:
        code = 70
        try:
            os.chdir(self.folder)
            os.environ.update(self.env)
            for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
                flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(name, flags, 0o644), number)
            faulthandler.register(signal.SIGUSR1)
            main(self.arguments)
        except SystemExit as exited:
            code = exited.code if isinstance(exited.code, int) else 71
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self, seconds: float = 0.0) -> bool:
        """Wait at most *seconds* for its end; return whether it has ended."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= until:
                return False
            else:
                time.sleep(min(0.0005, max(0.0, until - time.monotonic())))
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal if it is still there."""
        if self.status is None:
            os.kill(self.pid, number)

    def killed(self) -> bool:
        """Kill -9; return whether that was before its end."""
        self.kill()
        return self.end() == -signal.SIGKILL

    def end(self, patience: float | None = None) -> int:
        """Wait for its end and return its exit code."""
        if not self.ended(patience or PATIENCE):
            self.kill(signal.SIGUSR1)
            self.ended(1)
            self.kill()
            self.ended(PATIENCE)
            where = " ".join(self.arguments)
            raise SystemExit(f"it hung: mdap {where} in {self.folder}: {self.said()[1]}")
        assert self.status is not None
        return self.status

    def said(self) -> tuple[str, str]:
        """Return what it printed on standard output and on standard error."""
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return out, err


def run(folder: Path, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run ``mdap`` to its end and return its JSON with its exit code as ``code``, and ``said``."""
    child = Child(folder, [*arguments, "--json"], env or {}).start()
    code = child.end()
    out, err = child.said()
    found = json.loads(out) if out.strip() else {}
    return {**found, "code": code, "said": err.strip()}


def verified(folder: Path, run_id: str) -> list[str]:
    """Return what `mdap audit verify`, and the verifier that knows nothing of mdap, have against a run."""
    wrong = []
    own = run(folder, ["audit", "verify", run_id])
    if own["code"] != 0:
        wrong.append(f"audit verify: {own}")
    script = str(ROOT / "docs" / "examples" / "verify_log.py")
    other = subprocess.run(
        [sys.executable, "-I", script, "mdap.db", run_id], cwd=folder, capture_output=True, text=True
    )
    if other.returncode != 0:
        wrong.append(f"verify_log.py: {other.stdout[-500:]} {other.stderr[-500:]}")
    return wrong


def asked_twice(folder: Path) -> list[str]:
    """Return what was decided twice, or is kept where nothing should be left."""
    path = (folder / "mdap.db").as_uri()
    with closing(sqlite3.connect(f"{path}?mode=ro", uri=True)) as database:
        twice = database.execute(
            "SELECT r.run_id, p.key, count(*) FROM decisions d JOIN runs r ON r.id = d.run "
            "JOIN steps p USING (run, step, opening) GROUP BY d.run, p.key, p.prompt_digest "
            "HAVING count(*) > 1 UNION ALL "
            "SELECT run_id, 'step ' || step, count(*) FROM decisions JOIN runs ON id = run "
            "GROUP BY run, step HAVING count(*) > 1"
        ).fetchall()
        left = database.execute("SELECT count(*) FROM pending").fetchone()[0]
        check = database.execute("PRAGMA integrity_check").fetchone()[0]
    wrong = [f"decided {times} times: {run_id} {key}" for run_id, key, times in twice]
    wrong += [f"{left} pending rows are left"] if left else []
    return wrong + ([] if check == "ok" else [f"integrity_check: {check}"])


class Served:
    """A faulty server in a process of its own.

    Attributes:
        url: its address.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._seen = 0
        self.url = self._ask("")

    @property
    def env(self) -> dict[str, str]:
        """What a client's environment needs."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": "sk-fire-0000"}

    def log(self) -> list[tuple[str, str, float | None, str]]:
        """Return what was asked since the last time: request id, what it met, when, digest of the request."""
        found = json.loads(self._ask(f"log {self._seen}\n"))
        self._seen += len(found)
        return [(f"req-{number}", outcome, asked, body) for number, outcome, asked, body in found]

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        if not ready:
            raise SystemExit("the server does not answer")
        return self._process.stdout.readline().strip()


@contextmanager
def serving(**faults: Any) -> Iterator[Served]:
    """Serve Hanoi at a free port of loopback; faults as of `mdap.testing.Faults`."""
    command = [sys.executable, str(ROOT / "benchmarks" / "fire" / "served.py"), json.dumps(faults)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Served(process)
    except BaseException:
        traceback.print_exc()
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE)
