"""Parse an endpoint's response, and classify its failures for the engine."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
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
from mdap.providers.proxies import proxy_for
from mdap.providers.sending import Response
from mdap.rules.headers import read_told

_MAX_TOKENS: Final = 2**53
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_WRONG_KEY: Final = frozenset({"invalid_api_key", "API_KEY_INVALID", "authentication_error"})
_KEY: Final = re.compile(
    r"api[ _-]?key (is )?(invalid|not valid|expired)|(invalid|incorrect|expired|revoked) api[ _-]?key"
    r"|^login fail|has been (revoked|suspended|deactivated|terminated)"
    r"|security token .*(is|has) (invalid|expired)"
    r"|(api[ _-]?key|account|organi[sz]ation|subscription|workspace) (has been |was |is )?"
    r"(revoked|suspended|deactivated|disabled|blocked|banned|restricted|inactive)",
    re.I,
)
# How endpoints say that a filter, not the key, is why they deny a request.
_FILTERED: Final = re.compile(
    r"flagged|moderat|filter|polic(y|ies)|guideline|safety|unsafe|harmful|prohibited|blocked|sensitive|violat"
    r"|inappropriate|jailbreak|your (input|prompt)",
    re.I,
)
_FLAGGED: Final = "flagged_input"
_DENIED: Final = re.compile(r"authoriz|authoris|permission|access|credential|account|region|countr", re.I)
_SOCKS_LIBRARIES: Final = ("aiohttp_socks", "python_socks")
_JSON: Final = json.JSONDecoder()
# In a text of the model, which is a string of JSON, the quotes would be escaped.
_USAGE: Final = re.compile(r'"usage"\s*:\s*(?=\{)')
_READ_BYTES: Final = 4096
_LINE_CHARS: Final = 160
_MESSAGES: Final = ("message", "detail", "msg", "status_msg", "error_msg", "errmsg", "error_message", "title")
# Of the statuses that the standard knows, those below 500 that may pass, and those above that do not.
_PASSING: Final = frozenset({408, 409, 423, 424, 425})
_LASTING: Final = frozenset({501, 505})
_KNOWN: Final = frozenset(HTTPStatus)
_OUT_OF_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def json_object(
    response: Response, endpoint: Endpoint, read_usage: Callable[[dict[str, Any]], tuple[int | None, ...]]
) -> dict[str, Any]:
    """Return the JSON object that a response begins with, whatever type it says it has.

    Raises:
        TransientError: it is none; with the tokens of prompt and reply that *read_usage* finds in it all the
            same, as in the end of a stream.
    """
    content = response.content
    body = json_or_none(content)
    if isinstance(body, dict):
        return body
    kind, _, parameters = response.headers.get("content-type", "").lower().partition(";")
    text = _decoded(content, parameters)
    # Of a body that is whole, what a gateway adds behind it says nothing.
    with suppress(ValueError, RecursionError):
        body = _JSON.raw_decode(text)[0]
    if isinstance(body, dict):
        return body
    kind, line = kind.strip(), first_line(content, endpoint)
    with billed(*read_usage({"usage": _usage_in(text)})[:2]):
        if kind and kind != "application/json" and not kind.endswith("+json"):
            said = f"{endpoint.host} answered 200 with {endpoint.tell(kind)}, not JSON: {line}"
            raise foreign(said, "wrong_type")
        error = foreign(f"{endpoint.host} answered 200 with broken JSON: {line}", "garbled_body")
        # An object without its end was cut on its way, which may pass.
        error.foreign = not text.startswith("{") or text.rstrip().endswith("}")
        raise error


def _decoded(content: bytes, parameters: str) -> str:
    """Return *content* as text, a byte that is none replaced."""
    # Gateways that name Latin-1 often send UTF-8.
    with suppress(UnicodeDecodeError):
        return content.decode("utf-8-sig").lstrip()
    latin = any(name in parameters for name in ("8859-1", "latin1", "windows-1252"))
    return content.decode("cp1252" if latin else "utf-8-sig", "replace").lstrip()


def _usage_in(text: str) -> dict[str, Any]:
    """Return the usage that *text* reports, which is no JSON; of a stream, its last word."""
    usage: dict[str, Any] = {}
    place = 0
    with suppress(ValueError, RecursionError):
        while (found := _USAGE.search(text, place)) is not None:
            part, place = _JSON.raw_decode(text, found.end())
            usage |= part
    return usage


def foreign(message: str, kind: str) -> TransientError:
    """Return the error for an answer that this API does not give."""
    error = TransientError(message, kind=kind)
    error.foreign = True
    return error


def first_line(content: bytes, endpoint: Endpoint) -> str:
    """Return the first line of *content* that is not blank, as it may stand in an error."""
    lines = content[:_READ_BYTES].decode("utf-8", "replace").splitlines()
    told = (endpoint.tell(line)[:_LINE_CHARS] for line in lines)
    return next(filter(None, told), "") or "nothing at all"


@contextmanager
def billed(given: int | None, made: int | None) -> Iterator[None]:
    """Note on an error what the endpoint billed for an answer that cannot be read."""
    try:
        yield
    except ProviderError as error:
        error.input_tokens, error.output_tokens = given, made
        raise


def mapping_of(value: Any) -> dict[str, Any]:
    """Return *value* if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def label_of(value: Any) -> str | None:
    """Return *value* if it is a text that is not blank, else None."""
    return value if isinstance(value, str) and value.strip() else None


def count_of(value: Any) -> int | None:
    """Return *value* if it can be a number of tokens, else None."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)  # as gateways write it whose own numbers are texts
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return value if sound else None


def json_or_none(content: bytes) -> Any:
    """Return the value that *content* is as JSON, or None."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def explain_failure(sdk: ModuleType, error: Exception, endpoint: Endpoint) -> ProviderError | None:
    """Return *error* in mdap's words, or None if it is no failure of an attempt but a bug."""
    import aiohttp

    # Not the context: if the caller is handling an earlier failure, that would be found in it.
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    # Raised in a hook, it comes out of openai 3 as it is, and out of openai 2 wrapped.
    for cause in causes:
        if isinstance(cause, ProviderError):
            return cause
    # A plain ValueError is a host or a header that cannot be, or an answer that the client stumbles over.
    # A SOCKS library's errors are none of these.
    socks = any(type(cause).__module__.startswith(_SOCKS_LIBRARIES) for cause in causes)
    expected = (sdk.APIConnectionError, aiohttp.ClientError, OSError, ValueError)
    if not (socks or isinstance(error, expected)):
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
    # Messages of aiohttp's parser begin with a status that no server sent.
    messages = [(getattr(cause, "message", None), str(cause)) for cause in reversed(causes)]
    said = [own if isinstance(own, str) and own else text for own, text in messages]
    detail = next(filter(None, map(endpoint.tell, said)), "no details")
    # Of a connection that broke the SDK may say that there never was one; again only the cause tells.
    if socks or any(isinstance(cause, aiohttp.ClientConnectorError) for cause in causes):
        plain = "WRONG_VERSION_NUMBER" in detail or "record layer failure" in detail.lower()
        hint = ". The server speaks no TLS: its address may begin with http://" if plain else ""
        way = f"{endpoint.host}{_way(endpoint)}"
        return TransientError(f"the connection to {way} failed: {detail}{hint}", kind="connection")
    return TransientError(f"the connection to {endpoint.host} broke: {detail}", kind="disconnected")


def _way(endpoint: Endpoint) -> str:
    """Return which proxy a connection was to take; nothing for none."""
    with suppress(ProviderError):
        if (proxy := proxy_for(endpoint.base_url)) is not None:
            return f" through the proxy {proxy.netloc.rpartition('@')[2]}, which the environment names,"
    return ""


def classify(status: int, headers: Mapping[str, str], body: Any, endpoint: Endpoint) -> ProviderError:
    """Return what an error response, with its *body* in bytes or as a JSON value, means for the caller."""
    if isinstance(body, bytes):
        body = json_or_none(body) or body.decode("utf-8", "replace")
    message, codes = _error_details(body)
    error = _meant(status, headers, (endpoint.tell(message), codes), endpoint)
    # An API says in JSON what it does not like; a page of text comes from something else.
    error.foreign = error.foreign or (isinstance(body, str) and 400 <= status < 500 and status != 429)
    return error


def _meant(
    status: int, headers: Mapping[str, str], details: tuple[str, set[str]], endpoint: Endpoint
) -> ProviderError:
    said, codes = details
    told = f"{endpoint.host} answered {status}" + (f": {said}" if said else "")
    if _is_quota(status, said, codes):
        return UnavailableError(f"out of quota: {told}", kind="quota")
    if status == 401 or codes & _WRONG_KEY or _KEY.search(said):
        return UnavailableError(f"access denied, check {endpoint.key_name}: {told}", kind="auth")
    if status == 451 or (status == 403 and _about_the_prompt(said, codes)):
        return RejectedError(f"the prompt was refused: {told}", kind=f"http_{status}")
    if status == 403:
        return UnavailableError(
            f"access denied (if to every prompt, check {endpoint.key_name}): {told}", kind=FORBIDDEN
        )
    if status == 404 or "model_not_found" in codes:
        return UnavailableError(f"no such model or address: {told}", kind="model_not_found")
    if 300 <= status < 400:
        target = endpoint.tell(headers.get("location", "").partition("?")[0]) or "nowhere"
        return UnavailableError(
            f"{endpoint.host} answered {status}, a redirect to {target}. mdap does not follow it, since the "
            "prompt and the key would go there. If that is the right address, set "
            f"{endpoint.url_name} to it, without the path of the API",
            kind=f"http_{status}",
        )
    if status in (400, 413, 422, 451):
        return RejectedError(f"the request was refused: {told}", kind=f"http_{status}")
    return _passing(status, headers, told)


def _passing(status: int, headers: Mapping[str, str], told: str) -> ProviderError:
    """Return what a status means that says nothing of the prompt, and may pass."""
    limits = read_told(headers, time.time())
    if status == 429:
        return RateLimitError(told, retry_after=limits.wait)
    if status >= 500 and limits.retry_after is not None:
        return RateLimitError(told, kind=f"http_{status}", retry_after=limits.retry_after)
    if status in _PASSING or (500 <= status < 600 and status not in _LASTING):
        return TransientError(told, kind=f"http_{status}")
    if status in _KNOWN:
        return UnavailableError(told, kind=f"http_{status}")
    return foreign(told, f"http_{status}")


def _is_quota(status: int, said: str, codes: set[str]) -> bool:
    unnamed = (status == 429 and not codes and "exceeded your current quota" in said.lower()) or (
        status == 400 and "credit balance is too low" in said.lower()
    )
    return status == 402 or unnamed or bool(codes & _OUT_OF_QUOTA)


def _about_the_prompt(said: str, codes: set[str]) -> bool:
    """Return whether a denial says that it is for what the prompt says."""
    words = " ".join((said, *codes))
    return _FLAGGED in codes or bool(_FILTERED.search(words) and not _DENIED.search(words))


def _error_details(body: Any) -> tuple[str, set[str]]:
    """Return the message and the codes of an error body, of whichever shape its server gives it."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return str(body), set()
    error = body.get("error") or body.get("base_resp") or body
    if not isinstance(error, dict):
        return str(error), set()
    message = next((error[name] for name in _MESSAGES if error.get(name)), "")
    codes = {str(error[name]) for name in ("code", "type") if error.get(name)}
    if _FLAGGED in mapping_of(error.get("metadata")):
        codes.add(_FLAGGED)
    return message if isinstance(message, str) else json.dumps(message), codes
