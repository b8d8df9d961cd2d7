"""Limits around any provider, a timeout per attempt, and several providers as one."""

import time
from collections.abc import Sequence
from typing import Any, Final

import anyio

from mdap.errors import RateLimitError, TransientError
from mdap.protocols import Provider
from mdap.providers.batch_api import BatchAPI
from mdap.providers.dialect import Dialect
from mdap.providers.gate import FIXED, MOST, Gate, connections_within
from mdap.providers.warming import Warmer
from mdap.records import Reply, SampleRequest
from mdap.rules.headers import Told
from mdap.rules.limiter import Estimator, prompt_tokens
from mdap.settings import Limits

_REFUSED: Final = "rate_limit"
_MOST_TOKENS: Final = 10**12  # tokens of a reply, far beyond any model's
_TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
_LABELS: Final = ("model", "request_id", "reasoning", "served_model", "fingerprint")
_FIELDS: Final = (
    (("text", "finish_reason"), str, "a text"),
    (_LABELS, str | None, "a text or None"),
    (_TOKENS, int | None, "a whole number from 0 on, or None"),
    (("attempts",), int, "a whole number"),
    (("latency",), float | int | None, "seconds"),
)
# After a timeout of mdap or a gateway, the server may still be computing the reply.
_LATE: Final = frozenset({"timeout", "http_408", "http_504"})


class Paced:
    """A provider that keeps within limits and gives every attempt a total deadline.

    *models* share the files that the process may open; closing this one closes *inner* only if it is *owned*.

    Attributes:
        remote: whether an endpoint beyond this process is asked: then its limits are found out.
        allow_duplicates: whether the user wants votes of an endpoint that repeats itself.
        uses_temperature: whether replies depend on the temperature.
        dialect: options that the probe may find out; None where there are none.
        batches: the batch API of its endpoint; None where it has none.
        gate: where requests wait.
    """

    def __init__(self, inner: Provider, limits: Limits, models: int = 1, *, owned: bool = True) -> None:
        self._inner = inner
        self._owned = owned
        self._limits = limits
        self.name = inner.name
        self.remote = bool(getattr(inner, "remote", False))
        self.allow_duplicates = bool(getattr(inner, "allow_duplicates", False))
        self.uses_temperature = bool(getattr(inner, "uses_temperature", True))
        dialect = getattr(inner, "dialect", None)
        self.dialect: Dialect[Any] | None = dialect if isinstance(dialect, Dialect) else None
        self.batches: BatchAPI | None = getattr(inner, "batches", None)
        concurrency = limits.concurrency or (None if self.remote else FIXED)
        fits = max(1, connections_within((concurrency or MOST) * models) // models) if self.remote else None
        self.gate = Gate(concurrency, limits.requests_per_minute, limits.tokens_per_minute, fits)
        self._estimator = Estimator()
        self._warmer = Warmer()
        unlimited = limits.requests_per_minute is None and limits.tokens_per_minute is None
        self.nonblocking = inner.nonblocking and unlimited

    @property
    def max_n(self) -> int:
        """The most replies that one request may ask for: the probe may find that there may be several."""
        return self._inner.max_n

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask once, when there is a slot; see `mdap.protocols.Provider.sample`.

        A refusal for coming too fast holds back every other request too, for as long as it asks.
        """
        if self.nonblocking:
            return self._told(await self._inner.sample(request))
        if request.warm and self.remote:
            return await self._warmer.sample(request, self._sample)
        return await self._sample(request)

    async def _sample(self, request: SampleRequest) -> Sequence[Reply]:
        async with self.gate.slot(request.priority, lambda: self._likely_tokens(request)) as turn:
            if request.trace.withdrawn:
                # It got its slot before it was cancelled: sent now, it would be billed, unknown to all.
                await anyio.sleep_forever()
            request.trace.sent, request.trace.began = True, time.time_ns() // 1_000_000
            try:
                replies = await self._in_time(request)
            except RateLimitError as error:
                # A quota that ends this run holds for the others too.
                wait = error.retry_after
                wait = None if wait is None else min(wait, self._limits.max_silence)
                (turn.refused if error.kind == _REFUSED else turn.troubled)(wait)
                raise
            except TransientError as error:
                (turn.timed_out if error.kind in _LATE else turn.troubled)()
                raise
            finally:
                told = getattr(self._inner, "told", None)
                if isinstance(told, Told):
                    self.gate.learn(told)
            longest = max((reply.output_tokens or 0 for reply in replies), default=0)
            turn.succeeded(self._taken(request, replies), longest)
            return replies

    async def _in_time(self, request: SampleRequest) -> Sequence[Reply]:
        timeout = self._limits.attempt_timeout
        with anyio.move_on_after(timeout):
            return self._told(await self._inner.sample(request))
        raise TransientError(f"no reply within {timeout:g} seconds", kind="timeout")

    def _told(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Return *replies*; those of somebody's object under its name, by which prices and figures go."""
        return replies if self._owned else _under(self.name, replies)

    def _likely_tokens(self, request: SampleRequest) -> int:
        prompt, most = prompt_tokens(request.system, request.user), request.max_tokens
        if self._limits.reserve_max_tokens:
            each = most
        else:
            each = self._estimator.expect(most, self.gate.pace.outstanding)
        return prompt + each * len(request.ordinals)

    def _taken(self, request: SampleRequest, replies: Sequence[Reply]) -> int | None:
        """Return the tokens that *replies* took, or None where the endpoint did not say."""
        if any(reply.output_tokens is None for reply in replies):
            return None
        for reply in replies:
            self._estimator.learn(reply.output_tokens or 0)
        prompts = sum(reply.input_tokens or 0 for reply in replies)
        if self._limits.reserve_max_tokens:  # the endpoint gives nothing of it back
            return prompts + request.max_tokens * len(request.ordinals)
        return prompts + sum(reply.output_tokens or 0 for reply in replies)

    def sent_temperature(self, asked: float) -> float | None:
        """Return the temperature that is sent where *asked* is wanted; None if none is."""
        return asked if self.dialect is None else self.dialect.settings.sent_temperature(asked)

    def describe(self) -> dict[str, Any]:
        """Return what the inner provider says of itself."""
        return self._inner.describe()

    async def aclose(self) -> None:
        """Close the inner provider, if it is owned."""
        if self._owned:
            await self._inner.aclose()


def _under(name: str, replies: Any) -> list[Reply]:
    """Return *replies* with the model called *name*; what they call it stands as the model that was served.

    Raises:
        TypeError: they are no replies.
    """
    if not isinstance(replies, list | tuple) or isinstance(replies, Reply):
        raise TypeError(f"sample must return a list of mdap.Reply, not {replies!r:.80}")
    named = []
    for reply in replies:
        if not isinstance(reply, Reply):
            raise TypeError(f"sample must return a list of mdap.Reply, not of {reply!r:.80}")
        _check_fields(reply)
        own = reply.served_model or (None if reply.model == name else reply.model)
        named.append(reply._replace(model=name, served_model=own))
    return named


def _check_fields(reply: Reply) -> None:
    for names, kind, words in _FIELDS:
        for name in names:
            value = getattr(reply, name)
            if not isinstance(value, kind) or (isinstance(value, int) and not 0 <= value <= _MOST_TOKENS):
                raise TypeError(f"the {name} of an mdap.Reply takes {words}, not {value!r:.80}")
    parts = (reply.cached_tokens or 0) + (reply.cache_write_tokens or 0)
    if parts > (reply.input_tokens or 0):
        raise TypeError(
            "the cached_tokens and cache_write_tokens of an mdap.Reply are parts of its input_tokens: "
            f"{parts} is more than {reply.input_tokens}"
        )


class Ensemble:
    """A provider that hands each request to the member it names, a place among *members*."""

    def __init__(self, members: Sequence[Provider]) -> None:
        self.members = tuple(members)
        self.name = " + ".join(member.name for member in members)
        self.nonblocking = all(member.nonblocking for member in members)

    @property
    def max_n(self) -> int:
        """The maximum number of replies that any member gives to one request."""
        return max(member.max_n for member in self.members)

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask the member that *request* names; see `mdap.protocols.Provider.sample`."""
        return await self.members[request.member].sample(request)

    def describe(self) -> dict[str, Any]:
        """Return what each member says of itself."""
        return {"members": [member.describe() for member in self.members]}

    async def aclose(self) -> None:
        """Close every member, the others too if one fails to."""
        async with anyio.create_task_group() as group:
            for member in self.members:
                group.start_soon(member.aclose)
