"""Read a reply with the task's own parser, identically in a run and in an audit; keep its reasoning apart."""

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import Any, Final, NamedTuple, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from mdap.rules.canonical import canonical
from mdap.rules.redflags import clean_label, precheck
from mdap.tasks import RedFlag, Step

_WORD: Final = r"(?:\w+[:_])?(?:think(?:ing)?|thoughts?|reasoning)"
# <think>, <seed:think>, <|START_THINKING|>, <|begin_of_thought|>, [THINK], ◁think▷
_OPEN: Final = re.compile(
    rf"\s*(?:<(?!\|?/|\|?end_)\|?{_WORD}(?:\s[^<>]*)?\|?>|\[{_WORD}\]|◁{_WORD}▷)", re.IGNORECASE
)
_CLOSE: Final = re.compile(rf"<\|?(?:/|end_(?:of_)?){_WORD}\s*\|?>|\[/{_WORD}\]|◁/{_WORD}▷", re.IGNORECASE)
# OpenAI's harmony format, as a server sends it that does not take it apart.
_CHANNELS: Final = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")
_FINAL: Final = "<|channel|>final<|message|>"
_HARMONY_END: Final = re.compile(r"<\|(?:return|end)\|>\s*$")


class Reading(NamedTuple):
    """The reading of a reply: the answer and its canonical JSON, or the reason of a red flag."""

    answer: Any
    spelled: str | None
    flag: str | None


def read(
    text: str,
    finish_reason: str,
    answer_tokens: int | None,
    max_tokens: int,
    parse: Callable[[str], Any],
) -> Reading:
    """Return the reading of a cleaned reply. What *parse* raises besides `RedFlag` passes."""
    flag = precheck(text, finish_reason, answer_tokens, max_tokens)
    if flag is None:
        try:
            answer = parse(text)
            return Reading(answer, canonical(answer), None)
        except RedFlag as raised:
            flag = raised.reason
    return Reading(None, None, clean_label(flag))


def json_schema(schema: Any) -> dict[str, Any] | None:
    """Return the JSON schema of a step's *schema*: a type, a schema already, or None."""
    if schema is None or isinstance(schema, dict):
        return schema
    return TypeAdapter(schema).json_schema()


def unreadable(cause: str) -> str:
    """Return the red-flag reason of a reply on which the parser itself raised *cause*."""
    return f"parser error: {cause}"[:200]


def typed_answer(step: Step[Any], text: str, alike: Iterable[Any] = ()) -> Any:
    """Return the answer that the JSON *text* stands for.

    Its class comes from the step's schema if that is a type, else from the parser's return annotation,
    else from answers *alike*, which received votes.

    Raises:
        ValueError: it is not JSON, or not of such a class.
    """
    if step.schema is not None and not isinstance(step.schema, dict):
        return TypeAdapter(step.schema).validate_json(text)
    plain = json.loads(text)
    kinds = [kind for kind in (_returned(step.parse), *dict.fromkeys(map(type, alike))) if kind is not Any]
    refused: ValidationError | None = None
    # Strictly first: 1 is not meant to be True, as long as it can be 1.
    for strict, kind in product((True, False), kinds):
        try:
            return TypeAdapter(kind).validate_json(text, strict=strict)
        except ValidationError as error:
            refused = refused or error
        except PydanticUserError:  # it is no type that JSON can be read as
            continue
    if refused is not None:
        raise refused
    return plain


def _returned(parse: Callable[[str], Any]) -> Any:
    """Return a parser's annotated return type; Any without one."""
    while isinstance(parse, partial):
        parse = parse.func
    try:
        return get_type_hints(parse, include_extras=True).get("return", Any)
    except Exception:  # it has no annotations, or some that cannot be read from here
        return Any


def split_reasoning(text: str) -> tuple[str, str | None]:
    """Return the reply in *text*, and the reasoning before it; None for none.

    Reasoning stands between tags at the beginning. A chat template may have opened it in the prompt: then
    only its end shows, on a line's edge, where no JSON string can have it. Reasoning without an end leaves
    no reply.
    """
    if _CHANNELS.match(text):
        reasoning, _, reply = text.rpartition(_FINAL)
        return (_HARMONY_END.sub("", reply), reasoning.strip() or None) if reasoning else ("", text)
    thoughts: list[str] = []
    while opened := _OPEN.match(text):
        closed = _CLOSE.search(text, opened.end())
        thoughts.append(text[opened.end() : closed.start() if closed else len(text)])
        text = text[closed.end() :].lstrip() if closed else ""
    if not thoughts and (closed := _CLOSE.search(text)) and _at_edge(text, closed):
        thoughts.append(text[: closed.start()])
        text = text[closed.end() :].lstrip()
    return text, "\n".join(filter(None, map(str.strip, thoughts))) or None


def _at_edge(text: str, tag: re.Match[str]) -> bool:
    """Return whether *tag* begins or ends a line."""
    before, after = text[: tag.start()].rstrip(" \t"), text[tag.end() :].lstrip(" \t")
    return not before or not after or before[-1] in "\r\n" or after[0] in "\r\n"
