"""Find tasks and providers: installed ones by entry point, others by ``module:Name`` or file."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache, reduce
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import ValidationError

from mdap.errors import RAISED, MdapError, PluginError, UsageError
from mdap.protocols import Provider
from mdap.rules.declared import check_methods
from mdap.rules.parameters import read_values
from mdap.settings import complaint, explain
from mdap.tasks import Task

TASKS: Final = "mdap.tasks"
PROVIDERS: Final = "mdap.providers"
COMMANDS: Final = "mdap.commands"
"""Commands of the command line, each a `click.Command`."""
VERIFIERS: Final = "mdap.verifiers"
"""Verifiers of records other than runs, by kind; each takes the database's path and an id."""
OBJECT: Final = "()"
"""Suffix of a provider's class for a model passed as an object: no name can load it."""
_SCRIPT: Final = "__main__"


@cache
def installed(group: str) -> dict[str, list[EntryPoint]]:
    """Return the installed plugins of *group* by name, sorted; packages installed later do not show.

    If packages give one name to different plugins, it has several entries.
    """
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        found.setdefault(point.name, {})[point.value] = point
    return {name: list(points.values()) for name, points in found.items()}


def is_installed(task: str) -> bool:
    """Return whether *task* names an installed task, or a class beside one, such as that of its parts."""
    found = installed(TASKS)
    place, colon, _ = task.partition(":")
    packages = {point.module.partition(".")[0] for points in found.values() for point in points}
    beside = colon and not place.endswith(".py") and place.partition(".")[0] in packages
    return task in found or bool(beside)


def load_task(name: str) -> type[Task]:
    """Return the task class called *name*.

    Args:
        name: an installed plugin's name, ``package.module:Class``, ``path/file.py:Class``, or
            ``path/file.py`` if it holds one task. Loading a file runs it: name only files that you trust.

    Raises:
        UsageError: there is no such plugin, module, file or class, or it is not a task.
        PluginError: importing it raised.
    """
    found = _imported(name, lambda: _only_task(name)) if name.endswith(".py") else _load(name, TASKS, "task")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UsageError(f"{name} is not a task: it must be a class derived from mdap.Chain or mdap.Process")
    return found


def _only_task(file: str) -> type[Task]:
    """Return the task class that *file* defines."""
    module = _from_file(Path(file))
    found = [
        attribute
        for attribute, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
        if not attribute.startswith("_") and not isabstract(value)
    ]
    if len(found) != 1:
        one = " or ".join(f"{file}:{attribute}" for attribute in found)
        raise UsageError(
            f"{file} defines {len(found)} tasks: name one, as {one}"
            if found
            else f"{file} defines no task: it needs a class derived from mdap.Chain or mdap.Process"
        )
    task: type[Task] = getattr(module, found[0])
    return task


def make_task(name: str, values: Mapping[str, Any]) -> Task:
    """Return the task called *name*, see `load_task`, with its parameters set to *values*."""
    kind = load_task(name)
    check_methods(kind, name)
    try:
        return kind(**values)
    except ValidationError as error:
        known = ", ".join(kind.model_fields) or "none"
        raise UsageError(f"{explain('parameter', error)}; {name} has: {known}") from complaint(error)
    except MdapError:
        raise
    except RAISED as error:
        raise PluginError(f"task {name}", "checking its parameters", error) from error


def in_full(name: str) -> str:
    """Return the *name* of a task as runs record it, with a file's full path."""
    place, colon, attribute = (name, "", "") if name.endswith(".py") else name.rpartition(":")
    if not place.endswith(".py"):
        return name
    # Not Path.resolve: it raises on circular links.
    return f"{os.path.realpath(Path(place).expanduser())}{colon}{attribute}"


def make_recorded(name: str, values: Mapping[str, Any]) -> Task:
    """Return the task that a run records as *name*, with its parameters, if both still exist."""
    try:
        load_task(name)
    except UsageError as error:
        raise UsageError(f"{error}; if the task has moved, name it with --task") from error
    return make_task(name, values)


def make_moved(old: str, new: str, name: str, values: Mapping[str, Any]) -> Task:
    """Return the task that a run records as *name*, after task *old* moved to *new*.

    Other tasks from the file or module of *old* load from that of *new*.
    """
    place, colon, attribute = name.rpartition(":")
    if name == old:
        return make_task(new, values)
    if colon and place == _place(old):
        return make_task(f"{_place(new)}:{attribute}", values)
    return make_recorded(name, values)


def _place(name: str) -> str:
    points = installed(TASKS).get(name)
    return points[0].value.partition(":")[0] if points else name.rpartition(":")[0]


def load_provider(spec: str, options: Mapping[str, Any]) -> Provider:
    """Return the provider that *spec* names.

    Args:
        spec: ``provider`` or ``provider/model``; the provider may also be ``package.module:factory`` or
            ``path/file.py:factory``, the model may contain slashes, and options of its own may follow as in
            ``sim/a?seed=1&error_rate=0.1``.
        options: the options set with ``-M``.
    """
    place, _, query = spec.partition("?")
    path, mark, rest = place.rpartition(".py:")  # the path may contain slashes too
    attribute, _, model = rest.partition("/")
    name = f"{path}{mark}{attribute}"
    if name.endswith(OBJECT):
        raise UsageError(
            f"model {spec} is an object of the program that began the run: resume it there, in a session "
            "with model=that object"
        )
    factory = _load(name, PROVIDERS, "model provider")
    own = read_values(tuple(part for part in query.split("&") if part), f"--model {place}")
    try:
        provider: Provider = factory(model, {**options, **own})
    except MdapError:
        raise
    except RAISED as error:
        raise PluginError(f"model provider {name}", "being made", error) from error
    return provider


def task_name(task: Task) -> str:
    """Return the name by which `load_task` finds the class of *task* again, if there is one."""
    kind = type(task)
    for name, points in installed(TASKS).items():
        if len(points) == 1 and _same(points[0], kind):
            return name
    return f"{_home(kind)}:{_attribute_of(kind) or kind.__qualname__}"


def former_name(task: Task) -> str:
    """Return the name that earlier versions recorded for a class in a script or a function."""
    return f"{type(task).__module__}:{type(task).__qualname__}"


def unfindable(task: Task) -> str | None:
    """Return why `load_task` cannot find the class of *task* again; None where it can."""
    kind = type(task)
    name = task_name(task)
    if name in installed(TASKS):
        return None
    if name.startswith(f"{_SCRIPT}:"):
        return "is not in a file, but in a notebook or a console"
    if _attribute_of(kind) is None:
        return "is defined in a function" if "<locals>" in kind.__qualname__ else "has no name in its module"
    return None


def _home(kind: type) -> str:
    """Return the file or module of a class, as `load_task` takes it."""
    module = sys.modules.get(kind.__module__)
    source: str | None = getattr(module, "__mdap_file__", None)
    if source is not None or kind.__module__ != _SCRIPT:
        return source or kind.__module__
    if (spec := getattr(module, "__spec__", None)) is not None:  # python -m
        return str(spec.name)
    file: str = getattr(module, "__file__", None) or ""
    return str(Path(file).resolve()) if file.endswith(".py") and Path(file).is_file() else _SCRIPT


def _attribute_of(kind: type) -> str | None:
    """Return the name of a class in its module; None if it has none."""
    module = sys.modules.get(kind.__module__)
    if module is None:
        return None
    qualname: str = kind.__qualname__
    if _attribute(module, qualname) is kind:
        return qualname
    if kind.__module__ == _SCRIPT:  # some modules create names after their import
        return None
    return next((name for name, value in vars(module).items() if value is kind), None)


def _same(point: EntryPoint, kind: type) -> bool:
    # Compare only imported modules: loading one plugin must not import all others.
    module, _, attribute = point.value.partition(":")
    if (module, attribute) == (kind.__module__, kind.__qualname__):
        return True
    there = sys.modules.get(module)
    return there is not None and _attribute(there, attribute) is kind


def read_params(task: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters of *task* that ``-p NAME=VALUE`` pairs set.

    A value that looks like JSON is text where the parameter takes text only.
    """
    return read_values(pairs, "-p", load_task(task).model_fields)


def load_command(name: str) -> Any:
    """Return the command that an installed package adds as *name*, a `click.Command`."""
    points = installed(COMMANDS)[name]
    if len(points) > 1:
        packages = " and ".join(point.value for point in points)
        raise UsageError(f"several packages add a command {name!r} ({packages}): uninstall all but one")
    found = load_plugin(points[0])
    if not callable(getattr(found, "make_context", None)):
        raise UsageError(f"{points[0].value} is no click command: the package that adds {name!r} is broken")
    return found


def load_plugin(point: EntryPoint) -> Any:
    """Load the object that an installed plugin names; raise a `PluginError` where its import fails."""
    return _imported(point.name, point.load)


def _load(name: str, group: str, what: str) -> Any:
    points = installed(group).get(name, [])
    if not points and ":" not in name:
        known = ", ".join(installed(group)) or "none"
        raise UsageError(f"there is no {what} {name!r}{_meant(name, group)}; installed: {known}")
    if len(points) > 1:
        named = " or ".join(point.value for point in points)
        raise UsageError(f"several packages call a {what} {name!r}: name the one you want as {named}")
    return _imported(name, points[0].load if points else lambda: _named(name, what))


def _meant(name: str, group: str) -> str:
    """Return a hint at the plugin that *name* may mean."""
    near = get_close_matches(name, installed(group), 1)
    if group == PROVIDERS and (vendor := _vendor_of(name)):
        near = [f"{vendor}/{name}"]
    return f": did you mean {near[0]}?" if near else ""


def _vendor_of(model: str) -> str | None:
    """Return the installed provider of *model*, from the price list."""
    from genai_prices import Usage, calc_price  # slow to import and rarely needed

    try:
        vendor = calc_price(Usage(), model_ref=model).provider.id
    except (LookupError, ValueError):
        return None
    return vendor if vendor in installed(PROVIDERS) else None


def _imported(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (UsageError, KeyboardInterrupt):
        raise
    except RAISED as error:
        raise PluginError(name, "being imported", error) from error


def _named(name: str, what: str) -> Any:
    place, _, attribute = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place, what)
    found = _attribute(module, attribute)
    if found is None:
        raise UsageError(f"{place} has no {attribute!r}")
    return found


def _attribute(module: Any, path: str) -> Any:
    return reduce(lambda found, part: getattr(found, part, None), path.split("."), module)


def _from_module(place: str, what: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"there is no module {place!r} to take a {what} from")
    for folder in (None, str(Path.cwd())):
        if folder is not None:  # as with `python -m`
            _search_first(folder)
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
    raise UsageError(f"there is no module {place!r} to take a {what} from")


def _search_first(folder: str) -> None:
    """Make modules in *folder* importable, as with ``python FILE`` there."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()


def _from_file(path: Path) -> ModuleType:
    path = Path(os.path.realpath(path.expanduser()))
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    script = sys.modules[_SCRIPT]
    if os.path.realpath(getattr(script, "__file__", None) or "") == str(path):
        return script  # it runs already, perhaps without a guard against a second time
    name = f"mdap_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__mdap_file__"] = str(path)
    # Registered before it runs, so that its classes can be found by their module's name.
    sys.modules[name] = module
    _search_first(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
