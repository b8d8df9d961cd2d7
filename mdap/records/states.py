"""The verdicts of samples, and the statuses and outcomes of runs."""

from enum import StrEnum

__all__ = ["Outcome", "RunStatus", "StopCause", "Verdict"]


class Verdict(StrEnum):
    """The verdict on a sample."""

    VOTE = "vote"
    FLAG = "flag"
    CANCELLED = "cancelled"
    VOID = "void"


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    UNDECIDED = "undecided"
    STOPPED = "stopped"
    FAILED = "failed"


class StopCause(StrEnum):
    """The cause of a run's end without a result.

    Attributes:
        BATCH: its samples wait in jobs of a batch API, and the run must not wait for them.
        BUDGET: the run spent its budget in USD or tokens.
        DEADLINE: the run reached its deadline.
        QUOTA: the account has no quota left at a provider.
        PROVIDER: an endpoint does not respond, denies access or rejects the form of requests.
        REFUSED: all models refused a prompt.
        FORM: all of a model's first replies were red-flagged.
        SAMPLES: a step found no winner within its allowed samples.
        INTERRUPTED: a cancellation or Ctrl-C interrupted it.
        ERROR: the code of the task, of a provider or of `on_event` failed.
        OVERRIDE: it replaces a run in which a person overrode a step; resume it.
    """

    BATCH = "batch"
    BUDGET = "budget"
    DEADLINE = "deadline"
    QUOTA = "quota"
    PROVIDER = "provider"
    REFUSED = "refused"
    FORM = "form"
    SAMPLES = "samples"
    INTERRUPTED = "interrupted"
    ERROR = "error"
    OVERRIDE = "override"


class Outcome(StrEnum):
    """Whether a finished run's result is good.

    Attributes:
        SOLVED: the task accepts it.
        UNSOLVED: the task rejects it.
        DOUBTFUL: the task gives no verdict, and steps are undecided or P(no errors) is below 0.5.
    """

    SOLVED = "solved"
    UNSOLVED = "not solved"
    DOUBTFUL = "doubtful"
