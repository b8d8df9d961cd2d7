"""What a run returns, and confidence in it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Final, Generic

from typing_extensions import TypeVar  # `default` is part of typing from Python 3.13

from mdap.records.states import Outcome, RunStatus, StopCause
from mdap.records.totals import Totals, Usage

__all__ = ["Certificate", "Guarantee", "Solution", "brief_repr"]

_NEGLIGIBLE: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Confidence in a run's decisions, going by how their votes agreed.

    It assumes that the samples of a step err independently, that wrong ones all say the same (the worst
    case), and that on a hard step a majority is as likely wrong as right.

    Attributes:
        p_zero_errors: chance that every decision is right, if each step is right with a chance above *floor*.
        expected_errors: how many decisions are wrong on average.
        error_rate: chance that a vote is wrong, 1 - p, over all steps.
        error_rate_low: that chance is above this with 97.5 %.
        error_rate_high: that chance is below this with 97.5 %.
        p_hard: chance that some steps are harder than others.
        hard_share: share of hard steps that is to be expected.
        dispersion: variance of the votes for runners-up, over what it would be if all steps were alike:
            about 1 if errors are independent; None where it cannot be told.
        floor: the least chance that a valid sample is right, on every step, that *p_zero_errors* assumes;
            above 1/2 where a harder step would look like the others.
        warnings: what a reader should know, one sentence each.
        voters: where several models were asked, the votes of each; empty for one.
    """

    p_zero_errors: float
    expected_errors: float
    error_rate: float
    error_rate_low: float
    error_rate_high: float
    p_hard: float
    hard_share: float
    dispersion: float | None
    floor: float = 0.5
    warnings: tuple[str, ...] = ()
    voters: Mapping[str, int] = field(default_factory=dict)

    @property
    def condition(self) -> str:
        """What must hold for *p_zero_errors*, as a clause."""
        if self.floor <= 0.5:
            return "if every step is right more often than wrong"
        return f"if every step is right in at least {self.floor:.2f} of its valid samples"

    @property
    def errors_if_any(self) -> float | None:
        """How many decisions are wrong on average in a run that has an error; None if errors are negligible.

        Errors come together: where some steps are hard, several are. So this is 1 or more.
        """
        share = 1 - self.p_zero_errors
        return None if share < _NEGLIGIBLE else max(self.expected_errors / share, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What a run of `-k robust` may say of itself.

    Attributes:
        floor: the least chance that a valid sample is right that was assumed of every step.
        target: chance that no voted decision is wrong, if that holds.
        contested: steps whose votes were contested.
        undecided: steps that votes did not decide, or that nobody waited for any more.
        spent: what those steps have spent of the error budget, which is 1 - *target*.
        bound: the chance is at most this that a run has a wrong decision and yet spends so little, however
            hard its steps are, if the floor holds.
    """

    floor: float
    target: float
    contested: int
    undecided: int
    spent: Fraction
    bound: Fraction

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**asdict(self), "spent": float(self.spent), "bound": float(self.bound)}

    def sentence(self, steps: int) -> str:
        """Return what may be said of a run of so many *steps*: a joint statement, not how sure one is."""
        noun, were = "step" if steps == 1 else "steps", "was" if self.contested == 1 else "were"
        others = f", and {self.undecided:,} not decided by votes" if self.undecided else ""
        percent = math.ceil(self.bound * 1000) / 10  # upwards, since it bounds
        return (
            f"{self.contested:,} of {steps:,} {noun} {were} contested{others}. If the model is right in at "
            f"least {self.floor:g} of its valid samples on every step, a run with a wrong decision shows so "
            f"few contested steps in at most {percent:.1f} % of cases, however hard the steps are."
        )


R_co = TypeVar("R_co", covariant=True, default=Any)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Solution(Generic[R_co]):
    """What a run came to.

    Attributes:
        run_id: the run's id in the database.
        task: the task's name.
        status: finished, undecided, stopped or failed.
        result: what the task returned, as a value of the type that it declares in ``Process[R]`` or for
            `Chain.result` if that comes back from its JSON, else as its JSON value; None unless finished.
        reason: one sentence on why the run did not finish; None if it did.
        totals: steps, votes, red flags, tokens.
        k: the margin every decision had to reach; with `-k robust`, m of the first step.
        cost_usd: price of all samples in USD; None where no price is known.
        seconds: time spent running, over all resumes.
        certificate: confidence in the decisions; None where nothing can be said.
        digest: head of the digest chain over the decisions, in hexadecimal.
        warnings: what a reader of the result should know, one sentence each.
        guarantee: what `-k robust` says of the run; None for another k.
        seal: digest over all that the log holds of the run, as of the end of its last session; None if no
            session ended in order.
        undecided: steps of a finished process that were asked for and found no winner.
        stop_cause: the same as one word; None if it did finish, or where nobody recorded it.
        traceback: where code of the task or of a provider failed, as Python prints it; None if none did.
        error: the error that ended the run, with its cause; None for a run that was read from the log.
        outcome: whether the result of a finished run is good; None where neither the task nor the votes say.
        saved_usd: USD that prompts shared by several samples or read from a cache saved; None where no price
            is known.
    """

    run_id: str
    task: str
    status: RunStatus
    result: R_co
    reason: str | None
    totals: Totals
    k: int
    cost_usd: float | None
    seconds: float
    certificate: Certificate | None
    digest: str | None
    warnings: tuple[str, ...] = ()
    seal: str | None = None
    guarantee: Guarantee | None = None
    undecided: int = 0
    stop_cause: StopCause | None = None
    traceback: str | None = None
    error: Exception | None = field(default=None, compare=False, repr=False)
    outcome: Outcome | None = None
    saved_usd: float | None = None
    _json: Any = field(default=None, compare=False)  # the result as it is on record

    def __repr__(self) -> str:
        return brief_repr(
            self,
            run_id=self.run_id,
            task=self.task,
            status=str(self.status),
            outcome=self.outcome and str(self.outcome),
            result=self.result,
            reason=self.reason,
            steps=self.steps,
            samples=self.totals.samples,
            k=self.k,
            p_zero_errors=self.p_zero_errors and round(self.p_zero_errors, 6),
            cost_usd=self.cost_usd,
        )

    @property
    def mostly_undecided(self) -> bool:
        """Whether a finished run decided fewer steps than it left undecided."""
        return self.status is RunStatus.FINISHED and self.undecided > self.totals.steps

    @property
    def p_zero_errors(self) -> float | None:
        """Estimated chance that every decision is right; None where nothing can be said."""
        return None if self.certificate is None else self.certificate.p_zero_errors

    @property
    def steps(self) -> int:
        """Decided steps."""
        return self.totals.steps

    @property
    def usage(self) -> Usage:
        """Tokens of all samples, and of what was billed beside them."""
        return self.totals.usage

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap run --json`` prints."""
        return {
            "run_id": self.run_id,
            "task": self.task,
            "status": str(self.status),
            "outcome": None if self.outcome is None else str(self.outcome),
            "result": self.result if self._json is None else self._json,
            "reason": self.reason,
            "stop_cause": self.stop_cause,
            "steps": self.totals.steps,
            "undecided": self.undecided,
            "votes": self.totals.votes,
            "samples": self.totals.samples,
            "red_flags": self.totals.red_flags,
            "void": self.totals.void,
            "cancelled": self.totals.cancelled,
            "failed_attempts": self.totals.failed_attempts,
            "probe": self.totals.probe.to_dict(),
            "k": self.k,
            "usage": {
                "input_tokens": self.totals.usage.input_tokens,
                "output_tokens": self.totals.usage.output_tokens,
            },
            "cost_usd": self.cost_usd,
            "saved_usd": self.saved_usd,
            "seconds": round(self.seconds, 3),
            "p_zero_errors": self.p_zero_errors,
            "guarantee": None if self.guarantee is None else self.guarantee.to_dict(),
            "certificate": None if self.certificate is None else asdict(self.certificate),
            "digest": self.digest,
            "seal": self.seal,
            "warnings": list(self.warnings),
            "traceback": self.traceback,
        }


_SHOWN: Final = 200


def brief_repr(value: Any, **shown: Any) -> str:
    """Return the *repr* of a large value: what a reader looks for, on one line; None is left out."""
    parts = []
    for name, item in shown.items():
        text = repr(item)
        if item is not None:
            parts.append(f"{name}={text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'}")
    return f"{type(value).__name__}({', '.join(parts)})"
