"""``mdap tasks`` and ``models``: which plugins are installed."""

import inspect
import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import click
from pydantic.fields import FieldInfo

from mdap.cli.options import as_json
from mdap.cli.output import print_json, say
from mdap.errors import RAISED, MdapError, told
from mdap.plugins import PROVIDERS, TASKS, installed, load_plugin, load_task
from mdap.rules.canonical import canonical

__all__ = ["models", "tasks"]

About = Callable[[EntryPoint], dict[str, Any]]


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
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _default(info: FieldInfo) -> Any:
    return None if info.is_required() else _plain(info.get_default(call_default_factory=True))


def _plain(value: Any) -> Any:
    """Return a default value as JSON has it; as Python shows it where it has none."""
    try:
        return json.loads(canonical(value))
    except RAISED:
        return repr(value)
