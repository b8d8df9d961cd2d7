"""Which margin a run gets where none is given."""

from typing import Final

from pydantic import ValidationError

from mdap.compose.identity import Start
from mdap.compose.running import Workshop, run_task
from mdap.errors import FailedError, RunError, StoppedError, UndecidedError, UsageError
from mdap.records import RunStatus, Solution
from mdap.rules.certificate import error_upper_bound
from mdap.rules.scaling import minimal_k
from mdap.settings import VotingSettings, explain
from mdap.tasks import Task

__all__ = ["ENDED", "pilot_margin", "pilot_of", "with_k"]

ENDED: Final[dict[RunStatus, type[RunError]]] = {
    RunStatus.UNDECIDED: UndecidedError,
    RunStatus.STOPPED: StoppedError,
    RunStatus.FAILED: FailedError,
}
"""The error for each way in which a run ends without being finished."""

_PILOT_MARGIN: Final = 8
_PILOT_VOTES: Final = 400


def with_k(voting: VotingSettings, k: int) -> VotingSettings:
    """Return *voting* with another margin; refuse one that its samples can never reach."""
    try:
        return VotingSettings(**{**voting.model_dump(), "k": k})
    except ValidationError as error:
        raise UsageError(explain("setting", error)) from None


async def pilot_of(shop: Workshop, task: Task, name: str, voting: VotingSettings) -> Solution:
    """Decide the first steps of *task* at a generous margin, in a run of their own.

    Raises:
        UsageError: a step found no winner.
        StoppedError: the provider is gone, or a limit was reached.
    """
    pilot = with_k(voting.model_copy(update={"max_samples": None}), _PILOT_MARGIN)
    name = f"{name}-pilot"
    await shop.writer.flush()
    row = await shop.reader.run(name)
    start = Start(name=name, voting=pilot, row=row, kind="pilot", votes_wanted=_PILOT_VOTES)
    solution = await run_task(shop, task, start)
    if solution.status is RunStatus.UNDECIDED:
        raise UsageError(
            f"no k can be chosen: in the pilot {solution.reason}; the model is right too seldom to vote"
        )
    if solution.status is not RunStatus.FINISHED:
        raise ENDED[solution.status](f"the pilot {name}: {solution.reason}", solution)
    return solution


async def pilot_margin(shop: Workshop, task: Task, name: str, target: float, voting: VotingSettings) -> int:
    """Return the smallest margin that reaches *target*, at an error rate that a pilot rules out.

    Votes against the winners of the pilot count as wrong. The upper confidence bound of their rate stands for
    the error rate.
    """
    length = task.length()
    if length is None:
        raise UsageError("-k auto needs a task of known length: define length(), or give k")
    solution = await pilot_of(shop, task, name, voting)
    votes = solution.totals.votes
    number = (await shop.reader.find(solution.run_id)).number
    bound = error_upper_bound(votes - await shop.reader.votes_for_winners(number), votes)
    return minimal_k(bound, length, target)
