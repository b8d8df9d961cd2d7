"""Sample many unrelated steps concurrently to measure a model.

With an oracle, every step gets the same number of concurrent samples. With consensus, every step is raced
to a wide margin, and its winner stands in for the truth.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mdap.engine.config import RunConfig
from mdap.engine.decider import Decider
from mdap.engine.guarded import GuardedTask, TaskSubject
from mdap.engine.policy import Policy
from mdap.engine.recording import RUNNING, Opening
from mdap.engine.voting import Race
from mdap.protocols import Journal
from mdap.records import RunStatus, SampleTaken, Subject
from mdap.rules.calibration import Drawn, Poll
from mdap.rules.digests import CHAIN_START, answer_key
from mdap.tasks import Step


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A step to sample: for simulation its subject, and its input and what returns the truth, as JSON."""

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


class CalibrationSampler(Policy):
    """Sample steps on the states given, a few of them at any time, until there are enough samples.

    With an oracle, *k* and *max_samples* of the voting both equal the samples of a step, all
    requested concurrently; else the winner of each race says what is right.

    Args:
        subjects: the steps, one after the other; there must be enough.
        samples: about how many samples in all; steps that are begun are sampled to their end.
        width: samples in flight at which no further step is opened.
    """

    def __init__(
        self,
        subjects: Subjects,
        config: RunConfig,
        journal: Journal,
        *,
        samples: int,
        width: int,
        oracle: bool,
    ) -> None:
        self.decider = Decider(config, journal, self)
        self.decider.digest = CHAIN_START
        self._subjects = subjects
        self._samples = samples
        self._width = width
        self._oracle = oracle
        self._open: dict[int, Opening] = {}
        self._drawn: dict[int, dict[int, Drawn]] = {}
        self._polls: dict[int, Poll] = {}
        self._opened = 0
        self._taken = 0

    @property
    def polls(self) -> list[Poll]:
        """The samples by step, without unfinished steps."""
        return [self._polls[number] for number in sorted(self._polls)]

    def opened_next(self) -> Opening | None:
        """Open one more step while samples are wanted and there is room for them."""
        decider = self.decider
        full = not self._is_short or decider.in_flight >= self._width or decider.held
        return None if full else self._begin()

    @property
    def _is_short(self) -> bool:
        return self._taken + self.decider.in_flight < self._samples

    def openings(self) -> Iterable[Opening]:
        """Return every opening that is not over."""
        return self._open.values()

    def _begin(self) -> Opening:
        number, surveyed = self._opened, next(self._subjects)
        race = Race(self.decider.config, number, surveyed.step, surveyed.subject)
        self._opened += 1
        self._drawn[number] = {}
        self._open[number] = self.decider.open_afresh(race, surveyed.input, surveyed)
        return self._open[number]

    def came(self, taken: Sequence[SampleTaken]) -> None:
        """Keep what each sample said, for the figures."""
        self._taken += len(taken)
        for sample in taken:
            self._drawn[sample.step][sample.ordinal] = Drawn(
                sample.answer_key,
                sample.flag_reason,
                sample.input_tokens,
                sample.output_tokens,
                sample.latency,
                sample.text_digest or "",
            )

    def counted(self, opening: Opening) -> None:
        """Finish *opening* once its samples have come."""
        race = opening.race
        if not opening.flying and (race.winner is not None or race.exhausted):
            self._finish(opening)
        if not self._open and not self._is_short and self.decider.status is RUNNING:
            self.decider.status = RunStatus.FINISHED

    def _finish(self, opening: Opening) -> None:
        number = opening.opened.step
        del self._open[number]
        drawn = self._drawn.pop(number)
        if drawn:  # else it was refused
            self._polls[number] = Poll(self._truth(opening), tuple(drawn[place] for place in sorted(drawn)))

    def _truth(self, opening: Opening) -> str | None:
        """Return the key of the right answer; None if no answer was agreed on."""
        winner = opening.race.winner
        if self._oracle:
            self.decider.progress.steps += 1
            return answer_key(opening.state.truth())
        if winner is None:
            return None
        self.decider.record(opening, winner)
        return answer_key(winner)
