"""A log as Python values: iterators over runs, decided steps and samples, and frames of them."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from mdap.audit.review import doubts_of
from mdap.audit.runs import find_number, source_of
from mdap.errors import DatabaseError, UsageError
from mdap.journal.logfile import reading
from mdap.journal.rows import run_row, sample_of
from mdap.journal.statements import query
from mdap.records import NOTED, Outcome, SampleEntry
from mdap.rules.certificate import outcome_of

_PAGE: Final = 1_000

# Columns of the original decision, where a run copied it from the run that it overrides.
_MADE: Final = ("tally", "margin", "author", "reason", "samples", "red_flags")


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run.

    Attributes:
        run_id: its name.
        kind: run, pilot, batch, ...
        parent: the name of the run it is a part of; None for none.
        params: the task's parameters.
        settings: its voting settings.
        provider: the source of its samples.
        status: running, finished, undecided, stopped or failed; a killed run is *running*, too.
        outcome: the task's verdict on the result, solved or not solved; None if it gave none.
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
        place: its position in the order of decisions, from 0.
        opening: the number of the opening that was decided.
        key: its name within the run.
        input: the step's input, as JSON values.
        answer: the winner, as JSON values.
        votes: votes by each candidate's canonical JSON.
        margin: the winner's lead.
        author: the person who settled it; None for a vote.
        reason: that person's reason.
        digest: the head of the digest chain after it.
        samples: all samples of that opening, valid or not.
        red_flags: discarded samples.
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


class Log(AbstractContextManager["Log"]):
    """A log that is open for reading; use it as ``with mdap.open_log(path) as log``.

    It reads rows a page at a time, so memory use stays constant and the run can continue.

    Args:
        path: the database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(reading(path))

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _rows(self, name: str, *values: Any) -> list[sqlite3.Row]:
        try:
            return query(self._connection, name, *values).fetchall()
        except sqlite3.Error as error:
            raise DatabaseError(f"{self._path} cannot be read ({error})") from error

    def runs(self) -> Iterator[RunEntry]:
        """Yield all runs, oldest first."""
        return map(_run_entry, self._rows("entries_of_runs", None))

    def run(self, run_id: str) -> RunEntry:
        """Return one run.

        Args:
            run_id: the run's id, a unique prefix of it, or ``latest``.

        Raises:
            UsageError: there is no such run.
        """
        return _run_entry(*self._rows("entries_of_runs", find_number(self._connection, run_id)))

    def steps(self, run_id: str) -> Iterator[StepEntry]:
        """Yield the decided steps of a run, in the order of their decisions.

        A decision copied from an overridden run appears as that run made it.

        Args:
            run_id: the run's id, a unique prefix of it, or ``latest``.

        Raises:
            UsageError: there is no such run.
        """
        run, place = find_number(self._connection, run_id), -1
        source = source_of(self._connection, run)
        while rows := self._rows("entries_of_steps", run, place, _PAGE):
            for row in rows:
                values = self._as_made(dict(row), source)
                for name, column in (("input", "input"), ("answer", "winner"), ("votes", "tally")):
                    values[name] = json.loads(values.pop(column) or "null")
                yield StepEntry(**values)
            place = rows[-1]["place"]

    def _as_made(self, values: dict[str, Any], source: int | None) -> dict[str, Any]:
        """Return the columns of the original decision if the run copied it from *source*."""
        while source is not None and values["author"] == NOTED:
            there = self._rows("entry_of_step", source, values["step"])
            if not there:
                break
            values |= {name: there[0][name] for name in _MADE}
            source = source_of(self._connection, source)
        return values

    def doubts(self, run_id: str) -> Callable[[StepEntry], float | None]:
        """Return a function from a step to the probability that its winner is wrong.

        The probability is that of `mdap audit review`, from all votes of the run. It is None for a step
        decided without votes, or by a lead of one.

        Args:
            run_id: the run's id, a unique prefix of it, or ``latest``.

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
            run_id: the run's id, a unique prefix of it, or ``latest``.

        Raises:
            UsageError: there is no such run.
        """
        run, place = find_number(self._connection, run_id), (-1, -1, -1)
        while rows := self._rows("entries_of_samples", run, *place, _PAGE):
            for sample in map(sample_of, rows):
                yield sample.entry()
                place = (sample.step, sample.opening, sample.ordinal)

    def frame(
        self,
        what: Literal["runs", "steps", "samples"],
        run_id: str = "latest",
        *,
        library: Literal["pandas", "polars"] = "pandas",
    ) -> Any:
        """Return runs, decided steps or samples as a data frame.

        Columns with JSON values (*input*, *answer*, *votes*, *params*, ...) become JSON text.

        Args:
            what: ``"runs"``, ``"steps"`` or ``"samples"``.
            run_id: the run's id, a unique prefix of it, or ``latest``; ignored for ``"runs"``.
            library: ``"pandas"`` or ``"polars"``, which must be installed.

        Raises:
            UsageError: there is no such run, or the library is not installed.
        """
        if what == "runs":
            rows = [asdict(run) for run in self.runs()]
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
    run = run_row(row)
    columns = {name: getattr(run, name) for name in RunEntry.__dataclass_fields__}
    columns |= {"parent": row["parent_name"], "status": str(run.status)}
    columns["outcome"] = None if run.outcome is None else outcome_of(run.outcome, None, 0)
    return RunEntry(**columns)


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
        advice = f"install it with `pip install 'mdap[{library}]'`"
        raise UsageError(f"{library} is not installed: {advice}") from None
    return pandas.DataFrame(rows)


def open_log(path: str | Path = "mdap.db") -> Log:
    """Open a log to read it from Python.

    Args:
        path: the database.

    Raises:
        UsageError: there is no such file.
        DatabaseError: it is not an mdap database, or has another schema.
    """
    return Log(Path(path))
