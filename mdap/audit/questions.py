"""A step as the task asks it now: its prompts' digest, and what the recorded replies say to its parser."""

from typing import Any, NamedTuple

from mdap.audit.findings import Findings, Kind
from mdap.audit.rows import SampleRow
from mdap.rules.casting import Casting
from mdap.rules.digests import answer_key, prompt_digest, text_digest, views_digest
from mdap.rules.reading import read, unreadable
from mdap.tasks import Step

__all__ = ["Question", "check_text"]


class _Said(NamedTuple):
    key: str | None
    flag: str | None


class Question:
    """One step, asked anew.

    Args:
        step: as the task gives it now.
        max_tokens: the run's own limit on a reply.
        findings: where to say what does not match.

    Attributes:
        answers: the answers that were read, by their canonical JSON.
        digest: the digest of the step's prompts.
    """

    __slots__ = ("_findings", "_intact", "_max_tokens", "_parsers", "_said", "answers", "digest")

    def __init__(self, step: Step[Any], max_tokens: int, findings: Findings) -> None:
        self.answers: dict[str, Any] = {}
        self._findings = findings
        self._max_tokens = step.max_tokens or max_tokens
        self._parsers = [step.parse, *[view.parse for view in step.views]]
        self.digest = prompt_digest(step.system, step.user)
        if step.views:
            views = [prompt_digest(view.system, view.user) for view in step.views]
            self.digest = views_digest([self.digest, *views])
        self._intact: set[int] = set()
        self._said: dict[tuple[int, str | None, bool, int], _Said] = {}

    def check(self, samples: list[SampleRow], casting: Casting) -> None:
        """Read every recorded reply again, and compare what it says with what is recorded."""
        views = len(self._parsers)
        for sample in samples:
            self._check_view(sample, casting, views)
            if sample.text not in self._intact:
                if not check_text(sample, self._findings):
                    continue
                self._intact.add(sample.text or 0)
            said = self._reading(sample)
            if said.key != sample.answer_key or said.flag != sample.flag_reason:
                expected = said.key or said.flag
                found = sample.answer_key or sample.flag_reason
                self._findings.add(Kind.READING, "what the reply says", expected, found, _at(sample))

    def _check_view(self, sample: SampleRow, casting: Casting, views: int) -> None:
        if views == 1 and sample.view == 0:
            return
        if casting.tier(sample.ordinal) < casting.tiers:
            view = casting.part(sample.ordinal, views).view
            if sample.view != view:
                self._findings.add(Kind.PROMPT, "view of the step", view, sample.view, _at(sample))

    def _reading(self, sample: SampleRow) -> _Said:
        over = sample.output_tokens is not None and sample.output_tokens > self._max_tokens
        same = (sample.text or 0, sample.finish_reason, over, sample.view)
        said = self._said.get(same)
        if said is None:
            said = self._said[same] = self._read(sample)
        return said

    def _read(self, sample: SampleRow) -> _Said:
        if not 0 <= sample.view < len(self._parsers):
            return _Said(None, "no such view")
        finish = "stop" if sample.finish_reason is None else sample.finish_reason
        parse = self._parsers[sample.view]
        try:
            said = read(sample.body or "", finish, sample.output_tokens, self._max_tokens, parse)
        except Exception as error:
            # A reply at which the parser fails is recorded as such.
            return _Said(None, unreadable(type(error).__name__))
        if said.spelled is None:
            return _Said(None, said.flag)
        self.answers.setdefault(said.spelled, said.answer)
        return _Said(answer_key(said.spelled), None)


def _at(sample: SampleRow) -> tuple[int, int, int]:
    return sample.step, sample.opening, sample.ordinal


def check_text(sample: SampleRow, findings: Findings) -> bool:
    """Compare a reply with its digest; return whether there is a reply to read.

    Only a sample that never came back may be without one.
    """
    if sample.text is None or sample.body is None:
        if sample.counted is not None or sample.answer_key is not None or sample.text is not None:
            findings.add(Kind.TEXT, "reply", "a text", None, _at(sample))
        return False
    digest = text_digest(sample.body)
    if digest != sample.text_digest:
        findings.add(Kind.TEXT, "digest of the reply", sample.text_digest, digest, _at(sample))
    return True
