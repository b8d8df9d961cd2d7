"""The steps that the current task asks, compared with the record: their prompts, and its replies."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, Final, NamedTuple

from mdap.audit.findings import Findings, Kind
from mdap.audit.runs import RunFacts
from mdap.errors import told
from mdap.groups import of_its_own
from mdap.records import Identity, PromptSent, SampleTaken, StepOpened, encodable
from mdap.rules.canonical import canonical
from mdap.rules.digests import answer_key, prompt_digest, text_digest, views_digest
from mdap.rules.reading import json_schema, read, unreadable
from mdap.rules.values import SpellingError, refuse_rivals
from mdap.settings import VotingSettings
from mdap.tasks import Step

Sent = Sequence[PromptSent]
"""The recorded prompts of one opening, by view."""

_AROUND: Final = 24
_MOST: Final = 90
# Limits on the comparisons of a changed step: recorded steps for each change, and changes.
_MOST_COMPARED: Final = 32
_MOST_EXPLAINED: Final = 100
_ALIKE: Final = 0.6
_UNSPELLED: Final = unreadable(SpellingError.__name__)


class _Said(NamedTuple):
    key: str | None
    flag: str | None
    spelled: str | None = None
    answer: Any = None
    failed: str | None = None


class CurrentStep:
    """One step of the current task, asked again; *answers* has the first answer of each candidate."""

    def __init__(self, step: Step[Any], voting: VotingSettings, findings: Findings) -> None:
        self.answers: dict[str, Any] = {}
        self._findings = findings
        self.max_tokens = voting.tokens_allowed(step.max_tokens)
        self._schema = step.schema
        self._parsers = [step.parse, *[view.parse for view in step.views]]
        self.prompts = [(step.system, step.user), *((view.system, view.user) for view in step.views)]
        self.digest = views_digest([prompt_digest(*prompt) for prompt in self.prompts])
        self._intact: set[str | None] = set()
        self._said: dict[tuple[str | None, str | None, bool, int], _Said] = {}

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of an answer; None for none."""
        return json_schema(self._schema)

    def check(self, samples: list[SampleTaken], facts: RunFacts, key: str) -> None:
        """Parse every recorded reply of the step *key* again, and compare the results."""
        views = len(self._parsers)
        for sample in samples:
            if views > 1 or sample.view != 0:
                self._check_view(sample, facts, views, key)
            if sample.text_digest not in self._intact:
                if not check_text(sample, self._findings):
                    continue
                self._intact.add(sample.text_digest)
            said = self._reading(sample)
            if sample.counted is None and sample.flag_reason == _UNSPELLED:
                continue  # comparing an answer with earlier ones depends on their order
            self._check_vote(sample, said)
            if said.key != sample.answer_key or said.flag != sample.flag_reason:
                expected = said.key or said.failed or said.flag
                found = sample.answer_key or sample.flag_reason
                self._findings.add(Kind.READING, "what the reply says", expected, found, sample.place)

    def _check_vote(self, sample: SampleTaken, said: _Said) -> None:
        """Report a vote whose answer differs from the answers counted with it."""
        if sample.counted is None or said.spelled is None:
            return
        first = self.answers.setdefault(said.spelled, said.answer)
        if first is not said.answer:
            try:
                refuse_rivals(first, said.answer, said.spelled)
            except SpellingError as error:
                self._findings.add(Kind.COUNT, "votes for one answer", "equal answers", error, sample.place)

    def _check_view(self, sample: SampleTaken, facts: RunFacts, views: int, key: str) -> None:
        schedule = facts.schedule
        if schedule.tier(sample.ordinal) < schedule.tier_count:
            view = schedule.part(sample.ordinal, views, key=key).view
            if sample.view != view and sample.view not in facts.views(
                sample.place[:2], key, sample.ordinal, views
            ):
                self._findings.add(Kind.PROMPT, "view of the step", view, sample.view, sample.place)

    def _reading(self, sample: SampleTaken) -> _Said:
        tokens = sample.answer_tokens
        over = tokens is not None and tokens > self.max_tokens
        same = (sample.text_digest, sample.finish_reason, over, sample.view)
        said = self._said.get(same)
        if said is None:
            said = self._said[same] = self._read(sample)
        return said

    def _read(self, sample: SampleTaken) -> _Said:
        if not 0 <= sample.view < len(self._parsers):
            return _Said(None, "no such view")
        finish = "stop" if sample.finish_reason is None else sample.finish_reason
        parse = self._parsers[sample.view]
        try:
            said = read(sample.text or "", finish, sample.answer_tokens, self.max_tokens, parse)
        except BaseException as error:
            if not of_its_own(error):
                raise
            # A run records a reply on which the parser fails.
            return _Said(None, unreadable(type(error).__name__), failed=told(error))
        if said.spelled is None:
            return _Said(None, said.flag)
        return _Said(answer_key(said.spelled), None, said.spelled, said.answer)


def check_text(sample: SampleTaken, findings: Findings) -> bool:
    """Compare a reply with its digest; return whether there is a reply to read.

    Only a sample without a reply may lack a text.
    """
    _same_text("reasoning", sample.reasoning, sample.reasoning_digest, sample, findings)
    if sample.text is None and sample.text_digest is None:
        if sample.counted is not None or sample.answer_key is not None:
            findings.add(Kind.TEXT, "reply", "a text", None, sample.place)
        return False
    return _same_text("reply", sample.text, sample.text_digest, sample, findings)


def _same_text(
    what: str, text: str | None, digest: str | None, sample: SampleTaken, findings: Findings
) -> bool:
    """Compare a text with its digest; return whether there is one."""
    if text is None:
        if digest is not None:
            findings.add(Kind.TEXT, what, "a text", None, sample.place)
        return False
    findings.compare(Kind.TEXT, f"digest of the {what}", digest, text_digest(text), sample.place)
    return True


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
