"""A step from the current task: the digest of its prompts, and its parser's reading of recorded replies."""

from typing import Any, Final, NamedTuple

from mdap.audit.findings import Findings, Kind
from mdap.audit.runs import RunFacts
from mdap.errors import RAISED, told
from mdap.records import SampleTaken
from mdap.rules.digests import answer_key, prompt_digest, text_digest, views_digest
from mdap.rules.reading import json_schema, read, unreadable
from mdap.rules.values import SpellingError, refuse_rivals
from mdap.settings import VotingSettings
from mdap.tasks import Step

__all__ = ["CurrentStep", "check_text"]


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
        except RAISED as error:
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
