"""Which recorded opening of a step is taken up again."""

from mdap.engine.chain import RecordedOpenings
from mdap.records import RecordedOpening, SampleTaken, StepOpened


def opening(number: int, samples: int, *, void: bool = False) -> RecordedOpening:
    opened = StepOpened(1, 3, number, "3", "[3]", "ab")
    how = ("vote", "k", None, "m", 0, 0.0, None, None, None, None, 1, None, "stop", "d")
    taken = [SampleTaken(1, 3, number, place + 1, place, *how) for place in range(samples)]
    return RecordedOpening(opened, taken, samples == 0, void)


def test_the_newest_opening_is_taken_up_again() -> None:
    """An older one on the same input was void before it had any sample, of which no row tells."""
    recorded_openings = RecordedOpenings((opening(4, 0), opening(5, 2, void=True), opening(7, 3)))
    found = recorded_openings.take(3, "[3]", "ab")
    assert found is not None
    assert (found.opened.opening, len(found.samples)) == (7, 3)
    assert recorded_openings.next_opening(3) == 8
