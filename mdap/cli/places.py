"""Where a run was started: relative names in its parameters are looked up there, if not here."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio

from mdap.cli.output import complain
from mdap.errors import MdapError, UsageError
from mdap.journal.reader import open_log
from mdap.plugins import make_task

__all__ = ["at_home"]

T = TypeVar("T")


class _Home(NamedTuple):
    folder: str
    problem: str


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
    try:
        return act(path)
    except UsageError:
        home = anyio.run(_home, path, run_id, task)
        if home is None:
            raise
        path = path.absolute()
        _enter(home)
    complain(f"going on in {home.folder}, where the run was started: its files are not in this folder")
    return act(path)


def _enter(home: _Home) -> None:
    try:
        os.chdir(home.folder)
    except OSError:
        sentence = f"{home.problem}; the run was started in {home.folder}, which is not there"
        raise UsageError(sentence) from None


async def _home(path: Path, run_id: str, task: str | None) -> _Home | None:
    """Return where a run was last taken up if that is elsewhere, and its task cannot be made here."""
    folder = None
    with suppress(MdapError, ValueError):
        async with open_log(path) as reader:
            row = await reader.find(run_id)
            folder = await reader.folder(row.number)
        if row.kind == "run" and folder is not None and Path(folder) != Path.cwd():
            try:
                make_task(task or row.task, row.params)
            except UsageError as error:
                return _Home(folder, str(error))
    return None
