"""The digests of the record: of texts, prompts, answers, and the chain over a run's decisions.

All are BLAKE2b in hexadecimal. What goes into the chain is a documented contract: a verifier that
knows nothing of mdap can rebuild every digest from the columns of the database.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import orjson

from mdap.records import CHAINED_AT_FIRST, CHAINED_NUMBERS, Decided, Identity, StepOpened, encodable
from mdap.rules.canonical import canonical

__all__ = [
    "CHAIN_START",
    "answer_key",
    "chain_digest",
    "identify_named",
    "prompt_digest",
    "sample_line",
    "text_digest",
    "views_digest",
]

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

    Args:
        columns: text, integers and None; floats only if they need no exponent.
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
