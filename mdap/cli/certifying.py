"""How sure one can be of a run, as it is shown."""

from fractions import Fraction

from mdap.cli.output import chance, number
from mdap.records import Guarantee, Solution

__all__ = ["certified"]


def certified(solution: Solution) -> list[tuple[str, str]]:
    """Return the rows that show what the votes of a run say of it, and what `-k robust` promises."""
    rows = [("promise", _promise(solution))]
    certificate = solution.certificate
    if certificate is None:
        return rows
    wrong = certificate.expected_errors
    errors = f"{wrong:.4f}" if wrong >= 0.0001 else "< 0.0001"
    low, high = certificate.error_rate_low, certificate.error_rate_high
    spread = "" if certificate.dispersion is None else f"; dispersion {certificate.dispersion:.2f}"
    voters = ", ".join(f"{model} {number(votes)}" for model, votes in certificate.voters.items())
    return [
        *rows,
        *([("votes by model", voters)] if voters else []),
        (
            "P(no errors)",
            f"{chance(certificate.p_zero_errors)} if every step is right more often than wrong: votes cannot "
            "see the others",
        ),
        ("errors", f"{errors} wrong decisions expected"),
        ("error rate", f"{certificate.error_rate:.3%} of the votes, {low:.3%} to {high:.3%}{spread}"),
    ]


def _promise(solution: Solution) -> str:
    if solution.guarantee is None:
        return (
            f"k = {solution.k} bounds the error of a step by its own p, and of a run only if all steps are "
            "equally hard; -k robust does without that"
        )
    return promised(solution.guarantee, solution.totals.steps)


def promised(guarantee: Guarantee, steps: int) -> str:
    """Return what a run of `-k robust` may say of itself: a joint statement, not how sure one is."""
    were = "step was" if guarantee.contested == 1 else "steps were"
    others = f", and {number(guarantee.undecided)} not decided by votes" if guarantee.undecided else ""
    return (
        f"{number(guarantee.contested)} of {number(steps)} {were} contested{others}. If the model is right "
        f"in at least {guarantee.floor:g} of its valid samples on every step, a run with a wrong decision "
        f"shows so few contested steps in at most {_percent(guarantee.bound)} of cases, however hard the "
        "steps are."
    )


def _percent(share: Fraction) -> str:
    """Return *share* rounded up: it bounds."""
    tenths = -(-share * 1000 // 1)
    return f"{int(tenths) / 10:.1f} %"
