"""Every error mdap raises on purpose, split by what the caller can do about it.

::

    MdapError
    ├── UsageError             the call is wrong: change it and call again
    │   ├── ClaimedError       another person has the step, or settled it meanwhile: look at it again
    │   ├── RunBusyError       another process is working on the run: wait until it ends
    │   └── RunNotFoundError   the database holds no run of that name
    ├── DatabaseError          the database file cannot be used as it is
    │   └── LockedError        another program has locked it: end that program, and resume
    ├── PluginError            a task's or provider's own code raised; names it and the step
    ├── RunError               a run ended without a result; carries the `solution` so far
    │   ├── UndecidedError     a step found no winner within its allowed samples, or was refused
    │   ├── StoppedError       a budget, quota or dead provider stopped the run; it can be resumed
    │   └── FailedError        the run can not go on: a plugin failed
    └── ProviderError          one attempt at a sample failed
        ├── TransientError     try the same attempt again
        │   └── RateLimitError the endpoint asks for a pause first
        ├── UnavailableError   no attempt can work until a person acts (key, quota, model)
        └── RejectedError      this prompt can never work (bad request)

Nothing here imports anything of mdap, so every floor may raise these.
"""

import opcode
import traceback
from math import isnan
from typing import Any, Final, NoReturn

__all__ = [
    "ClaimedError",
    "DatabaseError",
    "FailedError",
    "LockedError",
    "MdapError",
    "PluginError",
    "ProviderError",
    "RateLimitError",
    "RejectedError",
    "RunBusyError",
    "RunError",
    "RunNotFoundError",
    "StoppedError",
    "TransientError",
    "UnavailableError",
    "UndecidedError",
    "UsageError",
]


FORBIDDEN: Final = "forbidden"
"""The kind of an `UnavailableError` that is about the key or about the prompt: the endpoint does not say."""

PARKED: Final = "batch"
"""The kind of an `UnavailableError` of samples that wait in jobs of a batch API, and are not waited for."""

RAISED: Final = (Exception, SystemExit)
"""What other people's code may raise. `sys.exit` in a task must not end the process without a word."""

_OURS: Final = __file__.replace("\\", "/").removesuffix("errors.py")
_STDLIB: Final = traceback.__file__.replace("\\", "/").removesuffix("traceback.py")
_RAISE: Final = opcode.opmap["RAISE_VARARGS"]
_MOST_SAID: Final = 2_000
_MOST_TRACEBACK: Final = 16_000
_HEAD: Final = 4_000
_LIBRARIES: Final = frozenset(("aiosqlite", "anyio", "click", "pydantic", "rich", "structlog"))


def _again(kind: type["MdapError"], args: tuple[Any, ...]) -> "MdapError":
    """Return an error as it was, without its `__init__`, whose arguments are not kept."""
    return kind.__new__(kind, *args)


class MdapError(Exception):
    """The root of all errors that mdap raises on purpose; each can be copied and pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args), self.__dict__


class UsageError(MdapError):
    """Raised when the call itself is wrong: a parameter, a name, a file that does not exist."""


class ClaimedError(UsageError):
    """Raised when another person has the step, or settled it meanwhile; look at it again."""


class RunBusyError(UsageError):
    """Raised when another process is working on the run; wait until it ends, or stop it."""


class RunNotFoundError(UsageError):
    """Raised when the database holds no run of that name; `mdap runs` lists those it holds."""


class DatabaseError(MdapError):
    """Raised when the database file is foreign, damaged, newer than this mdap, locked or not writable."""


class LockedError(DatabaseError):
    """Raised when another program holds the database's write lock for too long; `mdap resume` goes on."""


class PluginError(MdapError):
    """Raised when a task's or a provider's own code raises; the original error is its cause."""

    def __init__(self, plugin: str, doing: str, cause: BaseException) -> None:
        super().__init__(f"{plugin} failed while {doing}: {told(cause)}")
        self.__cause__ = cause  # also where it is kept as a value and never raised
        self.plugin = plugin
        self.doing = doing
        self.cause_name = type(cause).__name__


class RunError(MdapError):
    """Raised when a run ended without a result; an error that ended it is its cause.

    Attributes:
        solution: the `Solution` with status, totals and run id, as far as the run came.
        stop_cause: why it ended, as in `Solution.stop_cause`; None if unknown.
    """

    def __init__(self, message: str, solution: Any = None, stop_cause: str | None = None) -> None:
        super().__init__(message)
        self.solution = solution
        self.stop_cause: str | None = getattr(solution, "stop_cause", stop_cause)


class UndecidedError(RunError):
    """Raised when a step found no winner within its allowed samples, or all models refused its prompt."""


class StoppedError(RunError):
    """Raised when a budget, a quota or a dead provider stopped the run; `mdap resume` goes on."""


class FailedError(RunError):
    """Raised when the run cannot go on: the task's own code failed."""


class ProviderError(MdapError):
    """One attempt at a sample failed.

    Attributes:
        kind: a short stable word for statistics, such as ``timeout`` or ``http_500``.
        input_tokens: tokens of the prompt that the endpoint billed nevertheless; None if it reported none.
        output_tokens: tokens of the reply that it billed, as above.
        foreign: whether the answer looks like that of a different API, or of none.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    foreign: bool = False

    def __init__(self, message: str, *, kind: str = "error") -> None:
        super().__init__(message)
        self.kind = kind


class TransientError(ProviderError):
    """Raised when the same attempt may well work a moment later: timeout, reset, 5xx, garbled body."""


class RateLimitError(TransientError):
    """Raised when the endpoint asks to slow down.

    Attributes:
        retry_after: requested wait in seconds; None if not given.
    """

    def __init__(self, message: str, *, kind: str = "rate_limit", retry_after: float | None = None) -> None:
        super().__init__(message, kind=kind)
        # A moment that has passed asks for no wait, and what is no number for none in particular.
        self.retry_after = None if retry_after is None or isnan(retry_after) else max(0.0, retry_after)


class UnavailableError(ProviderError):
    """Raised when no attempt can work until a person acts: no key, no quota, no such model."""


class RejectedError(ProviderError):
    """Raised when the endpoint refuses this very prompt, so that trying again is pointless.

    Attributes:
        about_options: whether it names an option of the request that every prompt is sent with.
    """

    about_options = False


def told(error: BaseException) -> str:
    """Return what *error* says and where in its author's code: ``file.py:41 in parse: KeyError: 'x'``."""
    place = author_line(error)
    said = _said(error)
    if isinstance(error, SystemExit) and place is not None and place.endswith("<module>"):
        said += ': put it under `if __name__ == "__main__":`'
    return f"{place}: {said}" if place else said


def reraise(error: BaseException) -> NoReturn:
    """Raise *error* once more, with the cause and the context that it has."""
    context, suppressed = error.__context__, error.__suppress_context__
    try:
        raise error
    finally:
        error.__context__, error.__suppress_context__ = context, suppressed


def own_cause(error: BaseException) -> BaseException:
    """Return the error of somebody else's code that *error* tells of; *error* itself where there is none."""
    inner = error.__cause__
    return own_cause(inner) if isinstance(error, MdapError) and inner is not None else error


def traceback_of(error: BaseException) -> str | None:
    """Return what Python prints of *error*, with what it tells of and its causes; None if it passed no code.

    Returns:
        At most 16,000 characters: of a longer one the beginning and the end.
    """
    error = own_cause(error)
    try:
        text = "".join(traceback.format_exception(error)).rstrip()
    except Exception:  # such as one whose text cannot be made
        text = "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__
    if "Traceback (" not in text and not isinstance(error, SyntaxError):
        return None
    left_out = len(text) - _MOST_TRACEBACK
    if left_out <= 0:
        return text
    return f"{text[:_HEAD]}\n... {left_out:,} characters left out ...\n{text[_HEAD - _MOST_TRACEBACK :]}"


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    if len(text) > _MOST_SAID:  # the traceback has all of it
        text = f"{text[:_MOST_SAID]} ... ({len(text):,} characters)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def author_line(error: BaseException) -> str | None:
    """Return the last line of its author's own code that *error* passed: ``file.py:41 in parse``.

    It is None for an error of mdap or of a library.
    """
    if isinstance(error, SyntaxError) and (error.filename or "").endswith(".py"):
        return f"{_name_of(error.filename or '')}:{error.lineno}"
    found: str | None = None
    home: str | None = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename.replace("\\", "/")
        if _is_library(file):
            continue
        folder, _, name = file.rpartition("/")
        home = folder if home is None else home
        # What the author's code calls of other people's is none of its lines.
        if folder.startswith(home):
            found = f"{name}:{line} in {frame.f_code.co_name}"
    return found


def _name_of(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[2]


def slipped_at(error: BaseException) -> str | None:
    """Return the line of the author's code at which *error* arose by accident.

    It is None if a `raise` statement of that code raised it on purpose: its text is then for the reader.
    """
    place, last = author_line(error), error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if place is None or last is None:
        return None
    return None if last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE else place


def _is_library(file: str) -> bool:
    if file.startswith((_OURS, "<frozen")):
        return True
    _, installed, path = file.partition("/site-packages/")
    return path.partition("/")[0] in _LIBRARIES if installed else file.startswith(_STDLIB)
