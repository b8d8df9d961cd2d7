"""``mdap tasks``, ``models`` and ``new``: list the installed plugins, and create a domain package."""

import importlib.util
import inspect
import json
import keyword
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from string import Template
from typing import Any, Final

import click
from pydantic.fields import FieldInfo

from mdap._version import __version__
from mdap.cli.options import as_json
from mdap.cli.output import print_json, say
from mdap.errors import RAISED, MdapError, UsageError, told
from mdap.plugins import PROVIDERS, TASKS, installed, load_plugin, load_task
from mdap.rules.canonical import canonical

About = Callable[[EntryPoint], dict[str, Any]]

_NAME: Final = re.compile("[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_LONGEST: Final = 50

_TAKEN: Final = {"Answer", "Any", "ClassVar", "Field", "Path", "Row", "State"}
"""Names that the templates use for something else."""

_SCAFFOLD: Final = Path(__file__).with_name("scaffold")
"""Templates in the places of the files that they make; `package` in a path stands for the package's name."""


@click.command()
@as_json
def tasks(**given: Any) -> None:
    """List the installed tasks and their parameters."""
    _list(TASKS, "tasks", _task, given)


@click.command()
@as_json
def models(**given: Any) -> None:
    """List the installed model providers and their options."""
    _list(PROVIDERS, "models", _provider, given)


def _list(group: str, name: str, about: About, given: dict[str, Any]) -> None:
    found = list(_listed(group, about))
    if given["json"]:
        print_json({name: found})
        return
    for plugin in found:
        say(f"{plugin['name']}: {plugin['summary']}")
        for field, param in plugin.get("params", {}).items():
            default = "..." if param["required"] else param["default"]
            say(f"    -p {field}={default}  {param['description'] or ''}")
        if options := plugin.get("options"):
            say("    " + " ".join(f"-M {field}={default}" for field, default in options.items()))
        if plugin["problem"]:
            say(f"    {plugin['problem']}")


def _listed(group: str, about: About) -> Iterator[dict[str, Any]]:
    """Yield what there is to say of each plugin; one that is broken says why, and hides no other."""
    for name, points in installed(group).items():
        for point in points:
            problem = None
            if len(points) > 1:
                problem = f"several packages use this name: name this one as {point.value}"
            try:
                told_of = about(point)
            except RAISED as error:
                told_of = {"summary": "not usable", "params" if group == TASKS else "options": {}}
                problem = str(error) if isinstance(error, MdapError) else told(error)
            yield {"name": name, **told_of, "problem": problem}


def _task(point: EntryPoint) -> dict[str, Any]:
    load_plugin(point)
    kind = load_task(point.value)
    return {
        "summary": _first_line(kind),
        "params": {
            field: {
                "default": _default(info),
                "required": info.is_required(),
                "description": info.description,
            }
            for field, info in kind.model_fields.items()
        },
    }


def _provider(point: EntryPoint) -> dict[str, Any]:
    factory = load_plugin(point)
    settings = getattr(factory, "settings", None)
    return {
        "summary": _first_line(inspect.getmodule(factory)),
        "options": {field: _default(info) for field, info in getattr(settings, "model_fields", {}).items()},
    }


def _first_line(documented: Any) -> str:
    first = (inspect.getdoc(documented) or "").partition("\n")[0]
    return first.replace("``", "`")


def _default(info: FieldInfo) -> Any:
    return None if info.is_required() else _plain(info.get_default(call_default_factory=True))


def _plain(value: Any) -> Any:
    """Return a default value as JSON has it; as Python shows it where it has none."""
    try:
        return json.loads(canonical(value))
    except RAISED:
        return repr(value)


@click.command()
@click.argument("name")
@click.option("--process", is_flag=True, help="A table of rows, decided side by side, instead of a chain.")
@as_json
def new(**given: Any) -> None:
    """Create a domain package NAME to build on.

    The new folder holds a package with a task, its tests and a README.
    """
    name = _checked(given["name"])
    folder = Path(name)
    written = _write(folder, _words(name), "process" if given["process"] else "chain")
    if given["json"]:
        print_json({"folder": str(folder.absolute()), "files": written})
        return
    does = "reads the rows of a table" if given["process"] else "adds up numbers"
    say(f"{folder}/ holds a domain that {does}; make it yours. Next:")
    say(f"  pip install -e './{folder}[test]'")
    say(f"  mdap run {name}")
    say(f"  pytest {folder}")


def _checked(name: str) -> str:
    """Return *name* if a package may be called so; refuse it otherwise."""
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r:.80} cannot name a domain: use small letters, digits and single dashes between them, "
            f"at most {_LONGEST}, such as long-division"
        )
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or package in sys.stdlib_module_names:
        raise UsageError(f"{name} is a word of Python itself: choose another name")
    if name in installed(TASKS):
        raise UsageError(f"a task called {name} is installed already: choose another name")
    if importlib.util.find_spec(package) is not None:
        raise UsageError(f"a package called {package} is installed already: choose another name")
    return name


def _words(name: str) -> dict[str, str]:
    """Return what the templates call things by."""
    task = "".join(part.capitalize() for part in re.split("[-_]", name))
    return {
        "name": name,
        "plugin": name,
        "package": name.replace("-", "_"),
        "task": f"{task}Task" if task in _TAKEN else task,
        "version": __version__,
    }


def _write(folder: Path, words: Mapping[str, str], kind: str) -> list[str]:
    """Write the files of a domain of this *kind* under the new *folder*; return their paths in it."""
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} is here already: choose another name, or move it away")
    written = []
    try:
        for home in (_SCAFFOLD / "common", _SCAFFOLD / kind):
            for template in sorted(home.rglob("*.in")):
                place = template.relative_to(home).as_posix().removesuffix(".in")
                path = folder / place.replace("package", words["package"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(Template(template.read_text("utf-8")).substitute(words), "utf-8")
                written.append(path.relative_to(folder).as_posix())
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from None
    return written
