"""The certificate of a run, the confidence of its winners and its outcome, from its votes."""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mdap.errors import RAISED, PluginError
from mdap.records import SURE, Certificate, Interval, Outcome, TallyShape
from mdap.rules.scaling import race_length
from mdap.tasks import A, Decision, Task

if TYPE_CHECKING:
    from mdap.rules.hardness import Belief

_MUCH_DISSENT: Final = 0.4
# Nothing is ever certain, and the last digits may differ from one machine to the next.
_DIGITS: Final = 6
_MOST: Final = 1 - 10**-_DIGITS

DOUBTFUL_BELOW: Final = 0.5
"""A result is doubtful if P(no errors) is below this: more likely than not, some decision is wrong."""

JUDGED: Final = ("run", "batch")
"""The kinds of runs that have an outcome: a pilot ends before its task does."""

_RECORDED: Final = {True: "solved", False: "unsolved", None: None}


def error_upper_bound(wrong: float, votes: float) -> float:
    """Return the one-sided upper bound on the error rate at 95 % confidence (Clopper-Pearson)."""
    # Imported here, since scipy alone takes longer to import than all the rest.
    from scipy.special import betaincinv

    return 1.0 if wrong >= votes else float(betaincinv(wrong + 1, votes - wrong, 0.95))


def jeffreys(hits: float, trials: float, outside: float = 0.05) -> Interval:
    """Return the share of *hits* with Jeffreys' interval, which ends at 0 or 1 where all agree.

    The share is *outside* with this probability: by default, the interval has 95 %.
    """
    from scipy.special import betaincinv

    if trials <= 0:
        return Interval(0.5, 0.0, 1.0)
    a, b = hits + 0.5, trials - hits + 0.5
    low = 0.0 if hits <= 0 else float(betaincinv(a, b, outside / 2))
    high = 1.0 if hits >= trials else float(betaincinv(a, b, 1 - outside / 2))
    return Interval(hits / trials, low, high)


def certify(shapes: Sequence[TallyShape]) -> Certificate | None:
    """Return the certificate of decisions, given their tallies.

    The uncertainty of the error rate, and of how many steps are harder than others, is averaged over, see
    `mdap.rules.hardness`; nothing is taken at one estimate.

    Returns:
        The certificate; None without decisions of a margin above 1: at 1 no vote can be against the winner,
        however wrong it is. Where other margins are greater, it was a proposal, on which others vote.
    """
    # The cases of a batch are short, and their votes fall in few ways.
    return _certified(tuple(_decisions(shapes)))


@lru_cache(maxsize=1024)
def _certified(shapes: tuple[TallyShape, ...]) -> Certificate | None:
    if not shapes:
        return None
    from mdap.rules.hardness import claim_of, floor_of, posterior

    belief = posterior(shapes)
    p_zero_errors, expected_errors, standing_out = claim_of(shapes, belief)
    rate = _error_rate(shapes, belief)
    return Certificate(
        p_zero_errors=p_zero_errors,
        expected_errors=expected_errors,
        error_rate=rate.value,
        error_rate_low=rate.low,
        error_rate_high=rate.high,
        p_hard=belief.p_hard,
        hard_share=belief.hard_share,
        dispersion=_dispersion(shapes, belief),
        floor=floor_of(shapes, belief),
        warnings=_warnings(belief, rate, standing_out),
    )


def doubts(shapes: Sequence[TallyShape]) -> list[tuple[TallyShape, float]]:
    """Return each tally of a run with the probability that its winner is wrong, most doubtful first."""
    shapes = _decisions(shapes)
    if not shapes:
        return []
    from mdap.rules.hardness import posterior

    belief = posterior(shapes)
    found = [(shape, belief.p_wrong(shape)) for shape in shapes]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def _decisions(shapes: Sequence[TallyShape]) -> list[TallyShape]:
    """Return the tallies with a margin above 1: at 1 no vote can disagree."""
    return [shape for shape in shapes if shape.margin > 1]


def _dispersion(shapes: Sequence[TallyShape], belief: "Belief") -> float | None:
    """Return the variance of the votes for runners-up, relative to steps that are all equally hard."""
    alike = belief.alike
    rate = float(alike.weights @ alike.rates / max(alike.weights.sum(), 1e-300))
    seen = expected = 0.0
    for shape in shapes:
        mean, variance = race_length(rate, shape.margin)
        seen += shape.steps * (shape.runner_up - (mean - shape.margin) / 2) ** 2
        expected += shape.steps * variance / 4
    return seen / expected if expected > 0 else None


def _error_rate(shapes: Sequence[TallyShape], belief: "Belief") -> Interval:
    """Return the probability that a vote is wrong.

    Where wrong votes differ, hardly a winner is wrong, and those against winners are the wrong ones. Where
    they all agree, the law says how many wrong winners hide.
    """
    against = sum(shape.steps * (shape.total - shape.votes) for shape in shapes)
    if against > sum(shape.steps * shape.runner_up for shape in shapes):
        return jeffreys(against, sum(shape.steps * shape.total for shape in shapes))
    return Interval(belief.mean_error_rate, *belief.error_rate(0.025, 0.975))


def _warnings(belief: "Belief", rate: Interval, standing_out: int) -> tuple[str, ...]:
    found = []
    if belief.p_hard > SURE:
        found.append(
            f"about {max(belief.hard_share, 1e-4):.2%} of the steps are hard: their votes are more divided "
            "than independent errors explain, and on such a step they can agree on a wrong answer; "
            "check the most doubtful ones"
        )
    if rate.value > _MUCH_DISSENT and rate.low > 0.75 * _MUCH_DISSENT:
        found.append(
            f"about {rate.value:.0%} of the votes are wrong: where it is half or more on a step, "
            "voting makes it worse; take a better model or smaller steps"
        )
    if standing_out:
        are, each = ("step is", "it") if standing_out == 1 else ("steps are", "each")
        found.append(
            f"{standing_out:,} {are} far more divided than the others: P(no errors) counts {each} as wrong, "
            "wholly or in part; check the most doubtful ones"
        )
    return tuple(found)


def shape_of(winner: str, votes: Mapping[str, int]) -> TallyShape:
    """Return how the votes of a step fell."""
    others = max((count for answer, count in votes.items() if answer != winner), default=0)
    return TallyShape(votes.get(winner, 0), others, sum(votes.values()), 1)


def confident(decisions: Sequence[Decision[A]], shapes: Sequence[TallyShape | None]) -> list[Decision[A]]:
    """Return *decisions* with the chance that each winner is right, by the votes on all of them.

    It is one minus the doubt of the certificate, taken over these steps alone, so that it follows from what
    was asked and decided: it is the same after a resume and in an audit. A decision without a vote has None
    for its shape.
    """
    found = _confidences(tuple(sorted(Counter(shape for shape in shapes if shape is not None).items())))
    return [
        replace(decision, confidence=None if shape is None else found.get(shape))
        for decision, shape in zip(decisions, shapes, strict=True)
    ]


@lru_cache(maxsize=256)
def _confidences(counted: tuple[tuple[TallyShape, int], ...]) -> dict[TallyShape, float]:
    known = doubts([shape._replace(steps=count) for shape, count in counted])
    return {shape._replace(steps=1): min(round(1 - doubt, _DIGITS), _MOST) for shape, doubt in known}


def said_by(name: str, task: Task, result: Any) -> bool | None:
    """Return the task's verdict on its *result*: solved, not solved, or None for no verdict.

    Raises:
        PluginError: the task's own code fails, or returns something else.
    """
    try:
        said: Any = task.outcome(deepcopy(result))
        if said is not None and not isinstance(said, bool):
            if inspect.iscoroutine(said):
                said.close()
            raise TypeError(f"outcome must return True, False or None, not {said!r:.60}")
    except RAISED as error:
        raise PluginError(f"task {name}", "giving its outcome", error) from error
    return said


def recorded(said: bool | None) -> str | None:
    """Return the spelling of a task's verdict in the column *outcome* and the event *finished*."""
    return _RECORDED[said]


def outcome_of(word: str | None, certificate: Certificate | None, undecided: int) -> Outcome | None:
    """Return the outcome of a finished run.

    The task's recorded *word* comes first. Without one, the result is doubtful if steps were left undecided,
    or if P(no errors) is below `DOUBTFUL_BELOW`.
    """
    if word is not None:
        return Outcome[word.upper()]
    doubtful = undecided or (certificate is not None and certificate.p_zero_errors < DOUBTFUL_BELOW)
    return Outcome.DOUBTFUL if doubtful else None
