"""One process per run: a claim ends with its process, even after a crash."""

import os
import struct
import sys
import threading
from pathlib import Path
from typing import IO, Final

from mdap.errors import DatabaseError, RunBusyError

JOBS: Final = 1 << 40
"""Job n of a batch API is claimed by the number JOBS + n; runs are claimed by their own numbers, from 1."""

EVOLUTIONS: Final = 1 << 41
"""Evolution n is claimed by the number EVOLUTIONS + n."""

if sys.platform == "win32":
    # Without locks, only UNIQUE constraints keep two writers of a run apart.
    def _lock(file: IO[bytes], run: int) -> bool:
        return True

    def _unlock(file: IO[bytes], run: int) -> None:
        pass

    def _is_locked(file: IO[bytes], run: int) -> bool | None:
        return None

else:
    import fcntl

    def _lock(file: IO[bytes], run: int) -> bool:
        try:
            _set_lock(file, run, fcntl.F_WRLCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes], run: int) -> None:
        _set_lock(file, run, fcntl.F_UNLCK, fcntl.LOCK_UN)

    if sys.platform == "linux":
        # Locks of the open file, not of the process: they also separate two sessions of one process.

        def _set_lock(file: IO[bytes], run: int, kind: int, _: int) -> None:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, run, 1, 0))

        def _is_locked(file: IO[bytes], run: int) -> bool | None:
            wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, run, 1, 0)
            kind: int = struct.unpack_from("h", fcntl.fcntl(file, fcntl.F_OFD_GETLK, wanted))[0]
            return kind != fcntl.F_UNLCK

    else:

        def _set_lock(file: IO[bytes], run: int, _: int, how: int) -> None:
            fcntl.lockf(file, how, 1, run, os.SEEK_SET)

        def _is_locked(file: IO[bytes], run: int) -> bool | None:
            return None  # only taking the lock could tell


def is_claimed(path: Path, run: int) -> bool | None:
    """Return whether a process is working on *run*, a number; None if unknown."""
    try:
        with Path(f"{path}-lock").open("rb") as file:
            return _is_locked(file, run)
    except FileNotFoundError:
        return False
    except OSError:
        return None


class Claims:
    """Advisory locks, one byte per run, on a file beside the database.

    They belong to the process, so the operating system drops them even after ``kill -9``.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}-lock")
        self._file: IO[bytes] | None = None
        self._held: set[int] = set()
        self._taking = threading.Lock()  # a resumed run is claimed in the database's thread

    def take(self, run: int, run_id: str, *, shared: bool = False) -> None:
        """Claim *run* for this process; several tasks of this session may work on a *shared* one, a batch.

        Raises:
            RunBusyError: another process, or another task of this one, works on it.
            DatabaseError: the file beside the database cannot be written.
        """
        with self._taking:
            if self._file is None:
                try:
                    self._file = self._path.open("ab")
                except OSError as error:
                    sentence = f"{self._path} cannot be written ({error.strerror}): check its permissions"
                    raise DatabaseError(sentence) from None
            if shared and run in self._held:
                return
            if run in self._held or not _lock(self._file, run):
                busy = f"run {run_id} is being worked on already: wait for that to end, or stop it"
                raise RunBusyError(busy)
            self._held.add(run)

    def drop(self, run: int) -> None:
        """Release *run*."""
        self._held.discard(run)
        if self._file is not None:
            _unlock(self._file, run)

    def close(self) -> None:
        """Release all runs."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._held.clear()
