"""Detect that a database was deleted or replaced while it is open.

SQLite continues to write to the lost files and reports success.
"""

from pathlib import Path

from mdap.errors import DatabaseError

__all__ = ["Files"]

_Identity = tuple[int, int]


class Files:
    """The database's file and its write-ahead log, as first seen.

    Args:
        path: the database file.
    """

    def __init__(self, path: Path) -> None:
        self._files = (path, Path(f"{path}-wal"))
        known = {file: _identity(file) for file in self._files}
        self._seen = {file: found for file, found in known.items() if found is not None}

    def check(self) -> None:
        """Check that both are still the same files; call this after a commit, when both must exist.

        Raises:
            DatabaseError: one of them is missing or replaced.
        """
        for file in self._files:
            found = _identity(file)
            if found is None or self._seen.setdefault(file, found) != found:
                raise DatabaseError(
                    f"{file} was deleted or replaced while it was in use, and what was written since may be "
                    f"lost: put the old file back if you can, and resume the run"
                )


def _identity(file: Path) -> _Identity | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
