"""One commit's facts, as parameters for the statements of ``append.sql``."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from typing import Any, Final

from mdap.journal.statements import KEPT
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
from mdap.rules.redflags import clean_text

_encode: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

_Key = tuple[int, int, int]

# Rows per statement: few sizes, so that mdap builds each statement once and keeps it. The largest
# is within SQLite's limit on parameters. Each statement releases the interpreter's lock, and a busy
# event loop returns it only after 5 ms: fewer statements mean a faster commit.
_SIZES: Final = (1, 4, 16, 64, 256, 1024)

_VALUES: Final = "\nVALUES "

_NULLED: Final = re.compile(r"nullif\(column(\d+), -1\)")


@dataclass(slots=True)
class NewRun:
    """A row for *runs*; its commit sets its number, or the error with which the table refused it."""

    columns: Mapping[str, Any]
    number: int | None = None
    error: Exception | None = None


class Batch:
    """One commit's facts and new runs, by table.

    It flattens steps, samples and decisions on arrival: the garbage collector would scan waiting objects
    again and again. Events wait as objects, and so do samples whose input is still a guess: one that is
    resolved in the same batch never enters the *pending* table.
    """

    def __init__(self) -> None:
        self.size = 0
        self.runs: list[NewRun] = []
        self._texts: dict[str, str] = {}
        # Parameters, row after row.
        self._steps: list[Any] = []
        self._prompts: list[Any] = []
        self._samples: list[Any] = []
        self._decisions: list[Any] = []
        self._tentative: dict[_Key, list[SampleTaken]] = {}
        self._resolved: dict[_Key, bool] = {}
        self.events: list[RunEvent | AttemptFailed] = []
        self._outcomes: dict[int, str | None] = {}

    def begin(self, run: NewRun) -> None:
        """Add a new run."""
        self.size += 1
        self.runs.append(run)

    def take(self, fact: Fact) -> None:
        """Add *fact*; facts arrive in the order in which they happened."""
        self.size += 1
        if isinstance(fact, SampleTaken):
            if fact.text_digest is not None and fact.text is not None:
                self._texts[fact.text_digest] = fact.text
            if fact.reasoning_digest is not None and fact.reasoning is not None:
                self._texts[fact.reasoning_digest] = fact.reasoning
            if fact.tentative:
                self._tentative.setdefault((fact.run, fact.step, fact.opening), []).append(fact)
            else:
                self._samples += fact.row()
        elif isinstance(fact, Decided):
            self._decisions += fact
        elif isinstance(fact, StepOpened):
            self._steps += fact
        elif isinstance(fact, PromptSent):
            self._texts |= {digest: text for digest, text in fact.texts() if digest and text is not None}
            self._prompts += fact.row()
        elif isinstance(fact, StepResolved):
            self._resolved[fact.run, fact.step, fact.opening] = fact.confirmed
        else:
            self.events.append(fact)
            if (
                isinstance(fact, RunEvent)
                and fact.kind == "finished"
                and fact.data
                and "outcome" in fact.data
            ):
                self._outcomes[fact.run] = fact.data["outcome"]

    def statements(self) -> Iterator[tuple[str, list[Any]]]:
        """Yield the name of each statement to execute, and its parameters, row after row."""
        resolved = self._resolved
        known: list[Any] = []
        pending: list[Any] = []
        for key, samples in self._tentative.items():
            confirmed = resolved.get(key)
            for sample in samples:
                if confirmed is None:
                    pending += sample.row()
                else:
                    right = sample if confirmed else sample._replace(verdict="void", counted=None)
                    known += right.row()
        yield "texts", _flat(self._texts.items())
        yield "steps", self._steps
        yield "prompts", self._prompts
        yield "samples", self._samples + known if known else self._samples
        yield "pending", pending
        yield "confirm", _flat(key for key, right in resolved.items() if right)
        yield "void", _flat(key for key, right in resolved.items() if not right)
        yield "resolved", _flat(resolved)
        yield "decisions", self._decisions
        yield "events", _flat(map(_event, self.events))
        yield "outcomes", _flat(self._outcomes.items())


def _flat(rows: Iterable[Sequence[Any]]) -> list[Any]:
    return list(chain.from_iterable(rows))


def in_blocks(sql: str, parameters: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the statements to execute for one of ``append.sql``, each with as many rows as possible.

    *parameters* are those of all rows, row after row; zeros pad those of a statement.
    """
    width = sql.count("?")
    if len(parameters) % width:
        raise ValueError(f"{len(parameters)} values are no rows of {width}")
    most = _SIZES[-1] * width
    for at in range(0, len(parameters), most):
        some = parameters[at : at + most]
        size = next(size for size in _SIZES if size * width >= len(some))
        for place in _often_null(sql):
            column = slice(place, None, width)
            some[column] = [-1 if value is None else value for value in some[column]]
        some += [0] * (size * width - len(some))
        yield _block(sql, size), some


@cache
def _often_null(sql: str) -> list[int]:
    """Return the positions of parameters for which 0 means NULL: binding None is slow."""
    return [int(column) - 1 for column in _NULLED.findall(sql)]


@lru_cache(maxsize=KEPT)
def _block(sql: str, size: int) -> str:
    head, _, rest = sql.partition(_VALUES)
    row, end, tail = rest.partition("\n")
    return f"{head}{_VALUES}{', '.join([row] * size)}{end}{tail}"


def _event(fact: RunEvent | AttemptFailed) -> tuple[Any, ...]:
    if isinstance(fact, AttemptFailed):
        data: dict[str, Any] = {"ordinal": fact.ordinal, "attempt": fact.attempt, "kind": fact.kind}
        if fact.ended is not None:
            data |= {"began": fact.began, "ended": fact.ended}
        billed = {"input_tokens": fact.input_tokens, "output_tokens": fact.output_tokens}
        if any(tokens is not None for tokens in billed.values()):
            data |= {"model": fact.model, **billed}
        message = clean_text(fact.message)
        return (fact.run, "attempt_failed", None, message, fact.step, fact.opening, _encode(data))
    data_json = None if fact.data is None else _encode(fact.data)
    author, reason = (None if text is None else clean_text(text) for text in (fact.author, fact.reason))
    return (fact.run, fact.kind, author, reason, None, None, data_json)
