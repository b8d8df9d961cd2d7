"""SQL lives in files; this reads them."""

from functools import cache
from importlib.resources import files
from typing import Final

__all__ = ["KEPT", "migrations", "statements"]

KEPT: Final = 64
"""How many prepared statements are kept: all that a writer has, in all their sizes."""

_MARK: Final = "-- name:"


@cache
def statements(file: str) -> dict[str, str]:
    """Return the statements of ``sql/<file>.sql`` by the names on their ``-- name:`` lines."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in _text(f"{file}.sql").splitlines():
        if line.startswith(_MARK):
            name = line.removeprefix(_MARK).strip()
            found[name] = []
        elif name:
            found[name].append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


@cache
def migrations() -> dict[int, list[str]]:
    """Return each migration's statements by its number, which is the schema version it leads to."""
    folder = files("mdap.journal") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name[:4].isdigit())
    return {int(name[:4]): _split(_text(name)) for name in names}


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n;\n") if part.strip()]


def _text(name: str) -> str:
    return (files("mdap.journal") / "sql" / name).read_text(encoding="utf-8")
