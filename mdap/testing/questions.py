"""Examine one step of a task: its prompts, and its parsers on any text."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from mdap.errors import RAISED
from mdap.rules.canonical import canonical
from mdap.rules.redflags import precheck
from mdap.rules.values import SpellingError, refuse_rivals
from mdap.settings import VotingSettings
from mdap.tasks import Chain, Process, RedFlag, Step, Task, canonical_step
from mdap.testing.findings import AbandonedError, Breaches
from mdap.testing.hostile import OverdueError, corpus, deadline, fuzzed

_OVERDUE: Final = "any text is read in bounded time"
_SKIPPED: Final = {
    "oracle": "it has no oracle: no answer was looked at, and only the first step of a chain",
    "mistakes": "it names no mistakes: wrong answers were not looked at",
    "render": "it renders no replies: no reply was read back, and hostile texts are made of nothing",
}
_REASONS: Final = 60
_CHARS_PER_TOKEN: Final = 4
_FOLLOWED: Final = 100


@dataclass(frozen=True, slots=True)
class _Side:
    """One presentation of the step: the parser, and how a model would reply, if that is known."""

    name: str
    parse: Callable[[str], Any]
    render: Callable[[Any], str] | None


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to try; see `check_task`."""

    steps: int
    texts: int
    seconds: float
    seed: int


def defines(task: Task, method: str) -> bool:
    """Return whether the author wrote *method*."""
    mine = getattr(type(task), method)
    return all(getattr(kind, method, None) is not mine for kind in (Chain, Process))


def note_skipped(findings: Breaches, task: Task) -> None:
    """Note what cannot be looked at, since *task* leaves it out."""
    for method, sentence in _SKIPPED.items():
        if not defines(task, method):
            findings.skipped[sentence] = None


def check_outcome(findings: Breaches, task: Task, result: Any) -> None:
    """Note a task whose outcome rejects its oracle's result, or is not True, False or None."""
    said: object = findings.pure("outcome", task.outcome, json.loads(findings.spelled("the result", result)))
    if said is not None and not isinstance(said, bool):
        findings.add("outcome is True, False or None", f"it is {said!r:.160}")
    elif said is False:
        findings.add("its oracle solves it", f"the result is {result!r:.160}")


class ExaminedStep:
    """A step with all that is known of it.

    *render* writes a reply that gives an answer, if the task can; *survives* raises `SpellingError` at an
    answer that does not come back from its JSON.
    """

    def __init__(
        self,
        findings: Breaches,
        task: Task,
        step: Step[Any],
        render: Callable[[Any], str] | None,
        survives: Callable[[Any, str], object],
    ) -> None:
        self._findings = findings
        self._task = task
        self._survives = survives
        self._read: dict[str, Any] = {}
        self._reasons: set[str] = set()
        self._replies: list[str] = []
        self._raw = step
        step = canonical_step(task, step)
        self._max_tokens = step.max_tokens or VotingSettings().max_tokens
        self._sides = [_Side("the step itself", step.parse, render)]
        for number, view in enumerate(step.views, start=1):
            self._sides.append(_Side(f"view {number}", view.parse, render and (view.render or render)))

    def examine(self, answers: Iterable[Any], effort: Effort, number: int) -> list[Any]:
        """Note what is wrong with the prompts, and with the parsers on replies and on hostile texts.

        Each of the *answers* is rendered and read back. The step is the one at place *number*, from 1.
        It returns some of the answers that were read from hostile texts, each different.
        """
        prompts = [(self._raw.system, self._raw.user), *((v.system, v.user) for v in self._raw.views)]
        if not all(user.strip() for _, user in prompts):
            self._findings.add("a step asks something", "its user message, or that of a view, is empty")
        if len(set(prompts)) < len(prompts):
            self._findings.add("views differ", "two presentations of the step have the same prompt")
        if self._raw.max_tokens is not None and self._raw.max_tokens < 1:
            self._findings.add("a step allows a reply", f"max_tokens is {self._raw.max_tokens}")
            raise AbandonedError
        for answer in answers:
            form = self._findings.call("canonical", self._task.canonical, answer)
            again = self._findings.call("canonical", self._task.canonical, form)
            self._findings.same("a canonical form is its own", "its canonical form", form, again)
            self._read_back(form)
            for side in self._sides:
                if side.render is not None:
                    self._check_rendering(side, side.render, answer, form)
        return self._check_texts(effort, number)

    def _check_rendering(self, side: _Side, render: Callable[[Any], str], answer: Any, form: Any) -> None:
        reply = self._findings.pure("render", render, answer)
        self._replies.append(reply)
        tokens = len(reply) // _CHARS_PER_TOKEN + 1
        flag = precheck(reply, "stop", tokens, self._max_tokens)
        if flag is not None:
            self._findings.add("a rendered reply may vote", f"{flag}: {tokens} tokens of {self._max_tokens}")
            return
        read = self._findings.pure("parse", _flags_as_values(side.parse), reply)
        if isinstance(read, _Flagged):
            self._findings.add("reading undoes rendering", f"{side.name}: {read.reason}: {reply!r:.160}")
        else:
            self._findings.same("reading undoes rendering", f"for {side.name}, what is read back", form, read)

    def _read_back(self, answer: Any) -> None:
        """Note an *answer* that does not come back from its JSON, or shares its JSON with another."""
        spelled = self._findings.spelled("an answer", answer)
        self._tell_apart(answer, spelled)
        try:
            self._survives(answer, spelled)
        except SpellingError as error:
            self._findings.add("answers survive their JSON", str(error))
            raise AbandonedError from error

    def _tell_apart(self, answer: Any, spelled: str) -> None:
        try:
            refuse_rivals(self._read.setdefault(spelled, answer), answer, spelled)
        except SpellingError as error:
            self._findings.add("unequal answers are told apart", str(error))

    def _check_texts(self, effort: Effort, number: int) -> list[Any]:
        """Note where a hostile text does anything but vote or raise `RedFlag`, in bounded time.

        Texts are tried at the places 1, 2, 4, 8, ... alone; at the first, also the whole corpus.
        """
        if number & (number - 1) or self._findings.has(_OVERDUE):
            return []
        seed = f"{effort.seed} {self._findings.step}"
        texts = fuzzed(self._replies or ["answer = 1"], effort.texts, seed, self._max_tokens)
        corpora = corpus(self._replies, self._max_tokens) if number == 1 else ()
        read: dict[str, Any] = {}
        sides = list(self._sides)
        for text in chain(texts, corpora):
            if precheck(text, "stop", None, self._max_tokens) is not None:
                continue  # the engine would not have it parsed
            self._findings.texts += 1
            sides = [side for side in sides if self._check_text(side, text, effort.seconds, read)]
        if len(self._reasons) > _REASONS:
            self._findings.add(
                "reasons are few",
                f"{len(self._reasons)} reasons of red flags: a reason is counted, keep the text out",
            )
        for answer in list(read.values()):
            self._read_back(answer)
        return list(read.values())

    def _check_text(self, side: _Side, text: str, seconds: float, read: dict[str, Any]) -> bool:
        """Look at one text; return False if the parser is not to be tried any further."""
        answer: Any = None
        try:
            with deadline(seconds):
                answer = side.parse(text)
                spelled = canonical(answer)
        except RedFlag as raised:
            self._reasons.add(raised.reason)
        except OverdueError:
            what = f"{side.name} took more than {seconds:g} s for {len(text)} characters: {text!r:.80}"
            self._findings.add(_OVERDUE, what)
            return False
        except RAISED as error:
            what = f"{side.name} raised {type(error).__name__}: {error!s:.100} for {text!r:.100}"
            self._findings.add("bad text raises RedFlag and nothing else", what)
        else:
            self._tell_apart(answer, spelled)
            if len(read) < _FOLLOWED:
                read.setdefault(spelled, answer)
        return True


@dataclass(frozen=True, slots=True)
class _Flagged:
    """A red flag, as a value."""

    reason: str


def _flags_as_values(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse(text)
        except RedFlag as raised:
            return _Flagged(raised.reason)

    return read
