"""Samples through Anthropic's Messages API, with Anthropic's own SDK: install ``mdap[anthropic]``.

The endpoint gives one reply to a request and knows no seed. Schemas are not sent; as everywhere, what
counts is how the step's parser reads the reply.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from mdap.errors import RejectedError, UsageError
from mdap.providers.anthropic_batches import AnthropicBatches
from mdap.providers.dialect import Dialect
from mdap.providers.endpoint import Endpoint, EndpointSettings, find_endpoint, read_settings
from mdap.providers.failures import Guard, billed, count_of, first_line, foreign, json_object, mapping_of
from mdap.providers.openai_replies import label_of
from mdap.providers.sdk import SDK
from mdap.providers.wire import Response, Wire, in_blocks
from mdap.records import Reply, SampleRequest
from mdap.rules.headers import Told
from mdap.rules.prefixes import repeated
from mdap.rules.reasoning import split_reasoning

__all__ = ["AnthropicProvider", "AnthropicSettings", "create"]

_DEFAULT_URL: Final = "https://api.anthropic.com"
_BREAKPOINT: Final = {"cache_control": {"type": "ephemeral"}}


class AnthropicSettings(EndpointSettings):
    """What a user may set with ``-M NAME=VALUE`` for Anthropic's API; see `EndpointSettings`.

    Attributes:
        cache_breakpoints: whether to mark with ``cache_control`` what further requests repeat: the system
            message, and what `Step.shared` names or samples share, where `Limits.warm_cache` is in force.
    """

    own_fields: ClassVar[frozenset[str]] = EndpointSettings.own_fields | {"system", "max_tokens"}
    negotiable: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **EndpointSettings.negotiable,
        "cache_breakpoints": (True, False),
    }

    cache_breakpoints: bool = True


class AnthropicProvider:
    """A model behind the Messages API.

    The client is opened inside the running loop by the first sample, and closed by `aclose`.

    Attributes:
        name: ``anthropic/<model>``; replies carry it as their model.
        nonblocking: False.
        remote: True.
        max_n: 1.
        dialect: the options in force, with those that were found out.
        batches: the batch API.
    """

    nonblocking: Final = False
    remote: Final = True
    max_n: Final = 1

    def __init__(self, model: str, settings: AnthropicSettings, endpoint: Endpoint) -> None:
        self.name: Final = f"anthropic/{model}"
        self._model = model
        self.dialect: Final = Dialect(settings)
        self._settings = settings
        self._endpoint = endpoint
        self._guard = Guard(endpoint, off=settings.allow_duplicates)
        sdk = SDK("anthropic", "AsyncAnthropic", "/v1/messages", endpoint)
        self._wire = Wire(sdk, endpoint, settings.transport)
        self.batches: Final = AnthropicBatches(
            sdk, endpoint, self._whole, lambda _, response: [self._read(response)]
        )

    @property
    def allow_duplicates(self) -> bool:
        """Whether the user wants votes of an endpoint that repeats itself."""
        return self._settings.allow_duplicates

    @property
    def told(self) -> Told:
        """What the endpoint's headers tell of its limits."""
        return self._wire.told

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask once for one reply; see `mdap.protocols.Provider.sample`.

        Tokens that were read from the cache or written to it are part of the prompt's. A reply without
        text has the text ``""``.

        Raises:
            TransientError: no or no usable response; another attempt may work.
            RateLimitError: the endpoint asks for a pause first.
            UnavailableError: key, quota or model will not do.
            RejectedError: the endpoint refuses this prompt.
        """
        body = self._whole(request)
        try:
            return [await self._wire.ask(body, self._read)]
        except RejectedError as error:
            self.dialect.advise(error, body)
            raise

    def describe(self) -> dict[str, Any]:
        """Return model, host and options as JSON values; `create` saw to it that none is a secret."""
        return {"model": self._model, "host": self._endpoint.host, **self._settings.described()}

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        await self._wire.aclose()
        await self.batches.aclose()

    def _whole(self, request: SampleRequest) -> dict[str, Any]:
        return {**self._body(request), **self._settings.extra_body}

    def _body(self, request: SampleRequest) -> dict[str, Any]:
        settings = self.dialect.settings
        system, user = settings.spoken(request)
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": request.max_tokens,
            "messages": [{"role": "user", "content": user}],
        }
        if system:
            body["system"] = system
        if settings.cache_breakpoints:
            ends = [len(user) - len(request.user) + end for end in repeated(request)]
            if ends:
                body["messages"][0]["content"] = in_blocks(user, ends, _BREAKPOINT)
            if system:
                body["system"] = in_blocks(system, [len(system)], _BREAKPOINT)
        if settings.send_temperature:
            body["temperature"] = request.temperature
        return body

    def _read(self, response: Response) -> Reply:
        endpoint = self._endpoint
        body = json_object(response.headers, response.content, endpoint, lambda body: _read_usage(body)[:2])
        given, made, cached, stored = _read_usage(body)
        with billed(given, made):
            blocks = body.get("content")
            if not isinstance(blocks, list):
                said = first_line(response.content, endpoint)
                raise foreign(f"{endpoint.host} answered 200 without content: {said}", "empty_choices")
            text = _joined(blocks, "text")
            self._guard.check(body.get("id"), text)
        text, inline = split_reasoning(text)
        return Reply(
            text=text,
            model=self.name,
            finish_reason=label_of(body.get("stop_reason")) or "end_turn",
            input_tokens=given,
            output_tokens=made,
            cached_tokens=cached,
            latency=response.latency,
            request_id=response.headers.get("request-id"),
            reasoning=_joined(blocks, "thinking") or inline,
            served_model=label_of(body.get("model")),
            cache_write_tokens=stored,
        )


def _joined(blocks: list[Any], kind: str) -> str:
    """Return the texts of all blocks of this *kind*, which name their text by it."""
    return "".join(block[kind] for block in map(mapping_of, blocks) if isinstance(block.get(kind), str))


def _read_usage(body: Mapping[str, Any]) -> tuple[int | None, int | None, int | None, int | None]:
    """Return tokens of prompt and output, those read from the cache and those written to it.

    The API counts apart what is neither read nor written.
    """
    usage = mapping_of(body.get("usage"))
    fresh, made = count_of(usage.get("input_tokens")), count_of(usage.get("output_tokens"))
    read = count_of(usage.get("cache_read_input_tokens"))
    written = count_of(usage.get("cache_creation_input_tokens"))
    return None if fresh is None else fresh + (read or 0) + (written or 0), made, read, written


def create(model: str, options: dict[str, Any]) -> AnthropicProvider:
    """Make a provider from what a user typed: the factory behind ``--model anthropic/<model>``.

    Args:
        model: the model's name as the endpoint knows it.
        options: fields of `AnthropicSettings`; strings are converted.

    Raises:
        UsageError: no model, an unknown option, a bad value, no key, or the SDK is not installed.
    """
    if not model:
        raise UsageError("anthropic needs the name of a model, as in --model anthropic/claude-haiku-4-5")
    settings = read_settings(AnthropicSettings, "anthropic", options)
    endpoint = find_endpoint(settings, "anthropic", "ANTHROPIC", _DEFAULT_URL)
    try:
        return AnthropicProvider(model, settings, endpoint)
    except ModuleNotFoundError as error:
        if error.name != "anthropic":
            raise
        raise UsageError("anthropic models need Anthropic's SDK: pip install 'mdap[anthropic]'") from None


create.settings = AnthropicSettings  # type: ignore[attr-defined] # `mdap models` lists them
