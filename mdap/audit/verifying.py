"""Proving a run from its log: everything is asked, read, counted and chained again, offline."""

import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdap.audit.chains import Part, audit_part, audit_tail
from mdap.audit.events import History, check_events
from mdap.audit.findings import Findings, Kind, Mismatch
from mdap.audit.margins import check_margins
from mdap.audit.rows import plain_reading
from mdap.audit.runs import RunFacts, find_run
from mdap.errors import UsageError
from mdap.rules.canonical import canonical
from mdap.tasks import Chain, Task

__all__ = ["MakeTask", "Verification", "verify"]

MakeTask = Callable[[str, Mapping[str, Any]], Task]

_SMALLEST: Final = 2_000
_LARGEST: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of verifying a run.

    Attributes:
        run_id: the run's id.
        task: its task.
        status: how the run stands.
        verdict: ``verified``; ``mismatch``: the record is not what it must be; or ``plugin changed``: the
            record agrees with itself, but the task's code now asks or reads otherwise.
        decisions: decisions checked.
        samples: samples read again.
        votes: votes counted again.
        digest: the head of the digest chain; None before the first decision.
        seal: the last seal; None if no session ended in order.
        mismatches: the first hundred.
        counts: how many mismatches there are, by kind.
        notes: what else a reader should know, a sentence each.
    """

    run_id: str
    task: str
    status: str
    verdict: str
    decisions: int
    samples: int
    votes: int
    digest: str | None
    seal: str | None
    mismatches: tuple[Mismatch, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as it must be."""
        return self.verdict == "verified"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap audit verify --json`` prints."""
        return {
            "run_id": self.run_id,
            "task": self.task,
            "status": self.status,
            "verdict": self.verdict,
            "decisions": self.decisions,
            "samples": self.samples,
            "votes": self.votes,
            "digest": self.digest,
            "seal": self.seal,
            "counts": dict(self.counts),
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Job:
    """What one process is told."""

    path: Path
    facts: RunFacts
    make_task: MakeTask
    oracle: bool


def verify(  # noqa: PLR0913 - the public face: keywords, each of them optional
    db: str | Path,
    run_id: str,
    make_task: MakeTask,
    *,
    oracle: bool = False,
    expect: str | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check everything that the log holds of a run, and that follows from something else in it.

    Args:
        db: path of the log.
        run_id: the run's id, a unique beginning of it, or ``latest``.
        make_task: makes the task from its name and parameters; with several jobs, a function of a module.
        oracle: whether to compare each decision with the task's own truth, too.
        expect: a digest or seal that was noted elsewhere when the run ended.
        jobs: processes to use; with more than one, the calling script must be importable.
        progress: called with the decisions checked so far, and all.

    Raises:
        UsageError: there is no such run, or its task is not to be had.
        DatabaseError: the log cannot be read.
    """
    path = Path(db)
    with plain_reading(path) as connection:
        facts = find_run(connection, run_id)
        task = _chain(facts, make_task)
        job = _Job(path, facts, make_task, oracle)
        whole = Part()
        done = 0
        for span, part in _parts(job, connection, task, jobs):
            whole.merge(part)
            done = span[1]
            if progress is not None:
                progress(done, facts.decisions)
        return _concluded(connection, facts, task, whole, expect)


def _chain(facts: RunFacts, make_task: MakeTask) -> Chain[Any, Any]:
    task = make_task(facts.task, facts.params)
    if not isinstance(task, Chain):
        raise UsageError(f"{facts.task} is no chain: only chains can be verified")
    return task


# -- in parts --------------------------------------------------------------------------------------


def _spans(decisions: int, jobs: int) -> list[tuple[int, int]]:
    size = max(_SMALLEST, min(_LARGEST, -(-decisions // (8 * jobs))))
    return [(first, min(first + size, decisions)) for first in range(0, decisions, size)] or [(0, 0)]


def _parts(
    job: _Job, connection: sqlite3.Connection, task: Chain[Any, Any], jobs: int
) -> Iterator[tuple[tuple[int, int], Part]]:
    spans = _spans(job.facts.decisions, jobs)
    if jobs == 1 or len(spans) == 1:
        for span in spans:
            yield span, audit_part(connection, job.facts, task, span, oracle=job.oracle)
        return
    # Imported here, since few need them.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Not forked: the caller may have threads.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(spans)), context, _ignore_interrupt) as pool:
        try:
            yield from zip(spans, pool.map(_work, [job] * len(spans), spans), strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(job: _Job, span: tuple[int, int]) -> Part:
    with plain_reading(job.path) as connection:
        return audit_part(connection, job.facts, _chain(job.facts, job.make_task), span, oracle=job.oracle)


# -- all together ----------------------------------------------------------------------------------


def _concluded(
    connection: sqlite3.Connection, facts: RunFacts, task: Chain[Any, Any], whole: Part, expect: str | None
) -> Verification:
    findings = whole.findings
    history = check_events(connection, facts, findings)
    tail = audit_tail(connection, facts, task, status=history.status)
    end = (whole.state, whole.over, whole.result)
    whole.merge(tail)
    whole.state, whole.over, whole.result = end
    _check_run(connection, facts, whole, history)
    check_margins(connection, facts, task.length(), findings)
    sql = "SELECT digest FROM decisions WHERE run = ?1 ORDER BY place DESC LIMIT 1"
    row = connection.execute(sql, (facts.number,)).fetchone()
    digest = None if row is None else row[0]
    if expect is not None and expect not in (digest, history.seal):
        findings.add(Kind.SEAL, "digest or seal noted elsewhere", expect, f"{digest} or {history.seal}")
    return Verification(
        run_id=facts.run_id,
        task=facts.task,
        status="running" if history.status in ("started", "resumed") else history.status,
        verdict=_verdict(findings),
        decisions=whole.decisions,
        samples=whole.samples,
        votes=whole.votes,
        digest=digest,
        seal=history.seal,
        mismatches=tuple(findings.listed),
        counts=findings.counts,
        notes=tuple(_notes(facts, task, history, findings)),
    )


def _check_run(connection: sqlite3.Connection, facts: RunFacts, whole: Part, history: History) -> None:
    findings = whole.findings
    _same(findings, Kind.RUN, "k", facts.voting.k, facts.k)
    _same(findings, Kind.EVENT, "steps settled by people", sorted(whole.settled), sorted(history.settled))
    _same(findings, Kind.EVENT, "escalations", sorted(set(whole.escalated)), sorted(set(history.escalated)))
    for table, what, expected in (
        ("samples", "samples", whole.samples),
        ("decisions", "decisions", facts.decisions),
    ):
        sql = f"SELECT count(*) FROM {table} WHERE run = ?1"
        _same(findings, Kind.RUN, what, expected, connection.execute(sql, (facts.number,)).fetchone()[0])
    sql = "SELECT step, opening, ordinal FROM pending WHERE run = ?1 AND step < ?2"
    for place in connection.execute(sql, (facts.number, facts.decisions)):
        findings.add(Kind.SAMPLE, "sample on a guess", "none at a decided step", "one", place)
    # A pilot ends when it has votes enough.
    if history.status == "finished" and facts.kind != "pilot" and whole.state is not None:
        if whole.over:
            result = canonical(history.result)
            _same(findings, Kind.RESULT, "result", whole.result, result, (facts.decisions - 1,))
        else:
            place = (facts.decisions,)
            findings.add(Kind.DECISION, "next decision", "a row in decisions", None, place)


def _same(
    findings: Findings,
    kind: Kind,
    what: str,
    expected: object,
    found: object,
    place: tuple[int | None, ...] = (),
) -> None:
    if expected != found:
        findings.add(kind, what, expected, found, place)


def _verdict(findings: Findings) -> str:
    if not findings.total:
        return "verified"
    return "plugin changed" if findings.only_of_plugin else "mismatch"


def _notes(facts: RunFacts, task: Task, history: History, findings: Findings) -> Iterator[str]:
    changed = task.version != facts.task_version
    if changed:
        yield f"the run was made with version {facts.task_version} of {facts.task}; this is {task.version}"
    if findings.total and findings.only_of_plugin:
        yield (
            "the record agrees with itself: the task's code asks, reads or goes on otherwise than when the "
            "run was made, or the log was forged as a whole: compare the digest with one noted elsewhere"
        )
    if not history.sealed:
        since = "yet" if history.seal is None else "since the last one"
        yield (
            f"no seal was taken {since}, as the run has not ended in order: its events, and samples that "
            "were not counted, can still be changed unnoticed"
        )
