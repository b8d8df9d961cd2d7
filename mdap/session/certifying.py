"""Compute the confidence in a run and its most doubtful decisions from its rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mdap.journal.reader import Reader, RunRow
from mdap.records import Certificate, Outcome, RunStatus, TallyShape
from mdap.rules.certificate import certify, doubts
from mdap.rules.outcomes import JUDGED, outcome_of

__all__ = ["Doubt", "certificate_of", "certified", "most_doubtful", "outcome_in"]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A decision with its probability of being wrong.

    Attributes:
        run_id: the run that decided it: the given run or a part of it.
        step: the step.
        opening: the number of the opening that was decided.
        p_wrong: probability that its winner is wrong.
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
    """Return the confidence in the decisions of *run*; see `certified`."""
    return certified(await reader.tallies(run), await reader.escalations(run), await reader.settled(run))


def certified(shapes: Sequence[TallyShape], escalations: int, settled: int) -> Certificate | None:
    """Return the confidence in decisions.

    Args:
        shapes: the tallies of voted decisions, with counts.
        escalations: the number of steps that escalated.
        settled: the number of steps that a person settled.

    Returns:
        None if the votes do not tell: without decisions, at k = 1, and after an escalation, since its votes
        come from several models with different error rates.
    """
    certificate = None if escalations else certify(shapes)
    if certificate is None or not settled:
        return certificate
    steps = "1 step was" if settled == 1 else f"{settled:,} steps were"
    sentence = f"{steps} settled by a person; the chance of no error at all is that of the others"
    return replace(certificate, warnings=(*certificate.warnings, sentence))


async def outcome_in(reader: Reader, row: RunRow) -> Outcome | None:
    """Return the outcome of a run; read its votes only if its task gives no verdict."""
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
        most: the maximum number to return.
    """
    found: list[Doubt] = []
    for shape, p_wrong in doubts(await reader.tallies(run)):
        for run_id, step, opening in await reader.steps_with(run, shape, most - len(found)):
            found.append(Doubt(run_id, step, opening, p_wrong, shape.votes, shape.total))
        if len(found) >= most:
            break
    return found
