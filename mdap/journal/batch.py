"""One commit's facts, sorted by table and spelled as the JSON that ``append.sql`` reads."""

import json
from collections.abc import Iterator
from typing import Any, Final

from mdap.records import (
    AttemptFailed,
    Decided,
    Fact,
    RunEvent,
    SampleTaken,
    StepOpened,
    StepResolved,
)
from mdap.rules.redflags import clean_text

__all__ = ["Batch"]

_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode

_Key = tuple[int, int, int]


class Batch:
    """Facts by table.

    A tentative sample whose input is resolved in the same batch never enters the *pending* table.

    Args:
        facts: in the order in which they were appended.
    """

    def __init__(self, facts: list[Fact]) -> None:
        self._texts: dict[str, str] = {}
        self._steps: list[StepOpened] = []
        self._samples: list[str] = []
        self._tentative: dict[_Key, list[SampleTaken]] = {}
        self._resolved: dict[_Key, bool] = {}
        self._decisions: list[Decided] = []
        self._events: list[tuple[Any, ...]] = []
        for fact in facts:
            self._sort(fact)

    def _sort(self, fact: Fact) -> None:
        if isinstance(fact, SampleTaken):
            if fact.text_digest is not None and fact.text is not None:
                self._texts[fact.text_digest] = fact.text
            if fact.tentative:
                self._tentative.setdefault(fact[:3], []).append(fact)
            else:
                self._samples.append(_row(fact))
        elif isinstance(fact, Decided):
            self._decisions.append(fact)
        elif isinstance(fact, StepOpened):
            self._steps.append(fact)
        elif isinstance(fact, StepResolved):
            self._resolved[fact[:3]] = fact.confirmed
        else:
            self._events.append(_event(fact))

    def statements(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each statement to execute, and its rows as one JSON array."""
        pending: list[str] = []
        for key, samples in self._tentative.items():
            confirmed = self._resolved.get(key)
            if confirmed is None:
                pending.extend(_row(sample) for sample in samples)
            elif confirmed:
                self._samples.extend(_row(sample) for sample in samples)
            else:
                self._samples.extend(_row(_voided(sample)) for sample in samples)
        if self._texts:
            yield "texts", _encode(list(self._texts.items()))
        if self._steps:
            yield "steps", _encode(self._steps)
        if self._samples:
            yield "samples", _joined(self._samples)
        if pending:
            yield "pending", _joined(pending)
        yield from self._resolutions()
        if self._decisions:
            yield "decisions", _encode(self._decisions)
        if self._events:
            yield "events", _encode(self._events)

    def _resolutions(self) -> Iterator[tuple[str, str]]:
        confirmed = [key for key, right in self._resolved.items() if right]
        void = [key for key, right in self._resolved.items() if not right]
        if confirmed:
            yield "confirm", _encode(confirmed)
        if void:
            yield "void", _encode(void)
        if self._resolved:
            yield "resolved", _encode(list(self._resolved))


def _voided(sample: SampleTaken) -> SampleTaken:
    return sample._replace(verdict="void", counted=None, line="")


def _row(sample: SampleTaken) -> str:
    """Return the row's JSON; the part that the digest chain covers is already spelled in its line."""
    line = sample.line or _encode(sample[4:19])
    counted = "null" if sample.counted is None else sample.counted
    return f"[{sample.run},{sample.step},{sample.opening},{counted},{line[1:]}"


def _joined(rows: list[str]) -> str:
    return f"[{','.join(rows)}]"


def _event(fact: RunEvent | AttemptFailed) -> tuple[Any, ...]:
    if isinstance(fact, AttemptFailed):
        data = {"ordinal": fact.ordinal, "attempt": fact.attempt, "kind": fact.kind}
        message = clean_text(fact.message)
        return (fact.run, "attempt_failed", None, message, fact.step, fact.opening, _encode(data))
    data_json = None if fact.data is None else _encode(fact.data)
    author, reason = (None if text is None else clean_text(text) for text in (fact.author, fact.reason))
    return (fact.run, fact.kind, author, reason, None, None, data_json)
