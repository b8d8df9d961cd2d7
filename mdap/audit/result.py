"""The result of checking a run or a part of it."""

from dataclasses import dataclass, field

from mdap.audit.findings import Findings

__all__ = ["AuditResult"]


@dataclass(slots=True)
class AuditResult:
    """The result of checking a part of a run.

    Attributes:
        findings: the mismatches.
        decisions: decisions checked.
        samples: samples parsed again.
        votes: votes among them.
        settled: step, author and reason of each decision by a person.
        escalated: step, opening and tier of each race that went to another tier.
        charged: step, opening and tier of each race of `-k robust` that was not smooth.
        over: whether the task ends with the last decision; None if unknown.
        result: the task's result then, in canonical JSON.
        notes: further notes for the reader, one sentence each.
    """

    findings: Findings = field(default_factory=Findings)
    decisions: int = 0
    samples: int = 0
    votes: int = 0
    settled: list[tuple[int, str, str | None]] = field(default_factory=list)
    escalated: list[tuple[int, int, int]] = field(default_factory=list)
    charged: list[tuple[int, int, int]] = field(default_factory=list)
    over: bool | None = None
    result: str | None = None
    notes: list[str] = field(default_factory=list)

    def merge(self, other: "AuditResult", run: str | None = None) -> None:
        """Add a later result, of the same run or of its part *run*."""
        self.findings.merge(other.findings, run)
        self.decisions += other.decisions
        self.samples += other.samples
        self.votes += other.votes
        self.settled += other.settled
        self.escalated += other.escalated
        self.charged += other.charged
        self.notes += other.notes
        self.over, self.result = other.over, other.result
