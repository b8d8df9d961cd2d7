"""Verify a run from its log: rebuild prompts, parse replies, recount votes and digests, all offline."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdap.audit.budget import check_budget
from mdap.audit.chains import Job, MakeTask, audit_part, audit_parts, audit_tail
from mdap.audit.events import History, Signature, check_events, checked
from mdap.audit.findings import AuditResult, Findings, Kind, Mismatch
from mdap.audit.processes import audit_process
from mdap.audit.runs import RunFacts, find_number, plain_reading, run_facts
from mdap.errors import PluginError, UsageError
from mdap.journal.integrity import OF_A_RUN, check_types
from mdap.journal.statements import query
from mdap.records import Outcome
from mdap.rules.canonical import canonical
from mdap.rules.certificate import outcome_of, recorded, said_by
from mdap.rules.digests import SIGNED
from mdap.rules.ledger import Ledger
from mdap.rules.parameters import version_of
from mdap.tasks import Chain, Process, Task

_MOST_NOTES: Final = 100
_UNDER_WAY: Final = ("started", "resumed")
# mdap numbers these rows one by one and deletes none.
_NUMBERED: Final = ("runs", "run_events")
_ONLY_OF_PLUGIN: Final = (
    "the record agrees with itself: the task's code asks, reads or goes on otherwise than when the run was "
    "made, or the log was forged as a whole: compare the digest with one noted elsewhere"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of verifying a run.

    Attributes:
        run_id: the run's id.
        task: its task.
        status: the run's status.
        outcome: the task's verdict on the result, solved or not solved; None if it gives none.
        verdict: ``verified``; ``mismatch``: the record does not match; ``plugin changed``: the
            record agrees with itself, but the task's prompts or parser have changed; ``wrong decisions``:
            the record is unchanged, but the task's oracle disagrees; ``empty``: the record
            holds nothing of the run; ``not sealed``: the run has ended, and its last event or its seal is
            missing; or
            ``not signed``: no allowed signer has signed its seal.
        decisions: decisions checked.
        samples: samples parsed again.
        votes: votes counted again.
        digest: the head of the digest chain; None before the first decision.
        seal: the last seal; None if no session ended normally.
        signatures: its signatures; see `Signature`.
        counts: the number of mismatches by kind.
        mismatches: the first hundred.
        notes: further notes for the reader, one sentence each.
    """

    run_id: str
    task: str
    status: str
    outcome: Outcome | None
    verdict: str
    decisions: int
    samples: int
    votes: int
    digest: str | None
    seal: str | None
    signatures: tuple[Signature, ...]
    counts: Mapping[str, int]
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything matches."""
        return self.verdict == "verified"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that ``mdap audit verify --json`` prints."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "outcome": None if self.outcome is None else str(self.outcome),
            "signatures": [signature._asdict() for signature in self.signatures],
            "counts": dict(self.counts),
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
            "notes": list(self.notes),
        }


def verify(  # noqa: PLR0913 - public API, all keywords optional
    db: str | Path,
    run_id: str,
    make_task: MakeTask,
    *,
    oracle: bool = False,
    expect: str | None = None,
    allow_unsealed: bool = False,
    signers: str | Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Verify a run: check every row of it that other rows or its task determine.

    Args:
        db: path of the log.
        run_id: the run's id, a unique prefix of it, or ``latest``.
        make_task: makes the task from its name and parameters; with several jobs, a function of a module.
        oracle: whether to compare each decision with the task's own truth, too.
        expect: a digest or seal that you noted elsewhere when the run ended.
        allow_unsealed: whether a run that has ended may lack its seal.
        signers: a file of allowed signers, as ``ssh-keygen`` reads it, of whom one must have signed the seal.
        jobs: processes to use; with more than one, the calling script must be importable.
        progress: called with the numbers of decisions checked so far and in total.

    Returns:
        The verdict and the mismatches.

    Raises:
        UsageError: there is no such run, or its task is not available.
        DatabaseError: the log cannot be read, or holds values that mdap never writes.
    """
    job = Job(Path(db), make_task, oracle, jobs, expect, allow_unsealed, signers)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _verified(job, run_id, progress)
    # To verify a process, mdap runs it in its own event loop, and a thread has only one.
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(_verified, job, run_id, progress).result()


def _verified(job: Job, run_id: str, progress: Callable[[int, int], None] | None) -> Verification:
    with plain_reading(job.path) as connection:
        audit = _Audit(connection, job, progress)
        facts, history = audit.tree(find_number(connection, run_id))
        signed = [text for _, text in query(connection, "events_of_kind", facts.number, SIGNED)]
        return _concluded(facts, history, audit, tuple(checked(signed, facts.run_id, job.signers)))


class _Audit:
    """An audit under way, of a run and of all its parts."""

    def __init__(
        self, connection: sqlite3.Connection, job: Job, progress: Callable[[int, int], None] | None
    ) -> None:
        self.job = job
        self.whole = AuditResult()
        self.unsealed: list[str] = []
        self._connection = connection
        self._progress = progress
        self._all = 0

    def tree(self, number: int) -> tuple[RunFacts, History]:
        """Check a run and its parts, and return the run and its events."""
        check_types(self._connection, self.job.path)
        _check_strays(self._connection, self.whole.findings)
        [self._all] = query(self._connection, "count_decisions", number).fetchone()
        facts, history, part = self._run(number)
        self.whole.merge(part)
        for [inner] in query(self._connection, "parts_of_tree", number).fetchall():
            of_part, _, part = self._run(inner)
            part.notes = [f"part {of_part.run_id}: {note}" for note in part.notes]
            self.whole.merge(part, of_part.run_id)
        return facts, history

    def _run(self, number: int) -> tuple[RunFacts, History, AuditResult]:
        """Check one run: most of a chain while it may still run, and the rest in one snapshot of the log."""
        check_types(self._connection, self.job.path, number)
        facts = run_facts(self._connection, number)
        task = self._task(facts)
        whole = self._decided(facts, task) if isinstance(task, Chain) else AuditResult()
        self._connection.execute("BEGIN")
        try:
            seen, facts = facts.decisions, run_facts(self._connection, number)
            events = Findings()
            history = check_events(self._connection, facts, events)
            if isinstance(task, Chain):
                self._rest(whole, facts, task, (seen, history.status))
            elif isinstance(task, Process):
                status, oracle = history.status, self.job.oracle
                whole.merge(audit_process(self._connection, facts, task, status=status, oracle=oracle))
            whole.findings.merge(events)
            _check_run(self._connection, facts, whole, history)
            _check_outcome(facts, task, whole, history)
            _check_terms(facts, task, whole.findings)
        finally:
            self._connection.execute("ROLLBACK")
        self._tell(self.whole.decisions + whole.decisions)
        whole.notes += _notes(facts, task, history)
        if not history.sealed and (history.status not in _UNDER_WAY or whole.over):
            self.unsealed.append(facts.run_id)
        return facts, history, whole

    def _task(self, facts: RunFacts) -> Task | None:
        if facts.kind == "batch":
            return None
        task = self.job.make_task(facts.task, facts.params)
        if not isinstance(task, Chain | Process):
            raise UsageError(f"{facts.task} is neither a chain nor a process any more")
        return task

    def _decided(self, facts: RunFacts, task: Chain[Any, Any]) -> AuditResult:
        whole = AuditResult()
        for part in audit_parts(self._connection, self.job, facts, task):
            whole.merge(part)
            self._tell(self.whole.decisions + whole.decisions)
        return whole

    def _rest(
        self, whole: AuditResult, facts: RunFacts, task: Chain[Any, Any], stand: tuple[int, str]
    ) -> None:
        """Check later decisions, and undecided steps."""
        seen, status = stand
        if seen < facts.decisions:
            span = (seen, facts.decisions)
            whole.merge(audit_part(self._connection, facts, task, span, oracle=self.job.oracle))
        end = (whole.over, whole.result)
        whole.merge(audit_tail(self._connection, facts, task, status=status))
        whole.over, whole.result = end

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._all)


def _notes(facts: RunFacts, task: Task | None, history: History) -> Iterator[str]:
    version = facts.task_version if task is None else version_of(task)
    if version != facts.task_version:
        yield f"the run was made with version {facts.task_version} of {facts.task}; this is {version}"
    if not history.sealed:
        since = "yet" if history.seal is None else "since the last one"
        yield (
            f"no seal was taken {since}, as the run has not ended in order: its events, and samples that "
            "were not counted, can still be changed unnoticed"
        )


def _concluded(
    facts: RunFacts, history: History, audit: _Audit, signatures: tuple[Signature, ...]
) -> Verification:
    whole = audit.whole
    findings, expect = whole.findings, audit.job.expect
    if expect is not None and expect not in (history.digest, history.seal):
        found = f"{history.digest} or {history.seal}"
        findings.add(Kind.SEAL, "digest or seal noted elsewhere", expect, found)
    if any(signature.key is None for signature in signatures):
        findings.add(Kind.SEAL, "signature of a seal", "a valid one", "one that is not")
    if findings.total and findings.only_of_plugin:
        whole.notes.append(_ONLY_OF_PLUGIN)
    return Verification(
        run_id=facts.run_id,
        task=facts.task,
        status="running" if history.status in _UNDER_WAY else history.status,
        outcome=outcome_of(history.outcome, None, 0) if history.status == "finished" else None,
        verdict=_verdict(history, audit, signatures),
        decisions=whole.decisions,
        samples=whole.samples,
        votes=whole.votes,
        digest=history.digest,
        seal=history.seal,
        signatures=signatures,
        mismatches=tuple(findings.listed),
        counts=findings.counts,
        notes=tuple(whole.notes[:_MOST_NOTES]),
    )


def _check_strays(connection: sqlite3.Connection, findings: Findings) -> None:
    """Find rows of runs that are not in the log, and gaps in the numbers of runs and events."""
    for table in OF_A_RUN:
        for (run,) in query(connection, "runs_missing", table=table):
            findings.add(Kind.STRAY, f"run of some rows in {table}", f"a row {run} in runs", None)
    for run_id, parent in query(connection, "parents_missing"):
        findings.add(Kind.STRAY, f"what {run_id} is a part of", f"a row {parent} in runs", None)
    for table in _NUMBERED:
        [missing] = query(connection, "rows_missing", table=table).fetchone()
        if missing:
            findings.add(Kind.STRAY, f"rows that are missing from {table}", 0, missing)


def _check_run(connection: sqlite3.Connection, facts: RunFacts, whole: AuditResult, history: History) -> None:
    findings = whole.findings
    findings.compare(Kind.RUN, "k", facts.voting.k, facts.k)
    findings.compare(Kind.EVENT, "steps settled by people", sorted(whole.settled), sorted(history.settled))
    findings.compare(Kind.EVENT, "escalations", sorted(set(whole.escalated)), sorted(set(history.escalated)))
    if facts.charges is not None:
        check_budget(connection, facts.number, facts.charges, whole.charged, findings)
    [decisions] = query(connection, "count_rows_of_decisions", facts.number).fetchone()
    findings.compare(Kind.RUN, "decisions", facts.decisions, decisions)
    for place in query(connection, "samples_without_opening", facts.number):
        findings.add(Kind.STEP, "opening of the sample", "a row in steps", None, place)
    for place in query(connection, "prompts_without_opening", facts.number):
        findings.add(Kind.STEP, "opening of the recorded prompt", "a row in steps", None, place)
    for place in query(connection, "pending_before", facts.number, facts.decisions):
        findings.add(Kind.SAMPLE, "sample on a guess", "none at a decided step", "one", place)
    # A pilot ends when it has enough votes.
    if history.status == "finished" and facts.kind == "run" and whole.over is not None:
        if whole.over:
            result = canonical(history.result)
            findings.compare(Kind.RESULT, "result", whole.result, result, (facts.decisions - 1,))
        else:
            place = (facts.decisions,)
            findings.add(Kind.DECISION, "next decision", "a row in decisions", None, place)


def _check_outcome(facts: RunFacts, task: Task | None, whole: AuditResult, history: History) -> None:
    """Compare the recorded outcome with the task's current verdict."""
    findings = whole.findings
    findings.compare(Kind.RUN, "outcome", history.outcome, facts.outcome)
    if task is None or not history.asked or not whole.over or whole.result is None:
        return
    try:
        said = recorded(said_by(facts.task, task, json.loads(whole.result)))
    except PluginError as error:
        if history.outcome is not None:
            findings.add(Kind.PLUGIN, "giving its outcome", history.outcome, error)
    else:
        findings.compare(Kind.RESULT, "outcome", said, history.outcome)


def _check_terms(facts: RunFacts, task: Task | None, findings: Findings) -> None:
    terms = facts.voting.robust
    if terms is not None and task is not None and facts.kind == "run":
        findings.compare(Kind.RUN, "length", task.length(), terms.length)
        findings.compare(Kind.RUN, "m of the first step", Ledger(terms).ladder.first.margin, facts.k)


def _verdict(history: History, audit: _Audit, signatures: tuple[Signature, ...]) -> str:
    findings, job = audit.whole.findings, audit.job
    if findings.total:
        if set(findings.counts) == {Kind.TRUTH}:
            return "wrong decisions"
        return "plugin changed" if findings.only_of_plugin else "mismatch"
    if not history.events:
        return "empty"
    if audit.unsealed and not job.allow_unsealed:
        return "not sealed"
    signed = any(signature.allowed and signature.seal == history.seal for signature in signatures)
    return "verified" if signed or job.signers is None else "not signed"
