"""How many votes a race takes, by the theory: the lead of two candidates is a walk that ends at +k or -k."""

__all__ = ["race_lengths"]


def race_lengths(error_rate: float, k: int, most: int) -> list[float]:
    """Return the chance that a race between two candidates is decided by exactly 0, 1, ... *most* votes.

    Args:
        error_rate: chance that a valid sample is wrong, from 0 to 1.
        k: the margin, at least 1.
        most: the largest number of votes of interest.
    """
    ends = [0.0] * (most + 1)
    leads = {0: 1.0}
    for votes in range(1, most + 1):
        moved: dict[int, float] = {}
        for lead, chance in leads.items():
            moved[lead + 1] = moved.get(lead + 1, 0.0) + chance * (1 - error_rate)
            moved[lead - 1] = moved.get(lead - 1, 0.0) + chance * error_rate
        ends[votes] = moved.pop(k, 0.0) + moved.pop(-k, 0.0)
        leads = moved
    return ends
