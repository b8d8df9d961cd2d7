"""Keep the option tables of reference/cli.md in step with the command line itself.

MkDocs calls `on_page_markdown`; where a table is stale it warns, and so ``mkdocs build --strict`` fails.
``python docs/hooks.py`` writes the tables anew.
"""

import logging
import re
from pathlib import Path
from typing import Any, Final

import click

from mdap.cli.main import cli

PAGE: Final = Path(__file__).parent / "reference" / "cli.md"
TABLE: Final = re.compile(r"<!-- options: ([\w ]+) -->\n.*?<!-- end -->", re.DOTALL)

_log = logging.getLogger("mkdocs.hooks.cli")


def fresh(text: str) -> str:
    """Return *text* with each table between its two comments written anew."""
    return TABLE.sub(lambda found: f"<!-- options: {found[1]} -->\n{_table(found[1])}\n<!-- end -->", text)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> None:
    """Warn if the page of the command line is stale, or leaves a command out."""
    if page.file.src_uri != "reference/cli.md":
        return
    if fresh(markdown) != markdown:
        _log.warning("reference/cli.md is stale: run `python docs/hooks.py`")
    missing = set(_commands(cli)) - {found[1] for found in TABLE.finditer(markdown)}
    if missing:
        _log.warning("reference/cli.md leaves out: %s", ", ".join(sorted(missing)))


def _commands(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Return the commands of *group* and of the groups in it by name, as one types it."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        inner = _commands(command, f"{before}{name} ") if isinstance(command, click.Group) else {}
        found.update(inner or {f"{before}{name}": command})
    return found


def _table(command: str) -> str:
    options = [option for option in _commands(cli)[command].params if isinstance(option, click.Option)]
    rows = [f"| {_usage(option)} | {_default(option)} | {option.help or ''} |" for option in options]
    return "\n".join(["", "| option | default | what it does |", "|---|---|---|", *rows, ""])


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    return f"`{option.default}`" if option.show_default else ""


def _usage(option: click.Option) -> str:
    value = "" if option.is_flag else f" {_value(option)}"
    return ", ".join(f"`{name}{value}`" for name in option.opts)


def _value(option: click.Option) -> str:
    # No bar may stand in a cell, not even as code.
    if option.metavar:
        return option.metavar.replace("|", " or ")
    if isinstance(option.type, click.Choice):
        return " or ".join(str(choice) for choice in option.type.choices)
    return "X" if "float" in option.type.name else "N"


if __name__ == "__main__":
    PAGE.write_text(fresh(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
