"""A process policy driven by hand: questions that rest on one another, asked, left and asked again."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mdap.engine.chain import ChainPolicy
from mdap.engine.config import Progress
from mdap.engine.ordered import process_policy
from mdap.engine.process import ProcessPolicy, Question, identify
from mdap.errors import UndecidedError
from mdap.records import (
    Fact,
    Identity,
    ProcessPoint,
    RecordedOpening,
    ResumePoint,
    RunEvent,
    RunStatus,
    SampleTaken,
    StepOpened,
)
from mdap.tasks import Ask, Process, Step
from tests.driving import Drive, Waiting
from tests.helpers import CHAIN_START, Model, Rows, link, refusals_of, rows_of, tier_of, unit

NEW_PROCESS = ProcessPoint(0, CHAIN_START, 0, {}, ())


class Web(Process[Any]):
    """Questions that rest on the answers to earlier ones; only ever asked by `ProcessDrive`."""

    async def solve(self, ask: Ask) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """Which question rests on which: on up to two earlier ones, or on none."""

    nodes: int
    seed: int

    def before(self, node: int) -> tuple[int, ...]:
        drawn = (int(unit("before", self.seed, node, place) * (node + 2)) for place in range(2))
        return tuple(sorted({earlier for earlier in drawn if earlier < node}))

    def step(self, model: Model, node: int, answers: dict[int, Any]) -> Step[int]:
        place = sum(answers[earlier] for earlier in self.before(node)) % 3
        return Step(user=f"{self.seed} {node} {place}", parse=model.task.read)


@dataclass
class ProcessDrive(Drive):
    """One session of a process policy: who asks when, and what comes when, is as *choices* say."""

    plan: Plan = field(default_factory=lambda: Plan(1, 0))
    answers: dict[int, Any] = field(default_factory=dict)
    asked: dict[int, Question] = field(default_factory=dict)

    def over(self, policy: ProcessPolicy) -> bool:
        return policy.decider.status is not RunStatus.RUNNING

    def solve(self, point: ProcessPoint = NEW_PROCESS) -> ProcessPolicy:
        config = replace(self.rules, task="web", progress=Progress())
        policy = process_policy(Web(), config, self.journal)
        self.seams.append(len(self.journal.facts))
        policy.begin(point)
        while policy.decider.status is RunStatus.RUNNING:
            self.ask(policy)
            self.collect(policy)
            if self.over(policy):
                break
            self.send(policy)
            if policy.stalled:
                policy.pass_over()
                self.give_up(policy)
            elif self.flight:
                policy.decider.take(self.next())
                self.give_up(policy)
            self.seams.append(len(self.journal.facts))
            self.check_bounds(policy)
        return policy

    def ask(self, policy: ProcessPolicy) -> None:
        """Ask all that can be asked; now and then, one who asked does not wait any more, and asks again."""
        for node in range(self.plan.nodes):
            ready = all(earlier in self.answers for earlier in self.plan.before(node))
            if node in self.answers or node in self.asked or not ready:
                continue
            step = self.plan.step(self.model, node, self.answers)
            fresh = policy.race(step)
            identity = identify(step, fresh)
            number = policy.decided(identity)
            if number is None:
                self.asked[node] = policy.open(identity, step, fresh)
            else:
                self.answers[node] = json.loads(winners(self.journal.facts)[identity])
        if self.asked and self.choices.below(10) == 9:
            node = sorted(self.asked)[self.choices.below(len(self.asked))]
            policy.leave(self.asked.pop(node))
            self.give_up(policy)

    def collect(self, policy: ProcessPolicy) -> None:
        """Take the answers that are there; end it where there are all, or where one cannot be had."""
        for node, question in list(self.asked.items()):
            if question.over:
                policy.leave(self.asked.pop(node))
                if question.undecided is not None:
                    policy.end(RunStatus.UNDECIDED, UndecidedError(question.undecided))
                    return
                self.answers[node] = question.answer
        if len(self.answers) == self.plan.nodes:
            policy.finish([self.answers[node] for node in range(self.plan.nodes)])

    def send(self, policy: ProcessPolicy) -> None:
        for asked in policy.decider.wanted():
            self.flight.append(Waiting(*asked))
            asked[1].trace.sent = self.choices.below(4) != 3

    def give_up(self, policy: ProcessPolicy) -> None:
        for trace in policy.decider.dropped():
            self.drop(trace)

    def check_bounds(self, policy: ProcessPolicy) -> None:
        """No opening has more in flight than its leader still needs votes, and the counters are right."""
        flying: Counter[int] = Counter()
        for waiting in self.flight:
            flying[id(waiting.opening)] += waiting.request.n
            assert flying[id(waiting.opening)] <= waiting.opening.race.tally.shortfall
        assert policy.decider.progress.in_flight == policy.decider.in_flight == sum(flying.values())

    def run(self, point: ResumePoint | None = None) -> ChainPolicy:
        raise NotImplementedError("a process is solved")


def opened_by(rows: Rows) -> dict[Identity, StepOpened]:
    return {(opened.key, opened.prompt_digest): opened for opened in rows.steps.values()}


def winners(facts: list[Fact]) -> dict[Identity, str]:
    """The winner of each decided step, by what it is known by; each is decided once."""
    rows = rows_of(facts)
    found: dict[Identity, str] = {}
    for decided in rows.decisions:
        opened = rows.steps[decided.step, decided.opening]
        identity = (opened.key, opened.prompt_digest)
        assert identity not in found, "decided twice"
        found[identity] = decided.winner
    return found


def process_point(facts: list[Fact]) -> ProcessPoint:
    """Where the rows of *facts* end, as `mdap.journal.reader.Reader.process_point` tells."""
    rows = rows_of(facts)
    decided = {(fact.step, fact.opening) for fact in rows.decisions}
    known = {
        identity: opened.step
        for identity, opened in opened_by(rows).items()
        if (opened.step, opened.opening) in decided
    }
    openings = tuple(
        RecordedOpening(
            opened,
            sorted(rows.samples.get(place, []), key=ordinal),
            tentative=False,
            tier=tier_of(rows, place),
            refusals=refusals_of(rows, place),
        )
        for place, opened in sorted(rows.steps.items())
        if place not in decided
    )
    last = rows.decisions[-1].digest if rows.decisions else CHAIN_START
    following = 1 + max((step for step, _ in rows.steps), default=-1)
    return ProcessPoint(len(known), last, following, known, openings)


def ordinal(sample: SampleTaken) -> int:
    return sample.ordinal


class Vote(NamedTuple):
    """What may not depend on when anything came: the question, its answer, and who voted how."""

    prompt: str
    winner: str
    tally: str
    samples: tuple[tuple[int, str | None], ...]


def recount_process(facts: list[Fact], k: int) -> set[Vote]:
    """Recount every race of a process from its facts alone, and check all that the record promises."""
    rows = rows_of(facts)
    assert not any(rows.pending.values())
    digest, votes = CHAIN_START, set()
    for place, decided in enumerate(rows.decisions):
        assert decided.place == place
        where = (decided.step, decided.opening)
        counted = [taken for taken in rows.samples[where] if taken.counted is not None]
        tally = Counter(taken.text for taken in counted if taken.verdict == "vote")
        first, second = [*sorted(tally.values(), reverse=True), 0, 0][:2]
        assert first - second == decided.margin == k
        assert tally[decided.winner] == first == decided.votes
        assert json.loads(decided.tally) == tally
        assert sorted(map(ordinal, counted)) == list(range(len(counted)))
        digest = link(digest, rows.steps[where], counted, decided)
        assert decided.digest == digest
        said = tuple(sorted((taken.ordinal, taken.text) for taken in counted))
        votes.add(Vote(rows.steps[where].prompt_digest, decided.winner, decided.tally, said))
    assert len(winners(facts)) == len(rows.decisions)
    assert not [event for event in rows.events if isinstance(event, RunEvent) and event.kind == "warning"]
    return votes
