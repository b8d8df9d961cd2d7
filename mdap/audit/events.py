"""Check the events of a run, the seals over them, and the signatures over the seals."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from mdap.audit.findings import Findings, Kind
from mdap.audit.runs import RunFacts
from mdap.errors import RAISED, UsageError
from mdap.journal.rows import ENDED
from mdap.journal.sealing import digest_of_parts, digest_of_rest, digest_of_times
from mdap.journal.statements import query
from mdap.rules.digests import CHAIN_START, SEALED, SIGNED, Lines, Seal, message

_DATA: Final = {
    "settled": ("step",),
    "waiting": ("step", "opening"),
    "escalated": ("step", "opening", "tier"),
    "refused": ("step", "opening", "tier", "member", "view", "views", "model"),
    "left_out": ("member", "tier", "model"),
}
_NAMESPACE: Final = "mdap"
_STATUS: Final = ("started", "resumed", *ENDED)


class _Event(NamedTuple):
    kind: str
    at: str
    author: str | None
    reason: str | None
    step: int | None
    opening: int | None
    data: str | None


@dataclass(slots=True)
class History:
    """The content of a run's events.

    Attributes:
        result: the recorded result; None if the run is not finished.
        outcome: the task's verdict on the result when the run last finished; None if it gave none.
        asked: whether the task was asked; not in logs of an earlier mdap.
        settled: step, author and reason of each decision by a person.
        escalated: step, opening and tier of each race that went to another tier.
        sealed: whether the log holds no event after that seal.
    """

    status: str = "started"
    result: Any = None
    outcome: str | None = None
    asked: bool = False
    settled: list[tuple[int, str | None, str | None]] = field(default_factory=list)
    escalated: list[tuple[int, int, int]] = field(default_factory=list)
    seal: str | None = None
    sealed: bool = False
    events: int = 0
    digest: str | None = None


def check_events(connection: sqlite3.Connection, facts: RunFacts, findings: Findings) -> History:
    """Read the events of a run, check each seal, and return their content."""
    history, lines = History(), Lines()
    [history.digest] = query(connection, "head_digest", facts.number).fetchone() or (None,)
    lines.add(query(connection, "sealed_run", facts.number).fetchone())
    last: Seal | None = None
    for event in map(_Event._make, query(connection, "sealed_events", facts.number)):
        history.events += 1
        # A signature comes after the seal that it covers.
        history.sealed = event.kind == SEALED or (history.sealed and event.kind == SIGNED)
        if event.kind == SEALED:
            last = _sealed(connection, facts, event, lines.digest, findings)
            history.seal = None if last is None else last.seal
        else:
            _note(history, event, findings)
        lines.add(event)
    if history.sealed and last is not None:
        # The last seal covers every row of the run.
        findings.compare(Kind.SEAL, "decisions", last.decisions, facts.decisions, (last.decisions,))
        rest, times = digest_of_rest(connection, facts.number), digest_of_times(connection, facts.number)
        findings.compare(Kind.SEAL, "samples that were not counted, and prompts", last.rest, rest)
        findings.compare(Kind.SEAL, "when samples were asked for", last.times, times)
    return history


def _note(history: History, event: _Event, findings: Findings) -> None:
    kind = event.kind
    if kind not in (*_STATUS, *_DATA):
        return
    data = object_of(event.data)
    try:
        if kind in _STATUS:
            history.status, history.result = kind, data.get("result")
            if kind == "finished":
                history.outcome, history.asked = data.get("outcome"), "outcome" in data
        elif kind == "settled":
            history.settled.append((data["step"], event.author, event.reason))
        else:
            about = tuple(data[name] for name in _DATA[kind])
            if kind == "escalated":
                history.escalated.append(about)
    except KeyError as error:
        findings.add(Kind.EVENT, f"data of an event {kind}", error, event.data)


def _sealed(
    connection: sqlite3.Connection, facts: RunFacts, event: _Event, events: str, findings: Findings
) -> Seal | None:
    """Check the parts of a seal that later samples do not change."""
    data = object_of(event.data)
    try:
        seal = Seal(**{name: value for name, value in data.items() if name != "seal"})
    except TypeError:
        findings.add(Kind.SEAL, "seal", "its parts", event.data)
        return None
    beside = (event.author, event.reason, event.step, event.opening)
    if seal.to_dict() != data or beside != (None,) * 4:
        findings.add(Kind.SEAL, "seal", seal.to_dict(), (*beside, event.data))
    findings.compare(Kind.SEAL, "run and events up to its seal", seal.events, events)
    if seal.parts is not None:
        parts = digest_of_parts(connection, facts.number, seal.until) or Lines().digest
        findings.compare(Kind.SEAL, "seals of the parts", seal.parts, parts)
    [head] = query(connection, "digest_after", facts.number, seal.decisions).fetchone() or (None,)
    found, place = CHAIN_START if seal.decisions == 0 else head, (seal.decisions - 1,)
    findings.compare(Kind.SEAL, "digest of the last decision that was sealed", seal.digest, found, place)
    return seal


def object_of(text: Any) -> dict[str, Any]:
    """Return *text* as a JSON object; an empty one if it is none."""
    try:
        data = json.loads(text or "{}")
    except (ValueError, TypeError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


class Signature(NamedTuple):
    """A signature of a seal.

    Attributes:
        seal: the seal that it covers.
        key: the fingerprint of the key that made it; None if the signature is not valid.
        allowed: whether the list of allowed signers has that key.
    """

    seal: str
    key: str | None
    allowed: bool


def checked(texts: Sequence[str | None], run_id: str, signers: str | Path | None = None) -> list[Signature]:
    """Check and return the signatures in the data of some events; none without the package for it.

    Args:
        texts: the data of each event.
        run_id: the run's id.
        signers: a file of allowed signers, as ``ssh-keygen`` reads it; None for none.

    Raises:
        UsageError: the file cannot be read, or the package that checks signatures is missing.
    """
    if not texts and signers is None:
        return []
    try:
        import sshsig  # noqa: F401 - an extra
    except ImportError:
        if signers is None:
            return []
        raise UsageError("to check signatures, pip install 'mdap[sign]'") from None
    allowed = set() if signers is None else set(_allowed(Path(signers)))
    return [_checked(text, run_id, allowed) for text in texts]


def _checked(text: str | None, run_id: str, allowed: set[str]) -> Signature:
    from sshsig import check_signature

    try:
        data = json.loads(text or "{}")
        seal = str(data["seal"])
        key = check_signature(message(run_id, seal).encode(), str(data["signature"]), _NAMESPACE)
    except RAISED:  # the package raises other errors for changed bytes
        return Signature("", None, False)
    return Signature(seal, key.sha256_str(), key.openssh_str() in allowed)


def _allowed(signers: Path) -> Iterator[str]:
    from sshsig import PublicKey
    from sshsig.allowed_signers import load_allowed_signers_file

    try:
        for signer in load_allowed_signers_file(signers):
            options = signer.options or {}
            if set(options) - {"namespaces"}:
                raise ValueError(f"mdap does not know the option {min(set(options) - {'namespaces'})}")
            if _NAMESPACE in options.get("namespaces", _NAMESPACE).split(","):
                yield PublicKey.from_openssh_str(f"{signer.key_type} {signer.base64_key}").openssh_str()
    except OSError as error:
        raise UsageError(f"--signers {signers} cannot be read: {error.strerror}") from None
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"--signers {signers} is no list of allowed signers: {error}") from None
