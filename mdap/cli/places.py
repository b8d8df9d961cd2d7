"""The folder where a run was started: mdap looks up relative paths of its parameters there, if not here."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio

from mdap.cli.output import complain
from mdap.errors import MdapError, UsageError
from mdap.journal.reader import open_log
from mdap.plugins import make_task

T = TypeVar("T")


def at_home(given: dict[str, Any], act: Callable[[dict[str, Any]], T]) -> T:
    """Return what *act* returns, called again in the run's own folder where its task cannot be made here."""
    there = {**given, "db": Path(given["db"]).absolute()}
    try:
        return act(given)
    except UsageError:
        folder = anyio.run(enter_home, Path(given["db"]), given["run_id"], given["task"])
        if folder is None:
            raise
    complain(f"going on in {folder}, where the run was started: its files are not in this folder")
    return act(there)


async def enter_home(path: Path, run_id: str, task: str | None) -> str | None:
    """Change to the folder where a run was last taken up if its task cannot be made here; return it."""
    folder: str | None = None
    problem = None
    with suppress(MdapError, ValueError):
        async with open_log(path) as reader:
            row = await reader.find(run_id)
            folder = await reader.value("folder", row.number)
        if row.kind == "run" and folder is not None and Path(folder) != Path.cwd():
            try:
                make_task(task or row.task, row.params)
            except UsageError as error:
                problem = str(error)
    if folder is None or problem is None:
        return None
    try:
        os.chdir(folder)
    except OSError:
        sentence = f"{problem}; the run was started in {folder}, which is not there"
        raise UsageError(sentence) from None
    return folder
