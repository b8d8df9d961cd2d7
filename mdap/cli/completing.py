"""What a shell may complete: tasks and their parameters, models, and runs."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from mdap.errors import MdapError
from mdap.journal.logfile import reading
from mdap.journal.statements import query
from mdap.plugins import PROVIDERS, TASKS, installed, load_task

COMPLETE: Final = "_MDAP_COMPLETE"
"""The variable by which a shell asks for completions."""

_MOST_RUNS: Final = 100


def tasks(context: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the names of installed tasks, and files."""
    return _files(begun) if _is_path(begun) else _named(installed(TASKS), begun)


def params(context: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete ``-p NAME=VALUE`` for a task that is installed; a file would have to be run for that."""
    # An option that still lacks its value keeps click from giving arguments their names.
    task = context.params.get("task") or next(iter(context.args), None)
    if task is None or task not in installed(TASKS):
        return []
    with suppress(MdapError):
        fields = load_task(task).model_fields
        name, equals, _ = begun.partition("=")
        if equals and name in fields:
            return _named((f"{name}={value}" for value in _choices(fields[name])), begun)
        return _named((f"{field}=" for field in fields), begun)
    return []


def models(context: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete a provider, or after its slash the models that the price list knows."""
    if _is_path(begun) and begun.partition("/")[0] not in installed(PROVIDERS):
        return _files(begun)
    vendor, slash, _ = begun.partition("/")
    if not slash:
        return _named(installed(PROVIDERS), begun)
    from genai_prices.data_snapshot import get_snapshot  # slow to import

    known = (listed for listed in get_snapshot().providers if listed.id == vendor)
    return _named((f"{vendor}/{model.id}" for listed in known for model in listed.models), begun)


def runs(context: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the ids of runs, the newest first."""
    path = context.params.get("db") or os.environ.get("MDAP_DB") or "mdap.db"
    with suppress(MdapError), reading(Path(path)) as log:
        return _named(["latest", *(row[0] for row in query(log, "names_of_runs", _MOST_RUNS))], begun)
    return []


def _is_path(begun: str) -> bool:
    return os.sep in begun or begun.startswith(".") or ".py" in begun


def _files(begun: str) -> list[CompletionItem]:
    return [CompletionItem(begun, type="file")]


def _named(names: Iterable[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def _choices(field: FieldInfo) -> list[Any]:
    """Return the values of a parameter that has few: of a literal, an enumeration, or a truth."""
    schema = TypeAdapter(field.annotation or Any).json_schema()
    if schema.get("type") == "boolean":
        return ["true", "false"]
    return [value for value in schema.get("enum", []) if isinstance(value, str | int)]
