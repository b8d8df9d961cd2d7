"""Check recorded prompts against the digest chain and the current task, and explain changed prompts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, Final, NamedTuple

from mdap.audit.findings import Findings, Kind
from mdap.audit.questions import CurrentStep
from mdap.records import Identity, PromptSent, StepOpened, encodable
from mdap.rules.canonical import canonical
from mdap.rules.digests import prompt_digest, text_digest, views_digest

__all__ = ["KnownStep", "Sent", "Stray", "check_sent", "compare", "explain"]

Sent = Sequence[PromptSent]
"""The recorded prompts of one opening, by view."""

_AROUND: Final = 24
_MOST: Final = 90
# Limits on the comparisons of a changed step: recorded steps for each change, and changes.
_MOST_COMPARED: Final = 32
_MOST_EXPLAINED: Final = 100
_ALIKE: Final = 0.6


def check_sent(opened: StepOpened, sent: Sent, findings: Findings, *, due: bool) -> bool:
    """Compare the recorded prompts of a step with its digest; return whether they are present and intact."""
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
    """Report how the prompts of one opening, at least one, differ from the task's current prompts."""
    place = (sent[0].step, sent[0].opening)
    views = (len(question.prompts), len(sent))
    findings.compare(Kind.PROMPT, "its number of views changed", *views, place)
    for recorded, (system, user) in zip(sent, question.prompts, strict=False):
        of_view = f" of view {recorded.view + 1}" if len(sent) > 1 else ""
        for name, now, was in (("system", system, recorded.system or ""), ("user", user, recorded.user)):
            if now != was:
                what = f"its prompt changed, {name} message{of_view}"
                findings.add(Kind.PROMPT, what, *_excerpts(now, was), place)
    schema = question.schema
    spelled = None if schema is None else encodable(canonical(schema))
    then = sent[0].schema
    if _unordered(spelled) != _unordered(then):
        shown = (spelled, then) if spelled is None or then is None else _excerpts(spelled, then)
        findings.add(Kind.PROMPT, "its schema changed", *shown, place)
    limits = (question.max_tokens, sent[0].max_tokens)
    findings.compare(Kind.PROMPT, "its limit of output tokens changed", *limits, place)


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


def _likeness(question: CurrentStep, sent: Sent) -> float:
    """Return the share of characters that a step and recorded prompts have in common, from 0 to 1."""
    now = "\n".join(text for prompt in question.prompts for text in prompt)
    then = "\n".join(text for prompt in sent for text in (prompt.system or "", prompt.user))
    return SequenceMatcher(None, now, then, autojunk=False).quick_ratio()


def _excerpts(now: str, then: str) -> tuple[str, str]:
    """Return the differing parts of two texts, with a few characters around them."""
    start = _shared(now, then)
    end = _shared(now[start:][::-1], then[start:][::-1])
    return _excerpt(now, start, len(now) - end), _excerpt(then, start, len(then) - end)


def _shared(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _excerpt(text: str, start: int, stop: int) -> str:
    """Return the part from *start* to *stop* with some context, quoted; ellipses mark cut text."""
    first, last = max(start - _AROUND, 0), min(stop + _AROUND, len(text))
    last = min(last, first + _MOST)
    return f"{'…' * (first > 0)}{text[first:last]!r}{'…' * (last < len(text))}"


class Stray(NamedTuple):
    """Something that the process asks for and its finished run never decided: a step has a *question*."""

    what: str
    key: str | None = None
    question: CurrentStep | None = None


@dataclass(slots=True)
class KnownStep:
    """A recorded step: whether it is decided, its prompts are intact, and the process has asked for it."""

    step: int
    decided: bool
    intact: bool
    asked: bool = False


def explain(
    strays: Iterable[Stray],
    recorded: Mapping[Identity, KnownStep],
    sent: Callable[[int], Sent],
    findings: Findings,
) -> None:
    """Report which undecided requests are recorded steps with a changed prompt or key."""
    left = {identity: known for identity, known in recorded.items() if not known.asked}
    for stray in strays:
        few = len(findings.listed) < _MOST_EXPLAINED
        match = _match(stray.question, stray.key, left, sent) if few and stray.question is not None else None
        if match is None or stray.question is None:
            what = f"asking for {stray.what}"
            findings.add(Kind.PLUGIN, what, "something that was decided", None)
            continue
        step = left.pop(match).step
        if match[1] == stray.question.digest:
            key = stray.key or stray.question.digest
            findings.add(Kind.PROMPT, "its key changed", key, match[0], (step,))
        else:
            compare(stray.question, sent(step), findings)


def _match(
    question: CurrentStep,
    key: str | None,
    left: Mapping[Identity, KnownStep],
    sent: Callable[[int], Sent],
) -> Identity | None:
    """Return which of the unrequested recorded steps is the changed one, if any."""
    same = next((identity for identity in left if identity[1] == question.digest), None)
    if same is not None:
        return same
    alike = (
        identity
        for identity, known in left.items()
        if known.intact and (identity[0] == (identity[1] if key is None else key))
    )
    likely = [
        (_likeness(question, sent(left[identity].step)), -left[identity].step, identity)
        for identity in islice(alike, _MOST_COMPARED)
    ]
    best = max(likely, default=None)
    return None if best is None or (best[0] < _ALIKE and key is None) else best[2]
