"""Signatures over the seal of a run, checked against a list of allowed signers."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from mdap.errors import RAISED, UsageError
from mdap.journal.statements import query
from mdap.rules.seals import SIGNED, message

__all__ = ["Signature", "checked", "signatures_of"]

_NAMESPACE: Final = "mdap"


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


def signatures_of(
    connection: sqlite3.Connection, run: int, run_id: str, signers: Path | None
) -> list[Signature]:
    """Check and return the signatures in the events of a run.

    Args:
        connection: the log, with rows as tuples.
        run: the run's number.
        run_id: its id.
        signers: a file of allowed signers, as ``ssh-keygen`` reads it; None for none.

    Raises:
        UsageError: the file cannot be read, or the package that checks signatures is missing.
    """
    return checked([text for _, text in query(connection, "events_of_kind", run, SIGNED)], run_id, signers)


def checked(texts: Sequence[str | None], run_id: str, signers: Path | None = None) -> list[Signature]:
    """Check and return the signatures in the data of some events; none without the package for it.

    Args:
        texts: the data of each event.
        run_id: the run's id.
        signers: as for `signatures_of`.

    Raises:
        UsageError: as for `signatures_of`.
    """
    if not texts and signers is None:
        return []
    try:
        import sshsig  # noqa: F401 - an extra
    except ImportError:
        if signers is None:
            return []
        raise UsageError("to check signatures, pip install 'mdap[sign]'") from None
    allowed = set() if signers is None else set(_allowed(signers))
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
