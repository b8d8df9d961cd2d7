"""Each recorded fact is one structlog event, emitted once it is durable."""

from contextlib import suppress

import structlog

from mdap.records import (
    AttemptFailed,
    Decided,
    Fact,
    PromptSent,
    RunEvent,
    SampleTaken,
    StepOpened,
    StepResolved,
)

__all__ = ["watch"]

_log = structlog.get_logger("mdap")

_LONGEST = 500


def watch(fact: Fact) -> None:
    """Emit the event that *fact* is: flat, dotted, without the text of prompts and replies.

    A log that cannot be written does not end the run: the fact is durable.
    """
    with suppress(OSError):
        _emit(fact)


def _emit(fact: Fact) -> None:
    if isinstance(fact, SampleTaken):
        _log.debug(
            "sample.taken",
            run=fact.run,
            step=fact.step,
            ordinal=fact.ordinal,
            verdict=fact.verdict,
            flag_reason=fact.flag_reason,
            answer_key=fact.answer_key,
            latency=fact.latency,
            attempts=fact.attempts,
            tentative=fact.tentative,
        )
    elif isinstance(fact, Decided):
        _log.info("step.decided", run=fact.run, step=fact.step, votes=fact.votes, margin=fact.margin)
    elif isinstance(fact, AttemptFailed):
        _log.warning(
            "attempt.failed",
            run=fact.run,
            step=fact.step,
            ordinal=fact.ordinal,
            attempt=fact.attempt,
            kind=fact.kind,
            message=fact.message[:_LONGEST],
        )
    elif isinstance(fact, StepOpened):
        _log.debug("step.opened", run=fact.run, step=fact.step, opening=fact.opening)
    elif isinstance(fact, PromptSent):
        _log.debug("prompt.recorded", run=fact.run, step=fact.step, opening=fact.opening, view=fact.view)
    elif isinstance(fact, StepResolved):
        _log.debug("step.resolved", run=fact.run, step=fact.step, confirmed=fact.confirmed)
    else:
        _event(fact)


def _event(fact: RunEvent) -> None:
    _log.info(f"run.{fact.kind}", run=fact.run, reason=fact.reason, author=fact.author)
