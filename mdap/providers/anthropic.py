"""Samples through Anthropic's Messages API, with Anthropic's own SDK: install ``mdap[anthropic]``.

The endpoint returns one reply per request and takes no seed. mdap sends it no schemas: as everywhere, only
the step's parser judges a reply.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from mdap.errors import UsageError
from mdap.providers.anthropic_batches import AnthropicBatches
from mdap.providers.endpoint import EndpointSettings, find_endpoint, read_settings
from mdap.providers.failures import billed, count_of, first_line, foreign, json_object, label_of, mapping_of
from mdap.providers.sdk import SDK
from mdap.providers.sending import Response
from mdap.providers.wire import EndpointProvider
from mdap.records import Reply, SampleRequest
from mdap.rules.reading import split_reasoning

_DEFAULT_URL: Final = "https://api.anthropic.com"


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


class AnthropicProvider(EndpointProvider[AnthropicSettings]):
    """A model behind the Messages API; see `EndpointProvider`.

    Tokens that were read from the cache or written to it are part of the prompt's. A reply without text has
    the text ``""``.
    """

    cache_mark: ClassVar[Mapping[str, Any]] = {"cache_control": {"type": "ephemeral"}}

    def _body(self, request: SampleRequest) -> dict[str, Any]:
        settings = self.dialect.settings
        system, user = settings.spoken(request)
        content = self._content(request, user, settings.cache_breakpoints)
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": request.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        if system:
            marked = self._in_blocks(system, [len(system)])
            body["system"] = marked if settings.cache_breakpoints else system
        if settings.send_temperature:
            body["temperature"] = request.temperature
        return body

    def _read(self, request: SampleRequest, response: Response) -> list[Reply]:
        endpoint = self._endpoint
        body = json_object(response, endpoint, _read_usage)
        given, made, cached, stored = _read_usage(body)
        with billed(given, made):
            blocks = body.get("content")
            if not isinstance(blocks, list):
                said = first_line(response.content, endpoint)
                raise foreign(f"{endpoint.host} answered 200 without content: {said}", "empty_choices")
            text = _joined(blocks, "text")
            self._refuse_repeated(body.get("id"), text)
        text, inline = split_reasoning(text)
        reply = Reply(
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
        return [reply]


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
    parts = (read or 0) + (written or 0)
    return None if fresh is None and not parts else (fresh or 0) + parts, made, read, written


def create(model: str, options: dict[str, Any]) -> AnthropicProvider:
    """Make a provider from what a user typed: the factory behind ``--model anthropic/<model>``.

    Raises:
        UsageError: no model, an unknown option, a bad value, no key, or the SDK is not installed.
    """
    if not model:
        raise UsageError("anthropic needs the name of a model, as in --model anthropic/claude-haiku-4-5")
    settings = read_settings(AnthropicSettings, "anthropic", options)
    endpoint = find_endpoint(settings, "anthropic", "ANTHROPIC", _DEFAULT_URL)
    try:
        sdk = SDK("anthropic", "AsyncAnthropic", "/v1/messages", endpoint)
    except ModuleNotFoundError as error:
        if error.name != "anthropic":
            raise
        raise UsageError("anthropic models need Anthropic's SDK: pip install 'mdap[anthropic]'") from None
    return AnthropicProvider(f"anthropic/{model}", model, settings, endpoint, sdk, AnthropicBatches)


create.settings = AnthropicSettings  # type: ignore[attr-defined] # `mdap models` lists them
