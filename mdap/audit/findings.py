"""The results of an audit: each mismatch with its expected and recorded value, and counts."""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

_MOST: Final = 100
_SHOWN: Final = 200


Where = tuple[int | None, ...]
"""Step, opening and sample, as far as something belongs to one."""


class Kind(StrEnum):
    """The kinds of mismatches.

    A change to the task's own code since the run can cause the first five; only a change to the record causes
    the others.
    """

    PROMPT = "prompt"
    READING = "reading"
    STATE = "state"
    RESULT = "result"
    PLUGIN = "plugin"

    CHAIN = "chain"
    TEXT = "text"
    COUNT = "count"
    DECISION = "decision"
    SAMPLE = "sample"
    STEP = "step"
    EVENT = "event"
    RUN = "run"
    SEAL = "seal"
    STRAY = "stray"
    TRUTH = "truth"


_OF_PLUGIN: Final = {Kind.PROMPT, Kind.READING, Kind.STATE, Kind.RESULT, Kind.PLUGIN}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One mismatch.

    Attributes:
        kind: the kind of mismatch.
        what: the thing, in a few words.
        expected: the expected value.
        found: the recorded value.
        step: the step; None if it belongs to none.
        opening: the opening of that step.
        sample: the sample's ordinal; None if it belongs to none.
        run: the part of the run that it belongs to; None for the run itself.
    """

    kind: Kind
    what: str
    expected: str
    found: str
    step: int | None = None
    opening: int | None = None
    sample: int | None = None
    run: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "kind": str(self.kind)}

    def __str__(self) -> str:
        places: tuple[tuple[str, object], ...] = (
            ("part", self.run),
            ("step", self.step),
            ("opening", self.opening or None),
            ("sample", self.sample),
        )
        place = ", ".join(f"{name} {what}" for name, what in places if what is not None) or "run"
        return f"{place}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass(slots=True)
class Findings:
    """Mismatches: the first hundred in full, and counts of all by kind."""

    listed: list[Mismatch] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: Kind, what: str, expected: object, found: object, place: Where = ()) -> None:
        """Add a mismatch: its kind, the thing in a few words, both values, and its place."""
        self.counts[str(kind)] += 1
        if len(self.listed) < _MOST:
            step, opening, sample = (*place, None, None, None)[:3]
            self.listed.append(Mismatch(kind, what, _short(expected), _short(found), step, opening, sample))

    def compare(self, kind: Kind, what: str, expected: object, found: object, place: Where = ()) -> None:
        """Add a mismatch if both values differ; the arguments are those of `add`."""
        if expected != found:
            self.add(kind, what, expected, found, place)

    def merge(self, other: "Findings", run: str | None = None) -> None:
        """Add later mismatches, of the same run or of its part *run*."""
        self.counts.update(other.counts)
        listed = other.listed if run is None else [replace(found, run=run) for found in other.listed]
        self.listed = (self.listed + listed)[:_MOST]

    @property
    def total(self) -> int:
        """The number of mismatches."""
        return self.counts.total()

    @property
    def only_of_plugin(self) -> bool:
        """Whether the record agrees with itself, so that only a changed plugin can be the cause."""
        return self.counts.keys() <= _OF_PLUGIN


@dataclass(slots=True)
class AuditResult:
    """The result of checking a part of a run.

    Attributes:
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
        for name in ("decisions", "samples", "votes", "settled", "escalated", "charged", "notes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.over, self.result = other.over, other.result


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
