"""Identities of a process's nested tasks, and the ids of their runs."""

import json
import sys
from typing import Any, Final, NamedTuple

from mdap.records import Identity, encodable
from mdap.rules.canonical import canonical
from mdap.rules.digests import identify_named, text_digest
from mdap.rules.parameters import as_resumed, version_of
from mdap.tasks import Task

LONGEST_ID: Final = 100
"""The most characters of a run's id."""

_DIGITS: Final = 16


class Part(NamedTuple):
    """A nested task: the identity of its result, the id of its own run, and what is recorded as its input."""

    identity: Identity
    name: str
    about: dict[str, Any]


class RecordedPart(NamedTuple):
    """The run of a nested task of `mdap.Ask.solve_all` in the record; finished once it is sealed, too."""

    name: str
    finished: bool = False
    result: Any = None


class Parts:
    """Tell the nested tasks of one process apart: by class, version, parameters and key."""

    def __init__(self, run_id: str, whole: Task) -> None:
        self._run_id = run_id
        self._whole = whole
        self._classes: dict[Identity, type] = {}
        self._keys: dict[str, Identity] = {}
        # Of as many as there are documents, so each is a pair of numbers.
        self._contents: dict[int, int] = {}

    def of(self, task: Task, key: str | None) -> tuple[Part, Part]:
        """Return *task* as a part, and as the part that earlier versions of mdap took it for.

        Raises:
            TypeError: *task* or *key* is none.
            ValueError: the key, or the name of the class, stands for another nested task already.
        """
        if not isinstance(task, Task):
            raise TypeError(f"ask.solve takes a task, not {task!r:.60}")
        if key is not None and not isinstance(key, str):
            raise TypeError(f"key must be a str, not {key!r:.60}")
        cls = type(task)
        kind, bare = cls.__qualname__, cls.__name__
        # Beside the process, its file or module may move with it.
        if cls.__module__ != type(self._whole).__module__:
            kind = f"{_place(cls)}:{kind}"
        version, params = version_of(task), json.loads(canonical(task))
        identity = identify_named("solve", key or kind, [kind, version, params])
        former = identify_named("solve", key or bare, [bare, params])
        about = {"task": kind, "version": version, "params": params}
        if self._classes.setdefault(identity, cls) is not cls:
            raise ValueError(f"two classes are called {cls.__qualname__}: give each task a key of its own")
        if key and self._keys.setdefault(key, identity) != identity:
            raise used_already(key)
        return (
            Part(identity, self._name(key or f"{bare.lower()}-{identity[1][:8]}"), about),
            Part(
                former,
                encodable(f"{self._run_id}/{key or f'{bare.lower()}-{former[1][:8]}'}"),
                {"task": bare, "params": params},
            ),
        )

    def named(self, key: str, task: Task) -> str:
        """Return the id of the run of a nested *task* of `mdap.Ask.solve_all`.

        Raises:
            TypeError: *task* or *key* is none.
            ValueError: the key stands for another nested task already.
        """
        if not (isinstance(key, str) and key and isinstance(task, Task)):
            raise TypeError(f"ask.solve_all takes pairs of a key and a task, not ({key!r:.60}, {task!r:.60})")
        content = hash((type(task), content_of(task)))
        if self._contents.setdefault(hash(key), content) != content:
            raise used_already(key)
        return self._name(key)

    def _name(self, last: str) -> str:
        name = encodable(f"{self._run_id}/{last}")
        return name if len(name) <= LONGEST_ID and name.isprintable() else renamed(name, name)


def renamed(name: str, content: str) -> str:
    """Return an id for a run whose *name* is taken or cannot be used; *content* tells it apart."""
    shown = "".join(each if each.isprintable() else "?" for each in name)
    return f"{shown[: LONGEST_ID - _DIGITS - 1]}~{text_digest(content)[:_DIGITS]}"


def content_of(task: Task) -> str:
    """Return the version and parameters of a task as one text: tasks that agree in it share a run."""
    task = as_resumed(task)
    return content_of_row(version_of(task), canonical(task))


def content_of_row(version: str, params: str) -> str:
    """Return the same of a run's row."""
    return f"{version}\n{params}"


def used_already(key: str) -> ValueError:
    """Return the error for a *key* that is given to two nested tasks, perhaps in another session."""
    return ValueError(
        f"key {key!r} stands for a nested task of another class, version or parameters already: give each "
        "task a key of its own, which also tells what its parameters depend on, or none"
    )


def could_be(recorded: str, kind: type) -> bool:
    """Return whether a run's task as it is *recorded* may be of this class; files may have moved."""
    place, colon, attribute = recorded.rpartition(":")
    if not colon:  # the name of an installed plugin
        return True
    moved = place.endswith(".py") or place == "__main__"
    return attribute == kind.__qualname__ and (moved or place == _place(kind))


def part_ended(name: str, reason: str | None) -> str:
    """Return what is said of a part without a result; of the innermost, where parts are nested."""
    return str(reason) if str(reason).startswith("part ") else f"part {name}: {reason}"


def _place(kind: type) -> str:
    file: str | None = getattr(sys.modules.get(kind.__module__), "__mdap_file__", None)
    return file or kind.__module__
