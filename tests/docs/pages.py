"""A page of the documentation as a list of blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "Block", "blocks_of", "pages"]

ROOT: Final = Path(__file__).parents[2]

_FENCE: Final = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<rest>.*)$")
_TITLE: Final = re.compile(r'title="([^"]+)"')
_COMMENT: Final = re.compile(r"^<!-- (?P<what>not run|interrupted|varies|before)(?:: (?P<why>.+))? -->$")
_SNIPPET: Final = re.compile(r'^ *--8<-- "([^"]+)"$')


@dataclass(slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it stands.
        line: the line of its first fence, from 1.
        language: what the fence says it is.
        text: what it holds, its snippets included.
        title: the file that it is; empty for none.
        section: how many headings stand before it.
        said: what the comments in front of it say, such as ``not run`` and why.
        raw: how many lines it has on the page.
    """

    page: Path
    line: int
    language: str
    text: str
    title: str = ""
    section: int = 0
    said: dict[str, str] = field(default_factory=dict)
    raw: int = 0

    @property
    def where(self) -> str:
        """Its place, for a person."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page, the README first."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of *page* in order."""
    blocks: list[Block] = []
    said: dict[str, str] = {}
    section = 0
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        fence = _FENCE.match(line)
        comment = _COMMENT.match(line.strip())
        if fence:
            body = _body(lines, fence["indent"])
            title = _TITLE.search(fence["rest"])
            name = title[1] if title else ""
            text = "".join(f"{part}\n" for part in _with_snippets(body))
            blocks.append(Block(page, number, fence["language"], text, name, section, said, len(body)))
            said = {}
        elif comment:
            said = {**said, comment["what"]: comment["why"] or ""}
        elif line.startswith("#"):
            section += 1
        elif line.strip() and not line.startswith("<!--"):
            said = {}
    return blocks


def _body(lines: Iterator[tuple[int, str]], indent: str) -> list[str]:
    body: list[str] = []
    for _, line in lines:
        if line.startswith(f"{indent}```"):
            return body
        body.append(line.removeprefix(indent))
    raise ValueError("a block is not closed")


def _with_snippets(body: list[str]) -> list[str]:
    whole: list[str] = []
    for line in body:
        snippet = _SNIPPET.match(line)
        whole += (ROOT / snippet[1]).read_text(encoding="utf-8").splitlines() if snippet else [line]
    return whole
