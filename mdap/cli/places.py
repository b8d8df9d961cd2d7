"""Where a run was started: relative names in its parameters are looked up there, if not here."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import anyio

from mdap.cli.output import complain
from mdap.errors import MdapError, UsageError
from mdap.journal.reader import open_log
from mdap.plugins import make_task

__all__ = ["at_home", "enter_home"]

T = TypeVar("T")


def at_home(db: str, run_id: str, task: str | None, act: Callable[[Path], T]) -> T:
    """Return what *act* returns, called again in the run's own folder where its task cannot be made here.

    Args:
        db: the database.
        run_id: the run, as it is named on the command line.
        task: its task, where that has moved; None where it has not.
        act: called with the database's path.

    Raises:
        UsageError: the task cannot be made there either.
    """
    path = Path(db)
    there = path.absolute()
    try:
        return act(path)
    except UsageError:
        folder = anyio.run(enter_home, path, run_id, task)
        if folder is None:
            raise
    complain(f"going on in {folder}, where the run was started: its files are not in this folder")
    return act(there)


async def enter_home(path: Path, run_id: str, task: str | None) -> str | None:
    """Change to the folder where a run was last taken up, if its task cannot be made here; return the folder.

    Raises:
        UsageError: the folder is not there.
    """
    folder = problem = None
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
