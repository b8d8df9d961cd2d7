"""How sure one can be of a run, from the votes it took."""

from typing import Final

from mdap.rules.scaling import run_success

__all__ = ["error_upper_bound", "p_zero_errors"]

_QUANTILES: Final = 200


def _beta_quantile(a: float, b: float, level: float) -> float:
    # Imported here, since scipy alone takes longer to import than all the rest.
    from scipy.special import betaincinv

    return float(betaincinv(a, b, level))


def error_upper_bound(wrong: int, votes: int, confidence: float = 0.95) -> float:
    """Return a one-sided upper confidence bound on the error rate (Clopper-Pearson).

    Args:
        wrong: votes known to be wrong.
        votes: all votes, at least as many.
        confidence: chance that the bound holds, in (0, 1).
    """
    if wrong >= votes:
        return 1.0
    return _beta_quantile(wrong + 1, votes - wrong, confidence)


def p_zero_errors(votes: int, against: int, steps: int, k: int) -> float | None:
    """Return the chance that every one of *steps* decisions is right, given how the votes agreed.

    The error rate has a Jeffreys posterior from the votes against the winners; the chance (paper,
    section 3.2) is averaged over it, not taken at one estimate. It assumes that the errors of a step's
    samples are independent, and that the winners are right but for a few.

    Args:
        votes: votes cast in decided steps.
        against: those that were not for the winner.
        steps: decided steps.
        k: the margin of every decision.

    Returns:
        A probability; None without any votes, and at k = 1, where no vote can ever be against the winner.
    """
    if votes <= 0 or steps <= 0 or k == 1:
        return None
    levels = [(index + 0.5) / _QUANTILES for index in range(_QUANTILES)]
    rates = (_beta_quantile(against + 0.5, votes - against + 0.5, level) for level in levels)
    return sum(run_success(rate, k, steps) if rate < 0.5 else 0.0 for rate in rates) / _QUANTILES
