"""Openings and samples of earlier sessions beyond the last decision, for reuse."""

from mdap.records import RecordedOpening, StepOpened

__all__ = ["RecordedOpenings"]


class RecordedOpenings:
    """Recorded openings of undecided steps, by step.

    Args:
        openings: from the database, in order.
    """

    def __init__(self, openings: tuple[RecordedOpening, ...] = ()) -> None:
        self._by_step: dict[int, list[RecordedOpening]] = {}
        for recorded in openings:
            self._by_step.setdefault(recorded.opened.step, []).append(recorded)
        self._used = {
            step: max(one.opened.opening for one in all_) + 1 for step, all_ in self._by_step.items()
        }

    def certain(self, step: int) -> StepOpened | None:
        """Return how *step* was opened on an input that was certain, if it was."""
        for recorded in self._by_step.get(step, ()):
            if not recorded.tentative and not recorded.void:
                return recorded.opened
        return None

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
