"""A reader who follows a page: writes its files, types its commands, runs its Python, asks its SQL."""

import ast
import asyncio
import inspect
import io
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Final

from tests.docs.masking import is_progress
from tests.docs.pages import ROOT, Block
from tests.docs.server import boxed

__all__ = ["Commands", "Reader"]

SITE: Final = ".site"
_END: Final = "--- the block is done"
_HERE: Final = Path(__file__).parent
# What a reader installs is there already.
_INSTALL: Final = re.compile(r"python3 -m venv \S+ && \S+/pip install [^&\n]+ && \S+/bin/")


class Commands:
    """The commands a reader has: a fork server, and a folder for PATH whose commands ask it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._socket = folder / "server"
        shim = f"#!{sys.executable} -ISE\n" + (_HERE / "shim.py").read_text(encoding="utf-8")
        for name in ("mdap", "python", "pytest", "sqlite3", "pip"):
            (self.bin / name).write_text(shim, encoding="utf-8")
            (self.bin / name).chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.docs.server", str(self._socket)],
            cwd=_HERE.parents[1],
            stdout=subprocess.PIPE,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline(), "the fork server died"

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a reader who lives at *home*."""
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("MDAP_", "OPENAI_"))
        }
        path = os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), mine.get("PATH", "")])
        own = {
            "HOME": str(home),
            "PYTHONPATH": str(home / SITE),
            "PATH": path,
            "COLUMNS": "110",
            "USER": "ada",
            "LOGNAME": "ada",
        }
        docs = {"DOCS_SERVER": str(self._socket), "DOCS_PYTHON": sys.executable, "NO_COLOR": "1"}
        return {**mine, **own, **docs}

    def close(self) -> None:
        """End the server."""
        self._server.kill()
        self._server.communicate()


class Reader:
    """One who follows a page in *folder*.

    Args:
        folder: where its files and databases come to lie.
        commands: what can be typed.
    """

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder = folder
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=commands.environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        # A module of its own, since dataclasses and pydantic look their fields' types up in it.
        self._module = sys.modules["page"] = ModuleType("page")

    def close(self) -> None:
        """End what the page left running."""
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]
        for stream in (self._bash.stdin, self._bash.stdout):
            if stream is not None:
                stream.close()

    def follow(self, block: Block) -> tuple[int, str] | None:
        """Do what *block* says; return exit code and output, or None if it is nothing to do."""
        if "before" in block.said:
            code, printed = self._type(
                replace(block, text=block.said["before"].replace("DOCS", str(ROOT / "docs")), said={})
            )
            assert code == 0, printed
        if block.title:
            self._write(block)
            return None
        doing: dict[str, Callable[[Block], tuple[int, str]]] = {
            "sh": self._type,
            "python": self._execute,
            "sql": self._ask,
        }
        return doing[block.language](block) if block.language in doing else None

    def _write(self, block: Block) -> None:
        path = self.folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        if block.text.startswith("    ") and path.suffix == ".py":
            path.write_text(_with_methods(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
        else:
            path.write_text(block.text, encoding="utf-8")

    def _type(self, block: Block) -> tuple[int, str]:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{_INSTALL.sub('', block.text)}\nprintf '\\n%s %d\\n' '{_END}' $?\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if line.startswith(_END):
                return int(line.removeprefix(_END)), "".join(lines).removesuffix("\n")
            lines.append(line)
            if "interrupted" in block.said and is_progress(line):
                self._interrupt()
        raise AssertionError(f"{block.where}: the shell ended")

    def _interrupt(self) -> None:
        children = Path(f"/proc/{self._bash.pid}/task/{self._bash.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGINT)

    def _execute(self, block: Block) -> tuple[int, str]:
        printed = io.StringIO()
        before = Path.cwd()
        os.chdir(self.folder)
        own = [str(self.folder), str(self.folder / SITE)]
        sys.path[:0] = own
        try:
            with redirect_stdout(printed):
                code = compile(block.text, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                coroutine = eval(code, self._module.__dict__)
                if inspect.iscoroutine(coroutine):
                    asyncio.run(coroutine)
        finally:
            os.chdir(before)
            del sys.path[: len(own)]
        return 0, printed.getvalue()

    def _ask(self, block: Block) -> tuple[int, str]:
        log = sqlite3.connect(f"file:{self.folder / 'mdap.db'}?mode=ro", uri=True)
        try:
            return 0, boxed(log.execute(block.text.strip().removesuffix(";")))
        finally:
            log.close()


def _with_methods(module: str, methods: str) -> str:
    """Return *module* with *methods* in its last class, in place of those of the same name."""
    lines = module.splitlines()
    into = [node for node in ast.parse(module).body if isinstance(node, ast.ClassDef)][-1]
    named = {
        node.name for node in ast.parse(textwrap.dedent(methods)).body if isinstance(node, ast.FunctionDef)
    }
    old = [node for node in into.body if isinstance(node, ast.FunctionDef) and node.name in named]
    lines.insert(into.end_lineno or 0, "\n" + methods.rstrip())
    for node in sorted(old, key=lambda node: -node.lineno):
        del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines) + "\n"
