"""Files that a command reads as others write them, and files that it writes without destroying any."""

import codecs
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from mdap.errors import UsageError

_STANDARD: Final = ("-", "/dev/stdin", "/dev/stdout", "/dev/stderr")
_LONGEST_LINE: Final = 10_000_000
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Written:
    """A file that is written beside its path and replaces it only when kept; *option* names it in errors.

    It writes to a pipe or a device directly.
    """

    def __init__(self, option: str, path: Path) -> None:
        self.lines = 0
        self.kept = False
        self._option = option
        self._special = _is_descriptor(path) or (path.exists() and not path.is_file())
        self._path = path if self._special or not path.is_symlink() else _real(path)
        self.beside = self._path if self._special else self._path.with_name(f"{self._path.name}.part")
        with self.explained():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self.file: IO[bytes] = self.beside.open("ab" if self._special else "wb")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the system's errors in the block into one sentence."""
        try:
            yield
        except OSError as error:
            why = error.strerror or str(error)
            sentence = f"{self._path} cannot be written ({why}): name another file with {self._option}"
            raise UsageError(sentence) from None

    def write(self, text: str) -> None:
        """Write *text*, and hand it on to the system."""
        with self.explained():
            self.file.write(text.encode())
            self.file.flush()
        self.lines += 1

    def keep(self) -> None:
        """Move it to its path, replacing any file there."""
        with self.explained():
            self.file.close()
            if not self._special:
                with suppress(FileNotFoundError):
                    shutil.copymode(self._path, self.beside)
                self.beside.replace(self._path)
        self.kept = True

    def keep_if_it_extends(self, head: str) -> bool:
        """Move it to its path unless that would lose another file; return whether it was moved.

        It replaces only an earlier version of itself: a file that begins with *head* and has no more lines,
        or an empty one.
        """
        with self.explained():
            self.file.close()
            extends = self._special or not self._path.exists() or _extends(self.beside, self._path, head)
        if extends:
            self.keep()
        return extends

    def drop(self) -> None:
        """Keep the previous file."""
        with suppress(OSError):
            self.file.close()
        if not self._special:
            self.beside.unlink(missing_ok=True)


@contextmanager
def written(option: str, path: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically; the previous file stays until then."""
    out = Written(option, path)
    try:
        with out.explained():
            yield out.file
        out.keep()
    finally:
        if not out.kept:
            out.drop()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `resolve` fails where links lead in a circle


def _extends(new: Path, old: Path, head: str) -> bool:
    with old.open("rb") as file, new.open("rb") as longer:
        begun = file.read(len(head.encode())) in (b"", head.encode())
        file.seek(0)
        return begun and sum(1 for _ in file) <= sum(1 for _ in longer)


def check_apart(option: str, path: Path, others: Mapping[str, str | Path | None]) -> None:
    """Refuse to write *path* where it is one of the *others*, which the command reads, by whatever name."""
    for name, other in others.items():
        if other is not None and _same(path, Path(other)):
            raise UsageError(f"{option} {path} is the same file as {name}: name another one")


def database_files(db: str | Path) -> dict[str, Path]:
    """Return the database and the files that SQLite and mdap keep beside it, by what to call them."""
    return {f"{db}{end}": Path(f"{db}{end}") for end in ("", "-wal", "-shm", "-lock")}


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other) and not one.is_char_device() and not one.is_fifo()
    return one.absolute() == other.absolute() or _real(one) == _real(other)


@contextmanager
def readable(option: str, path: Path) -> Iterator[Path]:
    """Give a rereadable file with the content of *path*, or of ``-``: a pipe can be read only once."""
    if path.is_file() and not _is_descriptor(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mdap-") as folder:
        copy = Path(folder) / "copy"
        try:
            source = os.fdopen(os.dup(0), "rb") if str(path) in ("-", "/dev/stdin") else path.open("rb")
            with source, copy.open("wb") as file:
                shutil.copyfileobj(source, file)
        except OSError as error:
            raise UsageError(f"{option} {path} cannot be read: {error.strerror or error}") from None
        yield copy


def _is_descriptor(path: Path) -> bool:
    """Return whether *path* names a file that is open already, to be used from where it stands."""
    return str(path) in _STANDARD or path.parent in (Path("/dev/fd"), Path("/proc/self/fd"))


def lines_of(path: Path) -> Iterator[str | None]:
    """Yield the lines of a text in UTF-8, or UTF-16 with its mark; None for one too long for the memory."""
    with path.open("rb") as raw:
        head = raw.read(4)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    with path.open(encoding=encoding) as file:
        while line := file.readline(_LONGEST_LINE):
            whole = line.endswith("\n") or len(line) < _LONGEST_LINE
            while not whole:
                whole = (rest := file.readline(_LONGEST_LINE)).endswith("\n") or len(rest) < _LONGEST_LINE
                line = ""
            yield line or None
