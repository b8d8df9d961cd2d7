"""Follow a page, and say where it is not as it says: ``python -m tests.docs.follow [--rewrite] PAGE...``.

With ``--rewrite``, outputs that have gone stale are written anew, as they were just taken.
"""

import sys
import tempfile
from pathlib import Path

from tests.docs.masking import shows, without_progress
from tests.docs.pages import Block, blocks_of
from tests.docs.reader import Commands, Reader

__all__ = ["follow"]


def follow(page: Path, folder: Path, commands: Commands) -> list[tuple[Block, str, str]]:
    """Return each block of *page* that fails, with what is wrong and what was printed instead."""
    wrong: list[tuple[Block, str, str]] = []
    reader = Reader(folder, commands)
    try:
        last: tuple[Block, int, str] | None = None
        shown = True
        for block in blocks_of(page):
            if "not run" in block.said:
                if not block.said["not run"]:
                    wrong.append((block, "is not run, and does not say why", ""))
                continue
            if block.language == "text":
                if last is not None and last[0].section == block.section:
                    shown = True
                    if not shows(last[2], block.text, varies=block.said.get("varies", "")):
                        wrong.append((block, f"is not what {last[0].where} printed", last[2]))
                continue
            _complain(last, wrong, shown=shown)
            try:
                done = reader.follow(block)
            except Exception as error:
                wrong.append((block, f"{type(error).__name__}: {error}", ""))
                done = None
            if done is not None:
                last, shown = (block, *done), False
        _complain(last, wrong, shown=shown)
    finally:
        reader.close()
    return wrong


def _complain(
    last: tuple[Block, int, str] | None, wrong: list[tuple[Block, str, str]], *, shown: bool
) -> None:
    # A command may fail where the page shows how.
    if last is not None and last[1] != 0 and not shown:
        wrong.append((last[0], f"ended with {last[1]}", last[2]))


def _rewrite(page: Path, wrong: list[tuple[Block, str, str]], folder: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    for block, what, printed in sorted(wrong, key=lambda one: -one[0].line):
        if block.language == "text" and what.startswith("is not what"):
            lines[block.line : block.line + block.raw] = (
                without_progress(printed).replace(str(folder), "/home/ada/mdap").rstrip("\n").splitlines()
            )
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Follow the pages named in *arguments*; return how many blocks failed."""
    rewrite = "--rewrite" in arguments
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        commands = Commands(Path(place))
        for number, name in enumerate(word for word in arguments if not word.startswith("--")):
            folder = Path(place) / f"{number}" / "mdap"
            folder.mkdir(parents=True)
            page = Path(name).absolute()
            wrong = follow(page, folder, commands)
            failed += len(wrong)
            for block, what, printed in wrong:
                sys.stdout.write(f"{block.where} {what}\n{printed}\n")
            if rewrite:
                _rewrite(page, wrong, folder)
        commands.close()
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
