"""Every error mdap raises on purpose, split by what the caller can do about it.

::

    MdapError
    ├── UsageError             the call is wrong: change it and call again
    ├── DatabaseError          the database file cannot be used as it is
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

from typing import Any, Final

__all__ = [
    "DatabaseError",
    "FailedError",
    "MdapError",
    "PluginError",
    "ProviderError",
    "RateLimitError",
    "RejectedError",
    "RunError",
    "StoppedError",
    "TransientError",
    "UnavailableError",
    "UndecidedError",
    "UsageError",
]


FORBIDDEN: Final = "forbidden"
"""The kind of an `UnavailableError` that is about the key or about the prompt: the endpoint does not say."""


def _again(kind: type["MdapError"], args: tuple[Any, ...]) -> "MdapError":
    """Return an error as it was, without its `__init__`, whose arguments are not kept."""
    return kind.__new__(kind, *args)


class MdapError(Exception):
    """The root of all errors that mdap raises on purpose; each can be copied and pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args), self.__dict__


class UsageError(MdapError):
    """Raised when the call itself is wrong: a parameter, a name, a file that does not exist."""


class DatabaseError(MdapError):
    """Raised when the database file is foreign, damaged, newer than this mdap, locked or not writable."""


class PluginError(MdapError):
    """Raised when a task's or a provider's own code raises; the original error is its cause."""

    def __init__(self, plugin: str, doing: str, cause: BaseException) -> None:
        super().__init__(f"{plugin} failed while {doing}: {type(cause).__name__}: {cause}")
        self.plugin = plugin
        self.doing = doing
        self.cause_name = type(cause).__name__


class RunError(MdapError):
    """Raised when a run ended without a result.

    Attributes:
        solution: the `Solution` with status, totals and run id, as far as the run came.
    """

    def __init__(self, message: str, solution: Any = None) -> None:
        super().__init__(message)
        self.solution = solution


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
        input_tokens: tokens of the prompt that the endpoint billed all the same; None where it told none.
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
        retry_after: how long it asks to wait, in seconds; None where it does not say.
    """

    def __init__(self, message: str, *, kind: str = "rate_limit", retry_after: float | None = None) -> None:
        super().__init__(message, kind=kind)
        self.retry_after = retry_after


class UnavailableError(ProviderError):
    """Raised when no attempt can work until a person acts: no key, no quota, no such model."""


class RejectedError(ProviderError):
    """Raised when the endpoint refuses this very prompt, so that trying again is pointless.

    Attributes:
        about_options: whether it names an option of the request that every prompt is sent with.
    """

    about_options = False
