"""The command line as real processes."""

import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mdap.cli.main import main
from mdap.journal.logfile import CONNECTION

__all__ = ["Cli", "Ended"]

PATIENCE = 240.0
"""Seconds after which a process is taken to hang; however busy the machine is."""


@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        assert self.out.count("\n") == 1, f"not one line: {self.out[-500:]!r} {self.err[-2000:]}"
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def sentence(self) -> str:
        """The one line on standard error, which no traceback fits in, without the program's name."""
        assert self.err.count("\n") == 1, f"not one line: {self.err[-2000:]}"
        assert self.err.startswith("mdap: ")
        return self.err.removeprefix("mdap: ").rstrip("\n")


class Cli:
    """``python -m mdap`` in a folder of its own, where ``mdap.db`` is the database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: str, *more: str, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start the command; in it, warnings are errors, as they are in the tests themselves.

        Args:
            command: arguments as one would type them.
            more: arguments that are taken as they are.
            env: variables to set.
            prefix: a program that starts it, and its arguments.
        """
        process = subprocess.Popen(
            [*prefix, sys.executable, "-W", "error", "-m", "mdap", *shlex.split(command), *more],
            cwd=self.folder,
            env=_environment() | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # so that whoever reads a line leaves the rest to `end`
        )
        self._started.append(process)
        return process

    def __call__(
        self, command: str, *more: str, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Ended:
        """Run the command to its end."""
        return self.end(self.start(command, *more, env=env, prefix=prefix))

    def end(self, process: subprocess.Popen[bytes]) -> Ended:
        """Wait for the end of *process*."""
        out, err = process.communicate(timeout=PATIENCE)
        return Ended(process.returncode, out.decode(), err.decode())

    def each(self, *commands: str) -> list[Ended]:
        """Run several commands side by side."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self, commands))

    def here(self, command: str, *more: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run the command within this process: the same but for half a second to start Python.

        Modules that were imported before are not imported again, though their files have changed.
        """
        code = 0
        below = BytesIO()  # completions are written in bytes
        streams = redirect_stdout(TextIOWrapper(below, "utf-8")), redirect_stderr(StringIO())
        with chdir(self.folder), patch.dict(os.environ, env or {}), streams[0] as out, streams[1] as err:
            try:
                main([*shlex.split(command), *more])
            except SystemExit as exited:
                code = exited.code if isinstance(exited.code, int) else -1
        out.flush()
        return Ended(code, below.getvalue().decode(), err.getvalue())

    def together(self, commands: Sequence[str], *, env: Mapping[str, str]) -> list[Ended]:
        """Run several commands one after the other in one new process."""
        command = [sys.executable, "-W", "error", "-c", _TOGETHER, *commands]
        env = {**_environment(), **env}
        ended = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, timeout=PATIENCE)
        assert ended.returncode == 0, ended.stderr.decode()
        return [Ended(*each) for each in json.loads(ended.stdout)]

    def query(self, sql: str, *values: Any, db: str = "mdap.db") -> list[tuple[Any, ...]]:
        """Return the rows of a query over the database, asked as a stranger would."""
        path = (self.folder / db).as_uri()
        with closing(sqlite3.connect(f"{path}?mode=ro", uri=True, factory=CONNECTION)) as connection:
            return connection.execute(sql, values).fetchall()

    def stop(self) -> None:
        """Kill what is still there."""
        for process in self._started:
            if process.returncode is None:
                process.kill()
                process.communicate()


_TOGETHER = """
import json, sys
from pathlib import Path
from tests.acceptance.processes import Cli
ended = [Cli(Path()).here(command) for command in sys.argv[1:]]
print(json.dumps([(each.code, each.out, each.err) for each in ended]))
"""


def _environment() -> dict[str, str]:
    """Return the environment without keys, settings and proxies; fixtures of a module see the raw one."""
    ours = ("OPENAI_", "MDAP_", "PYTHON", "COLUMNS", "FORCE_COLOR", "NO_COLOR")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    }
