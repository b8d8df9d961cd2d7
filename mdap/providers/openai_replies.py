"""Reading what an OpenAI-compatible endpoint sent back: choices, usage, and what went wrong."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from mdap.errors import ProviderError, RateLimitError, RejectedError, TransientError, UnavailableError
from mdap.rules.headers import read_told

__all__ = [
    "Endpoint",
    "explain_failure",
    "only_first",
    "parse_body",
    "read_choice",
    "read_number",
    "read_usage",
    "shares_of",
]

_TOLD_CHARS: Final = 300
# Anything shorter is no secret (local servers get keys like "x"), and masking it would garble messages.
_SECRET_CHARS: Final = 8
_MAX_TOKENS: Final = 2**53
_OUT_OF_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """Where requests go, and what must never be told about it."""

    base_url: str
    key: str | None

    @property
    def host(self) -> str:
        """Host and port, without user or password."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    def tell(self, text: str) -> str:
        """Return foreign *text* as it may stand in an error: one line, short, without secrets."""
        line = " ".join("".join(c if c.isprintable() else " " for c in text[: 100 * _TOLD_CHARS]).split())
        line = self.mask(line)
        return line if len(line) <= _TOLD_CHARS else line[: _TOLD_CHARS - 3] + "..."

    def mask(self, text: str) -> str:
        """Return *text* with every secret of this endpoint replaced."""
        parts = urlsplit(self.base_url)
        for secret in (self.key, parts.password, parts.username):
            if secret and len(secret) >= _SECRET_CHARS:
                text = text.replace(secret, "***")
        return text


def read_usage(body: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Return prompt, output and cached tokens, each None where the response reports none or nonsense."""
    usage = _mapping(body.get("usage"))
    cached = _mapping(usage.get("prompt_tokens_details")).get("cached_tokens")
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), _count(cached)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return value if sound else None


def only_first(tokens: int | None, place: int) -> int | None:
    """Return *tokens* for the first reply and 0 for the others; None where unknown."""
    return tokens if place == 0 or tokens is None else 0


def shares_of(total: int | None, parts: int) -> list[int | None]:
    """Return *total* in whole, nearly equal parts that add up to it; None for each where unknown."""
    if total is None:
        return [None] * parts
    share, rest = divmod(total, parts)
    return [share + (place < rest) for place in range(parts)]


def parse_body(headers: Mapping[str, str], content: bytes, endpoint: Endpoint) -> dict[str, Any]:
    """Return the response's JSON object, with a list of at least one choice; raise a `ProviderError`."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise TransientError(f"{endpoint.host} answered {endpoint.tell(kind)}, not JSON", kind="wrong_type")
    body = _json_or_none(content)
    if not isinstance(body, dict):
        raise TransientError(f"{endpoint.host} answered with broken JSON", kind="garbled_body")
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        return body
    # Routers report an upstream's failure with status 200.
    if body.get("error"):
        code = _count(_mapping(body["error"]).get("code")) or 0
        raise _classify(code if 400 <= code < 600 else 502, headers, body, endpoint)
    raise TransientError(f"{endpoint.host} answered without a choice", kind="empty_choices")


def _json_or_none(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def read_choice(choice: Any) -> tuple[str, str | None]:
    """Return a choice's text and finish reason."""
    message = _mapping(choice).get("message")
    content = _mapping(message).get("content")
    if not isinstance(message, dict) or not (content is None or isinstance(content, str)):
        raise TransientError("the response has a choice without a text message", kind="garbled_body")
    reason = choice.get("finish_reason")
    return content or "", reason if isinstance(reason, str) and reason else None


# What went wrong


def explain_failure(error: Exception, endpoint: Endpoint) -> ProviderError | None:
    """Return *error* in mdap's words, or None if it is no failure of an attempt but a bug."""
    import aiohttp
    import openai

    causes = list(_causes(error))
    # Raised in a hook, it comes out of openai 3 as it is, and out of openai 2 wrapped.
    for cause in causes:
        if isinstance(cause, ProviderError):
            return cause
    if isinstance(error, openai.APIStatusError):
        body = _json_or_none(error.response.content) or error.response.text
        return _classify(error.status_code, error.response.headers, body, endpoint)
    if isinstance(error, UnicodeEncodeError):
        return RejectedError("the prompt holds characters that cannot be sent", kind="unencodable")
    if not isinstance(error, openai.APIConnectionError | aiohttp.ClientError | OSError):
        return None
    # The SDK calls any broken aiohttp connection a timeout; only the cause tells which it was.
    late = isinstance(error, openai.APITimeoutError) and not any(
        isinstance(cause, aiohttp.ClientError) for cause in causes
    )
    if late or any(isinstance(cause, TimeoutError) for cause in causes):
        return TransientError(f"{endpoint.host} did not answer in time", kind="timeout")
    detail = next((told for cause in reversed(causes) if (told := endpoint.tell(str(cause)))), "no details")
    return TransientError(f"the connection to {endpoint.host} failed: {detail}", kind="connection")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # Not the context: if the caller is handling an earlier failure, that would be found in it.
    while error is not None:
        yield error
        error = error.__cause__


def _classify(status: int, headers: Mapping[str, str], body: Any, endpoint: Endpoint) -> ProviderError:
    """Return what an error response means for the caller.

    Args:
        status: the HTTP status.
        headers: the response's headers.
        body: its JSON value, or its text where it is no JSON.
        endpoint: who answered.
    """
    message, codes = _error_details(body)
    said = endpoint.tell(message)
    told = f"{endpoint.host} answered {status}" + (f": {said}" if said else "")
    unnamed_quota = status == 429 and not codes and "exceeded your current quota" in said.lower()
    if status == 402 or unnamed_quota or codes & _OUT_OF_QUOTA:
        return UnavailableError(f"out of quota: {told}", kind="quota")
    if status in (401, 403) or "invalid_api_key" in codes:
        return UnavailableError(f"access denied, check OPENAI_API_KEY: {told}", kind="auth")
    if status == 404 or "model_not_found" in codes:
        return UnavailableError(f"no such model or address: {told}", kind="model_not_found")
    limits = read_told(headers, time.time())
    if status == 429:
        return RateLimitError(told, retry_after=limits.wait)
    if status >= 500 and limits.retry_after is not None:
        return RateLimitError(told, kind=f"http_{status}", retry_after=limits.retry_after)
    if status in (408, 409, 425) or status >= 500:
        return TransientError(told, kind=f"http_{status}")
    if status in (400, 413, 422):
        return RejectedError(f"the request was refused: {told}", kind=f"http_{status}")
    return UnavailableError(told, kind=f"http_{status}")


def _error_details(body: Any) -> tuple[str, set[str]]:
    """Return the message and the codes of an error body, of whichever shape its server gives it."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return str(body), set()
    error = body.get("error") or body
    if not isinstance(error, dict):
        return str(error), set()
    message = error.get("message") or error.get("detail") or ""
    codes = {str(error[name]) for name in ("code", "type") if error.get(name)}
    return message if isinstance(message, str) else json.dumps(message), codes


def read_number(text: str | None) -> float | None:
    """Return the number that a header holds, or None."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
