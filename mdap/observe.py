"""Emit each recorded fact as one log event, once it is durable."""

import logging
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final

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

_LONGEST: Final = 500
_STANDARD: Final = logging.getLogger("mdap.run")
# Otherwise Python prints warnings in a program that configures no logging.
_STANDARD.addHandler(logging.NullHandler())
_LEVELS: Final = {
    "failed": logging.ERROR,
    "undecided": logging.WARNING,
    "stopped": logging.WARNING,
    "refused": logging.WARNING,
    "left_out": logging.WARNING,
    "warning": logging.WARNING,
}
_FACTS: Final = {
    AttemptFailed: (logging.WARNING, "attempt.failed", ("step", "ordinal", "attempt", "kind")),
    Decided: (logging.INFO, "step.decided", ("step", "votes", "margin")),
    PromptSent: (logging.DEBUG, "prompt.recorded", ("step", "opening", "view")),
    SampleTaken: (
        logging.DEBUG,
        "sample.taken",
        ("step", "ordinal", "verdict", "flag_reason", "answer_key", "latency", "attempts", "tentative"),
    ),
    StepOpened: (logging.DEBUG, "step.opened", ("step", "opening")),
    StepResolved: (logging.DEBUG, "step.resolved", ("step", "confirmed")),
}


class Watch:
    """Emit facts as log events: flat, with dotted names, without the text of prompts and replies.

    *named* are the ids of running runs, by number. If *configured*, events go to the program's structlog
    configuration, instead of to the logger ``mdap.run`` of the standard library.
    """

    def __init__(self, named: Mapping[int, str], *, configured: bool = False) -> None:
        self._named = named
        self._configured = configured
        self._log: Any = structlog.get_logger("mdap") if configured else _standard()

    def every(self) -> bool:
        """Return whether a logger takes events of steps and samples, not only of runs."""
        return self._configured or _STANDARD.isEnabledFor(logging.INFO)

    def __call__(self, fact: Fact) -> None:
        """Emit *fact*; an error in the logger does not end the run: the fact is durable."""
        level, event, fields = _described(fact)
        with suppress(Exception):
            self._log.log(level, event, run_id=self._named.get(fact.run), run=fact.run, **fields)


def _standard() -> Any:
    return structlog.wrap_logger(
        _STANDARD,
        processors=[structlog.stdlib.filter_by_level, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _as_record(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return arguments for the standard library's logger: a message, and fields as attributes."""
    name = event.pop("event")
    trace = event.get("traceback")
    shown = (f"{key}={_worded(value)}" for key, value in event.items() if key != "traceback")
    text = " ".join((name, *(one for one in shown if not one.endswith("=None"))))
    return {"msg": f"{text}\n{trace}" if trace else text, "extra": {"event": name, **event}}


def _worded(value: Any) -> str:
    return repr(value) if isinstance(value, str) and not value.replace("-", "").isalnum() else str(value)


def _described(fact: Fact) -> tuple[int, str, dict[str, Any]]:
    """Return the level, name and fields of the event for *fact*."""
    if isinstance(fact, RunEvent):
        return _of_run(fact)
    level, event, names = _FACTS[type(fact)]
    fields = {name: getattr(fact, name) for name in names}
    if isinstance(fact, AttemptFailed):
        fields["error"] = fact.message[:_LONGEST]
    return level, event, fields


def _of_run(fact: RunEvent) -> tuple[int, str, dict[str, Any]]:
    fields: dict[str, Any] = {"reason": fact.reason, "author": fact.author}
    for name in ("stop_cause", "traceback"):
        if fact.data is not None and name in fact.data:
            fields[name] = fact.data[name]
    return _LEVELS.get(fact.kind, logging.INFO), f"run.{fact.kind}", fields
