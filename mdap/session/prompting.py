"""Describe a database to the viewer; rebuild the prompts of its steps with the code of their tasks."""

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdap.engine.guarded import GuardedTask
from mdap.errors import RAISED, MdapError, UsageError, told
from mdap.plugins import in_full, is_installed, make_task
from mdap.rules.canonical import canonical
from mdap.rules.digests import prompt_digest, views_digest
from mdap.rules.reading import json_schema
from mdap.session.desk import Desk
from mdap.tasks import Chain, Step
from mdap.viewer.source import Rendered, Shown


class TaskPrompts:
    """See `mdap.viewer.source.Prompts`.

    A database names the module or file of its tasks, and importing one runs it. So mdap loads only installed
    tasks and those that the user names: *trusted*.
    """

    def __init__(self, trusted: Collection[str] = ()) -> None:
        self._trusted = frozenset(map(in_full, trusted))
        self._chain = lru_cache(maxsize=64)(self._made)

    def length(self, task: str, params: Mapping[str, Any]) -> int | None:
        """Return the number of steps of *task*; None where unknown."""
        chain = self._chain(task, canonical(dict(params)))
        try:
            return chain.length() if isinstance(chain, GuardedTask) else None
        except MdapError:
            return None

    def render(
        self, task: str, params: Mapping[str, Any], step: int, text: str, digest: str
    ) -> Rendered | str:
        """Return the prompts of a step, or a sentence that explains why there are none."""
        chain = self._chain(task, canonical(dict(params)))
        if isinstance(chain, str):
            return chain
        try:
            state = chain.states.read(text)
            found = chain.step(step, state)
            if found is None:
                return f"the installed {task} asks nothing here: it has changed since the run"
            return _rendered(found, digest)
        except ValidationError:
            return f"the installed {task} cannot read this input: it has changed since the run"
        except RAISED as error:  # this is plugin code, and its failure must not end the page
            return str(error) if isinstance(error, MdapError) else f"{task}: {told(error)}"

    def check_trusted(self, task: str) -> None:
        """Refuse to load a task that is neither installed, nor beside an installed one, nor trusted."""
        if not is_installed(task) and task not in self._trusted:
            raise UsageError(f"{task} is not installed; to load it, add --task {task}")

    def _made(self, task: str, params: str) -> GuardedTask | str:
        try:
            self.check_trusted(task)
            made = make_task(task, json.loads(params))
        except MdapError as error:
            return str(error)
        return (
            GuardedTask(task, made)
            if isinstance(made, Chain)
            else f"{task} is a process, and this run recorded no prompts"
        )


def _rendered(step: Step[Any], digest: str) -> Rendered:
    views = ((step.system, step.user), *((view.system, view.user) for view in step.views))
    found = views_digest([prompt_digest(*view) for view in views])
    return Rendered(views, found == digest, step.max_tokens, json_schema(step.schema))


def shown(path: Path, tasks: Collection[str] = (), *, decide: bool = False) -> Shown:
    """Return the database at *path* for the viewer, where people may *decide* steps or only look."""
    prompts = TaskPrompts(tasks)
    desk = Desk(path, prompts.check_trusted) if decide else None
    return Shown(path, prompts, desk)
