"""How samples, runs and results stand."""

from enum import StrEnum

__all__ = ["Outcome", "RunStatus", "StopCause", "Verdict"]


class Verdict(StrEnum):
    """What became of a sample."""

    VOTE = "vote"
    FLAG = "flag"
    CANCELLED = "cancelled"
    VOID = "void"


class RunStatus(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    UNDECIDED = "undecided"
    STOPPED = "stopped"
    FAILED = "failed"


class StopCause(StrEnum):
    """Why a run ended without a result.

    Attributes:
        BATCH: its samples wait in jobs of a batch API, and it was not to wait for them.
        BUDGET: its budget in USD or tokens is spent.
        DEADLINE: the seconds that it may take are over.
        QUOTA: the account has no quota left at a provider.
        PROVIDER: an endpoint does not answer, denies access, or refuses how it is asked.
        REFUSED: the models will not answer a prompt.
        FORM: not one of a model's first replies kept to the form.
        SAMPLES: a step found no winner within its allowed samples.
        INTERRUPTED: it was cancelled, or Ctrl-C was pressed.
        ERROR: the code of the task, of a provider or of `on_event` failed.
        OVERRIDE: it takes over from a run of which a person decided a step, and waits to be resumed.
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
        SOLVED: the task says that it is.
        UNSOLVED: the task says that it is not.
        DOUBTFUL: the task does not say, and steps are undecided or P(no errors) is below 0.5.
    """

    SOLVED = "solved"
    UNSOLVED = "not solved"
    DOUBTFUL = "doubtful"
