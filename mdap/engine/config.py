"""The configuration of a run, its progress counters, and the vote limit of a pilot."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mdap.engine.account import Account
from mdap.records import Totals
from mdap.rules.drift import Drift
from mdap.rules.presence import Absence, Presence
from mdap.rules.schedule import SampleSchedule, schedule_of
from mdap.settings import OnDead, Speculation, VotingSettings

if TYPE_CHECKING:
    from mdap.engine.voting import Race


@dataclass(slots=True)
class Progress:
    """The progress of a run: counters for a display, cheap to read at any time.

    Earlier sessions of a resumed run count too.

    Attributes:
        steps: decided steps.
        votes: counted votes.
        red_flags: discarded samples.
        void: samples taken on an input that turned out wrong.
        failed_attempts: attempts that failed.
        in_flight: samples requested and not yet received.
        length: steps of the whole task; None where unknown.
        workers: counters of the workers that share the run, by name; empty if there are none.
    """

    steps: int = 0
    votes: int = 0
    red_flags: int = 0
    void: int = 0
    failed_attempts: int = 0
    in_flight: int = 0
    length: int | None = None
    workers: dict[str, "Progress"] = field(default_factory=dict)

    def add(self, totals: Totals) -> None:
        """Count what earlier sessions recorded."""
        self.steps += totals.steps
        self.votes += totals.votes
        self.red_flags += totals.red_flags
        self.void += totals.void
        self.failed_attempts += totals.failed_attempts


class Pilot:
    """Count the votes of a pilot, over its run and all runs nested in it, until it has those *wanted*.

    It opens a step only as long as the open ones will not bring all the votes it wants, and it finishes every
    step that it opened: short races end first, so to stop there would leave out the long ones.

    Attributes:
        full: whether it opens no further step.
        when_over: called once it opens no further step and has finished those it opened.
    """

    def __init__(self, wanted: int) -> None:
        self.full = wanted <= 0
        self.when_over: Callable[[], None] | None = None
        self._wanted = wanted
        self._open: dict[tuple[int, int], Race] = {}

    @property
    def busy(self) -> bool:
        """Whether a step is open."""
        return bool(self._open)

    def admit(self) -> bool:
        """Return whether another step may be opened. Once it may not, none may."""
        sure = sum(_votes(race) + race.tally.shortfall for race in self._open.values())
        self.full = self.full or sure >= self._wanted
        self._tell()
        return not self.full

    def opened(self, run: int, step: int, race: "Race") -> None:
        """Count a step as open."""
        self._open[run, step] = race

    def closed(self, run: int, step: int) -> None:
        """Take the votes of a step that is decided, or cannot be."""
        race = self._open.pop((run, step), None)
        if race is not None:
            self._wanted -= _votes(race)
            self._tell()

    def forget(self, run: int) -> None:
        """Wait no more for the open steps of *run*, which has ended."""
        for place in [place for place in self._open if place[0] == run]:
            del self._open[place]
        self._tell()

    def _tell(self) -> None:
        if self.full and not self._open and self.when_over is not None:
            self.when_over()


def _votes(race: "Race") -> int:
    return sum(race.tally.votes.values())


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The configuration of a run, besides its task.

    Attributes:
        run: the run's number in the database.
        run_id: the run's name.
        speculation: how far a chain works ahead.
        max_n: maximum replies of one request.
        models: by member, whom to name for samples that never came back.
        schedule: who is asked for which sample; by default, one model.
        pilot: how far the pilot is that the run is, or is nested in; None if it is none.
        account: the error budget of `-k robust`; None for one k throughout.
        effects: whether what is decided may bring anything about outside.
        presence: which models have answered, in this run and all that belong to it.
        absences: who was left out in earlier sessions.
        patient: whether an undecided step waits for a person, instead of ending.
        warm_cache: whether one request goes ahead of others that begin with the same text.
        task: the task's name, for errors.
    """

    run: int
    voting: VotingSettings
    speculation: Speculation = field(default_factory=Speculation)
    max_n: int = 1
    models: tuple[str, ...] = ("",)
    schedule: SampleSchedule = None  # type: ignore[assignment] # set below
    pilot: Pilot | None = None
    run_id: str = ""
    account: Account | None = None
    drift: Drift | None = None
    effects: bool = True
    presence: Presence = field(default_factory=Presence)
    on_dead: OnDead = OnDead.STOP
    absences: tuple[Absence, ...] = ()
    record_prompts: bool = False
    patient: bool = False
    warm_cache: bool = False
    task: str = ""
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", self.schedule or schedule_of(self.voting))
