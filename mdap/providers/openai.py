"""Samples through the Chat Completions API: OpenAI itself, and every server that speaks its protocol.

The SDK builds the requests. This module reads the responses itself, because compatible servers differ in the
very ways that would corrupt a vote: they ignore ``n``, omit ``usage``, truncate bodies, or report an error
with status 200. It retries nothing: an attempt is one request, so limits, counts and the log are true.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, NamedTuple

from mdap.errors import ProviderError, TransientError, UsageError
from mdap.providers.endpoint import Endpoint, EndpointSettings, find_endpoint, read_settings
from mdap.providers.failures import (
    billed,
    classify,
    count_of,
    first_line,
    foreign,
    json_object,
    label_of,
    mapping_of,
)
from mdap.providers.openai_batches import OpenAIBatches
from mdap.providers.sdk import SDK
from mdap.providers.sending import Response
from mdap.providers.wire import EndpointProvider
from mdap.records import Reply, SampleRequest
from mdap.rules.reading import split_reasoning
from mdap.rules.redflags import REFUSAL, failed

_DEFAULT_URL: Final = "https://api.openai.com/v1"
_REPLIES_PER_REQUEST: Final = 8
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
# Where servers put what a model thought, apart from what it says.
_REASONING: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details")
_TEXTS: Final = ("text", "output_text")
_THOUGHTS: Final = ("thinking", "reasoning", "thought", "reasoning_content")
# Where a text may be within another value; of several, the first counts.
_NESTED: Final = ("text", "summary", "content", *_THOUGHTS)
# Nothing that is nested deeper than this is a text.
_DEPTH: Final = 4


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

    The endpoint bills prompt tokens once, so they count with the first reply. It reports output tokens for
    all replies together; mdap divides them evenly. Both add up to the billed tokens.
    Reasoning is kept apart from the answer, however the server marks it. A refusal has the finish reason
    ``refusal``; a reply without content (filtered, or truncated before it began) has the text ``""``. A
    reply without a finish reason counts as complete unless it used all its allowed tokens.
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
        body = json_object(response, endpoint, _read_usage)
        usage = _read_usage(body)
        with billed(usage.prompt, usage.output):
            found = _choices_of(body, headers, response.content, endpoint)
            choices = [_read_choice(choice, headers, endpoint) for choice in found]
            self._refuse_repeated(body.get("id"), "\0".join(choice.text for choice in choices))
        taken = choices[: min(request.n, self.max_n)]
        outputs, reasoning = (_shares_of(total, len(taken)) for total in (usage.output, usage.reasoning))
        # Usage covers all replies together: only a single one can be known to have used up its tokens.
        cut = len(choices) == 1 and usage.visible is not None and usage.visible >= request.max_tokens
        return [
            Reply(
                text=choice.text,
                model=self.name,
                finish_reason=choice.reason or ("length" if cut else "stop"),
                input_tokens=_only_first(usage.prompt, place),
                output_tokens=outputs[place],
                cached_tokens=_only_first(usage.cached, place),
                latency=response.latency,
                request_id=headers.get("x-request-id"),
                reasoning=choice.reasoning,
                reasoning_tokens=reasoning[place],
                served_model=label_of(body.get("model")),
                fingerprint=label_of(body.get("system_fingerprint")),
                cache_write_tokens=_only_first(usage.cache_writes, place),
            )
            for place, choice in enumerate(taken)
        ]


def create(model: str, options: dict[str, Any]) -> OpenAIProvider:
    """Make a provider from what a user typed: the factory behind ``--model openai/<model>``.

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


class _Usage(NamedTuple):
    """The tokens that a response reports; None where it reports none, or an impossible number.

    Those of the prompt include those *cached* and written; *output* includes *reasoning*.
    """

    prompt: int | None
    output: int | None
    cached: int | None
    reasoning: int | None
    cache_writes: int | None

    @property
    def visible(self) -> int | None:
        """The tokens of *output* without *reasoning*."""
        return None if self.output is None else max(0, self.output - (self.reasoning or 0))


class _Choice(NamedTuple):
    """One reply: what the model says or how it refuses, why it ended, and what the model thought."""

    text: str
    reason: str | None
    reasoning: str | None


def _read_usage(body: dict[str, Any]) -> _Usage:
    """Return the tokens that the response reports."""
    usage = mapping_of(body.get("usage"))
    prompt, output = count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens"))
    prompt = count_of(usage.get("input_tokens")) if prompt is None else prompt
    output = count_of(usage.get("output_tokens")) if output is None else output
    inputs = mapping_of(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    cached, written = count_of(inputs.get("cached_tokens")), count_of(inputs.get("cache_write_tokens"))
    if cached is None:
        cached = count_of(usage.get("prompt_cache_hit_tokens"))  # DeepSeek's name for it
    parts = (cached or 0) + (written or 0)
    if parts > (prompt or 0):
        prompt = (prompt or 0) + parts  # counted apart, as Anthropic does
    total = count_of(usage.get("total_tokens"))
    if prompt is not None and output is not None and total is not None:
        output = max(output, total - prompt)  # some count reasoning only in the total
    details = mapping_of(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    reasoning = count_of(details.get("reasoning_tokens"))
    return _Usage(prompt, output, cached, reasoning, written)


def _only_first(tokens: int | None, place: int) -> int | None:
    """Return *tokens* for the first reply and 0 for the others; None where unknown."""
    return tokens if place == 0 or tokens is None else 0


def _shares_of(total: int | None, parts: int) -> list[int | None]:
    """Return *total* in whole, nearly equal parts that add up to it; None for each where unknown."""
    if total is None:
        return [None] * parts
    share, rest = divmod(total, parts)
    return [share + (place < rest) for place in range(parts)]


def _choices_of(
    body: dict[str, Any], headers: Mapping[str, str], content: bytes, endpoint: Endpoint
) -> list[Any]:
    """Return the response's choices, at least one; raise a `ProviderError` if there is none."""
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        return choices
    # Routers report an upstream's failure with status 200.
    if error := body.get("error"):
        raise _upstream(error, headers, body, endpoint)
    status = mapping_of(body.get("base_resp")).get("status_msg")
    said = endpoint.tell(str(status)) if status else first_line(content, endpoint)
    raise foreign(f"{endpoint.host} answered 200 without a choice: {said}", "empty_choices")


def _read_choice(choice: Any, headers: Mapping[str, str], endpoint: Endpoint) -> _Choice:
    """Return what a choice says; raise a `ProviderError` if it is an error, or cannot be read."""
    fields = mapping_of(choice)
    reason = label_of(fields.get("finish_reason"))
    if error := fields.get("error"):
        raise _upstream(error, headers, {"error": error}, endpoint)
    if reason is not None and failed(reason):
        raise TransientError(f"{endpoint.host} ended a reply by {endpoint.tell(reason)}", kind="choice_error")
    message = fields.get("message")
    if message is None and isinstance(fields.get("text"), str):
        message = {"content": fields["text"]}  # of the API before this one
    content = mapping_of(message).get("content")
    if not isinstance(message, dict) or not (content is None or isinstance(content, str | list | dict)):
        raise foreign(f"{endpoint.host} answered with a choice that has no text message", "garbled_body")
    said, thought, refused = _sorted_parts(content)
    refusal = label_of(message.get("refusal")) or label_of(refused)
    if refusal is not None:
        return _Choice(refusal, REFUSAL, None)
    text, inline = split_reasoning(said)
    field = next((message[name] for name in _REASONING if message.get(name)), None)
    reasoning = "\n".join(filter(None, (_text_of(field).strip(), thought.strip(), inline)))
    return _Choice(text, reason, reasoning or None)


def _sorted_parts(content: Any) -> tuple[str, str, str]:
    """Return what *content* says, what it thought, and how it refuses."""
    if content is None or isinstance(content, str):
        return content or "", "", ""
    said, thought, refused = [], [], []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            said.append(part)
            continue
        fields = mapping_of(part)
        kind = fields.get("type", "text")
        if kind in _TEXTS:
            said.append(_text_of(fields.get("text")))
        elif kind in _THOUGHTS:
            thought.append(_text_of({name: fields[name] for name in fields if name != "type"}))
        elif kind == "refusal":
            refused.append(_text_of(fields.get("refusal")))
    return "".join(said), "".join(thought), "".join(refused)


def _text_of(value: Any, depth: int = _DEPTH) -> str:
    """Return the texts in *value*, however its server nests them, one after the other."""
    if isinstance(value, str):
        return value
    if depth == 0 or not value:
        return ""
    if isinstance(value, list):
        return "".join(_text_of(part, depth - 1) for part in value)
    inner = mapping_of(value)
    return next((text for name in _NESTED if (text := _text_of(inner.get(name), depth - 1))), "")


def _upstream(
    error: Any, headers: Mapping[str, str], body: dict[str, Any], endpoint: Endpoint
) -> ProviderError:
    """Return what an error means that came with status 200."""
    code = count_of(mapping_of(error).get("code")) or 0
    if 400 <= code < 600:
        return classify(code, headers, body, endpoint)
    failure = classify(200, headers, body, endpoint)
    if failure.kind in ("quota", "auth", "model_not_found"):
        return failure
    # An error of its own making says nothing of the prompt, and may pass.
    return foreign(str(failure), "error_body")
