"""Every interleaving of a small chain with speculation, on the engine itself.

A state is what has come so far: which samples, saying what, and what is in flight. From each, any request in
flight may come next with any answer. A state is reached again by doing again what led to it; states that
differ only in the order in which samples were counted are one.
"""

from dataclasses import dataclass, replace

from mdap.engine.chain import ChainPolicy
from mdap.engine.config import Progress, RunConfig
from mdap.engine.recording import Opening
from mdap.engine.scheduler import Came
from mdap.records import Decided, Fact, Reply, RunStatus, SampleRequest, SampleTaken, StepResolved
from mdap.settings import Speculate, Speculation, VotingSettings
from mdap.tasks import Chain, RedFlag, Step
from tests.helpers import NEW, Log, recount, resume_point, rows_of

ANSWERS = ("0", "1")
Event = tuple[int, str]


class Path(Chain[tuple[int, ...], int]):
    """Each step appends a digit: two different answers always lead to different states."""

    steps: int = 3

    def start(self) -> tuple[int, ...]:
        return ()

    def step(self, state: tuple[int, ...]) -> Step[int] | None:
        return Step(f"{state}", self.read) if len(state) < self.steps else None

    def advance(self, state: tuple[int, ...], answer: int) -> tuple[int, ...]:
        return (*state, answer)

    def guess(self, state: tuple[int, ...]) -> int | None:
        return 0

    def read(self, text: str) -> int:
        if text not in ANSWERS:
            raise RedFlag("no digit")
        return int(text)


@dataclass
class Found:
    """What was explored.

    Attributes:
        states: different states.
        moves: events from one to another, all of them.
        ends: states in which the run was over.
        cuts: resumes from what a kill leaves, one in each state.
        voided: states with a void sample.
    """

    states: int = 0
    moves: int = 0
    ends: int = 0
    cuts: int = 0
    voided: int = 0


class World:
    """One run, and what it has in flight, in the order of asking."""

    def __init__(self, rules: RunConfig, steps: int, facts: list[Fact] | None = None) -> None:
        self.journal = Log(facts or [])
        self.resumed = facts is not None
        self.rules = rules
        config = replace(rules, task="path", progress=Progress())
        self.policy = ChainPolicy(Path(steps=steps), config, self.journal)
        self.policy.begin(resume_point(facts) if facts else NEW)
        self.flight: list[tuple[Opening, SampleRequest]] = []
        self.refill()

    def refill(self) -> None:
        """Send what is wanted, and take away what is given up: what was sent is paid for, and comes."""
        for trace in self.policy.decider.dropped():
            self.flight = [asked for asked in self.flight if asked[1].trace is not trace]
        if self.policy.decider.status is RunStatus.RUNNING:
            for asked in self.policy.decider.wanted():
                asked[1].trace.sent = True
                self.flight.append(asked)

    def happen(self, event: Event) -> None:
        place, answer = event
        opening, request = self.flight.pop(place)
        self.policy.decider.take(Came(opening, request, [Reply(answer, "toy")], 1))
        self.refill()

    def key(self) -> object:
        rows = rows_of(self.journal.facts)
        samples = [
            (where, tuple(sorted((one.ordinal, one.text, one.verdict) for one in taken)), table)
            for table, some in enumerate((rows.samples, rows.pending))
            for where, taken in sorted(some.items())
        ]
        flying = sorted((*asked[0].opened[:3], asked[1].ordinals) for asked in self.flight)
        return str((samples, flying, len(rows.decisions), self.policy.decider.status, self.policy.state))

    def check(self) -> None:
        """What must hold in every state."""
        facts, k = self.journal.facts, self.rules.voting.k
        decisions = recount(facts, k)
        resolved = [fact for fact in facts if isinstance(fact, StepResolved)]
        # A kill forgets the resolution of an opening that had no sample: then it is resolved again.
        assert self.resumed or len(resolved) == len({fact[1:3] for fact in resolved}), "resolved twice"
        void = {fact[1:3] for fact in facts if isinstance(fact, SampleTaken) and fact.verdict == "void"}
        void |= set() if self.resumed else {fact[1:3] for fact in resolved if not fact.confirmed}
        assert not void & {(fact.step, fact.opening) for fact in facts if isinstance(fact, Decided)}
        path: list[int] = []
        for decision in decisions:
            assert decision.input == str(path).replace(" ", ""), "decided on an input that was not"
            path.append(int(decision.winner))
        if self.policy.decider.status is RunStatus.FINISHED:
            assert list(self.policy.state) == path
            assert not any(rows_of(facts).pending.values())


def explored(*, k: int, steps: int, mode: str, most: int | None = None) -> Found:
    """Explore every state of a chain of *steps* steps, and cut and resume the run in each of them.

    Args:
        k: the margin.
        steps: of the chain.
        mode: how it speculates.
        most: samples that a step may take; None for 2 k.
    """
    voting = VotingSettings(k=k, max_samples=most or 2 * k)
    rules = RunConfig(1, voting, Speculation(mode=Speculate(mode), depth=steps))
    found, seen = Found(), set()
    waiting: list[tuple[Event, ...]] = [()]
    while waiting:
        path = waiting.pop()
        world = World(rules, steps)
        for event in path:
            world.happen(event)
        key = world.key()
        found.moves += 1
        if key in seen:
            continue
        seen.add(key)
        world.check()
        found.voided += any(fact.verdict == "void" for fact in world.journal.of(SampleTaken))
        if world.policy.decider.status is RunStatus.RUNNING:
            waiting += [(*path, (at, answer)) for at in range(len(world.flight)) for answer in ANSWERS]
        else:
            found.ends += 1
        gone_on_with(world, steps)
        found.cuts += 1
    found.states = len(seen)
    return found


def gone_on_with(world: World, steps: int) -> None:
    """Kill the run as it is, resume it, and let it end with one answer to all: what was decided stands."""
    kept = list(world.journal.facts)
    again = World(world.rules, steps, kept)
    before = [(fact.step, fact.winner) for fact in kept if isinstance(fact, Decided)]
    while again.policy.decider.status is RunStatus.RUNNING:
        again.happen((0, "1"))
    again.check()
    after = [(fact.step, fact.winner) for fact in again.journal.of(Decided)]
    assert after[: len(before)] == before
    had, new = places(kept), places(again.journal.facts[len(kept) :])
    assert not had & new, "a sample on record was bought again"


def places(facts: list[Fact]) -> set[tuple[int, ...]]:
    return {(fact.step, fact.opening, fact.ordinal) for fact in facts if isinstance(fact, SampleTaken)}
