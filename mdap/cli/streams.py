"""Standard output and error that no encoding, missing reader or full disk turns into an exception.

All that prints goes through them: our own lines, click's help, Rich's tables, structlog, and `print` in a
task's code. What a run decided is on record, so a line that cannot be written never ends the run; the end of
the command says whether anything was lost.
"""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, Final, cast

_NO_READER: Final = {errno.EPIPE, errno.ECONNRESET, errno.EINVAL, errno.EBADF}
"""What the system says where nobody reads any more (EINVAL on Windows), or where the stream was closed."""


class Steady:
    """A stream that records its first write failure instead of raising it, then discards output.

    The failure is noted at its *owner*, if it has one. If it takes the place of standard output, the one
    JSON object of ``--json`` goes to *answer*.
    """

    def __init__(
        self, stream: IO[Any], owner: "Steady | None" = None, answer: "Steady | None" = None
    ) -> None:
        self._stream = stream
        self._owner = owner or self
        self.answer = answer
        self.failure: OSError | None = None
        self.is_terminal = stream.isatty()

    def write(self, data: Any) -> int:
        """Write *data*, or lose it; return its length."""
        with self.guarded():
            self._stream.write(data)
        return len(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of *lines*."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written so far."""
        with self.guarded():
            self._stream.flush()

    @property
    def buffer(self) -> "Steady":
        """The stream of bytes below."""
        return Steady(cast(IO[bytes], self._stream).buffer, self._owner)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def guarded(self) -> Iterator[IO[Any]]:
        """Give the stream itself; the block ends early, and quietly, where it cannot be written."""
        try:
            yield self._stream
        except OSError as error:
            self._owner.failure = self._owner.failure or error
            with suppress(OSError):  # what is buffered, and all that follows, goes nowhere
                number = self._stream.fileno()
                with open(os.devnull, "wb") as nothing:
                    os.dup2(nothing.fileno(), number)

    @property
    def lacks_reader(self) -> bool:
        """Whether the failure only means that the reader has gone."""
        return self.failure is not None and (self.is_terminal or self.failure.errno in _NO_READER)


@contextmanager
def steady() -> Iterator[Steady]:
    """Make the standard streams steady within the block; give standard output."""
    _fill_descriptors()
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            stack.callback(setattr, sys, name, stream)
            setattr(sys, name, Steady(_fit(stream)))
        out = cast(Steady, sys.stdout)
        yield out
        out.flush()
        sys.stderr.flush()


@contextmanager
def apart(out: Steady) -> Iterator[None]:
    """Keep *out*, standard output, for one JSON object within the block; see `answer_stream`.

    The descriptor itself leads to standard error, so that what child processes and C code print does too.
    """
    sys.stdout.flush()
    with ExitStack() as stack:
        answer = out
        with suppress(OSError, ValueError):  # it has no descriptor
            if out.fileno() == 1:
                kept = os.dup(1)
                answer = Steady(stack.enter_context(os.fdopen(kept, "w", encoding=out.encoding)), out)
                stack.callback(os.dup2, kept, 1)
                os.dup2(2, 1)
        stack.callback(answer.flush)
        stack.callback(setattr, sys, "stdout", sys.stdout)
        sys.stdout = cast(Any, Steady(sys.stderr, answer=answer))  # what a task prints itself
        yield


def answer_stream() -> Any:
    """Return where the one JSON object of ``--json`` goes."""
    return getattr(sys.stdout, "answer", None) or sys.stdout


@contextmanager
def binary_output() -> Iterator[IO[bytes]]:
    """Give standard output for bytes; the block ends early where nobody reads it, or it is full."""
    out = cast(Steady, sys.stdout)
    with out.buffer.guarded() as stream:
        yield stream
        stream.flush()


def _fit(stream: Any) -> Any:
    """Return *stream* so that it takes any text: what its encoding lacks is escaped."""
    if stream is None:  # it was closed before the command began: writing here fails in the same way
        nowhere = os.open(os.devnull, os.O_RDONLY)  # until the process ends
        stream = os.fdopen(nowhere, "w", encoding="utf-8", closefd=False)
    if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    with suppress(OSError, ValueError):  # no descriptor, or none that can be told
        os.set_blocking(stream.fileno(), True)  # else a slow reader's full pipe would be an error
    return stream


def _fill_descriptors() -> None:
    """Occupy the descriptors of closed standard streams, or the next file opened would get our errors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
