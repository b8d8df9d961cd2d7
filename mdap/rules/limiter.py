"""Rate limits: requests and tokens per minute, checked together; estimates of requests; backoff.

Two things hold a request back. A *window* remembers what the last minute took, so that no minute takes
more than is allowed, wherever a server begins to count it. A *debt* that the passing time pays off spreads
the minute's allowance evenly, since a server may well enforce 600 a minute as 10 a second.

All moments are seconds of one monotonic clock, brought by the caller.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

_MINUTE: Final = 60.0
# Requests reach the server later than they leave, some more so than others: what left within 61 seconds
# can arrive within 60. It costs 2 % of the rate and saves the rejections.
_REMEMBERED: Final = 61.0
# A power of two, so that a slot's end is the same number wherever it is computed.
_SLOT: Final = 0.25
# A timer wakes this late at times: what was due is not pushed back by it.
_LATE: Final = 0.02
# Settling gives tokens back in lumps, which a smaller allowance could not take.
_TOKEN_BURST: Final = 1.0
_LEARNED_FROM: Final = 20
_BYTES_PER_TOKEN: Final = 3
_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 20.0
# What the endpoint sent was broken on the way or by an accident of its own: that says nothing of its load.
_ACCIDENTS: Final = frozenset({"disconnected", "garbled_body", "wrong_type", "empty_choices", "no_reply"})
_FIRST_AFTER_ACCIDENT: Final = 0.02


class Change(NamedTuple):
    """A limit was changed for a *reason* of a few words; None stands for no limit."""

    what: Literal["concurrency", "requests_per_minute", "tokens_per_minute"]
    limit_before: float | None
    limit_after: float | None
    reason: str


class Window:
    """Amounts of the recent past, in slots of a quarter of a second: constant memory, whatever is counted.

    It remembers each amount for *seconds*, and at most one slot longer; *total* is the sum at the last call.
    """

    def __init__(self, seconds: float) -> None:
        self._amounts = [0] * (math.ceil(seconds / _SLOT) + 1)
        self._head: int | None = None
        self.total = 0

    def add(self, amount: int, at: float, now: float) -> None:
        """Count *amount* at the moment *at*, unless that is forgotten already; negative takes it back."""
        head = self._roll(now)
        slot = min(math.floor(at / _SLOT), head)
        if slot > head - len(self._amounts):
            self._amounts[slot % len(self._amounts)] += amount
            self.total += amount

    def since(self, seconds: float, now: float) -> int:
        """Return what was counted in the last *seconds*, to the slot."""
        head = self._roll(now)
        slots = min(math.ceil(seconds / _SLOT), len(self._amounts))
        return sum(self._amounts[slot % len(self._amounts)] for slot in range(head - slots + 1, head + 1))

    def falls_to(self, target: float, now: float) -> float:
        """Return when the total will be *target* or less, if nothing is added: *now* or later."""
        head = self._roll(now)
        excess = self.total - target
        slot = head - len(self._amounts)
        while excess > 0 and slot < head:
            slot += 1
            excess -= self._amounts[slot % len(self._amounts)]
        return max(now, (slot + len(self._amounts)) * _SLOT)

    def _roll(self, now: float) -> int:
        """Forget what is too old and return the number of the slot of *now*."""
        size = len(self._amounts)
        head = math.floor(now / _SLOT)
        last = head if self._head is None else self._head
        # A clock that steps back finds the latest slot.
        for slot in range(max(last, head - size) + 1, head + 1):
            self.total -= self._amounts[slot % size]
            self._amounts[slot % size] = 0
        self._head = max(last, head)
        return self._head


class Allowance:
    """One limit: so much in any minute, evenly; None for no bound."""

    def __init__(self, burst: float) -> None:
        self._burst = burst
        self._due = -math.inf
        self.limit: float | None = None
        self.window = Window(_REMEMBERED)

    def ready_at(self, amount: int, now: float) -> float:
        """Return when *amount* may go; more than the whole limit goes once nothing else is remembered."""
        if self.limit is None:
            return now
        ready = max(now, self._due - max(_LATE, self._burst - self._spread(amount)))
        return max(ready, self.window.falls_to(self.limit - min(amount, self.limit), now))

    def take(self, amount: int, now: float) -> None:
        """Count *amount* as gone."""
        self.window.add(amount, now, now)
        self._due = max(self._due, now) + self._spread(amount)

    def correct(self, taken: int, real: int, at: float, now: float) -> None:
        """Count *real* instead of what was taken at the moment *at*."""
        self.window.add(real - taken, at, now)
        change = self._spread(real) - self._spread(taken)
        base = max(self._due, now) if change > 0 else self._due
        self._due = min(base + change, now + _MINUTE)

    def set_limit(self, limit: float | None, now: float) -> None:
        """Change the limit; a debt stays the same amount and is paid off at the new rate."""
        if limit is not None and not limit >= 1:
            raise ValueError(f"a limit per minute must be at least 1, not {limit}")
        if self._due > now:
            scale = 0.0 if limit is None or self.limit is None else self.limit / limit
            self._due = now + min((self._due - now) * scale, _MINUTE)
        self.limit = limit

    def _spread(self, amount: int) -> float:
        """Return over how many seconds *amount* is spread."""
        return 0.0 if self.limit is None else min(amount, self.limit) * _MINUTE / self.limit


@dataclass(eq=False, slots=True)
class Attempt:
    """A request: when it was sent, how many were in flight then (itself included), and if it is *open*."""

    at: float
    in_flight: int
    open: bool = True


@dataclass(eq=False, slots=True)
class Reservation:
    """Tokens that a request was let go with at a moment; *open* until they are settled or refunded."""

    tokens: int
    at: float
    open: bool = True


class Pace:
    """Decide when the head of a queue may go, so that its owner needs a single timer.

    The owner asks `ready_at` for the head of its queue, waits, and calls `reserve`; once the reply is there
    it calls `settle`, or `refund` if the server never saw the request. In any 60 seconds at most the limits
    go, counting tokens as they are known: reserved, then real. A request larger than the whole token limit
    goes alone. A burst may hold the requests of *burst* seconds, and the tokens of one.

    Attributes:
        requests: what remains of the requests.
        tokens: what remains of the tokens, reserved or real.
        outstanding: reservations that are neither settled nor refunded.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        burst: float = 0.1,
    ) -> None:
        self.requests = Allowance(burst)
        self.tokens = Allowance(max(burst, _TOKEN_BURST))
        self.outstanding = 0
        self.set_limits(requests_per_minute, tokens_per_minute, 0.0)

    def ready_at(self, tokens: int, now: float) -> float:
        """Return when a request of *tokens* tokens may be sent if nothing changes: *now* or later."""
        return max(self.requests.ready_at(1, now), self.tokens.ready_at(tokens, now))

    def reserve(self, tokens: int, now: float) -> Reservation | None:
        """Return a reservation to settle or refund; None if the request must wait until `ready_at`.

        It is for all *tokens* that the request is expected to take, prompt and replies.
        """
        tokens = max(0, tokens)
        if self.ready_at(tokens, now) > now:
            return None
        self.requests.take(1, now)
        self.tokens.take(tokens, now)
        self.outstanding += 1
        return Reservation(tokens, now)

    def settle(self, reservation: Reservation, tokens: int | None, now: float) -> None:
        """Count the actual tokens of a request; a second call changes nothing.

        They are 0 where the server refused it, and None where nobody knows.
        """
        if self._close(reservation) and tokens is not None:
            self.tokens.correct(reservation.tokens, max(0, tokens), reservation.at, now)

    def refund(self, reservation: Reservation, now: float) -> None:
        """Forget a request that never reached the server; after `settle` this changes nothing."""
        if self._close(reservation):
            self.requests.correct(1, 0, reservation.at, now)
            self.tokens.correct(reservation.tokens, 0, reservation.at, now)

    def set_limits(
        self, requests_per_minute: float | None, tokens_per_minute: float | None, now: float
    ) -> None:
        """Change the limits; what has gone in the last minute counts against the new ones.

        Raises:
            ValueError: a limit below 1.
        """
        self.requests.set_limit(requests_per_minute, now)
        self.tokens.set_limit(tokens_per_minute, now)

    def _close(self, reservation: Reservation) -> bool:
        was_open = reservation.open
        reservation.open = False
        self.outstanding -= was_open
        return was_open


def prompt_tokens(system: str, user: str) -> int:
    """Return about how many tokens a prompt has: rather too many than too few.

    At three bytes of UTF-8 a token: three letters of English, or one character of Chinese.
    """
    return (_bytes(system) + _bytes(user)) // _BYTES_PER_TOKEN + 1


def _bytes(text: str) -> int:
    # Prompts are long, most are ASCII, and a string knows whether it is.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Estimator:
    """Estimate the output tokens of a model's reply from its latest replies."""

    def __init__(self, keep: int = 256) -> None:
        self._latest: deque[int] = deque(maxlen=keep)

    def learn(self, output_tokens: int) -> None:
        """Remember the tokens of one reply."""
        self._latest.append(output_tokens)

    def expect(self, max_tokens: int, others: int = 0) -> int:
        """Return the output tokens to reserve for one reply; *max_tokens* while little is known of the model.

        Alone, that is the 95th percentile. The more *others* are outstanding, the less their sum strays
        from the sum of their means, so that each needs less on top of its own.
        """
        replies = sorted(self._latest)
        # The first replies to come are the shortest, so a few of them tell too little.
        if len(replies) < _LEARNED_FROM:
            return max_tokens
        mean, high = sum(replies) / len(replies), replies[math.ceil(0.95 * len(replies)) - 1]
        return min(max_tokens, math.ceil(mean + max(0.0, high - mean) / math.sqrt(1 + max(0, others))))


def backoff(attempt: int, jitter: float, retry_after: float | None = None, kind: str = "") -> float:
    """Return how long to wait before the next attempt, in seconds.

    Exponential with full jitter, so that requests which failed together do not return together; never
    less than the endpoint asked for. After an accident, which says nothing of the endpoint's load, the first
    waits are short.

    Args:
        attempt: how many attempts have failed so far, from 1.
        jitter: a random number in [0, 1), brought by the caller.
        retry_after: the wait the endpoint asked for, in seconds; None where it did not say.
        kind: of the latest failure; see `mdap.errors.ProviderError`.
    """
    first = _FIRST_AFTER_ACCIDENT if kind in _ACCIDENTS else _FIRST_WAIT
    wait = jitter * min(_LONGEST_WAIT, first * 2.0 ** min(attempt - 1, 16))
    return wait if retry_after is None else retry_after + wait
