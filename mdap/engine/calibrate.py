"""Sample many unrelated steps concurrently to measure a model.

With an oracle, every step gets the same number of concurrent samples. With consensus, every step is raced
to a wide margin, and its winner stands in for the truth.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mdap.engine.decider import Decider
from mdap.engine.guarded import GuardedTask, TaskSubject
from mdap.engine.opening import Opening, Progress
from mdap.engine.recording import RUNNING, RunConfig
from mdap.engine.voting import Race
from mdap.protocols import Journal
from mdap.records import Reply, RunStatus, SampleRequest, SampleTaken, StepOpened, Subject
from mdap.rules.calibration import Drawn, Poll
from mdap.rules.digests import CHAIN_START, answer_key
from mdap.tasks import Step

__all__ = ["CalibrationSampler", "Subjects", "Surveyed", "Wanted", "steps_in"]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A step to sample.

    Attributes:
        step: its prompt and parser.
        subject: what it is about, for simulation.
        input: its input, in canonical JSON.
        truth: returns the right answer, in canonical JSON.
    """

    step: Step[Any]
    subject: Subject
    input: str
    truth: Callable[[], str]


Subjects = Iterator[Surveyed]


def steps_in(task: GuardedTask, states: Iterator[Any]) -> Subjects:
    """Yield the steps of a chain in these *states*, of which there must be enough."""
    for number, state in zip(itertools.count(), states, strict=False):
        opened = task.opened(number, state)
        if opened is None:
            over = ValueError("the task is over in a state to be sampled")
            task.fail(f"giving step {number}", over)
        settled, spelled, step = opened
        subject = TaskSubject(task.task, settled)
        yield Surveyed(step, subject, spelled, partial(_truth, task, number, settled))


def _truth(task: GuardedTask, number: int, state: Any) -> str:
    return task.spelled(number, task.oracle(number, state))


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much to sample.

    Attributes:
        samples: about how many samples in all; steps that are begun are sampled to their end.
        width: samples in flight at which no further step is opened.
        oracle: whether the task's oracle says what is right; else the winner of each race does.
    """

    samples: int
    width: int
    oracle: bool


class CalibrationSampler(Decider):
    """Sample steps on the states given, a few of them at any time, until there are enough samples.

    With an oracle, *k* and *max_samples* of the rules' voting both equal the samples of a step, all
    requested concurrently.

    Args:
        name: the task's name, for errors.
        subjects: the steps, one after the other; there must be enough.
        wanted: how much to sample.
        rules: run number, voting settings, sample schedule.
        journal: where every fact goes.
        progress: counters to keep.
    """

    def __init__(
        self,
        name: str,
        subjects: Subjects,
        wanted: Wanted,
        rules: RunConfig,
        journal: Journal,
        progress: Progress,
    ) -> None:
        super().__init__(rules, journal, progress)
        self.digest = CHAIN_START
        self._name = f"task {name}"
        self._subjects = subjects
        self._wanted = wanted
        self._open: dict[int, Opening] = {}
        self._truths: dict[int, Callable[[], str]] = {}
        self._drawn: dict[int, dict[int, Drawn]] = {}
        self._polls: dict[int, Poll] = {}
        self._opened = 0
        self._taken = 0

    @property
    def polls(self) -> list[Poll]:
        """The samples by step, without unfinished steps."""
        return [self._polls[number] for number in sorted(self._polls)]

    def wanted(self) -> list[tuple[Opening, SampleRequest]]:
        """Return the requests to send now, those of steps that are opened for it included."""
        asked = super().wanted()
        while self._is_short and self.in_flight < self._wanted.width and not self._held:
            self._stale.append(self._begin())
            asked += super().wanted()
        return asked

    @property
    def _is_short(self) -> bool:
        return self._taken + self.in_flight < self._wanted.samples

    def _openings(self) -> Iterable[Opening]:
        return self._open.values()

    def _distance(self, opening: Opening) -> int:
        return opening.opened.step

    def _begin(self) -> Opening:
        number, surveyed = self._opened, next(self._subjects)
        subject = surveyed.subject
        race = Race(self._name, number, surveyed.step, self._rules.voting, subject, self._schedule)
        opened = StepOpened(self._rules.run, number, 0, str(number), surveyed.input, race.prompt_digest)
        self._opened += 1
        self._drawn[number] = {}
        self._truths[number] = surveyed.truth
        self._open[number] = self._open_afresh(opened, None, race)
        return self._open[number]

    def _count(
        self, opening: Opening, request: SampleRequest, reply: Reply, drawn: tuple[int, int]
    ) -> SampleTaken:
        sample = super()._count(opening, request, reply, drawn)
        self._taken += 1
        if opening.error is None:
            self._drawn[sample.step][sample.ordinal] = Drawn(
                sample.answer_key,
                sample.flag_reason,
                reply.input_tokens,
                reply.output_tokens,
                reply.latency,
                sample.text_digest or "",
            )
        return sample

    def _counted(self, opening: Opening) -> None:
        race = opening.race
        if not opening.flying and (race.winner is not None or race.exhausted):
            self._finish(opening)
        if not self._open and not self._is_short and self.status is RUNNING:
            self.status = RunStatus.FINISHED

    def _finish(self, opening: Opening) -> None:
        number = opening.opened.step
        del self._open[number]
        truth_of = self._truths.pop(number)
        drawn = self._drawn.pop(number)
        if not drawn:
            return  # refused
        truth = self._truth(opening, truth_of)
        self._polls[number] = Poll(truth, tuple(drawn[ordinal] for ordinal in sorted(drawn)))

    def _truth(self, opening: Opening, truth_of: Callable[[], str]) -> str | None:
        """Return the key of the right answer; None if no answer was agreed on."""
        winner = opening.race.winner
        if self._wanted.oracle:
            self.progress.steps += 1
            return answer_key(truth_of())
        if winner is None:
            return None
        self._record(opening, winner)
        return answer_key(winner)
