"""Keep the tables of the reference in step with the code: options, settings, events, errors, schema.

MkDocs calls `on_page_markdown`; where a table is stale it warns, and so ``mkdocs build --strict`` fails.
``python docs/hooks.py`` writes the tables anew.
"""

import logging
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
sys.path.insert(0, str(HERE))

from tables import TABLE, commands, fresh  # noqa: E402

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
    """Write the tables of all pages anew."""
    for page in sorted(HERE.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(fresh(text), encoding="utf-8")


if __name__ == "__main__":
    main()
