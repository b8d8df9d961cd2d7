"""First-to-ahead-by-k: the stop rule of a race among candidates (paper, Algorithm 2)."""

from mdap.rules.rungs import Rung


class Tally:
    """Count the votes of one step until one candidate leads every other by *k*.

    One more vote changes the lead by at most one. Hence a race that never has more samples in flight
    than its `shortfall` ends with the same samples and the same winner whatever the order in which
    they arrive: nothing can be asked for beyond the first prefix whose lead is *k*, and nothing short
    of that prefix, fully counted, has that lead.

    Args:
        k: the margin, at least 1.

    Attributes:
        votes: of each candidate.
        leader: the candidate with most votes, the first to get there among equals; None before any vote.
        winner: the candidate that leads every other by *k*, or None.
    """

    __slots__ = ("_runner_up", "_top", "k", "leader", "votes", "winner")

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"the margin k must be at least 1, not {k}")
        self.k = k
        self.votes: dict[str, int] = {}
        self.leader: str | None = None
        self.winner: str | None = None
        self._top = 0
        self._runner_up = 0

    def add(self, candidate: str) -> None:
        """Count one vote for *candidate*."""
        count = self.votes.get(candidate, 0) + 1
        self.votes[candidate] = count
        if candidate == self.leader:
            self._top = count
        elif count > self._top:
            # The newcomer was level with the old leader, who is now the best of the others.
            self.leader, self._top, self._runner_up = candidate, count, self._top
        elif count > self._runner_up:
            self._runner_up = count
        self.winner = self.leader if self._top - self._runner_up >= self.k else None

    @property
    def lead(self) -> int:
        """How far the leader is ahead of every other candidate."""
        return self._top - self._runner_up

    @property
    def shortfall(self) -> int:
        """How many more votes in a row the leader needs to win; 0 once there is a winner."""
        return self.k - self._top + self._runner_up

    @property
    def stuck(self) -> bool:
        """Whether no further vote can decide the step."""
        return False

    def no_winner(self, step: int, counted: int) -> str:
        """Return the sentence on why a step is undecided: part of the record, and seen by processes."""
        return (
            f"step {step} has no winner after {counted} samples: its best answer leads by {self.lead}, and k "
            f"is {self.k}"
        )


class RobustTally(Tally):
    """Count the votes of one step until it is smooth, or contested and decided by a wider lead.

    Smooth: fewer than D votes are against the leader, and it has m + 3 votes for each of them. Contested:
    D or more are against it; then it must lead the runner-up by K, or somebody else decides. K is at least
    m + 3(D - 1), so one more vote brings no tally nearer to its end than by one, and the order of arrival
    decides nothing, as in `Tally`.
    """

    __slots__ = ("_total", "rung")

    def __init__(self, rung: Rung) -> None:
        super().__init__(rung.margin)
        self.rung = rung
        self._total = 0

    def add(self, candidate: str) -> None:
        """Count one vote for *candidate*."""
        self._total += 1
        super().add(candidate)
        self._judge()

    def go_on_at(self, rung: Rung) -> None:
        """Go on at a higher rung; a winner may have to win again."""
        self.rung, self.k = rung, rung.margin
        self._judge()

    def _judge(self) -> None:
        self.winner = self.leader if self.shortfall <= 0 and not self.stuck else None

    @property
    def against(self) -> int:
        """The votes that are not for the leader."""
        return self._total - self._top

    @property
    def contested(self) -> bool:
        """Whether as many votes are against the leader as make a step contested; that stays so."""
        return self.against >= self.rung.dissent

    @property
    def smooth(self) -> bool:
        """Whether the step is decided, and pays nothing."""
        return self.winner is not None and not self.contested

    @property
    def stuck(self) -> bool:
        """Whether no further vote can decide the step: it is contested, and others decide those."""
        return self.rung.lead == 0 and self.contested

    @property
    def shortfall(self) -> int:
        """How many further votes it takes at least to end the race."""
        against = self.against
        if against < self.rung.dissent:
            missing = self.rung.margin + 3 * against - self._top
            return missing if self.rung.lead else min(missing, self.rung.dissent - against)
        return self.rung.lead - self.lead if self.rung.lead else 0

    def no_winner(self, step: int, counted: int) -> str:
        """Return the sentence that says why a step is undecided."""
        if self.stuck:
            return (
                f"step {step} is contested after {counted} samples, and --contested stop leaves it to others"
            )
        lead = self.rung.lead if self.contested else self.rung.margin + 3 * self.against - self.against
        return (
            f"step {step} has no winner after {counted} samples: its best answer leads by {self.lead}, and "
            f"needs a lead of {lead}"
        )
