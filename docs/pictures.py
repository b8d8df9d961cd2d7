"""Take the picture of a run in a terminal: ``python docs/pictures.py`` writes docs/images/run.svg."""

import io
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

COMMAND: Final = "mdap run hanoi -p disks=10 -M latency=0.01 --run-id tower"
COLUMNS: Final = 92


def taken(command: str, folder: str) -> str:
    """Return what *command* writes to a terminal, with its control sequences."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        program = str(Path(sys.executable).parent / "mdap")
        os.execve(program, command.split(), {**os.environ, "TERM": "xterm-256color"})
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
    seen = b""
    try:
        while piece := os.read(terminal, 65536):
            seen += piece
    except OSError:
        pass  # the terminal is gone: the command has ended
    os.waitpid(child, 0)
    return seen.decode()


def last_screen(seen: str) -> str:
    """Return what stands on the screen at the end: of each line, what was written over it last."""
    lines = [line.rstrip("\r").rpartition("\r\x1b[2K")[2] for line in seen.split("\n")]
    return re.sub(r"\x1b\[\?\d+[hl]", "", "\n".join(lines)).rstrip()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = last_screen(taken(COMMAND, folder)).replace(folder, "/home/ada/mdap")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(Text.from_ansi(f"\x1b[1m$ {COMMAND}\x1b[0m\n{seen}"), soft_wrap=False, crop=True)
    console.save_svg(str(Path(__file__).parent / "images" / "run.svg"), title="mdap")


if __name__ == "__main__":
    main()
