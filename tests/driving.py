"""A chain policy driven by hand: what it asks for is kept in flight, and comes in any order one likes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mdap.engine.chain import ChainPolicy
from mdap.engine.config import Progress, RunConfig
from mdap.engine.recording import Opening
from mdap.engine.scheduler import Came, Failed, GaveUp
from mdap.errors import RejectedError, TransientError
from mdap.records import Fact, ResumePoint, RunStatus, SampleRequest, Trace
from tests.helpers import NEW, Log, Model


class Choices:
    """What a schedule chooses next; once it is used up, the oldest request comes whole."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)

    def below(self, count: int) -> int:
        return next(self._numbers, 0) % count


@dataclass
class Waiting:
    opening: Opening
    request: SampleRequest
    attempts: int = 1


@dataclass
class Drive:
    """One session of a chain policy: what it asks is kept in flight, and comes as *choices* say."""

    model: Model
    rules: RunConfig
    choices: Choices
    journal: Log = field(default_factory=Log)
    flight: list[Waiting] = field(default_factory=list)
    came: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    given_up: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    failures: int = 0
    # Where the facts may be cut: the journal takes them to a commit between two calls, never in one.
    seams: list[int] = field(default_factory=list)

    def run(self, point: ResumePoint = NEW) -> ChainPolicy:
        self.seams.append(len(self.journal.facts))
        config = replace(self.rules, task="walk", progress=Progress())
        policy = ChainPolicy(self.model.task, config, self.journal)
        policy.begin(point)
        self.seams.append(len(self.journal.facts))
        while policy.decider.status is RunStatus.RUNNING:
            for asked in policy.decider.wanted():
                self.flight.append(Waiting(*asked))
                asked[1].trace.sent = self.choices.below(4) != 3
            self.check(policy)
            policy.decider.take(self.next())
            for trace in policy.decider.dropped():
                self.drop(trace)
            self.seams.append(len(self.journal.facts))
            self.check(policy)
        policy.decider.give_up_left()  # as if nothing of what is still under way came in time
        for trace in policy.decider.dropped():
            self.drop(trace)
        self.seams.append(len(self.journal.facts))
        return policy

    def kept(self, cut: int) -> list[Fact]:
        """What a kill leaves: the facts up to one of the last commits."""
        return self.journal.facts[: self.seams[cut % len(self.seams)]]

    def check(self, policy: ChainPolicy) -> None:
        """At every moment, no opening has more in flight than its leader still needs votes."""
        flying: Counter[int] = Counter()
        openings = {id(waiting.opening): waiting.opening for waiting in self.flight}
        for waiting in self.flight:
            flying[id(waiting.opening)] += waiting.request.n
        for key, opening in openings.items():
            assert flying[key] <= opening.race.tally.shortfall + self.rules.voting.hedge
            alive = not opening.status.over and opening.error is None and opening.race.winner is None
            if alive and policy.decider.status is RunStatus.RUNNING:
                assert flying[key] == opening.race.in_flight
        assert policy.decider.progress.in_flight == sum(flying.values())
        opened = {opening.opened.step for opening in openings.values() if not opening.status.over}
        assert len(opened) <= self.rules.speculation.depth + 1

    def drop(self, trace: Trace) -> None:
        [waiting] = [waiting for waiting in self.flight if waiting.request.trace is trace]
        if trace.sent:
            self.given_up.update(places(waiting, waiting.request.ordinals))
        self.flight.remove(waiting)

    def next(self) -> Came[Opening] | Failed[Opening] | GaveUp[Opening]:
        place = self.choices.below(len(self.flight))
        what = self.choices.below(8)
        waiting = self.flight[place]
        opening, request = waiting.opening, waiting.request
        request.trace.sent = True
        if self.model.rejects(request.user):
            del self.flight[place]
            return GaveUp(opening, request, RejectedError("this prompt is refused"))
        if what == 1 and waiting.attempts < 4:
            waiting.attempts += 1
            self.failures += 1
            request.trace.sent = False
            return Failed(opening, request, waiting.attempts - 1, TransientError("reset", kind="reset"))
        del self.flight[place]
        ordinals = request.ordinals[: -1 if what == 2 and request.n > 1 else None]
        self.came.update(places(waiting, ordinals))
        replies = [self.model.says(request.user, ordinal) for ordinal in ordinals]
        return Came(opening, request, replies, waiting.attempts)


def places(waiting: Waiting, ordinals: Sequence[int]) -> list[tuple[int, int, int]]:
    opened = waiting.opening.opened
    return [(opened.step, opened.opening, ordinal) for ordinal in ordinals]
