"""What is discarded before it can vote, for reasons that hold in any domain (paper, section 3.3)."""

import re
from typing import Final

__all__ = [
    "EMPTY",
    "MAX_CHARS_PER_TOKEN",
    "TOO_LONG",
    "TRUNCATED",
    "clean",
    "clean_label",
    "clean_text",
    "precheck",
]

EMPTY: Final = "empty"
TOO_LONG: Final = "too long"
TRUNCATED: Final = "truncated"

# No tokenizer yields more characters than this for a token of ordinary text (long runs of blanks do);
# it caps what a parser is ever given, in proportion to what the step allows.
MAX_CHARS_PER_TOKEN: Final = 64

_COMPLETE: Final = frozenset({"stop", "end_turn", "stop_sequence", "eos", "complete"})
_LABEL_CHARS: Final = 200
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def clean(text: str, max_tokens: int) -> str:
    """Return *text* as it is recorded and parsed.

    NUL characters and lone surrogates, which no database or terminal can carry, become U+FFFD; of a
    text that is longer than any honest reply only so much is kept as proves it too long.

    Args:
        text: the reply as it came.
        max_tokens: output tokens the reply was allowed.
    """
    most = max_tokens * MAX_CHARS_PER_TOKEN
    if len(text) > most:
        text = text[: most + 1]
    return clean_text(text)


def clean_label(text: str) -> str:
    """Return a short word of foreign origin (a finish reason, a request id) as it is recorded."""
    return clean_text(text if len(text) <= _LABEL_CHARS else text[:_LABEL_CHARS])


def clean_text(text: str) -> str:
    """Return *text* with what no database or terminal can carry replaced by U+FFFD."""
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("\ufffd", text)


def precheck(text: str, finish_reason: str, output_tokens: int | None, max_tokens: int) -> str | None:
    """Return why a reply must not even be parsed, or None if it may be.

    Args:
        text: the reply, already cleaned.
        finish_reason: the endpoint's word for why the reply ended.
        output_tokens: tokens of the reply; None where unknown.
        max_tokens: output tokens the reply was allowed.
    """
    if finish_reason not in _COMPLETE:
        return TRUNCATED if finish_reason in ("length", "max_tokens") else f"ended by {finish_reason[:40]}"
    if len(text) > max_tokens * MAX_CHARS_PER_TOKEN:
        return TOO_LONG
    if output_tokens is not None and output_tokens > max_tokens:
        return TOO_LONG
    if not text or text.isspace():
        return EMPTY
    return None
