"""What a calibration returns."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from mdap.records.results import brief_repr
from mdap.records.states import RunStatus

__all__ = ["SURE", "Calibration", "Interval", "Projection", "Quantiles"]

SURE: Final = 0.65
"""How likely it must be that some steps are harder than others for mdap to say so.

Where errors are independent, it is that likely in one of a hundred runs.
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
    """What a run will take, by a calibration; each with a 95 % interval.

    Attributes:
        k: the margin.
        p_zero_errors: chance of a run without one wrong decision, at the bound on the error rate.
        samples: samples; those on a guess that turns out wrong come on top.
        cost_usd: their price in USD; None where no price is known.
        seconds: how long it takes under the limits given.
    """

    k: int
    p_zero_errors: float
    samples: Interval
    cost_usd: Interval | None
    seconds: Interval


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Calibration:
    """What samples of random steps say of a model at a task.

    Attributes:
        run_id: the calibration's id in the database.
        task: the task's name.
        models: the models that were asked.
        status: finished, or stopped before it had all samples.
        reason: one sentence on why it stopped; None if it did not.
        truth: ``oracle``: the task knows the right answers; ``consensus``: the winners of races by a lead of
            *consensus_k* stand for them.
        consensus_k: that lead; None for ``oracle``.
        source: where the steps come from: ``sample_state`` of the task, its ``oracle``, ``run ID``, or
            ``pilot ID``.
        steps: steps that were sampled, and whose right answer is known or agreed on.
        undecided: steps on which no answer was agreed.
        samples: samples taken.
        votes: valid samples in the steps that count.
        wrong: wrong ones among them.
        red_flags: discarded samples by reason.
        failed_attempts: attempts that failed in transport.
        error_rate: share of wrong votes, 1 - p.
        error_bound: what it is below with 95 %; k is chosen by this.
        bias_bound: by how much agreement on wrong answers may make the error rate look smaller; 0 with an
            oracle. It is already within the interval and the bound.
        valid_rate: share of samples that are not red-flagged, v.
        input_tokens: tokens of a prompt.
        output_tokens: tokens of a reply.
        latency: seconds a reply takes.
        collisions: steps whose first two votes agree on a wrong answer.
        collisions_expected: how many there are at most if errors are independent.
        duplicates: share of samples whose text repeats an earlier one of the same step.
        p_hard: chance that some steps are harder than others.
        hard_share: share of hard steps that is to be expected.
        target: target probability of a run without a wrong decision.
        length: steps of the task; None where unknown.
        projection: what a run will take at the smallest k that reaches the target; None where none does, or
            the length is unknown.
        cost_usd: what the calibration itself cost; None where no price is known.
        seconds: how long it took.
        findings: what is to be known of all this, in words, one sentence each.
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
        """Whether some steps are harder than others, as far as can be told."""
        return self.p_hard > SURE

    @property
    def k(self) -> int | None:
        """The smallest margin that reaches the target at the bound on the error rate; None if none does."""
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
