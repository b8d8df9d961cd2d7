"""What watches a run as it goes on: the margins to come, and whether it does as its calibration did."""

from mdap.compose.crew import Crew
from mdap.compose.identity import Start
from mdap.engine.margins import AdaptiveMargin, Standing
from mdap.errors import UsageError
from mdap.journal.reader import Reader
from mdap.rules.drift import Baseline, Drift
from mdap.rules.presence import Absence
from mdap.settings import VotingSettings
from mdap.tasks import Task

__all__ = ["drift_of", "known_presence", "margin_of"]


async def known_presence(reader: Reader, run: int, start: Start, crew: Crew) -> tuple[Absence, ...]:
    """Return who was left out of *run* in earlier sessions, and note in its presence what its rows say."""
    if start.row is None:
        return ()
    presence = start.presence
    tiers = await reader.tiers_with_votes(run, start.voting.samples_allowed)
    if tiers:
        presence.answered.update(range(len(crew.names)))
        presence.voted.update(tiers)
    absences = await reader.absences(run)
    presence.absences += [absence for absence in absences if absence not in presence.absences]
    return absences


async def margin_of(reader: Reader, run: int, task: Task, voting: VotingSettings) -> AdaptiveMargin | None:
    """Return what tells the margins of *run*, from its rows; None for one margin throughout."""
    target, length = voting.adaptive_target, task.length()
    if target is None:
        return None
    if length is None:
        raise UsageError("-k adaptive needs a task of known length: define length(), or give k")
    chosen = await reader.margins(run)
    began = chosen[0] if chosen else {"from": 0, "k": voting.k}
    now = Standing(
        start=chosen[-1]["from"] if chosen else 0,
        k=chosen[-1]["k"] if chosen else voting.k,
        against=began.get("against", 0),
        votes=began.get("votes", 0),
    )
    for k, decisions, won, votes in await reader.heard(run):
        if k is not None:
            now.margins[k] = decisions
        now.against += votes - won
        now.votes += votes
    return AdaptiveMargin(run, target, length, now)


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
