"""Read an endpoint's limits, and the wait that it asks for, from its response headers.

The headers are ``retry-after-ms``, ``retry-after``, OpenAI's ``x-ratelimit-*`` (which Azure has spelt
``x-rate-limit-*``) and ``anthropic-ratelimit-*``. Endpoints may send anything: a value that makes no sense
counts as absent, and every value has an upper bound.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_WAIT: Final = 86_400.0
"""No wait that is told is longer, in seconds."""

_LARGEST_LIMIT: Final = 10**12
_LONGEST_TEXT: Final = 64
_MINUTE: Final = 60.0
# Small differences between two clocks, and rounding, do not make a day of a minute.
_SLACK: Final = 1.1
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,9})?", re.ASCII)
_DURATION: Final = re.compile(r"(?:[0-9]{1,15}(?:\.[0-9]{1,9})?(?:ms|us|µs|ns|d|h|m|s))+", re.ASCII)
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_SECONDS: Final = {
    "d": 86_400.0,
    "h": 3_600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
# A number of seconds beyond this is a point in time: 2001 in seconds, 1970 in milliseconds.
_EPOCH: Final = 1e9
_EPOCH_MS: Final = 1e11


@dataclass(frozen=True, slots=True)
class Told:
    """What the headers of one response tell; None where they do not.

    Waits and resets are in seconds; tokens are those of prompts and replies together.
    """

    retry_after: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_left: int | None = None
    tokens_left: int | None = None
    requests_reset: float | None = None
    tokens_reset: float | None = None

    @property
    def wait(self) -> float | None:
        """How long to stay away after a refusal, in seconds; None where nothing is told.

        What is asked for, or else until what is used up is there again: the longer of the two, if both
        requests and tokens are, or if neither is said to be.
        """
        if self.retry_after is not None:
            return self.retry_after
        resets = [(self.requests_left, self.requests_reset), (self.tokens_left, self.tokens_reset)]
        told = [(left, reset) for left, reset in resets if reset]
        used_up = [reset for left, reset in told if left == 0]
        unsaid = [reset for left, reset in told if left is None]
        return max(used_up or unsaid, default=None)


def read_told(headers: Mapping[str, str], wall_now: float) -> Told:
    """Return what *headers*, by name in lower case, tell; *wall_now* is in seconds since 1970."""
    # Most responses tell nothing, and this is read of each.
    if not any(name.startswith("retry") or "limit" in name for name in headers):
        return _NOTHING
    milliseconds = _number(headers.get("retry-after-ms"))
    asked = None if milliseconds is None else min(milliseconds / 1000, LONGEST_WAIT)
    requests, requests_left, requests_reset = _allowance(headers, "requests", wall_now)
    tokens, tokens_left, tokens_reset = _allowance(headers, "tokens", wall_now)
    # Anthropic has a limit each for prompts and replies.
    prompts = _count(headers.get("anthropic-ratelimit-input-tokens-limit"))
    replies = _count(headers.get("anthropic-ratelimit-output-tokens-limit"))
    return Told(
        retry_after=_span(headers.get("retry-after"), wall_now) if asked is None else asked,
        requests_per_minute=requests,
        tokens_per_minute=tokens or (prompts + replies if prompts and replies else None),
        requests_left=requests_left,
        tokens_left=tokens_left,
        requests_reset=requests_reset,
        tokens_reset=tokens_reset,
    )


_NOTHING: Final = Told()


def _allowance(
    headers: Mapping[str, str], kind: str, wall_now: float
) -> tuple[int | None, int | None, float | None]:
    """Return the limit per minute of one *kind*, what remains of it, and when all of it is there again."""

    def first(word: str) -> str | None:
        names = (
            f"x-ratelimit-{word}-{kind}",
            f"x-rate-limit-{word}-{kind}",
            f"anthropic-ratelimit-{kind}-{word}",
        )
        return next((headers[name] for name in names if name in headers), None)

    limit, left, reset = _count(first("limit")), _count(first("remaining")), _span(first("reset"), wall_now)
    if limit and reset is not None:
        # What refills steadily tells its period by how long it takes to refill what is missing.
        missing = 0 if left is None else limit - left
        slow = missing > 0 and reset * limit / missing > 10 * _MINUTE
        if slow or reset > _MINUTE * _SLACK:  # a limit of a longer time, such as a day
            limit = None
    return limit or None, left, reset


def _count(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None or number > _LARGEST_LIMIT else int(number)


def _number(text: str | None) -> float | None:
    text = (text or "").strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _span(text: str | None, wall_now: float) -> float | None:
    """Return the seconds that *text* stands for, as a number, a duration, or a point in time."""
    text = (text or "").strip()
    if not text or len(text) > _LONGEST_TEXT:
        return None
    seconds = _number(text)
    if seconds is not None:
        if seconds > _EPOCH:
            seconds = seconds / (1000 if seconds > _EPOCH_MS else 1) - wall_now
    elif _DURATION.fullmatch(text):
        seconds = round(sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)), 9)
    else:
        moment = _moment(text)
        seconds = None if moment is None else moment.timestamp() - wall_now
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_WAIT)


def _moment(text: str) -> datetime | None:
    """Return the point in time that *text* stands for, in the form of HTTP or of ISO 8601."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError, IndexError, TypeError):
            return None
    # A year at the edge cannot be moved to another zone.
    if not 1970 < moment.year < 9999:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
