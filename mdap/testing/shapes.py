"""Response bodies of the protocols that a `FaultyServer` speaks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mdap.testing.faults import Canned

__all__ = ["APIS", "Shape", "completion_of", "error_of", "usage_of"]


def error_of(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Canned:
    """Return a refusal as OpenAI words it."""
    error = {"message": message, "type": code, "param": None, "code": code}
    return Canned(status, {"error": error}, headers or {})


Shape = Callable[[dict[str, Any], Sequence[str | None], dict[str, Any]], dict[str, Any]]


def completion_of(body: dict[str, Any], texts: Sequence[str | None], usage: dict[str, Any]) -> dict[str, Any]:
    """Return what the Chat Completions API answers."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "content_filter" if text is None else "stop",
        }
        for index, text in enumerate(texts)
    ]
    return {"object": "chat.completion", "model": body.get("model"), "choices": choices, "usage": usage}


def message_of(body: dict[str, Any], texts: Sequence[str | None], usage: dict[str, Any]) -> dict[str, Any]:
    """Return what the Messages API answers."""
    [text] = texts
    return {
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": "refusal" if text is None else "end_turn",
        "usage": _counted_apart(usage),
    }


def _counted_apart(usage: dict[str, Any]) -> dict[str, int]:
    """Return the usage as the Messages API words it: what the cache has to do with is counted apart."""
    found = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    if details := usage.get("prompt_tokens_details"):
        read, written = details["cached_tokens"], details["cache_write_tokens"]
        found["input_tokens"] -= read + written
        found |= {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    return found


APIS: Final[dict[tuple[str, str], Shape]] = {
    ("POST", "/v1/chat/completions"): completion_of,
    ("POST", "/v1/messages"): message_of,
}


def usage_of(body: dict[str, Any], texts: Sequence[str]) -> dict[str, int]:
    """Return the usage of a request and its replies."""
    # Four characters a token: near enough, and the same everywhere.
    prompt = 1 + sum(len(str(_content(message))) for message in body["messages"]) // 4
    completion = sum(1 + len(text) // 4 for text in texts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _content(message: Any) -> Any:
    content = message.get("content", "") if isinstance(message, dict) else ""
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return content
