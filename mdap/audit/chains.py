"""Check a chain decision by decision: its prompts, replies, votes and states.

The audit checks each part of a chain on its own. A part starts from the recorded input and winner of the step
before it, and the previous part checks that step. If all parts match, the whole chain does.
"""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from mdap.audit.findings import Kind
from mdap.audit.prompts import Sent, check_sent, compare
from mdap.audit.questions import CurrentStep
from mdap.audit.races import RaceChecker
from mdap.audit.result import AuditResult
from mdap.audit.rows import Page, pages
from mdap.audit.runs import RunFacts
from mdap.errors import RAISED, told
from mdap.journal.statements import query
from mdap.records import NOTED, Decided, SampleTaken, StepOpened
from mdap.rules.canonical import canonical
from mdap.rules.digests import CHAIN_START, chain_digest, sample_line
from mdap.rules.values import kinds_of
from mdap.tasks import Chain, canonical_step

__all__ = ["audit_part", "audit_tail"]

_SOURCE = re.compile(r"run (.+), digest ([0-9a-f]{64})", re.DOTALL)
_LOST = object()
"""Stands for a state that the task's own code failed to compute."""


class _Samples:
    """The samples of a page, grouped by opening."""

    def __init__(self, rows: Iterator[SampleTaken]) -> None:
        self._groups = groupby(rows, lambda row: (row.step, row.opening))
        self._next = self._take()

    def _take(self) -> tuple[tuple[int, int], list[SampleTaken]] | None:
        found = next(self._groups, None)
        return None if found is None else (found[0], list(found[1]))

    def of(self, step: int, opening: int) -> list[SampleTaken]:
        """Return the samples of an opening; samples before it belong to no opening."""
        while self._next is not None and self._next[0] < (step, opening):
            self._next = self._take()
        if self._next is None or self._next[0] != (step, opening):
            return []
        samples, self._next = self._next[1], self._take()
        return samples


class _Walk:
    """A walk along a chain, from one recorded decision to the next."""

    def __init__(self, facts: RunFacts, task: Chain[Any, Any], *, oracle: bool) -> None:
        self.part = AuditResult()
        self.findings = self.part.findings
        self.facts = facts
        self.task = task
        self.oracle = oracle
        self.checker = RaceChecker(facts, facts.schedule, self.part)
        self.states, self.answers = kinds_of(task)
        self.state: Any = _LOST
        self.digest = CHAIN_START
        self.sent: Mapping[tuple[int, int], Sent] = {}
        self._log: sqlite3.Connection | None = None

    # -- start -------------------------------------------------------------------------------------

    def begin(self, connection: sqlite3.Connection, place: int) -> None:
        """Start before the decision at *place*, from the row before it."""
        self._log = connection
        if place == 0:
            self.state = self._call(0, "giving its first state", self.task.start)
            return
        row = query(connection, "decision_at", self.facts.number, place - 1).fetchone()
        if row is None:
            self.digest = ""
            return
        _, self.digest, winner, spelled = row
        state = self._read(place - 1, self.states, spelled)
        self.state = self._advanced(place - 1, state, self._read(place - 1, self.answers, winner))

    def _call(self, step: int, doing: str, method: Any, *args: Any) -> Any:
        """Call the task's own code; report an exception as a finding, without a result."""
        try:
            return method(*args)
        except RAISED as error:
            said = told(error)
            if not self._ends_with(step, said):
                self.findings.add(Kind.PLUGIN, doing, "no error", said, (step,))
            return _LOST

    def _ends_with(self, step: int, said: str) -> bool:
        """Return whether the log records that the run failed at *step* with the message *said*."""
        failure = self.facts.failure
        return failure is not None and step >= self.facts.decisions - 1 and failure.endswith(said)

    def _read(self, step: int, kind: Any, text: Any) -> Any:
        return self._call(step, "reading back the record", kind.read, text)

    def _settled(self, step: int, kind: Any, value: Any, text: str) -> Any:
        return self._call(step, "reading back the record", kind.settled, value, text)

    def _advanced(self, step: int, state: Any, answer: Any) -> Any:
        if state is _LOST or answer is _LOST:
            return _LOST
        return self._call(step, "advancing", self.task.advance, state, answer)

    # -- steps ------------------------------------------------------------------------------------

    def page(self, page: Page) -> None:
        """Check the steps of a page."""
        decisions = {decision.place: decision for decision in page.decisions}
        openings: dict[int, list[StepOpened]] = defaultdict(list)
        for opened in page.openings:
            openings[opened.step].append(opened)
        samples = _Samples(page.samples)
        self.sent = page.sent
        for step in range(page.first, page.last):
            self._step(step, decisions.get(step), openings.get(step, []), samples)

    def _step(
        self, step: int, decision: Decided | None, openings: list[StepOpened], samples: _Samples
    ) -> None:
        if decision is None:
            self.findings.add(Kind.DECISION, "decision", "a row in decisions", None, (step,))
        elif decision.step != step:
            self.findings.add(Kind.DECISION, "step decided at its place", step, decision.step, (step,))
        right = None
        for opened in openings:
            rows = samples.of(step, opened.opening)
            if decision is not None and opened.opening == decision.opening and decision.step == step:
                right = (opened, rows)
            else:
                self.guess(opened, rows)
        if decision is None or right is None:
            if decision is not None and decision.step == step:
                self.findings.add(Kind.STEP, "opening that was decided", "a row in steps", None, (step,))
            self.state, self.digest = _LOST, "" if decision is None else decision.digest
            return
        self._decided(decision, *right)

    def _decided(self, decision: Decided, opened: StepOpened, samples: list[SampleTaken]) -> None:
        step = decision.step
        self._count(decision, samples)
        self._chain(decision, opened, samples)
        state = self.entered(opened)
        question = self.asked(opened, state, samples)
        if question is not None:
            question.check(samples, self.facts, opened.key)
        answer = _LOST if question is None else question.answers.get(decision.winner, _LOST)
        if answer is _LOST:
            answer = self._read(step, self.answers, decision.winner)
        else:
            answer = self._settled(step, self.answers, answer, decision.winner)
        if self.oracle and state is not _LOST:
            self._compare_with_truth(decision, state)
        self.state = self._advanced(step, state, answer)
        self.part.decisions += 1
        self.part.samples += len(samples)

    def _count(self, decision: Decided, samples: list[SampleTaken]) -> None:
        tier = self.checker.decided(decision, samples)
        self.part.votes += sum(sample.counted is not None and sample.verdict == "vote" for sample in samples)
        self.part.escalated += [(decision.step, decision.opening, passed) for passed in range(1, tier + 1)]
        if decision.author == NOTED:
            self._taken_over(decision)
        elif decision.author is not None:
            self.part.settled.append((decision.step, decision.author, decision.reason))

    def _taken_over(self, decision: Decided) -> None:
        """Compare a copied decision with the original in the other run."""
        named = _SOURCE.fullmatch(decision.reason or "")
        row = None
        if named is not None and self._log is not None:
            row = query(self._log, "decision_of", named[1], decision.place).fetchone()
        if named is None or row != (decision.step, decision.winner, named[2]):
            expected = "a decision of another run"
            place = (decision.step, decision.opening)
            self.findings.add(Kind.DECISION, "where the decision is from", expected, decision.reason, place)

    def _chain(self, decision: Decided, opened: StepOpened, samples: list[SampleTaken]) -> None:
        lines = [sample_line(sample.digest_columns()) for sample in samples if sample.counted is not None]
        digest = chain_digest(self.digest, opened, lines, decision)
        if digest != decision.digest:
            place = (decision.step, decision.opening)
            self.findings.add(Kind.CHAIN, "digest of the decision", digest, decision.digest, place)
        self.digest = decision.digest

    def entered(self, opened: StepOpened) -> Any:
        """Return the state that a step starts from; it must follow from the step before."""
        if opened.key != str(opened.step):
            self.findings.add(Kind.STEP, "key", opened.step, opened.key, (opened.step, opened.opening))
        if self.state is not _LOST:
            spelled = self._call(opened.step, "spelling its state", canonical, self.state)
            if spelled == opened.input:
                return self._settled(opened.step, self.states, self.state, opened.input)
            if spelled is not _LOST:
                self.findings.add(Kind.STATE, "input", spelled, opened.input, (opened.step, opened.opening))
        return self._read(opened.step, self.states, opened.input)

    def asked(self, opened: StepOpened, state: Any, samples: Sequence[SampleTaken]) -> CurrentStep | None:
        """Return the step that the task asks in *state*, if it can; compare its prompt."""
        sent = self.sent.get((opened.step, opened.opening), ())
        intact = check_sent(opened, sent, self.findings, due=bool(samples and self.facts.prompts))
        if state is _LOST:
            return None
        step = self._call(opened.step, "giving the step", self.task.step, state)
        if step is _LOST:
            return None
        if step is None:
            self.findings.add(Kind.STATE, "end of the task", "a step", None, (opened.step, opened.opening))
            return None
        step = canonical_step(self.task, step)
        question: CurrentStep | object = self._call(
            opened.step, "giving the step", CurrentStep, step, self.facts.voting, self.findings
        )
        if not isinstance(question, CurrentStep):
            return None
        if intact:
            self._call(opened.step, "giving the step", compare, question, sent, self.findings)
        elif question.digest != opened.prompt_digest:
            found = opened.prompt_digest
            self.findings.add(
                Kind.PROMPT, "digest of the prompt", question.digest, found, (opened.step, opened.opening)
            )
        return question

    def guess(self, opened: StepOpened, samples: list[SampleTaken]) -> None:
        """Check an opening on a wrong guess: it decides nothing, but has paid samples."""
        self.checker.void(samples)
        question = self.asked(opened, self._read(opened.step, self.states, opened.input), samples)
        if question is not None:
            question.check(samples, self.facts, opened.key)
        self.part.samples += len(samples)

    def _compare_with_truth(self, decision: Decided, state: Any) -> None:
        truth = self._call(decision.step, "telling the truth", self._truth, state)
        spelled = (
            _LOST if truth is _LOST else self._call(decision.step, "spelling the truth", canonical, truth)
        )
        if spelled is not _LOST and spelled != decision.winner:
            place = (decision.step, decision.opening)
            self.findings.add(Kind.TRUTH, "answer", spelled, decision.winner, place)

    def _truth(self, state: Any) -> Any:
        return self.task.canonical(self.task.oracle(state))

    # -- end ---------------------------------------------------------------------------------------

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
            result = self._call(place, "giving its result", self._result)
            self.part.result = result if isinstance(result, str) else None

    def _result(self) -> str:
        return canonical(self.task.result(self.state))


def audit_part(
    connection: sqlite3.Connection,
    facts: RunFacts,
    task: Chain[Any, Any],
    span: tuple[int, int],
    *,
    oracle: bool = False,
) -> AuditResult:
    """Check the decisions of a chain from the first place of *span* to before its last.

    Args:
        connection: the log, with rows as tuples.
        facts: the run.
        task: the run's task.
        span: the places.
        oracle: whether to compare each decision with the task's oracle.
    """
    walk = _Walk(facts, task, oracle=oracle)
    walk.begin(connection, span[0])
    for page in pages(connection, facts.number, *span):
        walk.page(page)
    if span[1] == facts.decisions:
        walk.end(span[1])
    return walk.part


def audit_tail(
    connection: sqlite3.Connection, facts: RunFacts, task: Chain[Any, Any], *, status: str
) -> AuditResult:
    """Check the rows after the last decision: a race in progress or without a winner, and guesses.

    Args:
        connection: the log, with rows as tuples.
        facts: the run.
        task: the run's task.
        status: the run's status.
    """
    walk = _Walk(facts, task, oracle=False)
    walk.begin(connection, facts.decisions)
    last = facts.decisions
    [beyond] = query(connection, "next_step", facts.number).fetchone()
    for page in pages(connection, facts.number, last, max(beyond, last + 1)):
        samples = _Samples(page.samples)
        walk.sent = page.sent
        for opened in page.openings:
            rows = samples.of(opened.step, opened.opening)
            counted = any(row.counted is not None for row in rows)
            if opened.step == last and (counted or (opened.step, opened.opening) in facts.escalated):
                _undecided(walk, opened, rows, exhausted=status == "undecided")
            else:
                walk.guess(opened, rows)
    return walk.part


def _undecided(walk: _Walk, opened: StepOpened, samples: list[SampleTaken], *, exhausted: bool) -> None:
    tier = walk.checker.undecided((opened.step, opened.opening), samples, exhausted=exhausted)
    walk.part.escalated += [(opened.step, opened.opening, passed) for passed in range(1, tier + 1)]
    question = walk.asked(opened, walk.entered(opened), samples)
    if question is not None:
        question.check(samples, walk.facts, opened.key)
    walk.part.samples += len(samples)
