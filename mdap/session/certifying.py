"""Confidence in a run, and which of its decisions to look at first: read from its rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mdap.journal.reader import Reader, RunRow
from mdap.records import Certificate, Outcome, RunStatus, TallyShape
from mdap.rules.certificate import certify, doubts
from mdap.rules.outcomes import JUDGED, outcome_of

__all__ = ["Doubt", "certificate_of", "certified", "most_doubtful", "outcome_in"]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A decision, and how doubtful it is.

    Attributes:
        run_id: the run that decided it: the one asked for, or a part of it.
        step: the step.
        opening: which opening of it was decided.
        p_wrong: chance that its winner is wrong.
        votes: votes for the winner.
        total: all votes.
    """

    run_id: str
    step: int
    opening: int
    p_wrong: float
    votes: int
    total: int


async def certificate_of(reader: Reader, run: int) -> Certificate | None:
    """Return confidence in the decisions of *run*; see `certified`."""
    return certified(await reader.tallies(run), await reader.escalations(run), await reader.settled(run))


def certified(shapes: Sequence[TallyShape], escalations: int, settled: int) -> Certificate | None:
    """Return confidence in decisions.

    Args:
        shapes: the tallies of those that votes made, counted.
        escalations: how many steps went to another tier of models.
        settled: how many a person settled.

    Returns:
        None where the votes say nothing: without decisions, at k = 1, and after an escalation, whose votes
        come from several models, each with an error rate of its own.
    """
    certificate = None if escalations else certify(shapes)
    if certificate is None or not settled:
        return certificate
    steps = "1 step was" if settled == 1 else f"{settled:,} steps were"
    sentence = f"{steps} settled by a person; the chance of no error at all is that of the others"
    return replace(certificate, warnings=(*certificate.warnings, sentence))


async def outcome_in(reader: Reader, row: RunRow) -> Outcome | None:
    """Return the outcome of a run; its votes are looked at only where its task says nothing."""
    if row.status is not RunStatus.FINISHED or row.kind not in JUDGED:
        return None
    _, data = await reader.ending(row.number)
    undecided = data.get("undecided", 0)
    told = row.outcome is not None or undecided
    certificate = None if told else await certificate_of(reader, row.number)
    return outcome_of(row.outcome, certificate, undecided)


async def most_doubtful(reader: Reader, run: int, most: int = 20) -> list[Doubt]:
    """Return the most doubtful voted decisions of *run*, highest probability of being wrong first.

    Args:
        reader: the log.
        run: the run's number.
        most: how many to return at most.
    """
    found: list[Doubt] = []
    for shape, p_wrong in doubts(await reader.tallies(run)):
        for run_id, step, opening in await reader.steps_with(run, shape, most - len(found)):
            found.append(Doubt(run_id, step, opening, p_wrong, shape.votes, shape.total))
        if len(found) >= most:
            break
    return found
