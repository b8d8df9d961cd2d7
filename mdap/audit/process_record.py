"""The record of a process: check it on its own, then look up each request of the process."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from mdap.audit.events import object_of
from mdap.audit.findings import AuditResult, Kind
from mdap.audit.questions import CurrentStep, KnownStep, Sent, Stray, check_sent, check_text, compare, explain
from mdap.audit.races import COPIED, SOURCE, RaceChecker
from mdap.audit.runs import RunFacts, decided, run_facts, samples_of, undecided
from mdap.errors import FailedError, UndecidedError
from mdap.journal.rows import DecidedOpening
from mdap.journal.statements import query
from mdap.records import NOTED, PROPOSED, Decided, Identity, PromptSent, SampleTaken, StepOpened, TallyShape
from mdap.rules import parts as naming
from mdap.rules.canonical import canonical
from mdap.rules.certificate import shape_of
from mdap.rules.digests import CHAIN_START, answer_key
from mdap.rules.presence import refused_sentence
from mdap.rules.reading import typed_answer
from mdap.tasks import Decision, Process, Step, Task, canonical_step


class StrayError(Exception):
    """Raised when the process asks for something that its finished run never decided."""


Answered = tuple[Decision[Any], TallyShape | None]
"""The recorded result of a vote, and its tally if votes decided it."""


class ProcessRecord:
    """The record of a process, checked on its own and then searched by request."""

    def __init__(self, connection: sqlite3.Connection, facts: RunFacts, *, over: bool, oracle: bool) -> None:
        self.part = AuditResult()
        self.findings = self.part.findings
        self.over = over
        self.oracle = oracle
        self.facts = facts
        self._connection = connection
        self._checker = RaceChecker(facts, self.part)
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
            self.findings.compare(Kind.DECISION, "place of the decision", place, decision.place, at)
            if opened is None:
                self.findings.add(Kind.STEP, "opening that was decided", "a row in steps", None, at)
            else:
                samples = self._samples(opened)
                self._checker.digest(digest, opened, samples, decision)
                self._checker.decided(decision, samples)
                if decision.author == NOTED:
                    self._noted(decision, opened)
                self._remember(opened, samples, decided=True)
            digest = decision.digest
        # With an error budget, a winner waits for the steps before it, and may never be decided.
        waits = self.facts.charges is not None
        for opened in undecided(self._connection, self.facts.number):
            samples = self._samples(opened)
            self._checker.undecided((opened.step, opened.opening), samples, waits=waits)
            self._remember(opened, samples, decided=False)

    def _samples(self, opened: StepOpened) -> list[SampleTaken]:
        samples = samples_of(self._connection, self.facts.number, opened.step)
        for sample in samples:
            check_text(sample, self.findings)
        return samples

    def _sent(self, step: int) -> Sent:
        rows = query(self._connection, "prompts_of_step", self.facts.number, step, 0)
        return list(map(PromptSent._make, rows))

    def _remember(self, opened: StepOpened, samples: list[SampleTaken], *, decided: bool) -> None:
        due = bool(samples) and self.facts.prompts is not False
        intact = check_sent(opened, self._sent(opened.step), self.findings, due=due)
        identity = (opened.key, opened.prompt_digest)
        given_up = self.facts.charges is not None and not decided
        if (identity in self._known and not given_up) or opened.opening:
            self.findings.add(Kind.STEP, "steps of this content", 1, "another", (opened.step, opened.opening))
        if decided or identity not in self._known or not self._known[identity].decided:
            self._known[identity] = KnownStep(opened.step, decided, intact)

    def _noted(self, decision: Decided, opened: StepOpened) -> None:
        """Compare the result of a part with that part's own record."""
        place, reason = (decision.step, decision.opening), decision.reason
        named = SOURCE.fullmatch(reason or "")
        if named is None:
            if not (opened.key.startswith("once:") and reason == "once"):
                expected = "a part, or something done once"
                self.findings.add(Kind.DECISION, "where the result is from", expected, reason, place)
        elif self._source is not None and named[1] == self._source.run_id:
            there = query(self._connection, "winner", self._source.number, decision.step).fetchone()
            winner, *_, digest = there or (None, None)
            if (winner, digest) != (decision.winner, named[2]):
                self.findings.add(Kind.DECISION, "where the decision is from", COPIED, reason, place)
        else:
            _, digest, data, _ = self._part(named[1]) or (None,) * 4
            result = None if data is None else canonical(object_of(data).get("result"))
            expected, found = f"{digest}, {result}", f"{named[2]}, {decision.winner}"
            self.findings.compare(Kind.DECISION, f"part {named[1]}", expected, found, place)

    # -- requests of the process -------------------------------------------------------------------

    def find(self, identity: Identity, stray: Stray) -> KnownStep | None:
        """Return the requested decision; None, and *stray* in a finished run, if there is none."""
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

    def answer(self, task: Process[Any], asked: Step[Any]) -> Answered | None:
        """Return the result of the vote on *asked*; None if it is not over yet."""
        step = canonical_step(task, asked)
        question = CurrentStep(step, self.facts.voting, self.findings)
        key = asked.key or question.digest
        identity = (key, question.digest)
        first = identity not in self._known or not self._known[identity].asked
        known = self.find(identity, Stray(f"step {key[:60]!r}", asked.key, question))
        if known is None:
            return None
        if known.intact and first:
            compare(question, self._sent(known.step), self.findings)
        row, samples, facts = self._behind(known)
        question.check(samples, facts, key)
        # If the log must not hold prompts, the report must not show the message as the input.
        own = None if self.facts.voting.record_prompts is False else asked.user
        place, same = (known.step,), self.findings.compare
        same(Kind.STATE, "input", canonical(own if asked.input is None else asked.input), row.input, place)
        if not known.decided:
            return self._undecided_answer(known, samples, question)
        expected, found = (
            "a proposal" if one else "a decision" for one in (asked.proposal, row.reason == PROPOSED)
        )
        same(Kind.DECISION, "what was asked for", expected, found, place)
        if self.oracle:
            same(Kind.TRUTH, "answer", canonical(task.canonical(task.oracle(asked))), row.winner, place)
        answers = question.answers
        if row.winner in answers:
            answer = answers[row.winner]
        else:
            answer = typed_answer(asked, row.winner, answers.values())
        votes = json.loads(row.tally)
        shape = None if row.author else shape_of(row.winner, votes)
        return self._decision(known, answer, votes, author=row.author), shape

    def _decision(self, known: KnownStep, answer: Any, votes: dict[str, int], **about: Any) -> Decision[Any]:
        key, decided = f"{self.facts.run_id}/{known.step}", about.get("reason") is None
        return Decision(step=known.step, answer=answer, decided=decided, votes=votes, key=key, **about)

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
    ) -> Answered | None:
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
            # Treat it like a step that was never opened: the original process did not wait for it.
            self._must_have_ended(known, Kind.PLUGIN, "asking for it", "something that was decided")
            return None
        counted = sum(sample.counted is not None for sample in samples)
        sentence = tally.no_winner(known.step, counted)
        refusals = self.facts.refusals.get((known.step, 0), ())
        if closed and refusals:
            sentence = refused_sentence(known.step, refusals[-1].model, refusals[-1].reason)
        return self._decision(known, None, tally.votes, reason=sentence), None

    def _must_have_ended(self, known: KnownStep, kind: Kind, what: str, expected: str) -> None:
        """Report that a finished run did not decide a step, unless its process stopped waiting for it."""
        charges = self.facts.charges
        if self.over and not (charges is not None and charges.given_up(known.step)):
            self.findings.add(kind, what, expected, None, (known.step,))
            raise StrayError

    def failed_part(self, name: str) -> None:
        """Raise the recorded error of a part that had no result, if it failed."""
        *_, number = self._part(name) or (None,)
        status, reason = query(self._connection, "last_status", number).fetchone() or (None, None)
        if status in ("undecided", "failed"):
            error = UndecidedError if status == "undecided" else FailedError
            raise error(naming.part_ended(name, reason))

    def part_of(self, parts: naming.Parts, task: Task, key: str | None) -> naming.Part:
        """Return the identity of a nested task, as its session recorded it."""
        part, former = parts.of(task, key)
        recorded, *_ = self._part(former.name) or (None,)
        if part.identity in self._known or recorded is None or not naming.could_be(recorded, type(task)):
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
        if known is not None and not known.decided:
            self._must_have_ended(known, Kind.DECISION, "decision", "a row in decisions")
        if known is None or not known.decided:
            return False, None
        row = self._row(known)
        self.findings.compare(Kind.STATE, "input", canonical(about), row.input, (known.step,))
        return True, json.loads(row.winner)

    def part_result(self, name: str, task: Task) -> naming.RecordedPart:
        """Return the recorded result of a nested task of `mdap.Ask.solve_all`.

        Raises:
            UndecidedError: the part was undecided.
            FailedError: the part failed.
        """
        content = naming.content_of(task)
        known = [self._ended_part(each, content) for each in (name, naming.renamed(name, content))]
        found = next(filter(None, known), naming.RecordedPart(name))
        if not found.finished:
            self.failed_part(found.name)
            if self.over:
                self._stray(Stray(f"the part {name} with its parameters"))
        return found

    def _ended_part(self, name: str, content: str) -> naming.RecordedPart | None:
        """Return the part of that name and content; None if there is none."""
        for called, version, params, ended, _ in query(
            self._connection, "ended_part", self.facts.number, name
        ):
            if naming.content_of_row(version, params) == content:
                return naming.RecordedPart(called, ended is not None, object_of(ended or "{}").get("result"))
        return None

    def conclude(self) -> None:
        """Explain undecided requests, and note the decisions that a complete process did not ask for."""
        explain(self.strays, self._known, self._sent, self.findings)
        forgotten = sum(known.decided and not known.asked for known in self._known.values())
        if self.over and self.part.over and forgotten:
            self.part.notes.append(
                f"the process came to its end without asking for {forgotten} of its decisions: their prompts "
                "and replies were not read again"
            )
