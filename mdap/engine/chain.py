"""The decision of a chain: a window of open steps that moves over all steps.

The head of the window is the first undecided step; its input is certain. Behind it, as far as
speculation goes, stand steps opened on the leading candidate of the step before (or on the task's own
guess). All of them are voted on at once, each by its own race on its own input. When the head is
decided, its decision is recorded; if the step behind it was opened on the winner, it becomes the
head with all the samples it has, else it and everything behind it are void. So a decision never rests
on a guess, and only *when* its samples are asked depends on speculation.

Everything here is synchronous: no await can come between a decision and its consequences.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from mdap.engine.account import CONTESTED, UNDECIDED
from mdap.engine.config import RunConfig
from mdap.engine.decider import Decider
from mdap.engine.guarded import GuardedTask, TaskSubject, not_undecided
from mdap.engine.policy import Effect, Policy
from mdap.engine.recording import RUNNING, Opening, OpeningStatus, undecided_cause, undecided_sentence
from mdap.engine.voting import Race
from mdap.errors import PluginError
from mdap.protocols import Journal
from mdap.records import (
    Recorded,
    RecordedOpening,
    ResumePoint,
    RunEvent,
    RunStatus,
    StepOpened,
    TallyShape,
)
from mdap.rules.certificate import confident, shape_of
from mdap.settings import Speculate
from mdap.tasks import Chain, Decision


class ChainPolicy(Policy):
    """Decide the steps of a chain, from where its rows end.

    Attributes:
        state: the input of the first undecided step; the last state once finished.
        length: the number of steps; None where unknown.
    """

    def __init__(self, task: Chain[Any, Any], config: RunConfig, journal: Journal) -> None:
        self.decider = Decider(config, journal, self)
        self._config = config
        self.state: Any = None
        self._task = GuardedTask(config.task, task)
        self._guessing = config.speculation.mode is Speculate.GUESS
        self._depth = config.speculation.depth
        self._window: deque[Opening] = deque()
        self._recorded_openings = RecordedOpenings()
        self.length = self._task.length()
        self._due: list[tuple[Any, Decision[Any]]] = []

    def begin(self, point: ResumePoint) -> None:
        """Open the first undecided step, with the samples that its rows already have.

        Raises:
            PluginError: the task's code raised, or reads its own record otherwise than when it wrote it.
        """
        self.decider.place = point.decisions
        self.decider.digest = point.digest
        self._recorded_openings = RecordedOpenings(point.openings)
        self._enter(point.step + 1, self._task.first_state(point))
        self._go_on()

    def openings(self) -> Iterable[Opening]:
        """Return every opening that is not over."""
        return self._window

    def counted(self, opening: Opening) -> None:
        """Act on counted samples of *opening*."""
        if self._contradicted(opening):
            self._void_after(opening)
        self._go_on()

    @property
    def has_effects(self) -> bool:
        """Whether decisions have external effects."""
        return self._task.has_effects and self._config.effects

    def owe(self, decided: Iterable[tuple[int, str, Recorded]]) -> None:
        """Queue decisions of earlier sessions, each with step and input, whose effects are not on record."""
        for number, spelled, recorded in decided:
            state, answer = self._task.read_back(number, spelled, recorded.winner)
            votes = json.loads(recorded.tally)
            shape = None if recorded.author else shape_of(recorded.winner, votes)
            decision = self._decision(number, answer, votes, shape)
            self._due.append((state, replace(decision, author=recorded.author)))

    def effects(self) -> list[Effect]:
        """Return the external effects that decisions require; see `Chain.effects`."""
        if not self._due:
            return []
        due, self._due = self._due, []
        return [
            Effect(
                partial(self._task.effects, state, decision),
                RunEvent(self._config.run, "effect", data={"step": decision.step}),
            )
            for state, decision in due
        ]

    def _decision(
        self, number: int, answer: Any, votes: dict[str, int], shape: TallyShape | None
    ) -> Decision[Any]:
        key = f"{self._config.run_id}/{number}"
        decision = Decision(step=number, answer=answer, decided=True, votes=votes, key=key)
        return confident([decision], [shape])[0]

    # -- deciding ----------------------------------------------------------------------------------

    def _go_on(self) -> None:
        self._settle_head()
        if self._depth and self.decider.status is RUNNING and not self.decider.waits:
            self._speculate()

    def _settle_head(self) -> None:
        while self._window:
            head = self._window[0]
            winner = head.race.winner
            if self._config.pilot is not None and self.decider.status is RUNNING:
                self._config.pilot.opened(self._config.run, head.opened.step, head.race)
            if head.error is not None:
                self.decider.stop(head.error)
                return
            if winner is not None:
                # Also in a run that is over, whose last replies are still to come: they were paid for.
                self._decide(head, winner)
            elif self.decider.status is not RUNNING or self.decider.waits or not head.race.exhausted:
                return
            else:
                self._exhausted(head)

    def _exhausted(self, head: Opening) -> None:
        self.decider.pay(head, CONTESTED if head.race.tally.stuck else UNDECIDED)
        if head.race.escalate():
            self.decider.escalated(head)
        elif self._config.patient:
            # Guessing a person's decision is not worth a sample.
            self._void_after(head)
            self.decider.await_person(head)
        else:
            self._end_undecided(head)

    def _end_undecided(self, head: Opening) -> None:
        self.decider.status = RunStatus.UNDECIDED
        self.decider.reason, self.decider.stop_cause = undecided_sentence(head), undecided_cause(head)

    def stop_waiting(self, number: int) -> None:
        """End the wait of the head for a person; see `Policy.stop_waiting`."""
        self.decider.waits.discard(number)
        if self.decider.status is RUNNING:
            self._end_undecided(self._window[0])
            self.decider.news()

    def settle_by_hand(self, number: int, answer: str, author: str, reason: str) -> None:
        """Record a person's answer to the step that voting left undecided."""
        head = self._window[0] if self._window else None
        undecided = self.decider.status is RunStatus.UNDECIDED or number in self.decider.waits
        if head is None or head.opened.step != number or not undecided:
            raise not_undecided(number)
        value = self._task.checked_answer(head.race.step, head.race.named(answer))
        spelled = self._task.spelled(number, value)
        self._void_after(head)
        if self.decider.ruled(head, spelled, author, reason) and self.decider.status is RUNNING:
            if self.has_effects:
                decision = self._decision(number, value, dict(head.race.tally.votes), None)
                self._due.append((head.state, replace(decision, author=author)))
            self._pass(head, value, spelled)
            self._go_on()

    def _decide(self, head: Opening, winner: str) -> None:
        self.decider.pay(head, CONTESTED)
        self.decider.record(head, winner)
        number = head.opened.step
        if self.has_effects:
            answer, votes = head.race.answers[winner], dict(head.race.tally.votes)
            decision = self._decision(number, answer, votes, shape_of(winner, votes))
            self._due.append((head.state, decision))
        if head.basis != winner:
            self._void_after(head)
        self._pass(head, head.race.answers[winner], winner)

    def _pass(self, head: Opening, answer: Any, spelled: str) -> None:
        """Move the head of the window on to the next step, or finish."""
        number = head.opened.step
        # Openings from before a resume, on guesses that turned out wrong.
        for opened in self._recorded_openings.drop(number):
            self.decider.resolve(opened, confirmed=False)
        self._window.popleft()
        if self._config.pilot is not None:
            self._config.pilot.closed(self._config.run, number)
        if self._window and self._admits():
            self._confirm(self._window[0])
        elif self._window:
            self._finish()
        else:
            after = self._task.advance(number, head.state, answer, spelled, head.opened.input)
            self._enter(number + 1, after)

    def _admits(self) -> bool:
        return self._config.pilot is None or self._config.pilot.admit()

    def _confirm(self, opening: Opening) -> None:
        opening.status = OpeningStatus.CERTAIN
        self.state = opening.state
        self.decider.resolve(opening.opened, confirmed=True)

    def _enter(self, number: int, state: Any) -> None:
        """Make step *number*, whose input *state* is certain, the head; or finish."""
        self.state = state
        over = self.length is not None and number >= self.length
        if over or not self._admits() or not self._open(number, state, tentative=False):
            self._finish()

    def _finish(self) -> None:
        self.decider.status, self.decider.reason = RunStatus.FINISHED, None
        while self._window:
            self._abandon(self._window.pop())
        for opened in self._recorded_openings.drop_all():
            self.decider.resolve(opened, confirmed=False)

    # -- opening and voiding -----------------------------------------------------------------------

    def _open(self, number: int, state: Any, *, tentative: bool) -> bool:
        """Open step *number* on *state* at the end of the window; return False if the task ends there."""
        found = self._task.opened(number, state)
        if found is None:
            return False
        state, spelled, step = found
        subject = TaskSubject(self._task.task, state)
        race = Race(self._config, number, step, subject, self.decider.rung(number))
        race.check = partial(self._task.check_answer, number, (state, spelled))
        opening = self._reopen(number, spelled, state, race, tentative=tentative)
        if opening is None:
            place = self._recorded_openings.next_opening(number)
            opening = self.decider.open_afresh(race, spelled, state, place, tentative=tentative)
        self._window.append(opening)
        self.decider.ask_more(opening)
        return True

    def _reopen(
        self, number: int, spelled: str, state: Any, race: Race, *, tentative: bool
    ) -> Opening | None:
        """Go on with a recorded opening of this very step, if there is one."""
        recorded = self._recorded_openings.take(number, spelled, race.prompt_digest)
        if recorded is None:
            if not tentative and self._recorded_openings.certain(number):
                changed = ValueError("its input or prompt is no longer what was recorded; start a new run")
                self._task.fail(f"opening step {number} again", changed)
            return None
        opening = self.decider.reopened(recorded, state, race, tentative=tentative)
        if recorded.tentative and not tentative:
            self._confirm(opening)
        return opening

    def _speculate(self) -> None:
        while len(self._window) <= self._depth:
            last = self._window[-1]
            number = last.opened.step
            if self.length is not None and number + 1 >= self.length:
                return
            try:
                basis, answer = self._best(last)
                if basis is None:
                    return
                state = self._task.advance(number, last.state, answer, basis, last.opened.input)
                if not self._open(number + 1, state, tentative=True):
                    return
            except PluginError:
                # The task need not cope with a wrong answer; if it is the right one, it is asked again.
                return
            last.basis = basis

    def _best(self, opening: Opening) -> tuple[str | None, Any]:
        """Return the answer on which to open the next step, in canonical JSON and as it is."""
        tally, answers = opening.race.tally, opening.race.answers
        # The task's guess is better than a single vote: only a decision outweighs it.
        if self._guessing and tally.winner is None:
            answer = self._task.guess(opening.opened.step, opening.state)
            if answer is not None:
                return self._task.spelled(opening.opened.step, answer), answer
        return tally.leader, None if tally.leader is None else answers[tally.leader]

    def _contradicted(self, opening: Opening) -> bool:
        """Return whether the steps behind *opening* stand on an answer that is not ahead (any more)."""
        if opening.basis is None:
            return False
        tally = opening.race.tally
        ahead = tally.winner if self._guessing else tally.leader
        return ahead not in (None, opening.basis)

    def _void_after(self, opening: Opening) -> None:
        """Void every step behind *opening*."""
        while self._window[-1] is not opening:
            self._abandon(self._window.pop())
        opening.basis = None

    def _abandon(self, opening: Opening) -> None:
        votes, progress = sum(opening.race.tally.votes.values()), self.decider.progress
        progress.votes -= votes
        progress.red_flags -= opening.race.counted - votes
        progress.void += opening.race.counted
        if opening.status is OpeningStatus.TENTATIVE:
            self.decider.resolve(opening.opened, confirmed=False)
        self.decider.leave(opening, OpeningStatus.VOID)


class RecordedOpenings:
    """Recorded openings of undecided steps, by step."""

    def __init__(self, openings: tuple[RecordedOpening, ...] = ()) -> None:
        self._by_step: dict[int, list[RecordedOpening]] = {}
        for recorded in openings:
            self._by_step.setdefault(recorded.opened.step, []).append(recorded)
        self._used = {
            step: max(one.opened.opening for one in all_) + 1 for step, all_ in self._by_step.items()
        }

    def certain(self, step: int) -> bool:
        """Return whether *step* was opened on an input that was certain."""
        return any(not (recorded.tentative or recorded.void) for recorded in self._by_step.get(step, ()))

    def take(self, step: int, spelled: str, prompt_digest: str) -> RecordedOpening | None:
        """Remove and return the opening of *step* on this very input and prompt, if there is one."""
        # The newest first: an older one without samples is void, though no row says so.
        for recorded in reversed(self._by_step.get(step, ())):
            same = (recorded.opened.input, recorded.opened.prompt_digest) == (spelled, prompt_digest)
            if same and not recorded.void:
                self._by_step[step].remove(recorded)
                return recorded
        return None

    def next_opening(self, step: int) -> int:
        """Return the number for a fresh opening of *step*, and count it."""
        number = self._used.get(step, 0)
        self._used[step] = number + 1
        return number

    def drop(self, step: int) -> list[StepOpened]:
        """Forget *step*, which is decided; return its openings whose samples turned out void."""
        self._used.pop(step, None)
        left = self._by_step.pop(step, None)
        if left is None:
            return []
        return [recorded.opened for recorded in left if recorded.tentative and not recorded.void]

    def drop_all(self) -> list[StepOpened]:
        """Forget everything; return the openings whose samples turned out void."""
        return [opened for step in list(self._by_step) for opened in self.drop(step)]
