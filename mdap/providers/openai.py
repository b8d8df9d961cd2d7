"""Samples through the Chat Completions API: OpenAI itself, and every server that speaks its protocol.

The SDK says what a request looks like; what comes back is read here, because compatible servers differ in
just the ways that would corrupt a vote: they ignore ``n``, leave out ``usage``, cut bodies short, or answer
an error with status 200. Nothing is retried: an attempt is one request, so that limits, counts and the log
are true.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from mdap.errors import UsageError
from mdap.providers.endpoint import Endpoint, EndpointSettings, find_endpoint, read_settings
from mdap.providers.failures import billed, json_object
from mdap.providers.openai_batches import OpenAIBatches
from mdap.providers.openai_replies import choices_of, label_of, only_first, read_choice, read_usage, shares_of
from mdap.providers.sdk import SDK
from mdap.providers.sending import Response
from mdap.providers.wire import EndpointProvider
from mdap.records import Reply, SampleRequest

__all__ = ["OpenAIProvider", "OpenAISettings", "create", "create_named"]

_DEFAULT_URL: Final = "https://api.openai.com/v1"
_REPLIES_PER_REQUEST: Final = 8
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)


class OpenAISettings(EndpointSettings):
    """What a user may set with ``-M NAME=VALUE`` for an OpenAI-compatible endpoint.

    Attributes:
        n: whether one request may ask for several replies, whose prompt is billed once. Unless you set it,
            it is on where the probe sees several replies come, and the prompt counted once.
        seed: sends each request a seed of its own, derived from this one, the prompt and the ordinal of
            its first sample; None sends none.
        token_parameter: what the endpoint calls its limit of output tokens.
        json_schema: how a step's schema is sent: ``loose`` asks for it, ``strict`` enforces it and is
            refused for schemas beyond the endpoint's subset, ``object`` asks for a JSON object of any kind
            (JSON mode), ``off`` sends none.
        cache_breakpoints: whether to mark in the prompt where the beginning ends that further requests
            repeat, as GPT-5.6 and later want it; models before refuse that, and need none.
    """

    own_fields: ClassVar[frozenset[str]] = EndpointSettings.own_fields | {"n"}
    negotiable: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "json_schema": ("loose", "object", "off"),
        "token_parameter": ("max_completion_tokens", "max_tokens"),
        "n": (True, False),
        **EndpointSettings.negotiable,
    }

    n: bool = False
    seed: int | None = None
    token_parameter: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    json_schema: Literal["loose", "strict", "object", "off"] = "loose"
    cache_breakpoints: bool = False

    @property
    def helpful(self) -> dict[str, str]:
        """See `EndpointSettings.helpful`."""
        return {**super().helpful, "n": "false", "cache_breakpoints": "false"}


class OpenAIProvider(EndpointProvider[OpenAISettings]):
    """A model behind the Chat Completions API; see `EndpointProvider`.

    Prompt tokens are counted with the first reply, since the endpoint bills them once; output tokens
    are reported for all replies together and shared out evenly. Both add up to what was billed.
    What the model thought is kept apart, however its server marks it. A refusal has the finish reason
    ``refusal``; a reply without content (filtered, cut before it began) has the text ``""``. One without
    a finish reason is taken as complete, unless it used all tokens it was allowed.
    """

    cache_mark: ClassVar[Mapping[str, Any]] = {"prompt_cache_breakpoint": {"mode": "explicit"}}

    @property
    def max_n(self) -> int:
        """How many replies one request may ask for."""
        return _REPLIES_PER_REQUEST if self.dialect.settings.n else 1

    def _body(self, request: SampleRequest) -> dict[str, Any]:
        settings = self.dialect.settings
        system, user = settings.spoken(request)
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        content = self._content(request, user, settings.cache_breakpoints)
        messages.append({"role": "user", "content": content})
        body: dict[str, Any] = {"model": self._model, "messages": messages}
        body[settings.token_parameter] = request.max_tokens
        if settings.send_temperature:
            body["temperature"] = request.temperature
        if (n := min(request.n, self.max_n)) > 1:
            body["n"] = n
        if settings.seed is not None:
            # 31 bits: some servers keep seeds in a signed 32-bit integer.
            named = f"{settings.seed}:{request.prompt_digest}:{request.ordinals[0]}".encode()
            body["seed"] = int.from_bytes(hashlib.sha256(named).digest()[:4], "big") >> 1
        if response_format := _response_format(request, settings.json_schema):
            body["response_format"] = response_format
        return body

    def _read(self, request: SampleRequest, response: Response) -> list[Reply]:
        headers, endpoint = response.headers, self._endpoint
        body = json_object(headers, response.content, endpoint, lambda body: read_usage(body)[:2])
        told = read_usage(body)
        with billed(told.given, told.made):
            found = choices_of(body, headers, response.content, endpoint)
            choices = [read_choice(choice, headers, endpoint) for choice in found]
            self._refuse_repeated(body.get("id"), "\0".join(choice.text for choice in choices))
        taken = choices[: min(request.n, self.max_n)]
        shares, hidden = shares_of(told.made, len(taken)), shares_of(told.hidden, len(taken))
        cut = len(choices) == 1 and told.shown is not None and told.shown >= request.max_tokens
        return [
            Reply(
                text=choice.text,
                model=self.name,
                finish_reason=choice.reason or ("length" if cut else "stop"),
                input_tokens=only_first(told.given, place),
                output_tokens=shares[place],
                cached_tokens=only_first(told.cached, place),
                latency=response.latency,
                request_id=headers.get("x-request-id"),
                reasoning=choice.reasoning,
                reasoning_tokens=hidden[place],
                served_model=label_of(body.get("model")),
                fingerprint=label_of(body.get("system_fingerprint")),
                cache_write_tokens=only_first(told.stored, place),
            )
            for place, choice in enumerate(taken)
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
    settings = read_settings(OpenAISettings, "openai", options)
    endpoint = find_endpoint(settings, "openai", "OPENAI", _DEFAULT_URL)
    return _provider(f"openai/{model}", model, settings, endpoint)


def create_named(model: str, options: dict[str, Any]) -> OpenAIProvider:
    """Make a provider of an endpoint with a name of its own: ``--model openai-api/<name>/<model>``.

    Its key, address and more headers are read from ``<NAME>_API_KEY``, ``<NAME>_BASE_URL`` and
    ``<NAME>_CUSTOM_HEADERS``, so that several endpoints can vote together.

    Args:
        model: the endpoint's name, a slash, and the model's name as the endpoint knows it.
        options: fields of `OpenAISettings`.

    Raises:
        UsageError: no name, no model, no address, an unknown option, or a bad value.
    """
    name, _, asked = model.partition("/")
    if not _NAME.fullmatch(name) or not asked:
        raise UsageError(
            "openai-api needs a name and a model, as in --model openai-api/groq/llama-3.1-8b-instant, "
            "which reads GROQ_API_KEY and GROQ_BASE_URL"
        )
    settings = read_settings(OpenAISettings, f"openai-api/{name}", options)
    # What the SDK reads from its own vendor's variables is not meant for this endpoint.
    endpoint = find_endpoint(settings, name, name.upper().replace("-", "_"), None, own=False)
    return _provider(f"openai-api/{model}", asked, settings, endpoint)


def _provider(name: str, model: str, settings: OpenAISettings, endpoint: Endpoint) -> OpenAIProvider:
    sdk = SDK("openai", "AsyncOpenAI", "/chat/completions", endpoint)
    return OpenAIProvider(name, model, settings, endpoint, sdk, OpenAIBatches)


def _response_format(request: SampleRequest, how: str) -> dict[str, Any] | None:
    schema = request.schema
    if schema is None or how == "off":
        return None
    if how != "object":
        shape = {"name": "answer", "schema": schema, "strict": how == "strict"}
        return {"type": "json_schema", "json_schema": shape}
    # JSON mode gives nothing but objects, and endpoints refuse it for a prompt that does not speak of JSON.
    fits = schema.get("type") == "object" and "json" in f"{request.system} {request.user}".lower()
    return {"type": "json_object"} if fits else None


create.settings = OpenAISettings  # type: ignore[attr-defined] # `mdap models` lists them
create_named.settings = OpenAISettings  # type: ignore[attr-defined]
