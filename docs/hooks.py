"""Keep the tables of the reference in step with the code: options, settings, events, errors, schema.

MkDocs calls `on_page_markdown`; where a table is stale it warns, and so ``mkdocs build --strict`` fails.
``python docs/hooks.py`` writes the tables anew.
"""

import logging
import re
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
sys.path.insert(0, str(HERE))

from tables import TABLE, commands, fresh  # noqa: E402 - it stands beside this file, which is looked at only now

SITE: Final = "https://mdap.readthedocs.io/en/latest"
PARTS: Final = {
    "tutorial": "Tutorials",
    "how-to": "How to",
    "explanation": "Explanation",
    "reference": "Reference",
}
# What a program that writes code for mdap gets wrong most easily.
RULES: Final = (
    "Rules for code that uses it:",
    "",
    "- A parser raises `mdap.RedFlag` and nothing else, for any text; it repairs nothing.",
    "- `start`, `step`, `advance`, `guess` and parsers are pure; a process acts through `ask.once`.",
    "- Answers are compared as canonical JSON: give each one spelling, with `Task.canonical` where need be.",
    "- Give `run_id=` to make a run resumable by the same call; a finished run is returned as it is.",
    "- `mdap.solve_sync` is for scripts; inside an event loop use `async with mdap.Session(...)`.",
    "- Raise a task's class variable `version` with any change to its prompts, parser or rules.",
    "- Test with `model='sim'` (needs `oracle`, `mistakes`, `render`) and `mdap.testing.check_task`.",
)

_log = logging.getLogger("mkdocs.hooks.tables")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> None:
    """Warn if a table is stale, or the page of the command line leaves a command out."""
    at = page.file.src_uri
    if fresh(markdown) != markdown:
        _log.warning("%s is stale: run `python docs/hooks.py`", at)
    if at == "reference/cli.md":
        missing = set(commands()) - {found[2] for found in TABLE.finditer(markdown)}
        if missing:
            _log.warning("%s leaves out: %s", at, ", ".join(sorted(missing)))


def main() -> None:
    """Write the tables of all pages, and the list of pages for language models, anew."""
    for page in sorted(HERE.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(fresh(text), encoding="utf-8")
    (HERE / "llms.txt").write_text(listed(), encoding="utf-8")


def listed() -> str:
    """Return `llms.txt`: what the library is, and every page with what it is about."""
    lines = ["# mdap", "", f"> {_about(HERE / 'index.md')}", "", *RULES]
    for part, title in PARTS.items():
        lines += ["", f"## {title}", ""]
        for page in sorted((HERE / part).glob("*.md")):
            heading = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            name = heading[1] if heading else page.stem.capitalize()
            lines.append(f"- [{name}]({SITE}/{part}/{page.stem}/): {_about(page)}")
    return "\n".join(lines) + f"\n\n[Contributing]({SITE}/contributing/)\n"


def _about(page: Path) -> str:
    found = re.match(r"---\ndescription: (.+)\n", page.read_text(encoding="utf-8"))
    return found[1] if found else ""


if __name__ == "__main__":
    main()
