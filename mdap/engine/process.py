"""The decision of a process: any number of open steps, each decided for its askers.

Its content identifies a step: its prompt, and its key if it has one. Askers of the same content
get the same decision, in this session or a later one; so running the author's function
again after a crash, in whatever order its questions come, asks only what is not decided yet.

Everything here is synchronous: no await can come between a decision and its consequences.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio

from mdap.engine.config import RunConfig
from mdap.engine.decider import Decider
from mdap.engine.guarded import TaskSubject, flaw, not_a_step, not_undecided
from mdap.engine.policy import Policy
from mdap.engine.recording import RUNNING, Opening, OpeningStatus, undecided_sentence
from mdap.engine.voting import Race
from mdap.errors import RAISED, MdapError, RunError, UsageError, told
from mdap.protocols import Journal
from mdap.records import (
    PROPOSED,
    Identity,
    ProcessPoint,
    RecordedOpening,
    RunStatus,
    StepOpened,
    StopCause,
)
from mdap.rules.canonical import canonical
from mdap.rules.reading import typed_answer
from mdap.tasks import Process, RedFlag, Step, canonical_step

_MOST_NAMED: Final = 5


@dataclass(slots=True, eq=False)
class Question:
    """A step with waiting askers.

    Attributes:
        ended: set once it is decided or cannot be.
        askers: how many wait for it.
        undecided: why it has no winner; None while it may have one.
        settled: whether a person settled it while it was waited for.
    """

    identity: Identity
    opening: Opening
    ended: anyio.Event = field(default_factory=anyio.Event)
    askers: int = 0
    undecided: str | None = None
    settled: bool = False

    @property
    def over(self) -> bool:
        """Whether it is decided or cannot be."""
        return self.ended.is_set()

    @property
    def answer(self) -> Any:
        """The winning answer."""
        race = self.opening.race
        return race.answers[race.winner] if race.winner is not None else None


class ProcessPolicy(Policy):
    """Decide the steps of a process as they are asked for.

    Attributes:
        result: what the author's function returned, as a JSON value, once finished.
        busy: how many askers wait for something that no decision of this run holds up.
    """

    def __init__(self, task: Process[Any], config: RunConfig, journal: Journal) -> None:
        self.decider = Decider(config, journal, self)
        self._config = config
        self.name = f"task {config.task}"
        self.result: Any = None
        self.busy = 0
        self._task = task
        # In the order in which they were opened; what was decided leaves it.
        self._open: dict[Identity, Question] = {}
        self._known: dict[Identity, int] = {}
        # Decided in an earlier session, and not asked for in this one.
        self._forgotten: dict[Identity, int] = {}
        # By key, what was decided or begun under it: many steps may share one.
        self._by_key: dict[str, set[Identity]] = {}
        self._new_keys: set[str] = set()
        self._recorded_openings: dict[Identity, RecordedOpening] = {}
        self._next_step = 0
        self._returned: Callable[[], None] | None = None
        pilot = config.pilot
        if pilot is not None and pilot.when_over is None:  # nothing that it is nested in is a process
            pilot.when_over = partial(self._end, RunStatus.FINISHED, None)

    def begin(self, point: ProcessPoint) -> None:
        """Restore the decisions and samples of earlier sessions."""
        self.decider.place = point.decisions
        self.decider.digest = point.digest
        self._next_step = point.next_step
        self._known, self._forgotten = dict(point.known), dict(point.known)
        for recorded in point.openings:
            self._recorded_openings[recorded.opened.key, recorded.opened.prompt_digest] = recorded
        for identity in (*self._known, *self._recorded_openings):
            self._by_key.setdefault(identity[0], set()).add(identity)
        if self._config.pilot is not None:
            self._config.pilot.admit()  # an earlier session may have got all that it wants

    # -- what is asked -----------------------------------------------------------------------------

    def decided(self, identity: Identity) -> int | None:
        """Return the number of the step of this *identity* if it is decided, and note that it was asked."""
        self._forgotten.pop(identity, None)
        return self._known.get(identity)

    def knows(self, identity: Identity) -> bool:
        """Return whether the step of this *identity* is decided."""
        return identity in self._known

    def known_by(self, key: str) -> set[Identity]:
        """Return what earlier sessions decided or began under *key*."""
        return self._by_key.get(key, set())

    def admits(self, identity: Identity) -> bool:
        """Return whether the step of this *identity* may be opened: a pilot ends once it has enough."""
        pilot = self._config.pilot
        return pilot is None or identity in self._open or identity in self._recorded_openings or pilot.admit()

    def open(self, identity: Identity, step: Step[Any], race: Race) -> Question:
        """Return the question for *step*: the one that is open already, one taken up again, or a new one.

        *race* is not begun; it is only used if the question is not open yet.

        Raises:
            PluginError: the step's own code failed, or reads its record otherwise than when it wrote it.
        """
        question = self._open.get(identity)
        if question is None:
            question = self._open[identity] = Question(identity, self._opening(identity, step, race))
            if self._config.pilot is not None:
                self._config.pilot.opened(self._config.run, race.number, race)
        question.askers += 1
        question.opening.status = OpeningStatus.CERTAIN
        self.decider.ask_more(question.opening)
        self._settle(question)
        self.decider.news()
        return question

    def race(self, step: Step[Any]) -> Race:
        """Return a race for *step*, which has no number before it is opened.

        Raises:
            TypeError: *step* is none.
            PluginError: its schema is none.
        """
        if not isinstance(step, Step):
            raise not_a_step(step)
        subject = TaskSubject(self._task, step, step)
        step = canonical_step(self._task, step)
        number = self._next_step
        return Race(self._config, number, step, subject, self.decider.rung(number))

    def _opening(self, identity: Identity, step: Step[Any], race: Race) -> Opening:
        race.key = identity[0]
        recorded = self._recorded_openings.pop(identity, None)
        if recorded is not None:
            race.number = recorded.opened.step
            return self.decider.reopened(recorded, step, race)
        own = step.user if self._config.record_prompts else None
        about = canonical(own if step.input is None else step.input)
        race.number = self._number(identity)
        return self.decider.open_afresh(race, about, step)

    def _number(self, identity: Identity) -> int:
        number, self._next_step = self._next_step, self._next_step + 1
        self._new_keys.add(identity[0])
        return number

    def leave(self, question: Question) -> None:
        """One who asked *question* does not wait any more; without any, nothing more is sampled for it."""
        question.askers -= 1
        if question.askers == 0 and not question.over and self._config.pilot is None:
            question.opening.status = OpeningStatus.IDLE
            self.decider.withdraw(question.opening)
            self.decider.news()

    # -- what is recorded without a vote -----------------------------------------------------------

    def note(self, identity: Identity, about: Any, result: str, reason: str) -> None:
        """Record a *result* that was not voted on: of a nested task, or of code that is to run once.

        It is canonical JSON; *about* is a JSON value, and *reason* is where the result comes from.
        """
        opened = self._opened_for(identity, about)
        self.decider.note(opened, result, reason)
        self._known[identity] = opened.step

    def _opened_for(self, identity: Identity, about: Any) -> StepOpened:
        key, digest = identity
        spelled = canonical(about)
        opened = StepOpened(self._config.run, self._number(identity), 0, key, spelled, digest)
        self.decider.journal.append(opened)
        return opened

    def warn(self, sentence: str) -> None:
        """Record a note for readers of the result."""
        self.decider.record_event("warning", sentence)

    # -- how it ends -------------------------------------------------------------------------------

    def finish(self, result: Any) -> None:
        """The author's function has returned *result*."""
        if self.decider.status is not RUNNING:
            return
        if self._config.pilot is not None and self._config.pilot.busy:
            self._returned = partial(self.finish, result)  # it finishes what it opened
            return
        self.result = result
        self._warn_of_forgotten()
        self._end(RunStatus.FINISHED, None)

    @property
    def undecided_steps(self) -> int:
        """How many steps were asked for and found no winner."""
        return sum(question.undecided is not None for question in self._open.values())

    def _warn_of_forgotten(self) -> None:
        forgotten = [key for key, _ in self._forgotten]
        # Only now can be told which prompts of a key are not asked any more: many steps may share it.
        for key in dict.fromkeys((*forgotten, *(key for key, _ in self._recorded_openings))):
            if key in self._new_keys:
                self.warn(f"step {key!r} is asked otherwise than recorded: its prompt changed; decided anew")
        if forgotten:
            named = ", ".join(repr(key) for key in forgotten[:_MOST_NAMED])
            more = f" and {len(forgotten) - _MOST_NAMED} more" if len(forgotten) > _MOST_NAMED else ""
            self.warn(f"decided in an earlier session, but not asked for when it was resumed: {named}{more}")

    def end(self, status: RunStatus, error: MdapError) -> None:
        """The author's function did not go on, or a part of it could not, because of *error*."""
        if self.decider.status is RUNNING:
            known = error.stop_cause if isinstance(error, RunError) else None
            guess = StopCause.SAMPLES if status is RunStatus.UNDECIDED else StopCause.ERROR
            self.decider.stop_cause, self.decider.error = StopCause(known or guess), error
        self._end(status, str(error))

    def _end(self, status: RunStatus, reason: str | None) -> None:
        if self.decider.status is RUNNING:
            self.decider.status, self.decider.reason = status, reason
        self.decider.news()

    # -- deciding ----------------------------------------------------------------------------------

    def openings(self) -> Iterable[Opening]:
        """Return every opening that is not over."""
        return (question.opening for question in self._open.values())

    def counted(self, opening: Opening) -> None:
        """Act on counted samples of *opening*."""
        question = self._open.get((opening.opened.key, opening.opened.prompt_digest))
        if question is not None:
            self._settle(question)

    def _settle(self, question: Question) -> None:
        opening = question.opening
        if question.over:
            return
        if opening.error is not None:
            self.decider.stop(opening.error)
        elif opening.race.winner is not None:
            # Also of a run that is over, whose last replies are still to come: they were paid for.
            self._decide(question, opening.race.winner)
        elif self.decider.status is not RUNNING:
            return
        elif opening.race.exhausted and opening.race.escalate():
            self.decider.escalated(opening)
        elif opening.race.exhausted:
            self._without_winner(question)

    def _without_winner(self, question: Question) -> None:
        if question.undecided is not None:
            return  # it waits already
        question.undecided = undecided_sentence(question.opening)
        if self._config.patient:
            self.decider.await_person(question.opening)
        else:
            self._answer(question)

    def _decide(self, question: Question, winner: str) -> None:
        proposed = question.opening.race.step.proposal
        self.decider.record(question.opening, winner, reason=PROPOSED if proposed else None)
        del self._open[question.identity]
        self._known[question.identity] = question.opening.opened.step
        self._answer(question)

    def _answer(self, question: Question) -> None:
        question.ended.set()
        pilot = self._config.pilot
        if pilot is not None:
            pilot.closed(self._config.run, question.opening.opened.step)
            if self._returned is not None and not pilot.busy:
                self._returned()

    def settle_by_hand(self, number: int, answer: str, author: str, reason: str) -> None:
        """Record a person's answer to a step that voting left undecided."""
        question = self._undecided(number)
        if question is None:
            raise not_undecided(number)
        race = question.opening.race
        spelled = checked_answer(self._task, race.step, race.named(answer), race.answers.values())
        if self.decider.ruled(question.opening, spelled, author, reason):
            del self._open[question.identity]
            self._known[question.identity] = number
            question.settled = True
            self._answer(question)

    def stop_waiting(self, number: int) -> None:
        """End the wait of a step for a person; see `Policy.stop_waiting`."""
        self.decider.waits.discard(number)
        question = self._undecided(number)
        if question is not None and not question.over:
            self._answer(question)
            self.decider.news()

    def is_asked(self, number: int) -> bool:
        """Return whether step *number* has been asked for and is not decided."""
        return any(question.opening.opened.step == number for question in self._open.values())

    def _undecided(self, number: int) -> Question | None:
        for question in self._open.values():
            if question.opening.opened.step == number and question.undecided is not None:
                return question
        return None


def checked_answer(task: Process[Any], step: Step[Any], text: str, alike: Iterable[Any] = ()) -> str:
    """Return the answer that *text* is as JSON, spelled canonically; refuse one that no reply could give.

    Raises:
        UsageError: it is no such answer.
    """
    try:
        answer = task.canonical(typed_answer(step, text, alike))
        spelled = canonical(answer)
        if canonical(step.parse(task.render(step, answer))) != spelled:
            raise RedFlag("it would be read as another answer")
    except NotImplementedError:
        return spelled  # a task that renders no replies cannot check it further
    except (ValueError, RedFlag) as error:
        raise UsageError(f"{text} is no answer to this step: {flaw(error)}") from error
    except RAISED as error:
        raise UsageError(
            f"{text} cannot be checked: {told(error)}; annotate what the step's parser returns, so that mdap "
            "knows the class of an answer"
        ) from error
    return spelled


def identify(step: Step[Any], race: Race) -> Identity:
    """Return what *step* is known by: its key, or else its prompt's digest, and that digest."""
    return (step.key or race.prompt_digest, race.prompt_digest)
