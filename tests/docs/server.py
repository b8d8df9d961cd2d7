"""The fork server: every command of the documentation runs in a fork of a process that has all imported."""

import importlib
import os
import runpy
import signal
import socket
import sqlite3
import sys
import threading
import tomllib
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["boxed", "serve"]

_NEEDED: Final = (
    "aiohttp",
    "mdap.audit",
    "mdap.cli.main",
    "mdap.session.replay",
    "mdap.providers.openai",
    "mdap.testing",
    "openai",
    "pytest",
    "scipy.special",
    "scipy.stats",
)


def serve(path: Path) -> None:
    """Answer commands on the socket *path* until it is gone; called in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(16)
        os.write(1, b"listening\n")
        _import_all()
        while True:
            client, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _run(client)
            client.close()


def _import_all() -> None:
    for name in _NEEDED:
        importlib.import_module(name)


def _run(client: socket.socket) -> None:
    head, fds, _, _ = socket.recv_fds(client, 4, 3)
    cwd, words = _read(client, int.from_bytes(head, "big"))
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(cwd)
    sys.path.insert(1, os.environ["PYTHONPATH"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    threading.Thread(target=_watch, args=(client,), daemon=True).start()
    code = _command(words)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        client.send(bytes([code & 255]))
    os._exit(code)


def _read(client: socket.socket, size: int) -> tuple[str, list[str]]:
    message = b""
    while len(message) < size:
        message += client.recv(size - len(message))
    cwd, count, *rest = message.decode().split("\0")
    os.environ.clear()
    for pair in rest[int(count) :]:
        key, _, value = pair.partition("=")
        os.environ[key] = value
    return cwd, rest[: int(count)]


def _watch(client: socket.socket) -> None:
    while True:
        got = client.recv(1)
        os.kill(os.getpid(), got[0] if got else signal.SIGKILL)


def _command(words: list[str]) -> int:
    name, *arguments = words
    try:
        if name == "mdap":
            from mdap.cli.main import main

            main(arguments)
        elif name == "pytest":
            import pytest

            quiet = ["-p", "no:cacheprovider", "-W", "ignore:Module already imported"]
            return int(pytest.main([*arguments, *quiet]))
        elif name == "pip":
            if arguments[-1].startswith("."):
                _install(arguments[-1].partition("[")[0])
        elif name == "sqlite3":
            return _sqlite3(arguments)
        else:
            sys.argv[:] = arguments
            sys.path[0] = str(Path(arguments[0]).parent.absolute())
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _install(project: str) -> None:
    """Let *project* be found as if it were installed for editing: what it needs is there already."""
    told = tomllib.loads(Path(project, "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = Path(os.environ["PYTHONPATH"])
    about = site / f"{told['name']}-{told['version']}.dist-info"
    about.mkdir(parents=True)
    lines = [f"Name: {told['name']}", f"Version: {told['version']}", ""]
    (about / "METADATA").write_text("\n".join(lines), encoding="utf-8")
    points: list[str] = []
    for group, them in told["entry-points"].items():
        points += [f"[{group}]", *(f"{name} = {at}" for name, at in them.items()), ""]
    (about / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")
    package = Path(project).name
    (site / package).symlink_to(Path(project, "src", package).absolute())


def _sqlite3(arguments: list[str]) -> int:
    options = [word for word in arguments if word.startswith("-")]
    path, *statements = [word for word in arguments if not word.startswith("-")]
    mode = "ro" if "-readonly" in options else "rw"
    log = sqlite3.connect(f"file:{path}?mode={mode}", uri=True)
    try:
        for statement in statements:
            sys.stdout.write(boxed(log.execute(statement)))
        log.commit()
    except sqlite3.Error as error:
        sys.stderr.write(f"Error: stepping, {error} (19)\n")
        return 1
    return 0


def boxed(cursor: sqlite3.Cursor) -> str:
    """Return the rows of *cursor* as ``sqlite3 -box`` draws them; nothing for none."""
    rows = [[_cell(value) for value in row] for row in cursor]
    if not rows or cursor.description is None:
        return ""
    names = [column[0] for column in cursor.description]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * (width + 2) for width in widths) + right

    def line(cells: list[str]) -> str:
        return "│" + "│".join(f" {c.ljust(w)} " for c, w in zip(cells, widths, strict=True)) + "│"

    head = [name.center(width) if (width - len(name)) % 2 == 0 else _left(name, width)
            for name, width in zip(names, widths, strict=True)]  # fmt: skip
    drawn = [rule("┌", "┬", "┐"), line(head), rule("├", "┼", "┤"), *map(line, rows), rule("└", "┴", "┘")]
    return "\n".join(drawn) + "\n"


def _left(name: str, width: int) -> str:
    before = (width - len(name)) // 2
    return " " * before + name + " " * (width - len(name) - before)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = format(value, ".15g")
        return text if set(text) & set(".e") else f"{text}.0"
    return str(value)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
