"""What a reply says, read with the task's own parser: the same for who runs a step and who audits it."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from mdap.records import record_of
from mdap.rules.canonical import canonical
from mdap.rules.redflags import clean_label, precheck
from mdap.tasks import RedFlag, Step

__all__ = ["Reading", "read", "typed_answer", "unreadable"]


class Reading(NamedTuple):
    """What a reply says.

    Attributes:
        answer: the answer; None for a red flag.
        spelled: the answer's canonical JSON; None for a red flag.
        flag: why the reply is discarded; None for a vote.
    """

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
    """Return what a reply says.

    Args:
        text: the reply, already cleaned.
        finish_reason: the endpoint's word for why the reply ended.
        answer_tokens: tokens of the reply without its reasoning; None where unknown.
        max_tokens: output tokens the reply was allowed.
        parse: the step's parser. Whatever it raises besides `RedFlag` passes.
    """
    flag = precheck(text, finish_reason, answer_tokens, max_tokens)
    if flag is None:
        try:
            answer = parse(text)
            return record_of(Reading, (answer, canonical(answer), None))
        except RedFlag as raised:
            flag = raised.reason
    return Reading(None, None, clean_label(flag))


def unreadable(cause: str) -> str:
    """Return what stands as red flag's reason at a reply on which the parser itself failed.

    Args:
        cause: the name of what it raised.
    """
    return f"parser error: {cause}"[:200]


def typed_answer(step: Step[Any], text: str) -> Any:
    """Return the answer that the JSON *text* stands for, as the step's schema would have it if it is a type.

    Raises:
        ValueError: it is not JSON, or not of that type.
    """
    if step.schema is None or isinstance(step.schema, dict):
        return json.loads(text)
    return TypeAdapter(step.schema).validate_json(text)
