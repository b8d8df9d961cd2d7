"""One commit's facts, as rows for the statements of ``append.sql``."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any, Final

from mdap.journal.statements import KEPT
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

__all__ = ["Batch", "in_blocks"]

_encode: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

Row = Sequence[Any]

_Key = tuple[int, int, int]

# How many rows a statement may have: few sizes, so that each is put together once and then kept. The largest
# is within SQLite's bound on parameters. The interpreter's lock is let go while a statement runs, and a busy
# event loop gives it back after 5 ms only: what counts is how few statements there are.
_SIZES: Final = (1, 4, 16, 64, 256, 1024)

_VALUES: Final = "\nVALUES "

_NULLED: Final = re.compile(r"nullif\(column(\d+), 0\)")


class Batch:
    """Facts by table.

    A tentative sample whose input is resolved in the same batch never enters the *pending* table.

    Args:
        facts: in the order in which they were appended.
    """

    def __init__(self, facts: list[Fact]) -> None:
        self._texts: dict[str, str] = {}
        self._steps: list[Row] = []
        self._samples: list[Row] = []
        self._tentative: dict[_Key, list[SampleTaken]] = {}
        self._resolved: dict[_Key, bool] = {}
        self._decisions: list[Row] = []
        self._events: list[Row] = []
        takers: dict[type[Fact], Callable[[Any], None]] = {
            SampleTaken: self._take_sample,
            Decided: self._decisions.append,
            StepOpened: self._steps.append,
            StepResolved: self._take_resolved,
            AttemptFailed: self._take_event,
            RunEvent: self._take_event,
        }
        for fact in facts:
            takers[type(fact)](fact)

    def _take_sample(self, sample: SampleTaken) -> None:
        if sample.text_digest is not None and sample.text is not None:
            self._texts[sample.text_digest] = sample.text
        if sample.tentative:
            self._tentative.setdefault(sample[:3], []).append(sample)
        else:
            self._samples.append(_row(sample))

    def _take_resolved(self, resolved: StepResolved) -> None:
        self._resolved[resolved[:3]] = resolved.confirmed

    def _take_event(self, event: RunEvent | AttemptFailed) -> None:
        self._events.append(_event(event))

    def statements(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield the name of each statement to execute, and the rows to execute it for."""
        pending: list[Row] = []
        for key, samples in self._tentative.items():
            confirmed = self._resolved.get(key)
            if confirmed is None:
                pending.extend(map(_row, samples))
            elif confirmed:
                self._samples.extend(map(_row, samples))
            else:
                self._samples.extend(_row(_voided(sample)) for sample in samples)
        resolved = self._resolved
        yield "texts", list(self._texts.items())
        yield "steps", self._steps
        yield "samples", self._samples
        yield "pending", pending
        yield "confirm", [key for key, right in resolved.items() if right]
        yield "void", [key for key, right in resolved.items() if not right]
        yield "resolved", list(resolved)
        yield "decisions", self._decisions
        yield "events", self._events


def in_blocks(sql: str, rows: list[Row]) -> Iterator[tuple[str, Row]]:
    """Yield what to execute for *rows*: the statement with as many rows of values as it may have.

    Args:
        sql: a statement of ``append.sql``.
        rows: the parameters of each execution.

    Yields:
        A statement, and its parameters: those of the rows in turn, and zeros to fill it up.
    """
    for at in range(0, len(rows), _SIZES[-1]):
        some = rows[at : at + _SIZES[-1]]
        size = next(size for size in _SIZES if size >= len(some))
        parameters = list(chain.from_iterable(some))
        for place in _often_null(sql):
            column = slice(place, None, len(some[0]))
            parameters[column] = [0 if value is None else value for value in parameters[column]]
        parameters += [0] * ((size - len(some)) * len(some[0]))
        yield _block(sql, size), parameters


@cache
def _often_null(sql: str) -> list[int]:
    """Return the places of the parameters that stand for NULL if they are 0: binding None is slow."""
    return [int(column) - 1 for column in _NULLED.findall(sql)]


@lru_cache(maxsize=KEPT)
def _block(sql: str, size: int) -> str:
    head, _, rest = sql.partition(_VALUES)
    row, end, tail = rest.partition("\n")
    return f"{head}{_VALUES}{', '.join([row] * size)}{end}{tail}"


def _voided(sample: SampleTaken) -> SampleTaken:
    return sample._replace(verdict="void", counted=None)


def _row(sample: SampleTaken) -> Row:
    """Return the row: the columns from *run* to *text_digest*."""
    return sample[:19]


def _event(fact: RunEvent | AttemptFailed) -> tuple[Any, ...]:
    if isinstance(fact, AttemptFailed):
        data = {"ordinal": fact.ordinal, "attempt": fact.attempt, "kind": fact.kind}
        message = clean_text(fact.message)
        return (fact.run, "attempt_failed", None, message, fact.step, fact.opening, _encode(data))
    data_json = None if fact.data is None else _encode(fact.data)
    author, reason = (None if text is None else clean_text(text) for text in (fact.author, fact.reason))
    return (fact.run, fact.kind, author, reason, None, None, data_json)
