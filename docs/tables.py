"""The tables of the reference that are written from the code: options, settings, events, errors, schema."""

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from pydantic import BaseModel

from mdap import errors
from mdap.cli.main import cli
from mdap.cli.options import sampling_options
from mdap.cli.output import Exit, exit_code_of
from mdap.records import EVENTS

EVERYWHERE: Final = {
    "id": "INTEGER PRIMARY KEY",
    "run": "INTEGER REFERENCES runs(id)",
    "step": "INTEGER",
    "opening": "INTEGER",
    "at": "TEXT (default: now)",
}
"""Columns whose types the page of the schema says once, at its beginning."""

SQL: Final = Path(__file__).parents[1] / "mdap" / "journal" / "sql"
TABLE: Final = re.compile(
    r"<!-- (options|fields|events|errors|exits|schema)(?:: ([\w. ]+))? -->\n.*?<!-- end -->", re.DOTALL
)


def fresh(text: str) -> str:
    """Return *text* with each table between its two comments written anew."""
    return TABLE.sub(_fresh, text)


def _fresh(found: "re.Match[str]") -> str:
    of = f": {found[2]}" if found[2] else ""
    return f"<!-- {found[1]}{of} -->\n\n{_MAKERS[found[1]](found[2])}\n\n<!-- end -->"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    names = list(head)
    # No bar may stand in a cell, not even as code.
    lines = ["| " + " | ".join(cell.replace(" | ", ", ") for cell in line) + " |" for line in [names, *rows]]
    return "\n".join([lines[0], "|---" * len(names) + "|", *lines[1:]])


# -- the command line ------------------------------------------------------------------------------


def commands(group: click.Group = cli, before: str = "") -> dict[str, click.Command]:
    """Return the commands of *group* and of the groups in it by name, as one types it."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = commands(command, f"{before}{name} ") if isinstance(command, click.Group) else {}
        found.update(inner or {f"{before}{name}": command})
    return found


def _options(name: str) -> str:
    """Return the table of a command's own options; a line below it links to the others."""
    if name in SHARED:
        return table(("option", "meaning"), SHARED[name]().values())
    own, also = _rows(name), []
    for group, rows in SHARED.items():
        if shared := [option for option, row in rows().items() if own.get(option) == row]:
            listed = f"{group} options" if shared == [*rows()] else _listed(shared)
            also.append(f"[{listed}](#{group}-options)")
            own = {option: row for option, row in own.items() if option not in shared}
    if of_run := [option for option, row in own.items() if name != "run" and row == _rows("run").get(option)]:
        also.append(f"{_listed(of_run)} of [`mdap run`](#mdap-run-task)")
        own = {option: row for option, row in own.items() if option not in of_run}
    parts = [table(("option", "meaning"), own.values())] if own else []
    return "\n\n".join([*parts, f"Also {', '.join(also)}."] if also else parts)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _rows(command: str) -> dict[str, tuple[str, str]]:
    return _described(commands()[command].params)


def _described(params: Iterable[click.Parameter]) -> dict[str, tuple[str, str]]:
    options = [param for param in params if isinstance(param, click.Option)]
    return {option.opts[-1]: (_usage(option), _meaning(option)) for option in options}


@cache
def _sampling() -> dict[str, tuple[str, str]]:
    """Return the options of the commands that take samples; ``--db`` is common to others."""
    rows = _described(reversed(sampling_options(lambda: None).__click_params__))
    return {name: row for name, row in rows.items() if name != "--db"}


@cache
def _common() -> dict[str, tuple[str, str]]:
    """Return the options that three or more commands have alike."""
    every = [row for command in commands() for row in _rows(command).items()]
    often = Counter(every)
    return {name: row for name, row in every if often[name, row] > 2 and name not in _sampling()}


SHARED: Final = {"sampling": _sampling, "common": _common}
"""The options that several commands share, by the name of their section on the page."""


def _meaning(option: click.Option) -> str:
    default = option.show_default if isinstance(option.show_default, str) else option.default
    return f"{option.help or ''} [default: {default}]" if option.show_default else option.help or ""


def _usage(option: click.Option) -> str:
    *short, long = option.opts
    return _listed([*short, long if option.is_flag else f"{long} {_value(option)}"])


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar.replace("|", " or ")
    if isinstance(option.type, click.Choice):
        return " or ".join(str(choice) for choice in option.type.choices)
    return "X" if "float" in option.type.name else "N"


def _exits(_: str | None) -> str:
    meanings = described(Exit)
    return table(("code", "meaning"), [(str(int(code)), meanings[code.name]) for code in Exit])


# -- settings --------------------------------------------------------------------------------------


def _fields(path: str) -> str:
    module, _, name = path.rpartition(".")
    model: type[BaseModel] = getattr(importlib.import_module(module), name)
    meanings = {key: text for base in reversed(model.__mro__) for key, text in described(base).items()}
    rows = [
        (f"`{key}: {_type(field.annotation)}{_given(field)}`", meanings.get(key, ""))
        for key, field in model.model_fields.items()
        if key in model.__annotations__  # inherited ones are in the table of the base
    ]
    return table(("setting", "meaning"), rows)


def _given(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required() or value is None:
        return ""
    return f" = {str(value)!r}" if isinstance(value, str) else f" = {value}"


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"typing\.|mdap\.\w+\.|, FieldInfo\(.*?\)\]\)", "", text)
    text = re.sub(r"Annotated\[(\w+)[^\]]*\]", r"\1", text)
    return re.sub(r"\s*\|\s*", " or ", text)


def described(documented: type) -> dict[str, str]:
    """Return what the section `Attributes` of a docstring says of each name."""
    section = re.search(
        r"^Attributes:\n((?:    .*\n?|\n)+)", inspect.cleandoc(documented.__doc__ or ""), re.M
    )
    found: dict[str, str] = {}
    for line in (section[1] if section else "").splitlines():
        name, colon, rest = line.strip().partition(":")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            found[last := name] = rest.strip()
        elif line.strip():
            found[last] += f" {line.strip()}"
    return {name: text[:1].upper() + text[1:] for name, text in found.items()}


# -- events, errors --------------------------------------------------------------------------------


def _events(_: str | None) -> str:
    return table(("kind", "what happened", "data"), [(f"`{kind}`", *about) for kind, about in EVENTS.items()])


def _errors(_: str | None) -> str:
    rows = []
    for name in errors.__all__:
        error = getattr(errors, name)
        bare = error.__new__(error)
        summary = (error.__doc__ or "").partition("\n")[0].removeprefix("Raised when ")
        summary = summary[:1].upper() + summary[1:]
        rows.append((f"`{name}`", f"`{error.__base__.__name__}`", summary, str(int(exit_code_of(bare)))))
    return table(("error", "is a", "meaning", "exit code"), rows)


# -- the schema ------------------------------------------------------------------------------------


def _schema(_: str | None) -> str:
    parts: dict[str, _Part] = {}
    for file in sorted(SQL.glob("[0-9]*.sql")):
        for statement in file.read_text(encoding="utf-8").split("\n;\n"):
            if found := re.search(r"^CREATE (?:TABLE|VIEW) (\w+)", statement, re.M):
                parts[found[1]] = _part(statement)
            elif found := re.search(r"^ALTER TABLE (\w+) ADD COLUMN (\w+) (.+)", statement, re.M):
                comment = " ".join(re.findall(r"^-- (.+)", statement, re.M))
                parts[found[1]].columns.append((found[2], _kind(found[3]), comment))
    return "\n\n".join(_shown(name, part, parts) for name, part in parts.items())


class _Part(NamedTuple):
    """A table or a view: its comment, its columns as name, type and comment, and its keys."""

    comment: str
    columns: list[tuple[str, str, str]]
    keys: list[str]


def _part(statement: str) -> _Part:
    lines = statement.strip().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("CREATE"))
    comment = " ".join(line.removeprefix("--").strip() for line in lines[:start] if line.startswith("--"))
    comment = comment.partition("need no parsing. ")[2] or comment
    if lines[start].startswith("CREATE VIEW"):
        names = _columns_of_view(" ".join(lines[start + 1 :]))
        return _Part(f"A view. {comment}", [(name, "", "") for name in names], [])
    return _Part(comment, *_columns(lines[start + 1 :]))


def _shown(name: str, part: _Part, parts: dict[str, _Part]) -> str:
    told = [(f"`{column}` {kind}", meaning) for column, kind, meaning in part.columns if meaning]
    untold: dict[str, list[str]] = {}
    for column, kind, meaning in part.columns:
        if not meaning:
            untold.setdefault("" if EVERYWHERE.get(column) == kind else kind, []).append(column)
    others = "; ".join(f"{_listed(columns)} {kind}".strip() for kind, columns in untold.items())
    if not told:
        names = [column for column, *_ in part.columns]
        alike = [other for other in parts if names == [key for key, *_ in parts[other].columns]]
        others = f"Columns: {_listed(names)}."
        if alike[0] != name:
            others = f"The columns of `{alike[0]}`, without their constraints."
    elif others:
        others = f"Also {others}."
    paragraphs = [
        f"### {name}",
        part.comment,
        *([table(("column", "meaning"), told)] if told else []),
        others,
    ]
    return "\n\n".join(filter(None, [*paragraphs, " ".join(f"{key}." for key in part.keys)]))


def _columns(lines: list[str]) -> tuple[list[tuple[str, str, str]], list[str]]:
    columns: list[tuple[str, str, str]] = []
    keys: list[str] = []
    for line in lines:
        body, _, comment = line.partition("--")
        if not body.strip() and columns and comment:
            columns[-1] = (*columns[-1][:2], f"{columns[-1][2]} {comment.strip()}")
        for column in re.split(r",\s+(?![^(]*\))", body.strip().rstrip(",")):
            if found := re.match(r"([a-z_]+)\s+((?:INTEGER|TEXT|REAL|BLOB)\b.*)", column):
                words = ", ".join(re.findall(r"'(\w+)'", column.partition("CHECK")[2]))
                columns.append((found[1], _kind(found[2]), comment.strip() or words))
            elif column.startswith(("PRIMARY", "FOREIGN", "UNIQUE")):
                keys.append(_key(column.strip()))
    return columns, keys


def _key(declared: str) -> str:
    """Return a key in words; a foreign key is on columns of the same names."""
    foreign = re.match(r"FOREIGN KEY (\(.*?\)) REFERENCES (\w+)", declared)
    return f"{foreign[1]} refers to `{foreign[2]}`" if foreign else declared.capitalize()


def _kind(declared: str) -> str:
    """Return a column's type, with a question mark if it may be NULL."""
    kind, _, rest = declared.partition(" ")
    optional = "" if "NOT NULL" in rest or "PRIMARY KEY" in rest else "?"
    rest = re.sub(r"NOT NULL|CHECK .*", "", rest)
    rest = re.sub(r"DEFAULT \(strftime.*", "(default: now)", rest)
    return " ".join(f"{kind}{optional} {rest}".split())


def _columns_of_view(select: str) -> list[str]:
    chosen = select.partition("SELECT")[2]
    depth, names, piece = 0, [], ""
    for letter in chosen:
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and (letter == "," or piece.rstrip().endswith(" FROM")):
            names.append(piece.removesuffix(" FROM"))
            if letter != ",":
                break
            piece = ""
        else:
            piece += letter
    return [re.split(r"[ .]", name.strip())[-1] for name in names]


_MAKERS: Final[dict[str, Callable[[Any], str]]] = {
    "options": _options,
    "fields": _fields,
    "events": _events,
    "errors": _errors,
    "exits": _exits,
    "schema": _schema,
}
