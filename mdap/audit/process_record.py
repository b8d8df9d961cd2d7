"""The record of a process: check it on its own, then look up each request of the process."""

import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mdap.audit.changed_steps import KnownStep, Stray, explain
from mdap.audit.events import object_of
from mdap.audit.findings import Kind
from mdap.audit.prompts import Sent, check_sent, compare, sent_between
from mdap.audit.questions import CurrentStep, check_text
from mdap.audit.races import RaceChecker
from mdap.audit.result import AuditResult
from mdap.audit.rows import decided, samples_of, undecided
from mdap.audit.runs import RunFacts, run_facts
from mdap.errors import FailedError, UndecidedError
from mdap.journal.rows import DecidedOpening
from mdap.journal.statements import query
from mdap.records import NOTED, PROPOSED, Decided, Identity, SampleTaken, StepOpened, TallyShape
from mdap.rules import parts as naming
from mdap.rules.canonical import canonical
from mdap.rules.confidence import shape_of
from mdap.rules.digests import CHAIN_START, answer_key, chain_digest, sample_line
from mdap.rules.parts import (
    Parts,
    RecordedPart,
    content_of,
    content_of_row,
    could_be,
    part_ended,
    renamed,
)
from mdap.rules.presence import refused_sentence
from mdap.rules.reading import typed_answer
from mdap.tasks import Process, Step, Task, canonical_step

__all__ = ["Found", "ProcessRecord", "StrayError"]

_PART: Final = re.compile(r"run (.*), digest (\w+)", re.DOTALL)


class StrayError(Exception):
    """Raised when the process asks for something that its finished run never decided."""


class Found(NamedTuple):
    """The recorded answer to a step that the process asks for.

    Attributes:
        step: its number.
        answer: the winning answer; None if there is none.
        votes: the votes of each candidate, by its canonical JSON.
        undecided: the reason for having no winner; None if it has one.
        shape: the tally; None if no vote decided.
        author: the person who settled it; None for a vote.
    """

    step: int
    answer: Any
    votes: dict[str, int]
    undecided: str | None = None
    shape: TallyShape | None = None
    author: str | None = None


class ProcessRecord:
    """The record of a process, checked on its own and then searched by request."""

    def __init__(self, connection: sqlite3.Connection, facts: RunFacts, *, over: bool, oracle: bool) -> None:
        self.part = AuditResult()
        self.findings = self.part.findings
        self.over = over
        self.oracle = oracle
        self.facts = facts
        self._connection = connection
        self._checker = RaceChecker(facts, facts.schedule, self.part)
        self._known: dict[Identity, KnownStep] = {}
        self.strays: list[Stray] = []
        self.strayed: Callable[[], None] | None = None
        self._source = None if facts.source is None else run_facts(connection, facts.source)

    # -- the record on its own ---------------------------------------------------------------------

    def check(self) -> None:
        """Recount every race and recompute the digest chain."""
        digest = CHAIN_START
        for place, (decision, opened) in enumerate(decided(self._connection, self.facts.number)):
            at = (decision.step, decision.opening)
            if decision.place != place:
                self.findings.add(Kind.DECISION, "place of the decision", place, decision.place, at)
            if opened is None:
                self.findings.add(Kind.STEP, "opening that was decided", "a row in steps", None, at)
            else:
                self._decision(digest, decision, opened)
            digest = decision.digest
        for opened in undecided(self._connection, self.facts.number):
            self._undecided(opened)

    def _samples(self, opened: StepOpened) -> list[SampleTaken]:
        samples = samples_of(self._connection, self.facts.number, opened.step)
        self.part.samples += len(samples)
        for sample in samples:
            check_text(sample, self.findings)
        return samples

    def _sent(self, step: int) -> Sent:
        found = sent_between(self._connection, self.facts.number, step, step + 1)
        return found.get((step, 0), ())

    def _are_intact(self, opened: StepOpened, samples: list[SampleTaken]) -> bool:
        due = bool(samples) and self.facts.prompts is not False
        return check_sent(opened, self._sent(opened.step), self.findings, due=due)

    def _decision(self, before: str, decision: Decided, opened: StepOpened) -> None:
        samples = self._samples(opened)
        place = (decision.step, decision.opening)
        lines = [sample_line(sample.digest_columns()) for sample in samples if sample.counted is not None]
        digest = chain_digest(before, opened, lines, decision)
        if digest != decision.digest:
            self.findings.add(Kind.CHAIN, "digest of the decision", digest, decision.digest, place)
        tier = self._checker.decided(decision, samples)
        self.part.escalated += [(*place, passed) for passed in range(1, tier + 1)]
        self.part.votes += sum(sample.counted is not None and sample.verdict == "vote" for sample in samples)
        self.part.decisions += 1
        if decision.author == NOTED:
            self._noted(decision, opened)
        elif decision.author is not None:
            self.part.settled.append((decision.step, decision.author, decision.reason))
        self._remember(opened, KnownStep(opened.step, True, self._are_intact(opened, samples)))

    def _undecided(self, opened: StepOpened) -> None:
        samples = self._samples(opened)
        # With an error budget, a winner waits for the steps before it, and may never be decided.
        waits = self.facts.charges is not None
        tier = self._checker.undecided((opened.step, opened.opening), samples, waits=waits)
        self.part.escalated += [(opened.step, opened.opening, passed) for passed in range(1, tier + 1)]
        self._remember(opened, KnownStep(opened.step, False, self._are_intact(opened, samples)))

    def _remember(self, opened: StepOpened, known: KnownStep) -> None:
        identity = (opened.key, opened.prompt_digest)
        given_up = self.facts.charges is not None and not known.decided
        if (identity in self._known and not given_up) or opened.opening:
            self.findings.add(Kind.STEP, "steps of this content", 1, "another", (opened.step, opened.opening))
        if known.decided or identity not in self._known or not self._known[identity].decided:
            self._known[identity] = known

    def _noted(self, decision: Decided, opened: StepOpened) -> None:
        """Compare the result of a part with that part's own record."""
        place = (decision.step, decision.opening)
        named = _PART.fullmatch(decision.reason or "")
        if self._source is not None and named is not None and named[1] == self._source.run_id:
            there = query(self._connection, "winner", self._source.number, decision.step).fetchone()
            winner, *_, digest = there or (None, None)
            if (winner, digest) != (decision.winner, named[2]):
                expected, found = "a decision of another run", decision.reason
                self.findings.add(Kind.DECISION, "where the decision is from", expected, found, place)
            return
        if named is None:
            once = opened.key.startswith("once:") and decision.reason == "once"
            if not once:
                expected = "a part, or something done once"
                self.findings.add(Kind.DECISION, "where the result is from", expected, decision.reason, place)
            return
        _, digest, data, _ = self._part(named[1]) or (None,) * 4
        result = None if data is None else canonical(object_of(data).get("result"))
        if (str(digest), result) != (named[2], decision.winner):
            found = f"{named[2]}, {decision.winner}"
            self.findings.add(Kind.DECISION, f"part {named[1]}", f"{digest}, {result}", found, place)

    # -- requests of the process -------------------------------------------------------------------

    def find(self, identity: Identity, stray: Stray) -> KnownStep | None:
        """Return the requested decision; None if there is none.

        Args:
            identity: its key and prompt digest.
            stray: the mismatch to raise if a finished run has no such decision.
        """
        known = self._known.get(identity)
        if known is not None:
            known.asked = True
        elif self.over:
            self._stray(stray)
        return known

    def _stray(self, stray: Stray) -> None:
        self.strays.append(stray)
        if self.strayed is not None:
            self.strayed()

    def is_asked(self, identity: Identity) -> bool:
        """Return whether the process has asked for a step."""
        known = self._known.get(identity)
        return known is not None and known.asked

    def explain_strays(self) -> None:
        """Report which undecided requests are recorded steps with a changed prompt or key."""
        explain(self.strays, self._known, self._sent, self.findings)

    def answer(self, task: Process[Any], asked: Step[Any]) -> Found | None:
        """Return the result of the vote on *asked*; None if it is not over yet."""
        step = canonical_step(task, asked)
        question = CurrentStep(step, self.facts.voting, self.findings)
        key = asked.key or question.digest
        first = not self.is_asked((key, question.digest))
        known = self.find((key, question.digest), Stray(f"step {key[:60]!r}", asked.key, question))
        if known is None:
            return None
        if known.intact and first:
            compare(question, self._sent(known.step), self.findings)
        row, samples, facts = self._behind(known)
        question.check(samples, facts, key)
        # If the log must not hold prompts, the report must not show the message as the input.
        own = None if self.facts.voting.record_prompts is False else asked.user
        about = canonical(own if asked.input is None else asked.input)
        if about != row.input:
            self.findings.add(Kind.STATE, "input", about, row.input, (known.step,))
        if not known.decided:
            return self._undecided_answer(known, samples, question)
        if asked.proposal != (row.reason == PROPOSED):
            found = "a proposal" if row.reason == PROPOSED else "a decision"
            expected = "a proposal" if asked.proposal else "a decision"
            self.findings.add(Kind.DECISION, "what was asked for", expected, found, (known.step,))
        self._compare_with_truth(task, asked, known, row.winner)
        read = row.winner in question.answers
        answer = (
            question.answers[row.winner]
            if read
            else typed_answer(asked, row.winner, question.answers.values())
        )
        votes = json.loads(row.tally)
        shape = None if row.author else shape_of(row.winner, votes)
        return Found(known.step, answer, votes, shape=shape, author=row.author)

    def _compare_with_truth(
        self, task: Process[Any], asked: Step[Any], known: KnownStep, winner: str
    ) -> None:
        if self.oracle:
            truth = canonical(task.canonical(task.oracle(asked)))
            if truth != winner:
                self.findings.add(Kind.TRUTH, "answer", truth, winner, (known.step,))

    def _behind(self, known: KnownStep) -> tuple[DecidedOpening, list[SampleTaken], RunFacts]:
        """Return a step's row and samples, and the run that sampled it: this run or an overridden one."""
        row, facts, run = self._row(known), self.facts, self._source
        samples = samples_of(self._connection, facts.number, known.step)
        while run is not None and not samples and row.author is not None:
            there = self._row(known, run.number)
            if there is None:
                break
            samples = samples_of(self._connection, run.number, known.step)
            row, facts = there if row.author == NOTED else row, run
            run = None if run.source is None else run_facts(self._connection, run.source)
        return row, samples, facts

    def _row(self, known: KnownStep, run: int | None = None) -> Any:
        row = query(self._connection, "first_opening", run or self.facts.number, known.step).fetchone()
        return None if row is None else DecidedOpening._make(row)

    def _part(self, name: str) -> Any:
        """Return task, digest, final event and number of the part called *name*; None if there is none."""
        return query(self._connection, "part_called", self.facts.number, name).fetchone()

    def _undecided_answer(
        self, known: KnownStep, samples: list[SampleTaken], question: CurrentStep
    ) -> Found | None:
        """Return the recorded error for a step that used all of its samples; None if it did not."""
        schedule = self.facts.schedule
        tier = schedule.tier_count - 1
        tally = self._checker.tally(known.step, tier)
        last = [sample for sample in samples if schedule.tier(sample.ordinal) == tier]
        closed = self.facts.closed((known.step, 0), tier)
        spelled = {answer_key(answer): answer for answer in question.answers}
        for sample in sorted(last, key=lambda taken: taken.counted or 0):
            if sample.answer_key is not None and sample.counted is not None:
                tally.add(spelled.get(sample.answer_key, sample.answer_key))
        if not (closed or self._checker.is_exhausted(tally, tier, samples)):
            if self.over and not self._given_up(known.step):
                # Treat it like a step that was never opened: the original process did not wait for it.
                expected = "something that was decided"
                self.findings.add(Kind.PLUGIN, "asking for it", expected, None, (known.step,))
                raise StrayError
            return None
        counted = sum(sample.counted is not None for sample in samples)
        sentence = tally.no_winner(known.step, counted)
        refusals = self.facts.refusals.get((known.step, 0), ())
        if closed and refusals:
            sentence = refused_sentence(known.step, refusals[-1].model, refusals[-1].reason)
        return Found(known.step, None, tally.votes, sentence)

    def _given_up(self, step: int) -> bool:
        """Return whether the process stopped waiting for a step, for example after a timeout."""
        charges = self.facts.charges
        return charges is not None and charges.given_up(step)

    def failed_part(self, name: str) -> None:
        """Raise the recorded error of a part that had no result, if it failed."""
        *_, number = self._part(name) or (None,)
        status, reason = query(self._connection, "last_status", number).fetchone() or (None, None)
        if status in ("undecided", "failed"):
            error = UndecidedError if status == "undecided" else FailedError
            raise error(part_ended(name, reason))

    def part_of(self, parts: Parts, task: Task, key: str | None) -> naming.Part:
        """Return the identity of a nested task, as its session recorded it."""
        part, former = parts.of(task, key)
        recorded, *_ = self._part(former.name) or (None,)
        if part.identity in self._known or recorded is None or not could_be(recorded, type(task)):
            return part
        return former if former.identity in self._known else part._replace(name=former.name)

    def noted(self, identity: Identity, about: Any, part: str | None) -> tuple[bool, Any]:
        """Return whether a part or a `once` call has a result, and the result.

        Raises:
            UndecidedError: the part was undecided.
            FailedError: the part failed.
        """
        known = self._known.get(identity)
        if known is None and part is not None:
            self.failed_part(part)
        known = self.find(identity, Stray(repr(identity[0][:60])))
        if known is not None and not known.decided and self.over and not self._given_up(known.step):
            self.findings.add(Kind.DECISION, "decision", "a row in decisions", None, (known.step,))
            raise StrayError
        if known is None or not known.decided:
            return False, None
        row = self._row(known)
        if canonical(about) != row.input:
            self.findings.add(Kind.STATE, "input", canonical(about), row.input, (known.step,))
        return True, json.loads(row.winner)

    def part_result(self, name: str, task: Task) -> RecordedPart:
        """Return the recorded result of a nested task of `mdap.Ask.solve_all`.

        Raises:
            UndecidedError: the part was undecided.
            FailedError: the part failed.
        """
        content = content_of(task)
        known = [self._ended_part(each, content) for each in (name, renamed(name, content))]
        found = next(filter(None, known), RecordedPart(name))
        if not found.finished:
            self.failed_part(found.name)
            if self.over:
                self._stray(Stray(f"the part {name} with its parameters"))
        return found

    def _ended_part(self, name: str, content: str) -> RecordedPart | None:
        """Return the part of that name and content; None if there is none."""
        for called, version, params, ended, _ in query(
            self._connection, "ended_part", self.facts.number, name
        ):
            if content_of_row(version, params) == content:
                return RecordedPart(called, ended is not None, object_of(ended or "{}").get("result"))
        return None

    def forgotten(self) -> int:
        """Return the number of decisions that the process did not ask for."""
        return sum(known.decided and not known.asked for known in self._known.values())
