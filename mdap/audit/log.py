"""A log as Python values: iterators over runs, decided steps and samples, and frames of them."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from mdap.audit.doubts import doubts_of
from mdap.audit.runs import find_number, source_of
from mdap.errors import DatabaseError, UsageError
from mdap.logfile import TEXTS, reading
from mdap.records import NOTED, Outcome
from mdap.rules.outcomes import outcome_of

__all__ = ["Log", "RunEntry", "SampleEntry", "StepEntry", "open_log"]

_PAGE: Final = 1_000

_RUNS: Final = """
SELECT run_id, kind, (SELECT run_id FROM runs p WHERE p.id = r.parent) AS parent, task, task_version,
       params, settings, provider, k, mdap_version, created_at, outcome,
       (SELECT kind FROM run_events e WHERE e.run = r.id
        AND e.kind IN ('started', 'resumed', 'finished', 'undecided', 'stopped', 'failed')
        ORDER BY e.id DESC LIMIT 1) AS status
FROM runs r WHERE ?1 IS NULL OR r.id = ?1 ORDER BY id"""
_COLUMNS: Final = """
SELECT d.place, d.step, d.opening, p.key, p.input, d.winner, d.tally, d.margin, d.author, d.reason, d.digest,
       count(s.ordinal) AS samples, coalesce(sum(s.verdict = 'flag'), 0) AS red_flags"""
_JOINED: Final = """
LEFT JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening
LEFT JOIN samples s ON s.run = d.run AND s.step = d.step AND s.opening = d.opening
GROUP BY d.place ORDER BY d.place"""
_STEPS: Final = f"""{_COLUMNS}
FROM (SELECT * FROM decisions WHERE run = ?1 AND place > ?2 ORDER BY place LIMIT {_PAGE}) d {_JOINED}"""
_STEP: Final = f"{_COLUMNS} FROM (SELECT * FROM decisions WHERE run = ?1 AND step = ?2) d {_JOINED}"
# How a decision was made that was taken over from a run that was overridden.
_MADE: Final = ("tally", "margin", "author", "reason", "samples", "red_flags")


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run.

    Attributes:
        run_id: its name.
        kind: run, pilot, batch, ...
        parent: the name of the run it is a part of; None for none.
        params: the task's parameters.
        settings: how its steps are decided.
        provider: where its samples come from.
        status: running, finished, undecided, stopped or failed; a killed run is *running*, too.
        outcome: what its task said of its result: solved or not solved; None if nothing.
    """

    run_id: str
    kind: str
    parent: str | None
    task: str
    task_version: str
    params: dict[str, Any]
    settings: dict[str, Any]
    provider: dict[str, Any]
    k: int
    mdap_version: str
    created_at: str
    status: str
    outcome: Outcome | None


class StepEntry(NamedTuple):
    """A decided step.

    Attributes:
        place: its place in the order of decisions, from 0.
        opening: which of its openings was decided.
        key: its name within the run.
        input: what it was about, as JSON values.
        answer: the winner, as JSON values.
        votes: votes by each candidate's canonical JSON.
        margin: the winner's lead.
        author: who settled it; None for a vote.
        reason: why that person settled it so.
        digest: the head of the digest chain after it.
        samples: all samples of that opening, whatever became of them.
        red_flags: those that were discarded.
    """

    place: int
    step: int
    opening: int
    key: str
    input: Any
    answer: Any
    votes: dict[str, int]
    margin: int
    author: str | None
    reason: str | None
    digest: str
    samples: int
    red_flags: int


class SampleEntry(NamedTuple):
    """A sample, with its text; the columns are those of the table *samples*."""

    step: int
    opening: int
    ordinal: int
    verdict: str
    counted: int | None
    answer_key: str | None
    flag_reason: str | None
    model: str
    view: int
    temperature: float | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    latency: float | None
    attempts: int
    request_id: str | None
    finish_reason: str | None
    text: str | None
    served_model: str | None
    fingerprint: str | None
    reasoning_tokens: int | None
    reasoning: str | None
    began: int | None
    cache_write_tokens: int | None


_BODIES: Final = {"text": "t.body", "reasoning": "h.body"}
_SAMPLES: Final = f"""
SELECT {", ".join(_BODIES.get(name, f"s.{name}") for name in SampleEntry._fields)}
FROM samples s {TEXTS}
WHERE s.run = ?1 AND (s.step, s.opening, s.ordinal) > (?2, ?3, ?4)
ORDER BY s.step, s.opening, s.ordinal LIMIT {_PAGE}"""


class Log(AbstractContextManager["Log"]):
    """A log that is open for reading; use it as ``with mdap.open_log(path) as log``.

    What it yields is read a page at a time, so memory stays flat, and a run may go on meanwhile.

    Args:
        path: the database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(reading(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise DatabaseError(f"{self._path} cannot be read ({error})") from error

    def runs(self) -> Iterator[RunEntry]:
        """Yield all runs, the oldest first."""
        return map(_run_entry, self._rows(_RUNS, None))

    def run(self, run_id: str) -> RunEntry:
        """Return one run.

        Args:
            run_id: the run's id, a unique beginning of it, or ``latest``.

        Raises:
            UsageError: there is no such run.
        """
        return _run_entry(*self._rows(_RUNS, find_number(self._connection, run_id)))

    def steps(self, run_id: str) -> Iterator[StepEntry]:
        """Yield the decided steps of a run, in the order of their decisions.

        A decision that it took over from a run that it overrides is told as it was made there.

        Args:
            run_id: the run's id, a unique beginning of it, or ``latest``.

        Raises:
            UsageError: there is no such run.
        """
        run, place = find_number(self._connection, run_id), -1
        source = source_of(self._connection, run)
        while rows := self._rows(_STEPS, run, place):
            for row in rows:
                values = self._as_made(dict(row), source)
                for name, column in (("input", "input"), ("answer", "winner"), ("votes", "tally")):
                    values[name] = json.loads(values.pop(column) or "null")
                yield StepEntry(**values)
            place = rows[-1]["place"]

    def _as_made(self, values: dict[str, Any], source: int | None) -> dict[str, Any]:
        """Return the columns of a decision as it was made, if it was taken over from *source*."""
        while source is not None and values["author"] == NOTED:
            there = self._rows(_STEP, source, values["step"])
            if not there:
                break
            values |= {name: there[0][name] for name in _MADE}
            source = source_of(self._connection, source)
        return values

    def doubts(self, run_id: str) -> Callable[[StepEntry], float | None]:
        """Return what tells the chance that the winner of a step is wrong, going by all votes of the run.

        It is that of `mdap audit review`; None for a step that no vote decided, or by a lead of one.

        Args:
            run_id: the run's id, a unique beginning of it, or ``latest``.

        Raises:
            UsageError: there is no such run.
        """
        known = doubts_of(self._connection, find_number(self._connection, run_id))

        def doubt(step: StepEntry) -> float | None:
            if step.author is not None:
                return None
            won = max(step.votes.values(), default=0)
            found = known.get((won, won - step.margin, sum(step.votes.values())))
            return None if found is None else float(f"{found:.6g}")

        return doubt

    def samples(self, run_id: str) -> Iterator[SampleEntry]:
        """Yield all samples of a run, by step, opening and ordinal.

        Args:
            run_id: the run's id, a unique beginning of it, or ``latest``.

        Raises:
            UsageError: there is no such run.
        """
        run, place = find_number(self._connection, run_id), (-1, -1, -1)
        while rows := self._rows(_SAMPLES, run, *place):
            yield from map(SampleEntry._make, rows)
            last = rows[-1]
            place = (last["step"], last["opening"], last["ordinal"])

    def frame(
        self,
        what: Literal["runs", "steps", "samples"],
        run_id: str = "latest",
        *,
        library: Literal["pandas", "polars"] = "pandas",
    ) -> Any:
        """Return runs, decided steps or samples as a data frame.

        Columns that hold JSON values (*input*, *answer*, *votes*, *params*, ...) are JSON text in it.

        Args:
            what: ``"runs"``, ``"steps"`` or ``"samples"``.
            run_id: the run, for steps and samples.
            library: ``"pandas"`` or ``"polars"``, which must be installed.

        Raises:
            UsageError: there is no such run, or the library is not installed.
        """
        if what == "runs":
            rows = [{field.name: getattr(run, field.name) for field in fields(run)} for run in self.runs()]
        else:
            entries = self.steps(run_id) if what == "steps" else self.samples(run_id)
            rows = [entry._asdict() for entry in entries]
        return _frame(rows, what, library)


_JSON: Final = {
    "runs": ("params", "settings", "provider"),
    "steps": ("input", "answer", "votes"),
    "samples": (),
}


def _run_entry(row: sqlite3.Row) -> RunEntry:
    values = dict(row)
    for name in ("params", "settings", "provider"):
        values[name] = json.loads(values[name])
    if values["status"] in (None, "started", "resumed"):
        values["status"] = "running"
    if values["outcome"] is not None:
        values["outcome"] = outcome_of(values["outcome"], None, 0)
    return RunEntry(**values)


def _frame(rows: list[dict[str, Any]], what: str, library: str) -> Any:
    for row in rows:
        for name in _JSON[what]:
            row[name] = json.dumps(row[name], separators=(",", ":"), ensure_ascii=False)
    try:
        if library == "polars":
            import polars

            return polars.DataFrame(rows, infer_schema_length=None)
        import pandas
    except ModuleNotFoundError:
        raise UsageError(
            f"{library} is not installed: install it with `pip install 'mdap[{library}]'`"
        ) from None
    return pandas.DataFrame(rows)


def open_log(path: str | Path = "mdap.db") -> Log:
    """Open a log to read it from Python.

    Args:
        path: the database.

    Raises:
        UsageError: there is no such file.
        DatabaseError: it is no mdap database, or of another schema.
    """
    return Log(Path(path))
