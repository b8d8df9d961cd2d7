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

__all__ = ["Home", "at_home", "home_of"]

T = TypeVar("T")


class Home(NamedTuple):
    """The folder in which a run started.

    Attributes:
        folder: the folder.
        problem: why its task cannot be made here.
    """

    folder: str
    problem: str

    def enter(self) -> None:
        """Change to the folder.

        Raises:
            UsageError: it is not there.
        """
        try:
            os.chdir(self.folder)
        except OSError:
            sentence = f"{self.problem}; the run was started in {self.folder}, which is not there"
            raise UsageError(sentence) from None


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
        home = anyio.run(home_of, path, run_id, task)
        if home is None:
            raise
        path = path.absolute()
        home.enter()
    complain(f"going on in {home.folder}, where the run was started: its files are not in this folder")
    return act(path)


async def home_of(path: Path, run_id: str, task: str | None) -> Home | None:
    """Return where a run was last taken up if that is elsewhere, and its task cannot be made here."""
    folder = None
    with suppress(MdapError, ValueError):
        async with open_log(path) as reader:
            row = await reader.find(run_id)
            folder = await reader.value("folder", row.number)
        if row.kind == "run" and folder is not None and Path(folder) != Path.cwd():
            try:
                make_task(task or row.task, row.params)
            except UsageError as error:
                return Home(folder, str(error))
    return None
