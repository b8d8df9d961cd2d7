"""SQL lives in files; this reads them."""

from functools import cache
from importlib.resources import files
from typing import Final

from mdap.logfile import PROMPTS, SAMPLE, TEXTS
from mdap.records import SAMPLE_COLUMNS

__all__ = ["KEPT", "migrations", "statements"]

KEPT: Final = 80
"""How many prepared statements are kept: all that a writer has, in all their sizes."""

_MARK: Final = "-- name:"

# Python takes more than ten times as long to bind None as 0: columns that are often NULL are bound as 0.
_OFTEN_NULL: Final = (
    "flag_reason",
    "request_id",
    "served_model",
    "fingerprint",
    "reasoning_tokens",
    "reasoning",
)


def _value(place: int, name: str) -> str:
    """Return what a sample's column number *place*, from 1, is in a statement that writes it."""
    column = f"column{place}"
    if name in _OFTEN_NULL:
        column = f"nullif({column}, 0)"
    return f"(SELECT id FROM texts WHERE digest = {column})" if name in ("text", "reasoning") else column


_LAST: Final = (
    "(SELECT {} FROM run_events e WHERE e.run = r.id AND e.kind IN "
    "('started', 'resumed', 'finished', 'undecided', 'stopped', 'failed') ORDER BY e.id DESC LIMIT 1) AS {}"
)
_CAUSE: Final = "CASE WHEN json_valid(data) THEN data->>'stop_cause' END"
_WORDS: Final = {
    "{standing}": f"{_LAST.format('kind', 'last_event')}, {_LAST.format(_CAUSE, 'stop_cause')}",
    "{columns}": ", ".join(SAMPLE_COLUMNS),
    "{values}": ", ".join(_value(place, name) for place, name in enumerate(SAMPLE_COLUMNS, start=1)),
    "{marks}": ", ".join("?" for _ in SAMPLE_COLUMNS),
    "{voided}": ", ".join(
        {"counted": "NULL", "verdict": "'void'"}.get(name, name) for name in SAMPLE_COLUMNS
    ),
    "{sample}": SAMPLE,
    "{texts}": TEXTS,
    "{prompts}": PROMPTS,
}


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
    return {name: _filled("\n".join(lines).strip()) for name, lines in found.items()}


def _filled(statement: str) -> str:
    for word, sql in _WORDS.items():
        statement = statement.replace(word, sql)
    return statement


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
