"""Describe a database to the viewer."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

from mdap.journal.claims import is_claimed
from mdap.journal.reader import open_log
from mdap.session.desk import Desk
from mdap.session.prompting import TaskPrompts
from mdap.viewer.source import Shown

__all__ = ["shown"]


def shown(path: Path, tasks: Collection[str] = (), *, decide: bool = False) -> Shown:
    """Return the database at *path* for the viewer.

    Args:
        path: the database file.
        tasks: tasks to load in addition to installed ones.
        decide: whether people may settle steps there.
    """
    prompts = TaskPrompts(tasks)
    desk = Desk(path, prompts.check_trusted) if decide else None
    return Shown(str(path), partial(open_log, path), prompts, partial(is_claimed, path), desk)
