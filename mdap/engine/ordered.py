"""A process with an error budget: any number of open steps, with decisions released in order.

The rung of a step depends on the outcome of the steps before it, so its decision waits until each of them is
smooth, contested or exhausted. A step that nobody waits for must not hold up the others: it pays as if it
were contested, and the others continue without it. A nested run is a step, too: it is charged its share once
all steps before it are settled, and its end returns the unspent rest to the steps that are requested later.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import anyio

from mdap.engine.account import ABANDONED, CONTESTED, UNDECIDED, Account
from mdap.engine.config import RunConfig
from mdap.engine.process import ProcessPolicy, Question
from mdap.engine.recording import RUNNING, Opening, OpeningStatus
from mdap.engine.voting import Race
from mdap.protocols import Journal
from mdap.records import Identity, ProcessPoint, RecordedOpening, RunEvent, StepOpened, Verdict
from mdap.tasks import Process, Step


@dataclass(slots=True, eq=False)
class Loan:
    """A nested run, *opened* as a step, that waits for its share of the budget, or has it."""

    opened: StepOpened
    share: Fraction | None = None
    granted: anyio.Event = field(default_factory=anyio.Event)


_Entry = Question | Loan | partial[list[RunEvent]] | RecordedOpening
"""What waits for its turn; a function takes back the unspent share of a nested run that is over."""


class OrderedPolicy(ProcessPolicy):
    """Decide the steps of a process within the error budget of the run; see `ProcessPolicy`."""

    def __init__(self, task: Process[Any], config: RunConfig, journal: Journal) -> None:
        super().__init__(task, config, journal)
        assert config.account is not None
        self._account: Account = config.account
        # What is not settled yet, in the order of its numbers.
        self._line: dict[object, _Entry] = {}
        self._loans: dict[Identity, Loan] = {}

    def begin(self, point: ProcessPoint) -> None:
        """Take up what earlier sessions decided and sampled."""
        super().begin(point)
        self._recorded_openings.clear()
        for identity, step in point.known.items():
            if step in self._account.lent:
                opened = StepOpened(self._config.run, step, 0, identity[0], "", identity[1])
                self._loans[identity] = Loan(opened, self._account.lent[step])
        for recorded in point.openings:
            opened = recorded.opened
            identity = (opened.key, opened.prompt_digest)
            share = self._account.lent.get(opened.step)
            if share is not None:
                self._loans[identity] = Loan(opened, share)
            # An opening without a vote counts as none: the next asker gets a new number.
            elif any(sample.counted and sample.verdict == Verdict.VOTE for sample in recorded.samples):
                self._recorded_openings[identity] = recorded
                if self._account.paid(opened, self._tier(recorded)) is None:
                    self._line[opened.step] = recorded

    def _tier(self, recorded: RecordedOpening) -> int:
        tier = self.decider.schedule.tier
        return max(recorded.tier, *(tier(sample.ordinal) for sample in recorded.samples))

    def _opening(self, identity: Identity, step: Step[Any], race: Race) -> Opening:
        recorded = self._recorded_openings.get(identity)
        number = self._next_step if recorded is None else recorded.opened.step
        race.go_on_at(self._account.rung(number))
        return super()._opening(identity, step, race)

    # -- nested runs -------------------------------------------------------------------------------

    def borrow(self, identity: Identity, about: Any) -> Loan:
        """Ask for a nested run's share of the budget."""
        loan = self._loans.get(identity)
        if loan is None:
            loan = self._loans[identity] = Loan(super()._opened_for(identity, about))
            self._line[loan.opened.step] = loan
            self._release()
        return loan

    def withdraw(self, identity: Identity) -> None:
        """Nobody waits for a nested run any more; if it has no share yet, it needs none."""
        loan = self._loans[identity]
        if loan.share is None:
            del self._loans[identity], self._line[loan.opened.step]
            self._release()

    def outstanding(self, identity: Identity) -> Fraction | None:
        """Return what a nested run was charged and has not returned; None if there is nothing."""
        loan = self._loans.get(identity)
        return None if loan is None else loan.share

    def repay(self, identity: Identity, spent: Fraction) -> None:
        """Take back what a nested run, which is over, did not spend."""
        loan = self._loans.pop(identity)
        assert loan.share is not None
        step, unspent = loan.opened.step, loan.share - spent
        self._line["credit", step] = partial(
            self._account.returned, step, self._next_step, unspent, all_of_it=not spent
        )
        self._release()

    def _opened_for(self, identity: Identity, about: Any) -> StepOpened:
        loan = self._loans.get(identity)
        return super()._opened_for(identity, about) if loan is None else loan.opened

    # -- who is next -------------------------------------------------------------------------------

    def _settle(self, question: Question) -> None:
        opening = question.opening
        if self.decider.status is not RUNNING or question.over:
            return
        if opening.race.rung is None:
            super()._settle(question)  # a proposal, on which others vote
        elif opening.error is not None:
            self.decider.stop(opening.error)
        elif self.decider.has_paid(opening):
            self._settle_alone(question)
        else:
            # A step that was open when the run was cut keeps its place.
            self._line[opening.opened.step] = question
            self._release()

    def _settle_alone(self, question: Question) -> None:
        """Decide a step that has paid and was passed over; nothing waits for it but those who ask."""
        race = question.opening.race
        if race.winner is not None:
            self._decide(question, race.winner)
        elif race.exhausted:
            self._without_winner(question)

    def _release(self) -> None:
        """Settle what is next, as long as that can be done."""
        while self._line and self.decider.status is RUNNING:
            place, entry = next(iter(self._line.items()))
            if not self._ready(entry):
                return
            if self._settled(entry):
                del self._line[place]

    def _ready(self, entry: _Entry) -> bool:
        if isinstance(entry, Question):
            return entry.opening.race.winner is not None or entry.opening.race.exhausted
        return not isinstance(entry, RecordedOpening)

    def _settled(self, entry: _Entry) -> bool:
        """Draw the consequences of what is next; return False if it goes on with other models."""
        if isinstance(entry, partial):
            self.decider.journal.append(*entry())
            return True
        if isinstance(entry, Loan):
            self._grant(entry)
            return True
        assert isinstance(entry, Question)
        return self._decided(entry)

    def _grant(self, loan: Loan) -> None:
        step = loan.opened.step
        self.decider.journal.append(*self._account.lend(step))
        loan.share = self._account.lent[step]
        self.decider.raise_rungs()
        loan.granted.set()

    def _decided(self, question: Question) -> bool:
        opening = question.opening
        race = opening.race
        if race.winner is not None:
            self.decider.pay(opening, CONTESTED)
            self._decide(question, race.winner)
            return True
        self.decider.pay(opening, CONTESTED if race.tally.stuck else UNDECIDED)
        if race.escalate():
            self.decider.escalated(opening)
            return False
        self._without_winner(question)
        return True

    # -- what nobody waits for ---------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether decided steps wait for one that nobody waits for, or that nobody has asked for again."""
        first = next(iter(self._line.values()), None)
        if isinstance(first, Question):
            given_up = first.opening.status is OpeningStatus.IDLE and not self._ready(first)
        else:
            given_up = isinstance(first, RecordedOpening) and not (self.decider.in_flight or self.busy)
        others = (entry for entry in self._line.values() if not isinstance(entry, partial))
        return self.decider.status is RUNNING and given_up and any(map(self._ready, others))

    def pass_over(self) -> None:
        """Charge the step that nobody waits for, and go on without it."""
        if self.stalled:
            self._give_up(self._line.pop(next(iter(self._line))))
            self._release()

    def _give_up(self, entry: _Entry) -> None:
        if isinstance(entry, RecordedOpening):
            opened, tier = entry.opened, self._tier(entry)
            rung = self._account.rung(opened.step)
            self.decider.journal.append(*self._account.pay(opened, tier, rung, ABANDONED))
            self.decider.raise_rungs()
        elif isinstance(entry, Question):
            self._abandon(entry)

    def _abandon(self, question: Question) -> None:
        opening = question.opening
        if opening.race.tally.votes:
            self.decider.pay(opening, ABANDONED)
        else:
            # It has no votes: the next asker gets a new number.
            del self._open[question.identity]
            self.decider.leave(opening, OpeningStatus.VOID)

    def finish(self, result: Any) -> None:
        """The author's function has returned *result*: nobody waits for anything any more."""
        while self._line and self.decider.status is RUNNING:
            entry = self._line.pop(next(iter(self._line)))
            if isinstance(entry, partial):
                self._settled(entry)
            else:
                self._give_up(entry)
        super().finish(result)


def process_policy(task: Process[Any], config: RunConfig, journal: Journal) -> ProcessPolicy:
    """Return the policy of a process: in order if it has an error budget. See `ProcessPolicy`."""
    return (ProcessPolicy if config.account is None else OrderedPolicy)(task, config, journal)
