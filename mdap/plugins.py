"""Finding tasks and providers: installed ones by entry point, others by ``module:Name`` or file."""

import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mdap.errors import PluginError, UsageError
from mdap.protocols import Provider
from mdap.settings import explain
from mdap.tasks import Chain, Process, Task

__all__ = [
    "TASKS",
    "installed",
    "load_provider",
    "load_task",
    "make_task",
    "read_params",
    "read_values",
    "task_name",
]

TASKS: Final = "mdap.tasks"
PROVIDERS: Final = "mdap.providers"
_OTHER: Final = ("literal_error", "enum")
_REQUIRED: Final[tuple[tuple[type[Task], tuple[str, ...]], ...]] = (
    (Chain, ("start", "step", "advance")),
    (Process, ("solve",)),
)


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Return the installed plugins of *group* by name, sorted; what is installed later is not seen."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load_task(name: str) -> type[Task]:
    """Return the task class called *name*.

    Args:
        name: an installed plugin's name, ``package.module:Class``, or ``path/file.py:Class``. Naming a
            file runs it: name only files that you trust.

    Raises:
        UsageError: there is no such plugin, module, file or class, or it is no task.
        PluginError: importing it raised.
    """
    found = _load(name, TASKS, "task")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UsageError(f"{name} is not a task: it must be a class derived from mdap.Chain or mdap.Process")
    return found


def make_task(name: str, values: Mapping[str, Any]) -> Task:
    """Return the task called *name* with its parameters set to *values*.

    Raises:
        UsageError: see `load_task`; or a parameter is unknown or has a bad value.
    """
    kind = load_task(name)
    missing = getattr(kind, "__abstractmethods__", frozenset()) | _left_open(kind)
    if missing:
        raise UsageError(f"{name} does not define {', '.join(sorted(missing))}, which every such task must")
    try:
        return kind(**values)
    except ValidationError as error:
        known = ", ".join(kind.model_fields) or "none"
        raise UsageError(f"{explain('parameter', error)}; {name} has: {known}") from None


def _left_open(kind: type[Task]) -> frozenset[str]:
    """Return the methods a task must define and does not: pydantic's metaclass does not refuse them."""
    for base, required in _REQUIRED:
        if issubclass(kind, base):
            return frozenset(name for name in required if getattr(kind, name) is getattr(base, name))
    return frozenset()


def load_provider(spec: str, options: Mapping[str, Any]) -> Provider:
    """Return the provider that *spec* names.

    Args:
        spec: ``provider`` or ``provider/model``; the provider may also be ``package.module:factory`` or
            ``path/file.py:factory``, the model may contain slashes, and options of its own may follow as in
            ``sim/a?seed=1&error_rate=0.1``.
        options: what ``-M`` sets.

    Raises:
        UsageError: there is no such provider, or it refuses the model or the options.
    """
    place, _, query = spec.partition("?")
    name, model = _parted(place)
    factory = _load(name, PROVIDERS, "model provider")
    own = read_values(tuple(part for part in query.split("&") if part), f"--model {place}")
    provider: Provider = factory(model, {**options, **own})
    return provider


def _parted(place: str) -> tuple[str, str]:
    """Return the names of provider and model; a file's path may contain slashes too."""
    path, mark, rest = place.rpartition(".py:")
    name, _, model = rest.partition("/")
    return f"{path}{mark}{name}", model


def task_name(task: Task) -> str:
    """Return the name by which `load_task` finds the class of *task* again."""
    kind = type(task)
    for name, point in installed(TASKS).items():
        if point.value == f"{kind.__module__}:{kind.__qualname__}" or _same(point, kind):
            return name
    source = getattr(sys.modules.get(kind.__module__), "__mdap_file__", None)
    return f"{source or kind.__module__}:{kind.__qualname__}"


def _same(point: EntryPoint, kind: type) -> bool:
    # Only compare what is imported anyway: naming one plugin must not import all others.
    return getattr(sys.modules.get(point.module), point.attr, None) is kind


def read_params(task: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters of *task* that ``-p NAME=VALUE`` pairs set.

    A value that looks like JSON is text where the parameter takes text only.

    Raises:
        UsageError: see `load_task` and `read_values`.
        PluginError: see `load_task`.
    """
    return read_values(pairs, "-p", load_task(task).model_fields)


def read_values(
    pairs: tuple[str, ...], option: str, fields: Mapping[str, FieldInfo] | None = None
) -> dict[str, Any]:
    """Return the values of ``NAME=VALUE`` pairs; lists and objects are read as JSON.

    Args:
        pairs: what was given.
        option: by which, for errors.
        fields: what may be set, where that is known.

    Raises:
        UsageError: a pair has no ``=``, a name is given twice, or its JSON is broken.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} takes NAME=VALUE, not {pair!r}")
        if name in values:
            raise UsageError(f"{option} sets {name!r} twice")
        values[name] = _value(text, f"{option} {name}", (fields or {}).get(name))
    return values


def _value(text: str, what: str, field: FieldInfo | None) -> Any:
    if text[:1] not in ("[", "{") or (field is not None and _is_text(field, text[:1])):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{what} looks like JSON but cannot be read as such: {text!r:.80}") from None


def _is_text(field: FieldInfo, bracket: str) -> bool:
    """Return whether a parameter takes text, and nothing that JSON in brackets stands for."""
    adapter: TypeAdapter[Any] = TypeAdapter(field.annotation or Any)
    return _may_take(adapter, "") and not _may_take(adapter, [] if bracket == "[" else {})


def _may_take(adapter: TypeAdapter[Any], value: Any) -> bool:
    """Return whether values of this one's type may be taken, if not this very one."""
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        kinds = [each["type"] for each in error.errors(include_url=False)]
        return not any(
            kind.endswith(("_type", "_parsing")) or kind in ("literal_error", "enum") for kind in kinds
        )
    return True


def _load(name: str, group: str, what: str) -> Any:
    point = installed(group).get(name)
    if point is None and ":" not in name:
        known = ", ".join(installed(group)) or "none"
        raise UsageError(f"there is no {what} {name!r}; installed: {known}")
    try:
        return point.load() if point is not None else _attribute(name, what)
    except (UsageError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise PluginError(name, "being imported", error) from error


def _attribute(name: str, what: str) -> Any:
    place, _, attribute = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place, what)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UsageError(f"{place} has no {attribute!r}")
    return found


def _from_module(place: str, what: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"there is no module {place!r} to take a {what} from")
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"there is no module {place!r} to take a {what} from") from None


def _from_file(path: Path) -> ModuleType:
    path = Path(os.path.realpath(path.expanduser()))
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
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
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
