"""The result of a run, and confidence in it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Final, Generic

from typing_extensions import TypeVar  # `default` is part of typing from Python 3.13

from mdap.records.states import Outcome, RunStatus, StopCause, Totals, Usage

_NEGLIGIBLE: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Confidence in a run's decisions, estimated from the agreement of their votes.

    It assumes that the samples of a step err independently, that all wrong ones agree (the worst case), and
    that on a hard step a majority is as likely wrong as right.

    Attributes:
        p_zero_errors: probability that every decision is right, if p is above *floor* on each step.
        expected_errors: expected number of wrong decisions.
        error_rate: probability that a vote is wrong, 1 - p, over all steps.
        error_rate_low: lower bound of the error rate at 97.5 % confidence.
        error_rate_high: upper bound of the error rate at 97.5 % confidence.
        p_hard: probability that some steps are harder than others.
        hard_share: expected share of hard steps.
        dispersion: variance of the votes for runners-up, divided by its value for equally hard steps: about 1
            if errors are independent; None if unknown.
        floor: the lowest p on any step that *p_zero_errors* assumes; above 1/2 if a harder step would look
            like the others.
        warnings: warnings to the reader, one sentence each.
        voters: the votes by model; empty for a single model.
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
        """The condition of *p_zero_errors*, as a clause."""
        if self.floor <= 0.5:
            return "if every step is right more often than wrong"
        return f"if every step is right in at least {self.floor:.2f} of its valid samples"

    @property
    def errors_if_any(self) -> float | None:
        """Expected number of wrong decisions in a run with an error; None if errors are negligible.

        Errors cluster: if one step is hard, others are too. So this is 1 or more.
        """
        share = 1 - self.p_zero_errors
        return None if share < _NEGLIGIBLE else max(self.expected_errors / share, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """The guarantee of a run with `-k robust`.

    Attributes:
        floor: the assumed lowest p on any step.
        target: probability that no voted decision is wrong, if that assumption holds.
        contested: steps with contested votes.
        undecided: steps that votes did not decide, or that the process abandoned.
        spent: the part of the error budget, 1 - *target*, that those steps spent.
        bound: upper bound on the probability that a run has a wrong decision and spends no more than this,
            however hard its steps are, if the floor holds.
        parts: the nested runs of `Ask.solve_all`, each of which keeps the target by itself; *spent* is their
            sum and *bound* that of one of them. 0 if the run keeps the target as a whole.
    """

    floor: float
    target: float
    contested: int
    undecided: int
    spent: Fraction
    bound: Fraction
    parts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        found = {**asdict(self), "spent": float(self.spent), "bound": float(self.bound)}
        return found if self.parts else {name: value for name, value in found.items() if name != "parts"}

    def sentence(self, steps: int) -> str:
        """Return the guarantee for a run of *steps* steps: a joint probability, not a confidence."""
        noun, were = "step" if steps == 1 else "steps", "was" if self.contested == 1 else "were"
        others = f", and {self.undecided:,} not decided by votes" if self.undecided else ""
        percent = math.ceil(self.bound * 1000) / 10  # round up: it is an upper bound
        of_steps = f"{self.contested:,} of {steps:,} {noun} {were} contested{others}"
        if self.parts:
            return (
                f"{of_steps}. If the model is right in at least {self.floor:g} of its valid samples on every "
                f"step, each of the {self.parts:,} parts by itself has a wrong decision with probability "
                f"{percent:g} % at most, however hard the steps are; together they spent "
                f"{float(self.spent):.3g} of {float(self.parts * self.bound):.3g}."
            )
        return (
            f"{of_steps}. If the model is right in at "
            f"least {self.floor:g} of its valid samples on every step, a run with a wrong decision shows so "
            f"few contested steps in at most {percent:.1f} % of cases, however hard the steps are."
        )


R_co = TypeVar("R_co", covariant=True, default=Any)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Solution(Generic[R_co]):
    """The result of a run.

    Attributes:
        run_id: the run's id in the database.
        task: the task's name.
        status: finished, undecided, stopped or failed.
        result: the task's result, None unless finished. It has the type that the task declares in
            ``Process[R]`` or for `Chain.result` if its JSON converts back to that type, else it is a JSON
            value.
        reason: why the run did not finish, as one sentence; None if it did.
        totals: steps, votes, red flags, tokens.
        k: the margin of every decision; with `-k robust`, m of the first step.
        cost_usd: price of all samples in USD; None if unknown.
        seconds: running time, over all sessions.
        certificate: confidence in the decisions; None if the votes do not tell.
        digest: head of the digest chain over the decisions, in hexadecimal.
        warnings: warnings to the reader of the result, one sentence each.
        guarantee: the guarantee of `-k robust`; None for another k.
        seal: digest over all rows of the run at the end of its last session; None if no session ended
            normally.
        undecided: steps of a finished process that found no winner.
        stop_cause: the reason as one word; None if the run finished, or if not recorded.
        traceback: the traceback of a failure in the task's or a provider's code; None for no failure.
        error: the error that ended the run, with its cause; None for a run read from the log.
        outcome: whether the result of a finished run is good; None if neither task nor votes tell.
        saved_usd: USD saved by prompts shared by several samples or read from a cache; None if no price is
            known.
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
    _json: Any = field(default=None, compare=False)  # the recorded result

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
        """Whether a finished run left more steps undecided than it decided."""
        return self.status is RunStatus.FINISHED and self.undecided > self.totals.steps

    @property
    def p_zero_errors(self) -> float | None:
        """Estimated probability that every decision is right; None if the votes do not tell."""
        return None if self.certificate is None else self.certificate.p_zero_errors

    @property
    def steps(self) -> int:
        """Decided steps."""
        return self.totals.steps

    @property
    def usage(self) -> Usage:
        """All billed tokens, of samples or not."""
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
            "usage": asdict(self.totals.usage),
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
    """Return a short *repr* of a large value, on one line, without fields that are None."""
    parts = []
    for name, item in shown.items():
        text = repr(item)
        if item is not None:
            parts.append(f"{name}={text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'}")
    return f"{type(value).__name__}({', '.join(parts)})"
