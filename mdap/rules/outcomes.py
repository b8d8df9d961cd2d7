"""The outcome of a run: the task's own verdict, or else the verdict of its votes."""

import inspect
from copy import deepcopy
from typing import Any, Final

from mdap.errors import RAISED, PluginError
from mdap.records import Certificate, Outcome
from mdap.tasks import Task

__all__ = ["DOUBTFUL_BELOW", "JUDGED", "outcome_of", "recorded", "said_by"]

DOUBTFUL_BELOW: Final = 0.5
"""A result is doubtful if P(no errors) is below this: more likely than not, some decision is wrong."""

JUDGED: Final = ("run", "batch")
"""The kinds of runs that have an outcome: a pilot ends before its task does."""

_RECORDED: Final = {True: "solved", False: "unsolved", None: None}


def said_by(name: str, task: Task, result: Any) -> bool | None:
    """Return the task's verdict on its *result*: solved, not solved, or None for no verdict.

    Args:
        name: the task's name.
        task: the task.
        result: the result, as a JSON value.

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

    The task's verdict comes first. Without one, the result is doubtful if steps were left undecided,
    or if P(no errors) is below `DOUBTFUL_BELOW`.

    Args:
        word: what the task said, as recorded.
        certificate: what the votes say; None where they say nothing.
        undecided: steps that found no winner.
    """
    if word is not None:
        return Outcome[word.upper()]
    doubtful = undecided or (certificate is not None and certificate.p_zero_errors < DOUBTFUL_BELOW)
    return Outcome.DOUBTFUL if doubtful else None
