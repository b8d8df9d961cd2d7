"""What a calibration means, in words."""

from typing import Final

from mdap.records import Calibration
from mdap.rules.calibration import Measured

__all__ = ["findings_of"]

_MANY_FLAGS: Final = 0.2


def findings_of(made: Calibration, found: Measured) -> tuple[str, ...]:
    """Return what a reader should know, a sentence each, the gravest first.

    Args:
        made: the calibration as far as it is known.
        found: what the samples add up to.
    """
    return tuple(
        sentence
        for sentence in (
            _hopeless(made),
            _hard(made, found),
            _collisions(made, found),
            _consensus(made),
            _length(made),
            _flags(made),
            _first_steps(made),
        )
        if sentence
    )


def _hopeless(made: Calibration) -> str:
    if made.error_bound < 0.5:
        return ""
    return (
        f"no k reaches the target: {made.error_rate.value:.1%} of the votes are wrong, and it may be "
        f"{made.error_bound:.1%}; voting only helps below half, so take a better model, smaller steps, "
        "or more samples to know it better"
    )


def _hard(made: Calibration, found: Measured) -> str:
    if not found.uneven:
        return "errors look independent: no step stands out as harder than others"
    told = f"errors are not independent: about {max(found.hard_share, 1e-4):.2%} of the steps are hard"
    if made.length is None:
        return f"{told}, and on a hard step voting can agree on a wrong answer"
    hard = found.hard_share * made.length
    return (
        f"{told}, some {hard:,.0f} of {made.length:,}; on a hard step no k helps, so the target may be out "
        "of reach: views of the step, another model beside this one, or smaller steps make errors differ"
    )


def _collisions(made: Calibration, found: Measured) -> str:
    if not found.collide:
        return ""
    return (
        f"on {made.collisions:,} steps the first two votes agree on a wrong answer, where independent errors "
        f"would do so on {made.collisions_expected:.2g} at most"
    )


def _consensus(made: Calibration) -> str:
    if made.truth == "oracle":
        return ""
    undecided = f"; {made.undecided:,} steps found no winner and are left out" if made.undecided else ""
    return (
        "the task has no oracle, so winners of races stand for the truth: agreement on a wrong answer is not "
        f"seen; with independent errors that hides at most {made.bias_bound:.2%} of the votes{undecided}"
    )


def _length(made: Calibration) -> str:
    if made.length is not None:
        return ""
    return "the task's length is unknown: for k, cost and time give it to `mdap plan` with these rates"


def _flags(made: Calibration) -> str:
    if made.valid_rate.value >= 1 - _MANY_FLAGS:
        return ""
    reason = next(iter(made.red_flags))
    return f"{1 - made.valid_rate.value:.0%} of the samples are red-flagged, most for: {reason}"


def _first_steps(made: Calibration) -> str:
    if not made.source.startswith("pilot"):
        return ""
    return "only the first steps were seen: define sample_state, or calibrate after a run"
