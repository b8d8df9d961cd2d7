"""How a certificate is shown."""

from mdap.cli.output import chance, number
from mdap.records import Certificate

__all__ = ["certified"]


def certified(certificate: Certificate | None) -> list[tuple[str, str]]:
    """Return the rows that show *certificate*; none where nothing can be said."""
    if certificate is None:
        return []
    wrong = certificate.expected_errors
    errors = f"{wrong:.4f}" if wrong >= 0.0001 else "< 0.0001"
    low, high = certificate.error_rate_low, certificate.error_rate_high
    spread = "" if certificate.dispersion is None else f"; dispersion {certificate.dispersion:.2f}"
    voters = ", ".join(f"{model} {number(votes)}" for model, votes in certificate.voters.items())
    return [
        *([("votes by model", voters)] if voters else []),
        (
            "no error at all",
            f"with a chance of {chance(certificate.p_zero_errors)}, going by how the votes agreed",
        ),
        ("errors", f"{errors} wrong decisions expected"),
        ("error rate", f"{certificate.error_rate:.3%} of the votes, {low:.3%} to {high:.3%}{spread}"),
    ]
