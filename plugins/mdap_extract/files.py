"""Files: reading pipes more than once, and writing so that nothing is lost on the way."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from mdap import UsageError

# What stands here may be a file that was opened before, and on some systems goes on from where that was read.
_STREAMS: Final = (Path("/dev"), Path("/dev/fd"))

# Copies of the content of pipes.
_COPIES: Final[dict[tuple[Path, int, int], Any]] = {}

_DATABASE: Final = b"SQLite format 3\0"


def is_pipe(path: Path) -> bool:
    """Return whether *path* gives its content only once: a pipe, or standard input."""
    try:
        return path.parent in _STREAMS or not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def real(path: Path) -> Path:
    """Return *path* with its links followed; where they lead in a circle, a link."""
    return Path(os.path.realpath(path))


def local(path: Path) -> Path:
    """Return a file with the content of *path* that can be read any number of times.

    Raises:
        OSError: it cannot be read.
    """
    if not is_pipe(path):
        return path
    if not is_kept(path):
        copy = tempfile.NamedTemporaryFile(prefix="mdap-input-")  # noqa: SIM115  # closed with the process
        with path.open("rb") as source:
            shutil.copyfileobj(source, copy)
        copy.flush()
        _COPIES[_pipe(path)] = copy
    return Path(_COPIES[_pipe(path)].name)


def is_kept(path: Path) -> bool:
    """Return whether this process can read *path* again: a file, or a pipe of which it has a copy."""
    return not is_pipe(path) or _pipe(path) in _COPIES


def _pipe(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_dev, status.st_ino


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes with a file, so that what is remembered of it is not out of date."""
    try:
        status = local(path).stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_size


def check_writable(path: Path) -> None:
    """Refuse a place where nothing can be written, before anything is paid for.

    Raises:
        ValueError: there is no such folder, it may not be written to, no file can stand there, or a database
            stands there, such as the log of a run.
    """
    place = real(path)
    if not place.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}: create it, or name another file")
    if place.is_symlink() or (place.exists() and not place.is_file()):
        raise ValueError(f"{path} is no file that can be replaced: name another one")
    _spare(place, path)
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path.parent} cannot be written to: change its permissions, or name another file")


def _spare(place: Path, path: Path) -> None:
    try:
        with place.open("rb") as file:
            begin = file.read(len(_DATABASE))
    except OSError:
        return
    if begin == _DATABASE:
        raise ValueError(f"{path} is a database, and stays: name another file")


@contextmanager
def replaced(path: Path) -> Iterator[TextIO]:
    """Open a file beside *path* that takes its place once it is whole, and durable.

    Raises:
        UsageError: it cannot be written.
    """
    place = real(path)  # a link stays one
    beside = place.with_name(f".{place.name[:200]}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _spare(place, path)  # a run's own log may have come since
        os.replace(beside, place)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)
