"""Check a chain decision by decision: its prompts, replies, votes and states; a long one in parallel.

The audit checks each part of a chain on its own. A part starts from the recorded input and winner of the step
before it, and the previous part checks that step. If all parts match, the whole chain does.
"""

import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from mdap.audit.findings import AuditResult, Kind
from mdap.audit.questions import CurrentStep, Sent, check_sent, compare
from mdap.audit.races import COPIED, SOURCE, RaceChecker
from mdap.audit.runs import Page, Place, RunFacts, pages, plain_reading
from mdap.errors import told
from mdap.groups import of_its_own
from mdap.journal.statements import query
from mdap.records import NOTED, Decided, SampleTaken, StepOpened
from mdap.rules.canonical import canonical
from mdap.rules.digests import CHAIN_START
from mdap.rules.values import kinds_of
from mdap.tasks import Chain, Task, canonical_step

MakeTask = Callable[[str, Mapping[str, Any]], Task]

_SMALLEST: Final = 2_000
_LARGEST: Final = 20_000
# Checking fewer decisions than this takes less time than starting processes.
_WORTHWHILE: Final = 40_000
_LOST = object()
"""Stands for a state that the task's own code failed to compute."""


@dataclass(frozen=True, slots=True)
class Job:
    """The log to check, and how to check it; see `mdap.audit.verify`."""

    path: Path
    make_task: MakeTask
    oracle: bool
    jobs: int
    expect: str | None
    allow_unsealed: bool
    signers: str | Path | None


class _Walk:
    """A walk along a chain, from one recorded decision to the next."""

    def __init__(
        self, connection: sqlite3.Connection, facts: RunFacts, task: Chain[Any, Any], *, oracle: bool = False
    ) -> None:
        self.part = AuditResult()
        self.findings = self.part.findings
        self.facts = facts
        self.task = task
        self.oracle = oracle
        self.checker = RaceChecker(facts, self.part)
        self.states, self.answers = kinds_of(task)
        self.state: Any = _LOST
        self.digest = CHAIN_START
        self.sent: Mapping[Place, Sent] = {}
        self._connection = connection

    def begin(self, place: int) -> None:
        """Set state and digest to those before the decision at *place*, from the row of the previous one."""
        if place == 0:
            self.state = self._call(0, "giving its first state", self.task.start)
            return
        row = query(self._connection, "decision_at", self.facts.number, place - 1).fetchone()
        if row is None:
            # No digest follows from this one; the part before reports the missing row.
            self.digest = ""
            return
        _, self.digest, winner, recorded_input = row
        state = self._back(place - 1, self.states.read, recorded_input)
        self.state = self._advanced(place - 1, state, self._back(place - 1, self.answers.read, winner))

    def _call(self, step: int, doing: str, method: Any, *args: Any) -> Any:
        """Call the task's own code; report an exception as a finding, without a result."""
        try:
            return method(*args)
        except BaseException as error:
            if not of_its_own(error):
                raise
            said, failure = told(error), self.facts.failure
            # The log may record that the run failed at this step with this message.
            if failure is None or step < self.facts.decisions - 1 or not failure.endswith(said):
                self.findings.add(Kind.PLUGIN, doing, "no error", said, (step,))
            return _LOST

    def _back(self, step: int, method: Any, *args: Any) -> Any:
        return self._call(step, "reading back the record", method, *args)

    def _advanced(self, step: int, state: Any, answer: Any) -> Any:
        if state is _LOST or answer is _LOST:
            return _LOST
        return self._call(step, "advancing", self.task.advance, state, answer)

    def page(self, page: Page) -> None:
        """Check the steps of a page."""
        self.sent = page.sent
        for step in page.steps:
            self._step(step, page.decisions.get(step), page)

    def _step(self, step: int, decision: Decided | None, page: Page) -> None:
        if decision is None:
            self.findings.add(Kind.DECISION, "decision", "a row in decisions", None, (step,))
        else:
            self.findings.compare(Kind.DECISION, "step decided at its place", step, decision.step, (step,))
        right = None
        for opened in page.openings.get(step, ()):
            samples = page.samples.get((step, opened.opening), [])
            if decision is not None and opened.opening == decision.opening and decision.step == step:
                right = (opened, samples)
            else:
                self.guess(opened, samples)
        if decision is not None and right is not None:
            self._decided(decision, *right)
            return
        if decision is not None and decision.step == step:
            self.findings.add(Kind.STEP, "opening that was decided", "a row in steps", None, (step,))
        self.state, self.digest = _LOST, "" if decision is None else decision.digest

    def _decided(self, decision: Decided, opened: StepOpened, samples: list[SampleTaken]) -> None:
        step = decision.step
        self.checker.decided(decision, samples)
        if decision.author == NOTED:
            self._taken_over(decision)
        self.checker.digest(self.digest, opened, samples, decision)
        self.digest = decision.digest
        state = self.entered(opened)
        question = self.asked(opened, state, samples)
        answer = _LOST if question is None else question.answers.get(decision.winner, _LOST)
        if answer is _LOST:
            answer = self._back(step, self.answers.read, decision.winner)
        else:
            answer = self._back(step, self.answers.settled, answer, decision.winner)
        if self.oracle and state is not _LOST:
            self._compare_with_truth(decision, state)
        self.state = self._advanced(step, state, answer)

    def _taken_over(self, decision: Decided) -> None:
        """Compare a copied decision with the original in the other run."""
        row, named = None, SOURCE.fullmatch(decision.reason or "")
        if named is not None:
            row = query(self._connection, "decision_of", named[1], decision.place).fetchone()
        if named is None or row != (decision.step, decision.winner, named[2]):
            place, found = (decision.step, decision.opening), decision.reason
            self.findings.add(Kind.DECISION, "where the decision is from", COPIED, found, place)

    def entered(self, opened: StepOpened) -> Any:
        """Return the state that a step starts from; it must follow from the step before."""
        place = (opened.step, opened.opening)
        if opened.key != str(opened.step):
            self.findings.add(Kind.STEP, "key", opened.step, opened.key, place)
        if self.state is not _LOST:
            spelled = self._call(opened.step, "spelling its state", canonical, self.state)
            if spelled == opened.input:
                return self._back(opened.step, self.states.settled, self.state, opened.input)
            if spelled is not _LOST:
                self.findings.add(Kind.STATE, "input", spelled, opened.input, place)
        return self._back(opened.step, self.states.read, opened.input)

    def asked(self, opened: StepOpened, state: Any, samples: list[SampleTaken]) -> CurrentStep | None:
        """Return the step that the task asks in *state*, if it can; compare its prompt and replies."""
        place = (opened.step, opened.opening)
        sent = self.sent.get(place, ())
        intact = check_sent(opened, sent, self.findings, due=bool(samples and self.facts.prompts))
        step: Any = _LOST
        if state is not _LOST:
            step = self._call(opened.step, "giving the step", self.task.step, state)
        if step is None:
            self.findings.add(Kind.STATE, "end of the task", "a step", None, place)
        if step is None or step is _LOST:
            return None
        step = canonical_step(self.task, step)
        question: CurrentStep | object = self._call(
            opened.step, "giving the step", CurrentStep, step, self.facts.voting, self.findings
        )
        if not isinstance(question, CurrentStep):
            return None
        if intact:
            self._call(opened.step, "giving the step", compare, question, sent, self.findings)
        else:
            found = opened.prompt_digest
            self.findings.compare(Kind.PROMPT, "digest of the prompt", question.digest, found, place)
        question.check(samples, self.facts, opened.key)
        return question

    def guess(self, opened: StepOpened, samples: list[SampleTaken]) -> None:
        """Check an opening on a wrong guess: it decides nothing, but has paid samples."""
        self.checker.void(samples)
        self.asked(opened, self._back(opened.step, self.states.read, opened.input), samples)

    def _compare_with_truth(self, decision: Decided, state: Any) -> None:
        task = self.task
        truth = self._call(decision.step, "telling the truth", lambda: task.canonical(task.oracle(state)))
        if truth is not _LOST:
            truth = self._call(decision.step, "spelling the truth", canonical, truth)
        if truth is not _LOST:
            place = (decision.step, decision.opening)
            self.findings.compare(Kind.TRUTH, "answer", truth, decision.winner, place)

    def end(self, place: int) -> None:
        """Compute the state after the decision before *place*, and whether the task ends there."""
        if self.state is _LOST:
            return
        length = self._call(place, "giving its length", self.task.length)
        at_length = length is not _LOST and length is not None and place >= length
        step = None if at_length else self._call(place, "giving the step", self.task.step, self.state)
        if step is not _LOST:
            self.part.over = step is None
        if step is None:
            result = self._call(place, "giving its result", lambda: canonical(self.task.result(self.state)))
            self.part.result = result if isinstance(result, str) else None


def audit_part(
    connection: sqlite3.Connection,
    facts: RunFacts,
    task: Chain[Any, Any],
    span: tuple[int, int],
    *,
    oracle: bool = False,
) -> AuditResult:
    """Check the decisions of a chain from the first place of *span* to before its last."""
    walk = _Walk(connection, facts, task, oracle=oracle)
    walk.begin(span[0])
    for page in pages(connection, facts.number, *span):
        walk.page(page)
    if span[1] == facts.decisions:
        walk.end(span[1])
    return walk.part


def audit_tail(
    connection: sqlite3.Connection, facts: RunFacts, task: Chain[Any, Any], *, status: str
) -> AuditResult:
    """Check the rows after the last decision: a race in progress or without a winner, and guesses."""
    walk = _Walk(connection, facts, task)
    walk.begin(facts.decisions)
    last = facts.decisions
    [beyond] = query(connection, "next_step", facts.number).fetchone()
    for page in pages(connection, facts.number, last, max(beyond, last + 1)):
        walk.sent = page.sent
        for opened in chain.from_iterable(page.openings.values()):
            place = (opened.step, opened.opening)
            samples = page.samples.get(place, [])
            counted = any(sample.counted is not None for sample in samples)
            if opened.step == last and (counted or place in facts.escalated):
                walk.checker.undecided(place, samples, exhausted=status == "undecided")
                walk.asked(opened, walk.entered(opened), samples)
            else:
                walk.guess(opened, samples)
    return walk.part


def _spans(decisions: int, jobs: int) -> list[tuple[int, int]]:
    size = max(_SMALLEST, min(_LARGEST, -(-decisions // (8 * jobs))))
    return [(first, min(first + size, decisions)) for first in range(0, decisions, size)] or [(0, 0)]


def audit_parts(
    connection: sqlite3.Connection, job: Job, facts: RunFacts, task: Chain[Any, Any]
) -> Iterator[AuditResult]:
    """Check the decisions of a chain, and yield the result of each part in order."""
    spans = _spans(facts.decisions, job.jobs)
    if job.jobs == 1 or facts.decisions < _WORTHWHILE:
        for span in spans:
            yield audit_part(connection, facts, task, span, oracle=job.oracle)
        return
    # Imported here: few callers need them.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Not forked: the caller may have threads.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(job.jobs, len(spans)), context, _ignore_interrupt) as pool:
        try:
            yield from pool.map(_work, [job] * len(spans), [facts] * len(spans), spans)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(job: Job, facts: RunFacts, span: tuple[int, int]) -> AuditResult:
    task = job.make_task(facts.task, facts.params)
    assert isinstance(task, Chain)
    with plain_reading(job.path) as connection:
        return audit_part(connection, facts, task, span, oracle=job.oracle)
