"""The seal of a run: a digest over what the digest chain leaves out, taken whenever a session ends.

The chain covers decisions, their inputs and the samples that were counted. The seal covers the rest: the
run's own row, everything that happened to it, whatever was sampled without being counted, when each sample
was asked for, the prompts that are recorded, and the seals of its parts.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

from mdap.records import CHAINED_COLUMNS, without_later

__all__ = [
    "EVENT_COLUMNS",
    "NEWEST",
    "OPEN_STEPS",
    "PARTS",
    "PROMPTS",
    "REST",
    "RUN_COLUMNS",
    "SEALED",
    "SIGNED",
    "TIMES",
    "TIMES_STEPS",
    "Lines",
    "Seal",
    "Times",
    "message",
]

SEALED: Final = "sealed"
"""The kind of the event that holds a seal."""

SIGNED: Final = "signed"
"""The kind of the event that holds somebody's signature of the seal before it."""

RUN_COLUMNS: Final = (
    "run_id, kind, parent, task, task_version, params, settings, provider, k, mdap_version, created_at"
)
EVENT_COLUMNS: Final = "kind, at, author, reason, step, opening, data"

_OPEN: Final = """NOT EXISTS (SELECT 1 FROM decisions d
    WHERE d.run = p.run AND d.step = p.step AND d.opening = p.opening)"""
_SAMPLE: Final = ", ".join(
    f"(SELECT digest FROM texts t WHERE t.id = s.{name})" if name in ("text", "reasoning") else f"s.{name}"
    for name in ("step", "opening", "counted", *CHAINED_COLUMNS[CHAINED_COLUMNS.index("ordinal") :])
)
_BY_KEY: Final = "ORDER BY s.step, s.opening, s.ordinal"

OPEN_STEPS: Final = f"""SELECT p.step, p.opening, p.key, p.input, p.prompt_digest FROM steps p
    WHERE p.run = ?1 AND {_OPEN} ORDER BY p.step, p.opening"""
"""Openings that decided nothing, as SQL."""

REST: Final = (
    f"""SELECT {_SAMPLE} FROM samples s INDEXED BY samples_not_counted
    WHERE s.run = ?1 AND s.counted IS NULL {_BY_KEY}""",
    # Materialized, or the planner goes through all samples instead of the few openings.
    f"""WITH p AS MATERIALIZED (SELECT * FROM steps p WHERE p.run = ?1 AND {_OPEN}) SELECT {_SAMPLE} FROM p
    CROSS JOIN samples s ON s.run = p.run AND s.step = p.step AND s.opening = p.opening
    WHERE s.counted IS NOT NULL {_BY_KEY}""",
    f"SELECT {_SAMPLE} FROM pending s WHERE s.run = ?1 {_BY_KEY}",
)
"""Samples that neither the chain nor the events cover, as SQL: those that were not counted, those counted
where nothing is decided yet, and those on an input that is still a guess."""

PROMPTS: Final = """SELECT step, opening, view, (SELECT digest FROM texts t WHERE t.id = p.system),
    (SELECT digest FROM texts t WHERE t.id = p.user), (SELECT digest FROM texts t WHERE t.id = p.schema),
    max_tokens FROM prompts p WHERE run = ?1 ORDER BY step, opening, view"""
"""Recorded prompts, as SQL. A run that records none has the seal that earlier versions gave it."""

TIMES_STEPS: Final = 4096
"""Steps of a run whose times are one line of their digest."""

TIMES: Final = """SELECT min(step), group_concat(coalesce(began, '')), count(began) FROM (SELECT step, began
    FROM samples WHERE run = ?1 AND step >= ?2 AND step < ?2 + 4096 ORDER BY step, opening, ordinal)"""
"""When the samples of some steps were asked for, one after the other with commas between them, as SQL."""

NEWEST: Final = "SELECT max(id) FROM run_events"
"""The newest event of the log, as SQL."""

PARTS: Final = """SELECT r.run_id, iif(json_valid(e.data), e.data ->> 'seal', e.data)
    FROM runs r JOIN run_events e ON e.id = (SELECT max(x.id) FROM run_events x
        WHERE x.run = r.id AND x.kind = 'sealed' AND x.id <= ?2)
    WHERE r.parent = ?1 ORDER BY r.id"""
"""The parts of a run, each with its newest seal among the events up to one, as SQL."""

_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


class Lines:
    """The 256-bit digest of lines, each of them JSON and ended by a newline."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32)

    def add(self, row: Iterable[Any]) -> None:
        """Take one more line."""
        self._hash.update(f"{_line(list(row))}\n".encode())

    def add_sample(self, row: Iterable[Any]) -> None:
        """Take one more line, of a row of `REST`."""
        self.add(without_later(tuple(row)))

    @property
    def digest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


class Times:
    """The digest over when samples were asked for.

    Attributes:
        digest: so far; None as long as no sample has a time.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self.digest: str | None = None

    def add(self, row: Sequence[Any]) -> None:
        """Take one more row of `TIMES`."""
        first, began, timed = row
        if timed:
            self._lines.add((first, began))
            self.digest = self._lines.digest


@dataclass(frozen=True, slots=True)
class Seal:
    """What a seal holds; it stands in the data of its event.

    Attributes:
        decisions: decisions so far.
        digest: the head of their chain.
        events: digest of the run's row and of every event before the seal.
        rest: digest of the rows of `OPEN_STEPS`, `REST` and `PROMPTS`, one statement after the other.
        parts: digest of the rows of `PARTS`; None if the run has no part that is sealed.
        until: the newest event whose seal may be among them; None with no parts.
        times: digest of the rows of `TIMES`, one for each `TIMES_STEPS` steps; None if no sample has a time.
    """

    decisions: int
    digest: str
    events: str
    rest: str
    parts: str | None = None
    until: int | None = None
    times: str | None = None

    @property
    def seal(self) -> str:
        """The one digest that stands for all of them."""
        lines = Lines()
        of_parts = () if self.parts is None else (self.parts, self.until)
        of_times = () if self.times is None else (self.times,)
        lines.add((self.decisions, self.digest, self.events, self.rest, *of_parts, *of_times))
        return lines.digest

    def to_dict(self) -> dict[str, Any]:
        """Return the event's data."""
        held = {name: value for name, value in asdict(self).items() if value is not None}
        return {**held, "seal": self.seal}


def message(run_id: str, seal: str) -> str:
    """Return the text that a signature or a timestamp of a run's seal covers."""
    return f"mdap run {run_id}\nseal {seal}\n"
