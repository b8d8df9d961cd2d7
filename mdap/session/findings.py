"""What a calibration means, in words."""

from typing import Final

from mdap.records import Calibration
from mdap.rules.calibration import Measured
from mdap.rules.ledger import Ledger
from mdap.rules.robust_estimate import law
from mdap.settings import Robust

__all__ = ["findings_of"]

_MANY_FLAGS: Final = 0.2
_HALF: Final = 0.5
# Hard steps, as they are taken to be: anything above a half.
_HARD: Final = (0.55, 0.65, 0.75, 0.85, 0.95)


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
            _below(found),
            _robust(made, found),
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
    told = f"steps are not equally hard: about {max(found.hard_share, 1e-4):.2%} of them are hard"
    if made.length is None:
        return f"{told}, and on a hard step voting can agree on a wrong answer"
    hard = found.hard_share * made.length
    return (
        f"{told}, some {hard:,.0f} of {made.length:,}; one k for all steps does not reach the target then: "
        "use -k robust, and views of the step, another model beside this one, or smaller steps"
    )


def _below(found: Measured) -> str:
    if not found.minority:
        return ""
    are = "step has" if found.minority == 1 else "steps have"
    return (
        f"{found.minority:,} of {found.steps:,} {are} more wrong votes than right ones, and may be below any "
        "floor of -k robust: votes cannot see a step on which the model is wrong more often than right"
    )


def _robust(made: Calibration, found: Measured) -> str:
    if made.length is None or made.error_rate.value >= _HALF:
        return ""
    rung = Ledger(Robust(target=made.target, length=made.length)).ladder.first
    hard = sum(law(rung, p).contested for p in _HARD) / len(_HARD)
    usual = law(rung, 1 - max(made.error_rate.value - found.hard_share / 4, 0.0)).contested
    share = (1 - found.hard_share) * usual + found.hard_share * hard
    return (
        f"with -k robust and a floor of 0.6, about {share * made.length:,.1f} of {made.length:,} steps would "
        f"be contested, from m = {rung.margin}"
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
    return "only the first steps were seen: calibrate after a run, or define sample_state for a chain"
