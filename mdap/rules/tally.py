"""First-to-ahead-by-k: the stop rule of a race among candidates (paper, Algorithm 2)."""

__all__ = ["Tally", "no_winner"]


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


def no_winner(step: int, counted: int, lead: int, k: int) -> str:
    """Return the sentence that says why a step is undecided: part of the record, and of what processes see.

    Args:
        step: the step's number.
        counted: its samples.
        lead: how far its best answer leads.
        k: the margin.
    """
    return f"step {step} has no winner after {counted} samples: its best answer leads by {lead}, and k is {k}"
