"""The request fields that an endpoint supports: options left open by the user, settled by its refusals."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from mdap.errors import ProviderError, RateLimitError, RejectedError
from mdap.providers.endpoint import EndpointSettings

S = TypeVar("S", bound=EndpointSettings)

# What servers call what an option is about. They quote names in as many ways as there are servers.
_NAMED: Final = {
    "json_schema": re.compile(
        r"(?i)response.?format|json.?(schema|object|mode)|structured.?output|guided|grammar"
    ),
    "token_parameter": re.compile(r"(?i)max_(completion_)?tokens"),
    "send_temperature": re.compile(r"(?i)\btemperature\b"),
    "system_role": re.compile(
        r"(?i)system.?(role|message|prompt|instruction)|developer.?instruction|roles?\b.{0,60}\bsystem\b"
        r"|roles must alternate|roles are supported|\bsystem\b.{0,20}\b(not|unsupported|extra|unexpected)\b"
    ),
    "cache_breakpoints": re.compile(r"(?i)cache_control|cache_breakpoint"),
    "n": re.compile(r"""(?i)['"`]n['"`]|\bn\s*[=>]\s*1|\bn must be|\bparameter:? n\b"""),
}
# A limit of tokens may be refused for its size, which no other name for it would change.
_SIZE: Final = re.compile(
    r"(?i)context|too (large|long|high|small|low)|at (most|least)|exceed|higher|greater|less than|below"
    r"|above|maximum|minimum|could not finish"
)
# The fields of a request's body that are an option's.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "json_schema": ("response_format",),
    "token_parameter": ("max_completion_tokens", "max_tokens"),
    "send_temperature": ("temperature",),
    "n": ("n",),
}

Send = Callable[[], Awaitable[ProviderError | None]]
"""Sends one request with all that an option may change, and returns why it failed."""


def options_named(text: str) -> list[str]:
    """Return the options that an endpoint's refusal is about, going by its words."""
    found = [name for name, pattern in _NAMED.items() if pattern.search(text)]
    if "token_parameter" in found and _SIZE.search(text):
        found.remove("token_parameter")
    return found


class Dialect(Generic[S]):
    """The options with which an endpoint is asked: the user's own, and values found out for the others.

    Attributes:
        settings: those in force.
        open: options that the user did not set, each with its values, the best first.
    """

    def __init__(self, settings: S) -> None:
        self.settings = settings
        self.open: Final[dict[str, tuple[Any, ...]]] = {
            name: values
            for name, values in settings.negotiable.items()
            if name not in settings.model_fields_set
            and not settings.extra_body.keys() & _FIELDS.get(name, ())
        }

    @property
    def found(self) -> dict[str, Any]:
        """The values in force of the options that the user left open."""
        return {name: getattr(self.settings, name) for name in self.open}

    def adopt(self, options: Mapping[str, Any]) -> None:
        """Use *options*, except for what the user set and for values that there are not."""
        known = {name: value for name, value in options.items() if value in self.open.get(name, ())}
        self.settings = self.settings.model_copy(update=known)

    def next_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the next value to try for each open option among *names*, if there is one."""
        following = {}
        for name in names:
            values = self.open.get(name, ())
            place = values.index(getattr(self.settings, name)) + 1 if values else 0
            if 0 < place < len(values):
                following[name] = values[place]
        return following

    def advise(self, error: RejectedError, body: Mapping[str, Any]) -> None:
        """Add to *error* the options that may help, where it refuses a part of the request's *body*."""
        helpful = self.settings.helpful
        advice = [
            f"-M {name}={helpful[name]}"
            for name in options_named(str(error))
            if name in helpful and _is_about(name, body)
        ]
        if advice:
            error.args = (f"{error}; try {' '.join(advice)}",)
            error.about_options = True


def _is_about(name: str, body: Mapping[str, Any]) -> bool:
    """Return whether *body* has what the option *name* is about."""
    if name == "cache_breakpoints":
        return "cache_control" in str(body) or "cache_breakpoint" in str(body)
    if name == "system_role":
        return "system" in body or any(message.get("role") == "system" for message in body["messages"])
    return any(field in body for field in _FIELDS[name])


async def negotiate(dialect: Dialect[Any], send: Send) -> ProviderError | None:
    """Try the options that the user left open until the endpoint answers; return why it does not.

    Where its refusals name what they refuse, that is changed. Where they do not, the endpoint is asked for as
    little as possible, and then for one thing after the other. Where nothing is found, they stay as they
    were.
    """
    error = await _by_words(dialect, send)
    if error is None or not is_refusal(error) or not dialect.open:
        return error
    known, least = dialect.found, {name: values[-1] for name, values in dialect.open.items()}
    # There is no least name of a limit.
    for tokens in dialect.open.get("token_parameter", ("",))[::-1]:
        dialect.adopt({**least, "token_parameter": tokens})
        failure = await send()
        if failure is None:
            await _ask_for_more(dialect, send)
            return None
        if not isinstance(failure, RejectedError):
            break
    dialect.adopt(known)
    return error


async def _by_words(dialect: Dialect[Any], send: Send) -> ProviderError | None:
    # What led on from a breakdown may be chance: it only stays if it leads to an answer.
    sure = dialect.found
    while (error := await _sent(send)) is not None:
        following = dialect.next_of(options_named(str(error))) if is_refusal(error) else {}
        if not following:
            dialect.adopt(sure)
            return error
        dialect.adopt(following)
        if isinstance(error, RejectedError):
            sure |= following
    return None


async def _ask_for_more(dialect: Dialect[Any], send: Send) -> None:
    """Give each option the best value with which the endpoint still answers."""
    for name, values in dialect.open.items():
        if name == "n":
            continue  # whether that is worth anything, usage must tell: the probe measures it
        least = dialect.found[name]
        for value in values[: values.index(least)]:
            dialect.adopt({name: value})
            if await _sent(send) is None:
                break
            dialect.adopt({name: least})


async def _sent(send: Send) -> ProviderError | None:
    """Send once, and once more after a failure that may be none of the request's."""
    error = await send()
    if error is not None and not isinstance(error, RejectedError) and is_refusal(error):
        error = await send()
    return error


def is_refusal(error: ProviderError) -> bool:
    """Return whether *error* may be about what was asked for: some servers break where they should refuse."""
    broke = error.kind.startswith("http_5") and not isinstance(error, RateLimitError)
    # One that comes with status 200 may be of another API, unless it speaks of an option.
    named = error.kind == "error_body" and bool(options_named(str(error)))
    return isinstance(error, RejectedError) or broke or named
