"""Check the parts of a long chain in parallel processes."""

import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdap.audit.chains import audit_part
from mdap.audit.findings import AuditResult
from mdap.audit.rows import plain_reading
from mdap.audit.runs import RunFacts
from mdap.tasks import Chain, Task

__all__ = ["Job", "MakeTask", "audit_parts"]

MakeTask = Callable[[str, Mapping[str, Any]], Task]

_SMALLEST: Final = 2_000
_LARGEST: Final = 20_000
# Checking fewer decisions than this takes less time than starting processes.
_WORTHWHILE: Final = 40_000


@dataclass(frozen=True, slots=True)
class Job:
    """The log to check, and how to check it.

    Attributes:
        path: the log.
        make_task: makes a task from its name and parameters.
        oracle: whether to compare decisions with the truth.
        jobs: processes to use.
        expect: a digest or seal noted elsewhere.
        allow_unsealed: whether a run that has ended may lack its seal.
        signers: a file of allowed signers, of whom one must have signed the seal.
    """

    path: Path
    make_task: MakeTask
    oracle: bool
    jobs: int
    expect: str | None
    allow_unsealed: bool
    signers: Path | None


def _spans(decisions: int, jobs: int) -> list[tuple[int, int]]:
    size = max(_SMALLEST, min(_LARGEST, -(-decisions // (8 * jobs))))
    return [(first, min(first + size, decisions)) for first in range(0, decisions, size)] or [(0, 0)]


def audit_parts(
    connection: sqlite3.Connection, job: Job, facts: RunFacts, task: Chain[Any, Any]
) -> Iterator[AuditResult]:
    """Check the decisions of a chain, and yield the result of each part in order.

    Args:
        connection: the log, with rows as tuples.
        job: how to check.
        facts: the run.
        task: the run's task.
    """
    spans = _spans(facts.decisions, job.jobs)
    if job.jobs == 1 or facts.decisions < _WORTHWHILE:
        for span in spans:
            yield audit_part(connection, facts, task, span, oracle=job.oracle)
        return
    # Imported here: few callers need them.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Not forked: the caller may have threads.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(job.jobs, len(spans)), context, _ignore_interrupt) as pool:
        try:
            yield from pool.map(_work, [job] * len(spans), [facts] * len(spans), spans)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(job: Job, facts: RunFacts, span: tuple[int, int]) -> AuditResult:
    task = job.make_task(facts.task, facts.params)
    assert isinstance(task, Chain)
    with plain_reading(job.path) as connection:
        return audit_part(connection, facts, task, span, oracle=job.oracle)
