"""Explain requests that a finished run never decided, by recorded steps that its process did not ask for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from mdap.audit.findings import Findings, Kind
from mdap.audit.prompts import Sent, compare, likeness
from mdap.audit.questions import CurrentStep
from mdap.records import Identity

__all__ = ["KnownStep", "Stray", "explain"]

# Limits on the comparisons of a changed step: recorded steps for each change, and changes.
_MOST_COMPARED: Final = 32
_MOST_EXPLAINED: Final = 100
_ALIKE: Final = 0.6


class Stray(NamedTuple):
    """Something that the process asks for and its finished run never decided.

    Attributes:
        what: a short description.
        key: the key that the author gave a step; None for none.
        question: the step; None if it is not a step.
    """

    what: str
    key: str | None = None
    question: CurrentStep | None = None


@dataclass(slots=True)
class KnownStep:
    """The record of a step.

    Attributes:
        step: its number.
        decided: whether there is a decision.
        intact: whether the log holds its prompts unchanged.
        asked: whether the process has asked for it.
    """

    step: int
    decided: bool
    intact: bool
    asked: bool = False


def explain(
    strays: Iterable[Stray],
    recorded: Mapping[Identity, KnownStep],
    sent: Callable[[int], Sent],
    findings: Findings,
) -> None:
    """Report which undecided requests are recorded steps with a changed prompt or key.

    Args:
        strays: the requests.
        recorded: all recorded steps.
        sent: returns the recorded prompts of a step.
        findings: collects the mismatches.
    """
    left = {identity: known for identity, known in recorded.items() if not known.asked}
    for stray in strays:
        few = len(findings.listed) < _MOST_EXPLAINED
        match = _match(stray.question, stray.key, left, sent) if few and stray.question is not None else None
        if match is None or stray.question is None:
            what = f"asking for {stray.what}"
            findings.add(Kind.PLUGIN, what, "something that was decided", None)
            continue
        step = left.pop(match).step
        if match[1] == stray.question.digest:
            key = stray.key or stray.question.digest
            findings.add(Kind.PROMPT, "its key changed", key, match[0], (step,))
        else:
            compare(stray.question, sent(step), findings)


def _match(
    question: CurrentStep,
    key: str | None,
    left: Mapping[Identity, KnownStep],
    sent: Callable[[int], Sent],
) -> Identity | None:
    """Return which of the unrequested recorded steps is the changed one, if any."""
    same = next((identity for identity in left if identity[1] == question.digest), None)
    if same is not None:
        return same
    alike = (
        identity
        for identity, known in left.items()
        if known.intact and (identity[0] == (identity[1] if key is None else key))
    )
    likely = [
        (likeness(question, sent(left[identity].step)), -left[identity].step, identity)
        for identity in islice(alike, _MOST_COMPARED)
    ]
    best = max(likely, default=None)
    return None if best is None or (best[0] < _ALIKE and key is None) else best[2]
