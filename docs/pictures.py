"""Take the pictures of the documentation: ``python docs/pictures.py`` writes docs/images.

That of a run in a terminal, and, with the extra ``mdap[browser]`` and a Chromium, those of the viewer and of
a report, of the runs that docs/how-to/look-at-a-run.md shows; ``python docs/pictures.py viewer`` takes only
these.
"""

import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
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
IMAGES: Final = Path(__file__).parent / "images"


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


PRICES: Final = {"sim": {"input": 0.4, "output": 1.6, "cached_input": 0.1}}
RUNS: Final = (
    "hanoi -p disks=12 -M error_rate=0.03 -M flag_rate=0.01 -M latency=0.02 --prices prices.json "
    "--run-id tower",
    "hanoi -p disks=6 -M error_rate=0.1 -M flag_rate=0.05 -M latency=0.1 -M fault_rate=0.3 --run-id faulty",
    "hanoi -p disks=6 -k 1 -M error_rate=0.1 -M latency=0.01 --run-id one-vote",
)
STEP: Final = 332  # decided by 4 votes to 1, with a red flag
PAGES: Final = {
    # name: path, width, height, colours
    "viewer-run": ("/runs/1", 1180, 1010, "light"),
    "viewer-run-dark": ("/runs/1", 1180, 1010, "dark"),
    "viewer-phone": ("/runs/1", 390, 844, "light"),
    "viewer-steps": ("/runs/1/steps?show=divided", 1180, 620, "light"),
    "viewer-step": ("/runs/1/steps/{step}", 1180, 1000, "light"),
    "viewer-step-dark": ("/runs/1/steps/{step}", 1180, 1000, "dark"),
    "viewer-timeline": ("/runs/2/timeline", 1180, 1240, "light"),
    "viewer-timeline-dark": ("/runs/2/timeline", 1180, 1240, "dark"),
    "viewer-compare": ("/compare?a=faulty&b=one-vote", 1180, 1180, "light"),
}


def pages(folder: Path) -> None:
    """Take the pictures of the viewer and of a report."""
    from playwright.sync_api import sync_playwright

    (folder / "prices.json").write_text(json.dumps(PRICES))
    for one in RUNS:
        mdap(folder, f"run {one} --display none").wait()
    mdap(folder, "audit report tower -o report.html").wait()
    with mdap(folder, "serve --port 0", stdout=subprocess.PIPE) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = re.findall(r"http://[\d.:]+", server.stdout.readline())[0]
        installed = next(
            (path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None
        )
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        for name, (path, width, height, colours) in PAGES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if colours == "dark" else "light",
            )
            page.goto(address + path.format(step=STEP))
            while page.locator("[data-wait]").count():  # until all is counted
                page.reload()
            page.evaluate("document.querySelector('.database').textContent = 'mdap.db'")
            page.screenshot(path=IMAGES / f"{name}.png")
        page = browser.new_page(viewport={"width": 1000, "height": 1150})
        page.goto((folder / "report.html").as_uri())
        page.screenshot(path=IMAGES / "report.png")
        browser.close()
        server.terminate()


def mdap(folder: Path, command: str, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """Start a command of mdap."""
    line = [sys.executable, "-m", "mdap", *command.split()]
    return subprocess.Popen(line, cwd=folder, stdout=stdout, text=True)


def main() -> None:
    if "viewer" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            pages(Path(folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        seen = last_screen(taken(COMMAND, folder)).replace(folder, "/home/ada/mdap")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(Text.from_ansi(f"\x1b[1m$ {COMMAND}\x1b[0m\n{seen}"), soft_wrap=False, crop=True)
    console.save_svg(str(IMAGES / "run.svg"), title="mdap")
    with tempfile.TemporaryDirectory() as folder:
        pages(Path(folder))


if __name__ == "__main__":
    main()
