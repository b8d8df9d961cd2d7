"""How sure one can be of a run, as it is shown."""

from mdap.cli.output import chance, number
from mdap.records import Solution

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
            f"{chance(certificate.p_zero_errors)} {certificate.condition}: votes cannot see the others",
        ),
        ("errors", f"{errors} wrong decisions expected"),
        ("error rate", f"{certificate.error_rate:.3%} of the votes, {low:.3%} to {high:.3%}{spread}"),
    ]


def _promise(solution: Solution) -> str:
    if solution.guarantee is None:
        return (
            f"k = {solution.k} bounds each step's error by its own p, and the run's error only if all steps "
            "are equally hard; -k robust needs no such condition"
        )
    return solution.guarantee.sentence(solution.totals.steps)
