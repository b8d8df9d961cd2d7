"""Check recorded prompts against the digest chain and the task's current prompts."""

import json
import sqlite3
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, Final

from mdap.audit.findings import Findings, Kind
from mdap.audit.questions import CurrentStep
from mdap.journal.statements import query
from mdap.records import PromptSent, StepOpened, encodable
from mdap.rules.canonical import canonical
from mdap.rules.digests import prompt_digest, text_digest, views_digest

__all__ = ["Sent", "check_sent", "compare", "excerpts", "likeness", "sent_between"]

Sent = Sequence[PromptSent]
"""The recorded prompts of one opening, by view."""

_AROUND: Final = 24
_MOST: Final = 90


def sent_between(
    connection: sqlite3.Connection, run: int, first: int, last: int
) -> dict[tuple[int, int], list[PromptSent]]:
    """Return the recorded prompts of the steps from *first* to before *last*, by step and opening."""
    found: dict[tuple[int, int], list[PromptSent]] = {}
    for sent in map(PromptSent._make, query(connection, "prompts_between", run, first, last)):
        found.setdefault((sent.step, sent.opening), []).append(sent)
    return found


def check_sent(opened: StepOpened, sent: Sent, findings: Findings, *, due: bool) -> bool:
    """Compare the recorded prompts of a step with its digest; return whether they are present and intact.

    Args:
        opened: the step.
        sent: its recorded prompts.
        findings: collects the mismatches.
        due: whether they are required.
    """
    place = (opened.step, opened.opening)
    if not sent:
        if due:
            findings.add(Kind.TEXT, "recorded prompt", "a row in prompts", None, place)
        return False
    for prompt in sent:
        for digest, text in prompt.texts():
            if (None if text is None else text_digest(text)) != digest:
                findings.add(Kind.TEXT, "digest of a recorded prompt", digest, text_digest(text or ""), place)
                return False
    found = views_digest([prompt_digest(prompt.system or "", prompt.user or "") for prompt in sent])
    if found != opened.prompt_digest or [prompt.view for prompt in sent] != list(range(len(sent))):
        findings.add(Kind.TEXT, "digest of the recorded prompt", opened.prompt_digest, found, place)
        return False
    return True


def compare(question: CurrentStep, sent: Sent, findings: Findings) -> None:
    """Report how the prompts of one opening differ from the task's current prompts.

    Args:
        question: the step from the current task.
        sent: its recorded prompts, at least one.
        findings: collects the differences.
    """
    place = (sent[0].step, sent[0].opening)
    if len(sent) != len(question.prompts):
        findings.add(Kind.PROMPT, "its number of views changed", len(question.prompts), len(sent), place)
    for recorded, (system, user) in zip(sent, question.prompts, strict=False):
        of_view = f" of view {recorded.view + 1}" if len(sent) > 1 else ""
        for name, now, was in (("system", system, recorded.system or ""), ("user", user, recorded.user)):
            if now != was:
                what = f"its prompt changed, {name} message{of_view}"
                findings.add(Kind.PROMPT, what, *excerpts(now, was), place)
    schema = question.schema
    spelled = None if schema is None else encodable(canonical(schema))
    then = sent[0].schema
    if _unordered(spelled) != _unordered(then):
        shown = (spelled, then) if spelled is None or then is None else excerpts(spelled, then)
        findings.add(Kind.PROMPT, "its schema changed", *shown, place)
    if sent[0].max_tokens != question.max_tokens:
        what = "its limit of output tokens changed"
        findings.add(Kind.PROMPT, what, question.max_tokens, sent[0].max_tokens, place)


def _unordered(schema: str | None) -> Any:
    """Return a schema without the order of its lists, which varies by process for sets."""
    try:
        return None if schema is None else _sorted(json.loads(schema))
    except (ValueError, RecursionError):  # something has changed it
        return schema


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(one) for name, one in value.items()}
    return sorted(map(_sorted, value), key=canonical) if isinstance(value, list) else value


def likeness(question: CurrentStep, sent: Sent) -> float:
    """Return the share of characters that a step and recorded prompts have in common, from 0 to 1."""
    now = "\n".join(text for prompt in question.prompts for text in prompt)
    then = "\n".join(text for prompt in sent for text in (prompt.system or "", prompt.user))
    return SequenceMatcher(None, now, then, autojunk=False).quick_ratio()


def excerpts(now: str, then: str) -> tuple[str, str]:
    """Return the differing parts of two texts, with a few characters around them."""
    start = 0
    while start < min(len(now), len(then)) and now[start] == then[start]:
        start += 1
    rest = min(len(now), len(then)) - start
    end = 0
    while end < rest and now[-1 - end] == then[-1 - end]:
        end += 1
    return _excerpt(now, start, len(now) - end), _excerpt(then, start, len(then) - end)


def _excerpt(text: str, start: int, stop: int) -> str:
    """Return the part from *start* to *stop* with some context, quoted; ellipses mark cut text."""
    first, last = max(start - _AROUND, 0), min(stop + _AROUND, len(text))
    last = min(last, first + _MOST)
    return f"{'…' * (first > 0)}{text[first:last]!r}{'…' * (last < len(text))}"
