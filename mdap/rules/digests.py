"""The digests of the record: of texts, prompts, answers, the chain over a run's decisions, and its seal.

All are BLAKE2b in hexadecimal. What goes into the chain is a documented contract: a verifier that
knows nothing of mdap can rebuild every digest from the columns of the database.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import orjson

from mdap.records import (
    CHAINED_AT_FIRST,
    CHAINED_NUMBERS,
    Decided,
    Identity,
    StepOpened,
    encodable,
    without_later,
)
from mdap.rules.canonical import canonical

CHAIN_START: Final = "0" * 64
"""The head of a chain without decisions."""

# As the contract says and `json.dumps` does: ASCII, and NaN spelled as that. No sample holds bytes, but
# somebody may have put some there.
_encoder: Final = json.JSONEncoder(separators=(",", ":"), default=repr)
# Where Python writes a float without an exponent, as orjson does.
_LEAST, _MOST = 1e-4, 1e16
_DEL: Final = 0x7F


# Begun once: to copy one takes less than to make it.
_text: Final = blake2b(digest_size=16)
_answer: Final = blake2b(digest_size=8)
_chain: Final = blake2b(digest_size=32)

SEALED: Final = "sealed"
"""The kind of the event that holds a seal."""

SIGNED: Final = "signed"
"""The kind of the event that holds somebody's signature of the seal before it."""

REST: Final = ("sealed_samples_not_counted", "sealed_samples_undecided", "sealed_samples_pending")
"""The statements that read samples which neither the chain nor the events cover, in the seal's order."""

TIMES_STEPS: Final = 4096
"""Steps of a run whose times are one line of their digest."""

_json_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def text_digest(text: str) -> str:
    """Return the 128-bit digest by which a text is addressed."""
    digest = _text.copy()
    digest.update(text.encode())
    return digest.hexdigest()


def prompt_digest(system: str, user: str) -> str:
    """Return the 128-bit digest of a prompt; the length of the first part keeps the parts apart."""
    digest = _begun(system).copy()
    digest.update(user.encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _begun(system: str) -> blake2b:
    """Return the hash of a system message so far: steps of a task share it."""
    head = system.encode()
    return blake2b(b"%d\n%b" % (len(head), head), digest_size=16)


def views_digest(prompts: Sequence[str]) -> str:
    """Return the digest of a step that is presented in several ways, from the digest of each prompt."""
    return prompts[0] if len(prompts) == 1 else text_digest(" ".join(prompts))


def answer_key(answer: str) -> str:
    """Return the 64-bit key of an answer's canonical JSON, short enough to stand in every row."""
    digest = _answer.copy()
    digest.update(answer.encode())
    return digest.hexdigest()


def identify_named(kind: str, key: str, about: Any = None) -> Identity:
    """Return the digest that identifies a result without a vote."""
    return (encodable(f"{kind}:{key}"), text_digest(canonical([kind, key, about])))


def sample_line(columns: tuple[Any, ...]) -> str:
    """Return a sample's `mdap.records.SampleTaken.digest_columns` as a JSON array."""
    temperature, given, made, cached, latency = columns[CHAINED_NUMBERS]
    # Numbers are looked at because a database that somebody has changed may hold anything there, infinity for
    # NULL among it, of which orjson makes null. Columns of text hold no floats.
    if (
        (
            temperature is None
            or (type(temperature) is float and (not temperature or _LEAST <= temperature < _MOST))
        )
        and (latency is None or (type(latency) is float and (not latency or _LEAST <= latency < _MOST)))
        and (type(given) is int or given is None)
        and (type(made) is int or made is None)
        and (type(cached) is int or cached is None)
        and (len(columns) == CHAINED_AT_FIRST or float not in map(type, columns[CHAINED_AT_FIRST:]))
    ):
        return _line(columns)
    return _encoder.encode(columns)


def _line(columns: tuple[Any, ...]) -> str:
    """Return *columns* as a JSON array, as the standard library writes it, in a fraction of its time.

    They are text, integers and None; floats only if they need no exponent.
    """
    try:
        line = orjson.dumps(columns)
    except TypeError:  # half of a surrogate pair, or an integer of more than 64 bits
        return _encoder.encode(columns)
    # The standard library escapes DEL too.
    return line.decode() if line.isascii() and _DEL not in line else _encoder.encode(columns)


def chain_digest(previous: str, opened: StepOpened, lines: list[str], decided: Decided) -> str:
    """Return the 256-bit digest of a decision and of everything before it.

    It covers what was decided and on which samples, not in which order they arrived nor how often the
    step was opened, neither of which matters: equal samples give equal digests.

    Args:
        previous: the digest of the decision before, or `CHAIN_START`.
        opened: the step as it was opened.
        lines: `sample_line` of each sample of this opening, by ordinal.
        decided: the decision; its digest is not read.
    """
    question = (opened.step, opened.key, opened.input, opened.prompt_digest)
    how = (decided.tally, decided.votes, decided.margin, decided.author, decided.reason)
    head = _line((previous, *question, decided.place, decided.winner, *how))
    digest = _chain.copy()
    digest.update("\n".join((head, *lines)).encode())
    return digest.hexdigest()


class Lines:
    """The 256-bit digest of lines, each of them JSON and ended by a newline."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32)

    def add(self, row: Iterable[Any]) -> None:
        """Take one more line."""
        self._hash.update(f"{_json_line(list(row))}\n".encode())

    def add_sample(self, row: Iterable[Any]) -> None:
        """Take one more line, of a row of a statement of `REST`."""
        self.add(without_later(tuple(row)))

    @property
    def digest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


class Times:
    """The digest over when samples were asked for; None as long as no sample has a time."""

    def __init__(self) -> None:
        self._lines = Lines()
        self.digest: str | None = None

    def add(self, row: Sequence[Any]) -> None:
        """Take one more row of the statement *sealed_times*."""
        first, began, timed = row
        if timed:
            self._lines.add((first, began))
            self.digest = self._lines.digest


@dataclass(frozen=True, slots=True)
class Seal:
    """What a seal, taken whenever a session ends, holds; it stands in the data of its event.

    The chain covers decisions, their inputs and the samples that were counted. The seal covers the rest: the
    run's own row, everything that happened to it, whatever was sampled without being counted, when each
    sample was asked for, the prompts that are recorded, and the seals of its parts.

    Attributes:
        decisions: decisions so far.
        digest: the head of their chain.
        events: digest of the run's row and of every event before the seal.
        rest: digest of the rows of *sealed_openings*, `REST` and *sealed_prompts*, one after the other.
        parts: digest of the rows of *sealed_parts*; None if the run has no part that is sealed.
        until: the newest event whose seal may be among them; None with no parts.
        times: digest of the rows of *sealed_times*, one for `TIMES_STEPS` steps; None if none has a time.
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
        of_parts = () if self.parts is None else (self.parts, self.until)
        of_times = () if self.times is None else (self.times,)
        lines = Lines()
        lines.add((self.decisions, self.digest, self.events, self.rest, *of_parts, *of_times))
        return lines.digest

    def to_dict(self) -> dict[str, Any]:
        """Return the event's data."""
        held = {name: value for name, value in asdict(self).items() if value is not None}
        return {**held, "seal": self.seal}


def message(run_id: str, seal: str) -> str:
    """Return the text that a signature or a timestamp of a run's seal covers."""
    return f"mdap run {run_id}\nseal {seal}\n"
