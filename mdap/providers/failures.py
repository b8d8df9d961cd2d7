"""Reading what an endpoint answered: JSON or not, and what a failure means for whoever asked."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from mdap.errors import (
    FORBIDDEN,
    ProviderError,
    RateLimitError,
    RejectedError,
    TransientError,
    UnavailableError,
)
from mdap.providers.endpoint import Endpoint
from mdap.rules.digests import text_digest
from mdap.rules.headers import read_told
from mdap.rules.redflags import clean_text
from mdap.rules.repeats import Repeats

__all__ = ["Guard", "classify", "count_of", "explain_failure", "json_object", "json_or_none", "mapping_of"]

_MAX_TOKENS: Final = 2**53
_WRONG_KEY: Final = frozenset({"invalid_api_key", "API_KEY_INVALID", "authentication_error"})
_KEY: Final = re.compile(
    r"api[ _-]?key (is )?(not valid|invalid|expired)|(invalid|incorrect) api[ _-]?key", re.I
)
# How endpoints say that a filter, not the key, is why they deny a request.
_FILTERED: Final = re.compile(
    r"flagged|moderat|filter|polic(y|ies)|guideline|safety|unsafe|harmful|prohibited|blocked|sensitive|violat"
    r"|inappropriate|jailbreak|your (input|prompt)",
    re.I,
)
_DENIED: Final = re.compile(r"authoriz|authoris|permission|access|credential|account|region|countr", re.I)
_OUT_OF_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def json_object(headers: Mapping[str, str], content: bytes, endpoint: Endpoint) -> dict[str, Any]:
    """Return the JSON object that a response is; raise a `TransientError` if it is none."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise TransientError(f"{endpoint.host} answered {endpoint.tell(kind)}, not JSON", kind="wrong_type")
    body = json_or_none(content)
    if not isinstance(body, dict):
        raise TransientError(f"{endpoint.host} answered with broken JSON", kind="garbled_body")
    return body


class Guard:
    """Refuse responses that an endpoint gave before: no vote may be counted twice.

    Args:
        endpoint: who answers.
        off: whether the user wants them counted all the same.
    """

    def __init__(self, endpoint: Endpoint, *, off: bool) -> None:
        self._endpoint = endpoint
        self._repeats = None if off else Repeats()

    def check(self, response_id: object, text: str) -> None:
        """Raise a `TransientError` if the response of this id and *text* came before."""
        if self._repeats is not None and self._repeats.again(response_id, text_digest(clean_text(text))):
            told = self._endpoint.tell(str(response_id))
            raise TransientError(
                f"{self._endpoint.host} answered with a response that it had given before ({told}): turn off "
                "the cache on the way, or allow it with -M allow_duplicates=true",
                kind="repeated",
            )


def mapping_of(value: Any) -> dict[str, Any]:
    """Return *value* if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def count_of(value: Any) -> int | None:
    """Return *value* if it can be a number of tokens, else None."""
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return value if sound else None


def json_or_none(content: bytes) -> Any:
    """Return the value that *content* is as JSON, or None."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


# -- what went wrong -------------------------------------------------------------------------------


def explain_failure(sdk: ModuleType, error: Exception, endpoint: Endpoint) -> ProviderError | None:
    """Return *error* in mdap's words, or None if it is no failure of an attempt but a bug."""
    import aiohttp

    causes = list(_causes(error))
    # Raised in a hook, it comes out of openai 3 as it is, and out of openai 2 wrapped.
    for cause in causes:
        if isinstance(cause, ProviderError):
            return cause
    # A plain ValueError is a host or a header that cannot be, or an answer that the client stumbles over.
    if not isinstance(error, (sdk.APIConnectionError, aiohttp.ClientError, OSError, ValueError)):
        return None
    # The SDK calls any broken aiohttp connection a timeout; only the cause tells which it was.
    late = isinstance(error, sdk.APITimeoutError) and not any(
        isinstance(cause, aiohttp.ClientError) for cause in causes
    )
    if late or any(isinstance(cause, TimeoutError) for cause in causes):
        return TransientError(f"{endpoint.host} did not answer in time", kind="timeout")
    refusal = next((cause for cause in causes if isinstance(cause, aiohttp.ClientHttpProxyError)), None)
    if refusal is not None and refusal.status in (401, 403, 407):
        return UnavailableError(
            f"the proxy on the way to {endpoint.host} answered {refusal.status}", kind="proxy"
        )
    detail = next((told for cause in reversed(causes) if (told := endpoint.tell(str(cause)))), "no details")
    # Of a connection that broke the SDK may say that there never was one; again only the cause tells.
    if any(isinstance(cause, aiohttp.ClientConnectorError) for cause in causes):
        return TransientError(f"the connection to {endpoint.host} failed: {detail}", kind="connection")
    return TransientError(f"the connection to {endpoint.host} broke: {detail}", kind="disconnected")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # Not the context: if the caller is handling an earlier failure, that would be found in it.
    while error is not None:
        yield error
        error = error.__cause__


def classify(status: int, headers: Mapping[str, str], body: Any, endpoint: Endpoint) -> ProviderError:
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
    unnamed_quota = (status == 429 and not codes and "exceeded your current quota" in said.lower()) or (
        status == 400 and "credit balance is too low" in said.lower()
    )
    if status == 402 or unnamed_quota or codes & _OUT_OF_QUOTA:
        return UnavailableError(f"out of quota: {told}", kind="quota")
    if status == 401 or codes & _WRONG_KEY or _KEY.search(message):
        return UnavailableError(f"access denied, check {endpoint.key_name}: {told}", kind="auth")
    if status == 451 or (status == 403 and _about_the_prompt(body, message, codes)):
        return RejectedError(f"the prompt was refused: {told}", kind=f"http_{status}")
    if status == 403:
        return UnavailableError(
            f"access denied (if to every prompt, check {endpoint.key_name}): {told}", kind=FORBIDDEN
        )
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


def _about_the_prompt(body: Any, message: str, codes: set[str]) -> bool:
    """Return whether a denial says that it is for what the prompt says."""
    metadata = mapping_of(mapping_of(mapping_of(body).get("error")).get("metadata"))
    words = " ".join((message, *codes))
    return "flagged_input" in metadata or bool(_FILTERED.search(words) and not _DENIED.search(words))


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
