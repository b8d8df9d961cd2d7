"""The seals of a run and who signed them, as a report tells it."""

import json
from dataclasses import dataclass
from typing import Final

from mdap.audit.signatures import Signature, checked
from mdap.journal.reader import Reader
from mdap.rules.seals import SEALED, SIGNED

__all__ = ["ShownSeal", "seals_of"]

_MOST: Final = 20
_LARGEST: Final = 2**62


@dataclass(frozen=True, slots=True)
class ShownSeal:
    """A seal of a run.

    Attributes:
        at: when it was taken.
        decisions: how many decisions it covers.
        newest: whether nothing has happened to the run since.
        signatures: when each was made, and whose it is; None where it cannot be checked here.
    """

    at: str
    seal: str
    decisions: int
    newest: bool
    signatures: list[tuple[str, Signature | None]]


async def seals_of(source: Reader, run: int, run_id: str) -> list[ShownSeal]:
    """Return the seals of a run, the newest first; of many, the newest."""
    rows = await source.rows("view_events", run, json.dumps([SEALED, SIGNED]), _LARGEST, _MOST)
    signed = [row for row in rows if row["kind"] == SIGNED]
    told = checked([row["data"] for row in signed], run_id)
    known = dict(zip((row["id"] for row in signed), told, strict=False))
    last = await source.rows("last_happened", run)
    found: list[ShownSeal] = []
    after: list[tuple[str, Signature | None]] = []
    for row in rows:
        if row["kind"] == SIGNED:
            after.append((row["at"], known.get(row["id"])))
            continue
        data = json.loads(row["data"] or "{}")
        newest = bool(last) and row["id"] >= last[0]["id"]
        seal, decisions = str(data.get("seal")), int(data.get("decisions") or 0)
        found.append(ShownSeal(row["at"], seal, decisions, newest, after))
        after = []
    return found
