"""A database as the viewer takes it."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

from mdap.audit.source import Shown
from mdap.compose.prompting import TaskPrompts
from mdap.journal.claims import is_claimed
from mdap.journal.reader import open_log

__all__ = ["shown"]


def shown(path: Path, tasks: Collection[str] = ()) -> Shown:
    """Return the database at *path* to be looked at.

    Args:
        path: the database file.
        tasks: tasks that may be loaded beside those that are installed.
    """
    return Shown(str(path), partial(open_log, path), TaskPrompts(tasks), partial(is_claimed, path))
