"""Reading what an OpenAI-compatible endpoint sent back: choices and usage."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from mdap.errors import ProviderError, TransientError
from mdap.providers.endpoint import Endpoint
from mdap.providers.failures import classify, count_of, first_line, foreign, mapping_of
from mdap.rules.reading import split_reasoning
from mdap.rules.redflags import REFUSAL, failed

__all__ = ["Choice", "Told", "choices_of", "label_of", "only_first", "read_choice", "read_usage", "shares_of"]

# Where servers put what a model thought, apart from what it says.
_REASONING: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details")
_TEXTS: Final = frozenset({"text", "output_text"})
_THOUGHTS: Final = frozenset({"thinking", "reasoning", "thought", "reasoning_content"})
# Nothing that is nested deeper than this is a text.
_DEPTH: Final = 4


class Told(NamedTuple):
    """What a response says of its tokens; None where it says nothing, or nonsense.

    Attributes:
        given: tokens of the prompt.
        made: tokens of all replies, with those of hidden reasoning.
        cached: the part of *given* that was read from a cache.
        hidden: the part of *made* that was reasoning.
        stored: the part of *given* that was written to a cache.
    """

    given: int | None
    made: int | None
    cached: int | None
    hidden: int | None
    stored: int | None

    @property
    def shown(self) -> int | None:
        """The part of *made* that can be read."""
        return None if self.made is None else max(0, self.made - (self.hidden or 0))


class Choice(NamedTuple):
    """One reply.

    Attributes:
        text: what the model says, or the words in which it refuses.
        reason: why it ended; None where the endpoint does not say.
        reasoning: what the model thought; None for nothing.
    """

    text: str
    reason: str | None
    reasoning: str | None


def read_usage(body: dict[str, Any]) -> Told:
    """Return the tokens that the response reports."""
    usage = mapping_of(body.get("usage"))
    given, made = count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens"))
    given = count_of(usage.get("input_tokens")) if given is None else given
    made = count_of(usage.get("output_tokens")) if made is None else made
    total = count_of(usage.get("total_tokens"))
    if given is not None and made is not None and total is not None:
        made = max(made, total - given)  # some count what the model thought in the total alone
    details = mapping_of(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    inputs = mapping_of(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    hidden = count_of(details.get("reasoning_tokens"))
    cached = count_of(inputs.get("cached_tokens"))
    if cached is None:
        cached = count_of(usage.get("prompt_cache_hit_tokens"))  # DeepSeek's name for it
    return Told(given, made, cached, hidden, count_of(inputs.get("cache_write_tokens")))


def only_first(tokens: int | None, place: int) -> int | None:
    """Return *tokens* for the first reply and 0 for the others; None where unknown."""
    return tokens if place == 0 or tokens is None else 0


def shares_of(total: int | None, parts: int) -> list[int | None]:
    """Return *total* in whole, nearly equal parts that add up to it; None for each where unknown."""
    if total is None:
        return [None] * parts
    share, rest = divmod(total, parts)
    return [share + (place < rest) for place in range(parts)]


def label_of(value: Any) -> str | None:
    """Return *value* if it is a text that is not blank, else None."""
    return value if isinstance(value, str) and value.strip() else None


def choices_of(
    body: dict[str, Any], headers: Mapping[str, str], content: bytes, endpoint: Endpoint
) -> list[Any]:
    """Return the response's choices, at least one.

    Args:
        body: the response's JSON.
        headers: the response's headers.
        content: the body as it came.
        endpoint: who answered.

    Raises:
        ProviderError: there is none.
    """
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        return choices
    # Routers report an upstream's failure with status 200.
    if error := body.get("error"):
        raise _upstream(error, headers, body, endpoint)
    status = mapping_of(body.get("base_resp")).get("status_msg")
    said = endpoint.tell(str(status)) if status else first_line(content, endpoint)
    raise foreign(f"{endpoint.host} answered 200 without a choice: {said}", "empty_choices")


def read_choice(choice: Any, headers: Mapping[str, str], endpoint: Endpoint) -> Choice:
    """Return what a choice says, its reasoning apart.

    Args:
        choice: one of the response's.
        headers: the response's headers.
        endpoint: who answered.

    Raises:
        ProviderError: the choice is an error, or cannot be read.
    """
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
        return Choice(refusal, REFUSAL, None)
    text, inline = split_reasoning(said)
    field = next((message[name] for name in _REASONING if message.get(name)), None)
    reasoning = "\n".join(filter(None, (_text_of(field).strip(), thought.strip(), inline)))
    return Choice(text, reason, reasoning or None)


def _sorted_parts(content: Any) -> tuple[str, str, str]:
    """Return what *content* says, what it thought, and how it refuses."""
    if content is None or isinstance(content, str):
        return content or "", "", ""
    said, thought, refused = [], [], []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            said.append(part)
            continue
        kind = mapping_of(part).get("type", "text")
        if kind in _TEXTS:
            said.append(_text_of(part.get("text")))
        elif kind in _THOUGHTS:
            thought.append(_text_of({name: part[name] for name in part if name != "type"}))
        elif kind == "refusal":
            refused.append(_text_of(part.get("refusal")))
    return "".join(said), "".join(thought), "".join(refused)


def _text_of(value: Any, depth: int = _DEPTH) -> str:
    """Return the texts in *value*, however its server nests them, one after the other."""
    if isinstance(value, str):
        return value
    if depth == 0:
        return ""
    if isinstance(value, list):
        return "".join(_text_of(part, depth - 1) for part in value)
    inner = mapping_of(value)
    names = ("text", "summary", "content", *_THOUGHTS)
    return next((text for name in names if (text := _text_of(inner.get(name), depth - 1))), "")


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
