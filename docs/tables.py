"""The tables of the reference that are written from the code: options, settings, events, errors, schema."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import click
from pydantic import BaseModel

from mdap import errors
from mdap.cli.main import cli
from mdap.cli.output import Exit, exit_code_of
from mdap.records import EVENTS

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
    lines = ["| " + " | ".join(cell.replace("|", "or") for cell in line) + " |" for line in [names, *rows]]
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


def _options(command: str) -> str:
    """Return the table of a command's options; a line below it names those that `mdap run` has, too."""
    rows = _rows(command)
    shared = [] if command == "run" else [name for name, row in rows.items() if row == _rows("run").get(name)]
    own = [row for name, row in rows.items() if name not in shared]
    parts = [table(("option", "default", "what it does"), own)] if own else []
    if shared:
        parts.append(f"As for [`mdap run`](#mdap-run-task): {', '.join(f'`{name}`' for name in shared)}.")
    return "\n\n".join(parts)


def _rows(command: str) -> dict[str, tuple[str, str, str]]:
    options = [option for option in commands()[command].params if isinstance(option, click.Option)]
    return {option.opts[-1]: (_usage(option), _default(option), option.help or "") for option in options}


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    return f"`{option.default}`" if option.show_default else ""


def _usage(option: click.Option) -> str:
    value = "" if option.is_flag else f" {_value(option)}"
    return ", ".join(f"`{name}{value}`" for name in option.opts)


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
        (f"`{key}`", f"`{_type(field.annotation)}`", _given(field), meanings.get(key, ""))
        for key, field in model.model_fields.items()
    ]
    return table(("setting", "type", "default", "meaning"), rows)


def _given(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return "needed" if field.is_required() else f"`{value}`"


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
        summary = (error.__doc__ or "").partition("\n")[0]
        rows.append((f"`{name}`", f"`{error.__base__.__name__}`", summary, str(int(exit_code_of(bare)))))
    return table(("error", "is a", "meaning", "exit code"), rows)


# -- the schema ------------------------------------------------------------------------------------


def _schema(_: str | None) -> str:
    parts: dict[str, str] = {}
    for file in sorted(SQL.glob("[0-9]*.sql")):
        for statement in file.read_text(encoding="utf-8").split("\n;\n"):
            if found := re.search(r"^CREATE (?:TABLE|VIEW) (\w+)", statement, re.M):
                parts[found[1]] = _part(statement)
            elif found := re.search(r"^ALTER TABLE (\w+) ADD COLUMN (\w+) (.+)", statement, re.M):
                comment = " ".join(re.findall(r"^-- (.+)", statement, re.M))
                parts[found[1]] += f"\n| `{found[2]}` | {found[3]} | {comment} |"
    return "\n\n".join(parts.values())


def _part(statement: str) -> str:
    lines = statement.strip().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("CREATE"))
    comment = " ".join(line.removeprefix("--").strip() for line in lines[:start] if line.startswith("--"))
    comment = comment.partition("need no parsing. ")[2] or comment
    found = re.match(r"CREATE (TABLE|VIEW) (\w+)", lines[start])
    assert found is not None
    heading = f"### {found[2]}\n\n{'A view. ' if found[1] == 'VIEW' else ''}{comment}"
    if found[1] == "VIEW":
        return f"{heading}\n\nColumns: {_columns_of_view(' '.join(lines[start + 1 :]))}."
    return f"{heading}\n\n{table(('column', 'type', 'meaning'), _columns(lines[start + 1 :]))}"


def _columns(lines: list[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for line in lines:
        body, _, comment = line.partition("--")
        if not body.strip():
            if rows and comment:
                rows[-1][2] += f" {comment.strip()}"
            continue
        for column in re.split(r",\s+(?![^(]*\))", body.strip().rstrip(",")):
            found = re.match(r"([a-z_]+)\s+((?:INTEGER|TEXT|REAL|BLOB)\b.*)", column)
            if found:
                rows.append([f"`{found[1]}`", found[2].strip(), comment.strip()])
            elif column.startswith(("PRIMARY", "FOREIGN", "UNIQUE")):
                rows.append(["", column.strip(), ""])
    return rows


def _columns_of_view(select: str) -> str:
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
    return ", ".join(f"`{re.split(r'[ .]', name.strip())[-1]}`" for name in names)


_MAKERS: Final[dict[str, Callable[[Any], str]]] = {
    "options": _options,
    "fields": _fields,
    "events": _events,
    "errors": _errors,
    "exits": _exits,
    "schema": _schema,
}
