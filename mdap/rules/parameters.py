"""The parameters and version of a task in the record, which they must survive, and as users type them."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mdap.errors import RAISED, UsageError
from mdap.rules.canonical import canonical
from mdap.rules.values import difference, kinds_of
from mdap.settings import complaint, explain
from mdap.tasks import Chain, Task

T = TypeVar("T", bound=Task)


def as_resumed(task: T) -> T:
    """Return *task* as a resume makes it from its record: the same, unless a dict or set has another order.

    Raises:
        UsageError: a parameter does not; the sentence names it, and shows no value.
    """
    kind = type(task)
    if isinstance(task, Chain):
        kinds_of(task)
    for name in kind.model_fields:
        value = getattr(task, name)
        if any(isinstance(each, (SecretStr, SecretBytes)) for each in _inside(value)):
            raise UsageError(
                f"parameter {name} of {kind.__name__} is a secret, which mdap does not record: "
                "let the task read it from the environment"
            )
        _recorded(f"parameter {name} of {kind.__name__}", value)
    text = _recorded(f"a parameter of {kind.__name__}", task)
    try:
        back = kind(**json.loads(text))
    except ValidationError as error:
        raise UsageError(
            f"{explain('parameter', error)}, when the parameters of {kind.__name__} are read back from the "
            "record: a parameter is recorded by its name, so use no computed field, `exclude` or "
            "`serialization_alias`, and let validators accept what they return"
        ) from complaint(error)
    except Exception as error:
        raise UsageError(
            f"the parameters of {kind.__name__} cannot be read back from the record ({type(error).__name__}: "
            f"{error}): let validators accept what they return"
        ) from error
    _refuse_difference(task, back)
    return task if task.model_dump_json() == back.model_dump_json() else back


def _refuse_difference(task: Task, back: Task) -> None:
    differ = difference(task, back)
    if differ is not None:
        one, other = type(differ.one).__qualname__, type(differ.other).__qualname__
        changed = f"as {other} instead of {one}" if one != other else "with another value"
        raise UsageError(
            f"parameter {differ.path.lstrip('.')} of {type(task).__name__} comes back from the record "
            f"{changed}: name its class in the parameter's type, exclude no field, and let validators leave "
            "their own result as it is"
        )


def _recorded(what: str, value: Any) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} cannot be recorded: {error}") from error


def _inside(value: Any) -> Iterator[Any]:
    """Yield *value*, and everything in it."""
    yield value
    if isinstance(value, dict):
        held: Any = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        held = value
    elif isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        held = vars(value).values() if hasattr(value, "__dict__") else ()
    else:
        return
    for each in held:
        yield from _inside(each)


def version_of(task: Task) -> str:
    """Return a task's version as it is recorded: text as it is, anything else with its class.

    Raises:
        UsageError: it has no JSON form.
    """
    version: Any = task.version
    if type(version) is str:
        return version
    text = _recorded(f"the version of {type(task).__name__}", version)
    return f"{type(version).__name__} {text}"


def read_values(
    pairs: tuple[str, ...], option: str, fields: Mapping[str, FieldInfo] | None = None
) -> dict[str, Any]:
    """Return the values of ``NAME=VALUE`` pairs; lists and objects are read as JSON.

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
    """Return whether a parameter takes text, but no JSON list or object."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(field.annotation or Any)
    except Exception:  # only the task's own settings allow this type
        return False
    return _may_take(adapter, "") and not _may_take(adapter, [] if bracket == "[" else {})


def _may_take(adapter: TypeAdapter[Any], value: Any) -> bool:
    """Return whether a parameter accepts values of this type."""
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        kinds = [each["type"] for each in error.errors(include_url=False)]
        return not any(
            kind.endswith(("_type", "_parsing")) or kind in ("literal_error", "enum") for kind in kinds
        )
    except RAISED:  # its own validator fails on this value
        return True
    return True
