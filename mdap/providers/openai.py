"""Samples through the Chat Completions API: OpenAI itself, and every server that speaks its protocol.

The SDK builds the request and keeps the connections; what comes back is read here, because compatible
servers differ in just the ways that would corrupt a vote: they ignore ``n``, leave out ``usage``, cut
bodies short, or answer an error with status 200. The SDK retries nothing: an attempt is one request, so
that limits, counts and the log are true.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mdap.errors import (
    TransientError,
    UsageError,
)
from mdap.providers.openai_replies import (
    Endpoint,
    explain_failure,
    only_first,
    parse_body,
    read_choice,
    read_number,
    read_usage,
    shares_of,
)
from mdap.records import Reply, SampleRequest
from mdap.rules.headers import Told, read_told

__all__ = ["MAX_BODY", "OpenAIProvider", "OpenAISettings", "create"]

MAX_BODY: Final = 16 * 2**20
"""Bytes of a response after which reading stops."""

_DEFAULT_URL: Final = "https://api.openai.com/v1"
_REPLIES_PER_REQUEST: Final = 8
_CONNECTIONS: Final = 2_000
# The total deadline of an attempt is set by whoever calls; this only keeps the SDK from an endless wait.
_IDLE_SECONDS: Final = 3_600.0
_OUR_FIELDS: Final = frozenset({"messages", "model", "n", "stream"})
_SECRET_NAME: Final = re.compile("(?i)api_?key|secret|password|authorization|credential|(^|_)token$")


class OpenAISettings(BaseModel):
    """What a user may set with ``-M NAME=VALUE`` for an OpenAI-compatible endpoint.

    Attributes:
        base_url: where the API lives, such as ``http://localhost:8000/v1``; before ``OPENAI_BASE_URL``.
        n: whether one request may ask for several replies. Cheaper, since the prompt is billed once, but
            one failure loses them all, and some servers ignore it.
        seed: sends each request a seed of its own, derived from this one, the prompt and the ordinal of
            its first sample; None sends none.
        token_parameter: what the endpoint calls its limit of output tokens.
        send_temperature: whether to send the temperature; reasoning models refuse it.
        json_schema: how a step's schema is sent: ``loose`` asks for it, ``strict`` enforces it and is
            refused for schemas beyond the endpoint's subset, ``off`` sends none.
        extra_body: more fields of the request's body, as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str | None = None
    n: bool = False
    seed: int | None = None
    token_parameter: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    send_temperature: bool = True
    json_schema: Literal["loose", "strict", "off"] = "loose"
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, value: str | None) -> str | None:
        if value is not None and ("@" in value or "?" in value):
            raise ValueError("options are stored with the run: set OPENAI_BASE_URL to a URL with secrets")
        return value

    @field_validator("extra_body", mode="before")
    @classmethod
    def _from_command_line(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("this is no JSON object") from None

    @field_validator("extra_body")
    @classmethod
    def _only_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OUR_FIELDS & value.keys()):
            raise ValueError(f"mdap itself sets {', '.join(taken)}")
        if secret := next(_secret_names(value), None):
            raise ValueError(f"options are stored with the run, so {secret} must not be among them")
        return value


class OpenAIProvider:
    """A model behind the Chat Completions API.

    The client is opened inside the running loop by the first sample, and closed by `aclose`.

    Attributes:
        name: ``openai/<model>``; replies carry it as their model.
        instant: False.
        remote: True.
        max_n: how many replies one request may ask for.
        told: what the headers of the latest response tell of limits.
    """

    instant: Final = False
    remote: Final = True

    def __init__(self, model: str, settings: OpenAISettings, endpoint: Endpoint) -> None:
        self.name: Final = f"openai/{model}"
        self.max_n: Final = _REPLIES_PER_REQUEST if settings.n else 1
        self.told = Told()
        self._model = model
        self._settings = settings
        self._endpoint = endpoint
        self._client: Any = None
        self._raw: Any = None

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask once for replies to one prompt, as many as this endpoint may be asked for.

        Prompt tokens are counted with the first reply, since the endpoint bills them once; output tokens
        are reported for all replies together and are shared out evenly. Both add up to what was billed.
        A reply without content (refused, filtered, cut before it began) has the text ``""``. One without
        a finish reason is taken as complete, unless it used all tokens it was allowed.

        Args:
            request: the prompt, and how to sample it.

        Returns:
            At least one reply; fewer than wanted where the server sent fewer.

        Raises:
            TransientError: no or no usable response; another attempt may work.
            RateLimitError: the endpoint asks for a pause first.
            UnavailableError: key, quota or model will not do.
            RejectedError: the endpoint refuses this prompt.
        """
        if self._client is None:
            self._client, self._raw = _open_client(self._endpoint)
        body = {**self._body(request), **self._settings.extra_body}
        started = time.perf_counter()
        try:
            # Not `chat.completions.create`, which spends more time on checking and copying parameters than
            # all the rest takes; the request that leaves is the same.
            response = await self._client.post("/chat/completions", cast_to=self._raw, body=body)
        except Exception as error:
            failure = explain_failure(error, self._endpoint)
            if failure is None:
                raise
            self._listen(getattr(getattr(error, "response", None), "headers", {}))
        else:
            latency = time.perf_counter() - started
            self._listen(response.headers)
            return self._read(request, response.headers, response.content, latency)
        # Raised out here so that it carries no context: the SDK's errors hold the request and its key.
        raise failure

    def describe(self) -> dict[str, Any]:
        """Return model, host and options as JSON values; `create` saw to it that none is a secret."""
        options = self._settings.model_dump(mode="json", exclude={"base_url"})
        return {"model": self._model, "host": self._endpoint.host, **options}

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.CancelScope(shield=True):
                await client.close()

    def _listen(self, headers: Mapping[str, str]) -> None:
        told = read_told(headers, time.time())
        if told.requests_per_minute or told.tokens_per_minute:
            self.told = told

    def _body(self, request: SampleRequest) -> dict[str, Any]:
        settings = self._settings
        messages = [{"role": "system", "content": request.system}] if request.system else []
        messages.append({"role": "user", "content": request.user})
        body: dict[str, Any] = {"model": self._model, "messages": messages}
        body[settings.token_parameter] = request.max_tokens
        if settings.send_temperature:
            body["temperature"] = request.temperature
        if (n := min(request.n, self.max_n)) > 1:
            body["n"] = n
        if settings.seed is not None:
            body["seed"] = _derived_seed(settings.seed, request)
        if request.schema is not None and settings.json_schema != "off":
            strict = settings.json_schema == "strict"
            schema = {"name": "answer", "schema": request.schema, "strict": strict}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _read(
        self, request: SampleRequest, headers: Mapping[str, str], content: bytes, latency: float
    ) -> list[Reply]:
        body = parse_body(headers, content, self._endpoint)
        choices = [read_choice(choice) for choice in body["choices"]]
        taken = choices[: min(request.n, self.max_n)]
        prompt, output, cached = read_usage(body)
        shares = shares_of(output, len(taken))
        cut = len(choices) == 1 and output is not None and output >= request.max_tokens
        return [
            Reply(
                text=text,
                model=self.name,
                finish_reason=reason or ("length" if cut else "stop"),
                input_tokens=only_first(prompt, place),
                output_tokens=shares[place],
                cached_tokens=only_first(cached, place),
                latency=latency,
                request_id=headers.get("x-request-id"),
            )
            for place, (text, reason) in enumerate(taken)
        ]


def create(model: str, options: dict[str, Any]) -> OpenAIProvider:
    """Make a provider from what a user typed: the factory behind ``--model openai/<model>``.

    Args:
        model: the model's name as the endpoint knows it.
        options: fields of `OpenAISettings`; strings are converted.

    Raises:
        UsageError: no model, an unknown option, a bad value, or no key where one is needed.
    """
    if not model:
        raise UsageError("openai needs the name of a model, as in --model openai/gpt-4.1-mini")
    try:
        settings = OpenAISettings(**options)
    except ValidationError as error:
        raise UsageError(_first_mistake(error)) from None
    endpoint = _find_endpoint(settings)
    if endpoint.key and endpoint.mask(settings.model_dump_json()) != settings.model_dump_json():
        raise UsageError("options are stored with the run, so none may hold the key of the endpoint")
    import openai  # noqa: F401 - half a second: paid here, by who wants it, and not inside the loop

    return OpenAIProvider(model, settings, endpoint)


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"openai has no option {name!r}; it has {', '.join(sorted(OpenAISettings.model_fields))}"
    return f"openai option {name}: {first['msg'].removeprefix('Value error, ')}"


def _find_endpoint(settings: OpenAISettings) -> Endpoint:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    base_url = (settings.base_url or os.environ.get("OPENAI_BASE_URL", "")).strip()
    if not key and not base_url:
        raise UsageError(
            "set OPENAI_API_KEY to use openai models, or set OPENAI_BASE_URL (or -M base_url=...) to a "
            "server that needs no key"
        )
    # Headers carry ASCII only, and the SDK's complaint about it would quote the key.
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError("OPENAI_API_KEY holds characters that no key has; copy the key again")
    if base_url and not _is_http_url(base_url):
        raise UsageError("the base URL of openai must look like http://host:port/v1 or https://host/v1")
    return Endpoint(base_url or _DEFAULT_URL, key or None)


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        legible = url.isprintable() and " " not in url
        return legible and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _open_client(endpoint: Endpoint) -> tuple[Any, Any]:
    """Return a client, and the class of response that it hands out unread."""
    import openai

    # openai 2 stands on httpx and openai 3 on httpx2: take whichever the SDK itself uses.
    transport = openai.DefaultAioHttpClient
    http = sys.modules[next(base.__module__ for base in transport.__mro__ if base.__name__ == "AsyncClient")]
    limits = http.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    client = openai.AsyncOpenAI(
        api_key=endpoint.key or "none",
        base_url=endpoint.base_url,
        max_retries=0,
        timeout=_IDLE_SECONDS,
        http_client=transport(limits=limits, event_hooks={"response": [_body_cap(http)]}),
    )
    return client, http.Response


def _body_cap(http: Any) -> Callable[[Any], Awaitable[None]]:
    """Return a response hook that stops the SDK from reading an endless body into memory."""
    too_large = f"the response is larger than {MAX_BODY // 2**20} MiB"

    # Which library this class comes from is known only at run time, hence hidden from the type checker.
    class Capped(http.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MAX_BODY:
                    raise TransientError(too_large, kind="huge_body")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def cap(response: Any) -> None:
        if (read_number(response.headers.get("content-length")) or 0) > MAX_BODY:
            raise TransientError(too_large, kind="huge_body")
        response.stream = Capped(response.stream)

    return cap


def _derived_seed(seed: int, request: SampleRequest) -> int:
    # 31 bits: some servers keep seeds in a signed 32-bit integer.
    text = f"{seed}:{request.prompt_digest}:{request.ordinals[0]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _secret_names(value: Any) -> Iterator[str]:
    """Yield the names in *value*, however deep, that sound like a secret's."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if _SECRET_NAME.search(name):
                yield name
            yield from _secret_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secret_names(inner)


create.settings = OpenAISettings  # type: ignore[attr-defined] # `mdap models` lists them
