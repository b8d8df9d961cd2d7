"""What watches a run as it goes on: who is left out, and whether it does as its calibration did."""

from mdap.journal.reader import Reader
from mdap.rules.drift import Baseline, Drift
from mdap.rules.presence import Absence
from mdap.session.identity import RunSpec
from mdap.session.models import Models

__all__ = ["drift_of", "known_presence"]


async def known_presence(reader: Reader, run: int, spec: RunSpec, models: Models) -> tuple[Absence, ...]:
    """Return who was left out of *run* in earlier sessions, and note in its presence what its rows say."""
    if spec.row is None:
        return ()
    presence = spec.presence
    tiers = await reader.tiers_with_votes(run, spec.voting.samples_allowed)
    if tiers:
        presence.answered.update(range(len(models.names)))
        presence.voted.update(tiers)
    absences = await reader.absences(run)
    presence.absences += [absence for absence in absences if absence not in presence.absences]
    return absences


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
