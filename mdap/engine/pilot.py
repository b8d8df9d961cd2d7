"""The progress of a pilot: the votes of its decided steps, and whether it may open another step."""

from collections.abc import Callable

from mdap.engine.voting import Race

__all__ = ["Pilot"]


class Pilot:
    """Count the votes of a pilot, over its run and all runs nested in it.

    It opens a step only as long as the open ones will not bring all the votes it wants, and it finishes every
    step that it opened: short races end first, so to stop there would leave out the long ones.

    Args:
        wanted: how many votes it wants.

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

    def opened(self, run: int, step: int, race: Race) -> None:
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


def _votes(race: Race) -> int:
    return sum(race.tally.votes.values())
