"""What watches a run as it goes on: whether it does as its calibration did."""

from mdap.journal.reader import Reader
from mdap.rules.drift import Baseline, Drift

__all__ = ["drift_of"]


async def drift_of(reader: Reader, run: int, k: int) -> Drift | None:
    """Return what notices a drift of *run* from what it is compared with; None for nothing to compare."""
    data = await reader.baseline(run)
    if data is None:
        return None
    raised = frozenset(one["drift"] for one in await reader.raised(run) if "drift" in one)
    drift = Drift(Baseline(**data), k, raised)
    heard = await reader.heard(run)
    if heard:
        votes, won = sum(row[3] for row in heard), sum(row[2] for row in heard)
        drift.hear(votes - won, votes, await reader.flags_decided(run))
    return drift
