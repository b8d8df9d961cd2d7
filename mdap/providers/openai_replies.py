"""Reading what an OpenAI-compatible endpoint sent back: choices and usage."""

from collections.abc import Mapping
from typing import Any

from mdap.errors import TransientError
from mdap.providers.endpoint import Endpoint
from mdap.providers.failures import classify, count_of, json_object, mapping_of

__all__ = ["only_first", "parse_body", "read_choice", "read_usage", "shares_of"]


def read_usage(body: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Return prompt, output and cached tokens, each None where the response reports none or nonsense."""
    usage = mapping_of(body.get("usage"))
    cached = mapping_of(usage.get("prompt_tokens_details")).get("cached_tokens")
    return count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens")), count_of(cached)


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
    body = json_object(headers, content, endpoint)
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        return body
    # Routers report an upstream's failure with status 200.
    if body.get("error"):
        code = count_of(mapping_of(body["error"]).get("code")) or 0
        raise classify(code if 400 <= code < 600 else 502, headers, body, endpoint)
    raise TransientError(f"{endpoint.host} answered without a choice", kind="empty_choices")


def read_choice(choice: Any) -> tuple[str, str | None]:
    """Return a choice's text and finish reason."""
    message = mapping_of(choice).get("message")
    content = mapping_of(message).get("content")
    if not isinstance(message, dict) or not (content is None or isinstance(content, str)):
        raise TransientError("the response has a choice without a text message", kind="garbled_body")
    reason = choice.get("finish_reason")
    return content or "", reason if isinstance(reason, str) and reason else None
