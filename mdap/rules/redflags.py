"""Red flags that apply in every domain: replies discarded before they can vote (paper, section 3.3)."""

import re
from typing import Final

EMPTY: Final = "empty"
REFUSED: Final = "refused"
TOO_LONG: Final = "too long"
TRUNCATED: Final = "truncated"

# No tokenizer yields more characters than this for a token of ordinary text (long runs of blanks do);
# it caps what a parser is ever given, in proportion to what the step allows.
MAX_CHARS_PER_TOKEN: Final = 64

REFUSAL: Final = "refusal"
"""The finish reason of a reply in which the model refuses to answer."""

# Servers spell finish reasons as they like, and add new ones: what none of these describe is a reply.
_CUT: Final = re.compile(r"length|max_|limit|exceed|truncat|context_window|incomplete")
_FILTERED: Final = re.compile(
    r"filter|safe|harm|moderat|sensitive|block|prohibit|recitation|guardrail|toxic|spii|policy|violat"
)
_FAILED: Final = re.compile(r"error|abort|cancel|fail|timeout|interrupt|malformed|insufficient")
_LABEL_CHARS: Final = 200
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def clean(text: str, max_tokens: int) -> str:
    """Return *text* as it is recorded and parsed.

    NUL characters and lone surrogates, which no database or terminal can carry, become U+FFFD; of a
    text that is longer than any honest reply only so much is kept as proves it too long.
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


def failed(finish_reason: str) -> bool:
    """Return whether *finish_reason* says that something broke while the reply was written."""
    return _FAILED.search(_plain(finish_reason)) is not None


def precheck(text: str, finish_reason: str, output_tokens: int | None, max_tokens: int) -> str | None:
    """Return the reason to discard a cleaned reply unparsed; None to parse it.

    Only a finish reason that means truncation, a filter, a refusal or an error discards a reply. The tokens
    are those without hidden reasoning.
    """
    # Nearly all replies end by this word, and this runs for each of them.
    if finish_reason != "stop" and (flag := _ended_badly(finish_reason)):
        return flag
    if len(text) > max_tokens * MAX_CHARS_PER_TOKEN:
        return TOO_LONG
    if output_tokens is not None and output_tokens > max_tokens:
        return TOO_LONG
    if not text or text.isspace():
        return EMPTY
    return None


def _ended_badly(finish_reason: str) -> str | None:
    reason = _plain(finish_reason)
    if REFUSAL in reason:
        return REFUSED
    if _FAILED.search(reason) or _FILTERED.search(reason):
        return f"ended by {finish_reason[:40]}"
    return TRUNCATED if _CUT.search(reason) else None


def _plain(finish_reason: str) -> str:
    return finish_reason.strip().lower().replace("-", "_").replace(" ", "_")
