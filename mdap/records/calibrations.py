"""The result of a calibration."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from mdap.records.results import brief_repr
from mdap.records.states import RunStatus

SURE: Final = 0.65
"""Lowest probability of unequal steps at which mdap reports that some steps are harder.

With independent errors, one run in a hundred reaches it.
"""


class Interval(NamedTuple):
    """An estimate, with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Quantiles(NamedTuple):
    """Mean, median and 95th percentile."""

    mean: float
    median: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The samples, cost and time of a run, estimated from a calibration; each with a 95 % interval.

    Attributes:
        k: the margin.
        p_zero_errors: probability of a run without a wrong decision, at the upper bound of the error rate.
        samples: the number of samples; samples on wrong guesses add to it.
        cost_usd: their price in USD; None if unknown.
        seconds: the duration under the given limits.
    """

    k: int
    p_zero_errors: float
    samples: Interval
    cost_usd: Interval | None
    seconds: Interval


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Calibration:
    """A model's measured rates on random steps of a task.

    Attributes:
        run_id: the calibration's id in the database.
        task: the task's name.
        models: the sampled models.
        status: finished, or stopped before it had all samples.
        reason: why it stopped, as one sentence; None if it did not.
        truth: ``oracle``: the task knows the right answers; ``consensus``: the winners of races by a lead of
            *consensus_k* stand for them.
        consensus_k: that lead; None for ``oracle``.
        source: the source of the steps: ``sample_state`` of the task, its ``oracle``, ``run ID``, or
            ``pilot ID``.
        steps: sampled steps with a known or agreed right answer.
        undecided: steps without an agreed answer.
        samples: samples taken.
        votes: valid samples of these steps.
        wrong: wrong ones among them.
        red_flags: discarded samples by reason.
        failed_attempts: attempts that failed in transport.
        error_rate: share of wrong votes, 1 - p.
        error_bound: upper bound of the error rate at 95 % confidence; k depends on it.
        bias_bound: how much agreement on wrong answers may lower the measured error rate; 0 with an oracle.
            The interval and the bound include it.
        valid_rate: share of samples that are not red-flagged, v.
        input_tokens: tokens of a prompt.
        output_tokens: tokens of a reply.
        latency: seconds per reply.
        collisions: steps whose first two votes agree on a wrong answer.
        collisions_expected: the maximum expected number if errors are independent.
        duplicates: share of samples whose text repeats an earlier one of the same step.
        p_hard: probability that some steps are harder than others.
        hard_share: expected share of hard steps.
        target: target probability of a run without a wrong decision.
        length: steps of the task; None where unknown.
        projection: the estimate for a run at the smallest k that reaches the target; None if no k does, or
            the length is unknown.
        cost_usd: the cost of the calibration itself in USD; None if unknown.
        seconds: its duration.
        findings: the conclusions in words, one sentence each.
    """

    run_id: str
    task: str
    models: tuple[str, ...]
    truth: str
    consensus_k: int | None
    source: str
    steps: int
    undecided: int
    samples: int
    votes: int
    wrong: int
    red_flags: dict[str, int]
    error_rate: Interval
    error_bound: float
    bias_bound: float
    valid_rate: Interval
    collisions: int
    collisions_expected: float
    duplicates: float
    p_hard: float
    hard_share: float
    target: float
    status: RunStatus = RunStatus.FINISHED
    reason: str | None = None
    failed_attempts: int = 0
    input_tokens: Quantiles | None = None
    output_tokens: Quantiles | None = None
    latency: Quantiles | None = None
    length: int | None = None
    projection: Projection | None = None
    cost_usd: float | None = None
    seconds: float = 0.0
    findings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return brief_repr(
            self,
            run_id=self.run_id,
            task=self.task,
            models=self.models,
            status=str(self.status),
            reason=self.reason,
            samples=self.samples,
            error_rate=round(self.error_rate.value, 6),
            error_bound=round(self.error_bound, 6),
            valid_rate=round(self.valid_rate.value, 6),
            k=self.k,
            target=self.target,
            cost_usd=self.cost_usd,
        )

    @property
    def uneven(self) -> bool:
        """Whether some steps are harder than others, by `p_hard`."""
        return self.p_hard > SURE

    @property
    def k(self) -> int | None:
        """The smallest margin that reaches the target at the upper bound of the error rate; None if none
        does."""
        return None if self.projection is None else self.projection.k

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap calibrate --json`` prints for each model."""
        plain = {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return {**plain, "k": self.k}


def _plain(value: Any) -> Any:
    if isinstance(value, Projection):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Interval | Quantiles):
        return value._asdict()
    return list(value) if isinstance(value, tuple) else value
