"""Probe an endpoint with a few small requests before it votes.

The first request has everything that a step may need: a system message, a temperature, a schema. If the
endpoint refuses one of them, mdap omits it or sends it in another form.

The others ask for a story at temperature 1. Two independent replies are almost never equal, so an endpoint
that returns one text three times does not sample: a cache answers, or a seed is fixed. All its votes on a
step would be one vote.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, Final

import anyio

from mdap.errors import ProviderError, RateLimitError, RejectedError, TransientError
from mdap.providers.dialect import Dialect, is_refusal, negotiate
from mdap.providers.paced import Paced
from mdap.records import Reply, SampleRequest, Trace
from mdap.rules.digests import prompt_digest

_SYSTEM: Final = "You check a connection."
_CHECK: Final = 'Reply with this JSON object and nothing else: {"ok": true}'
_SCHEMA: Final = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
# Models that think before they reply need room for that, or some endpoints refuse the request.
_CHECK_TOKENS: Final = 512
_QUESTION: Final = (
    "Make up a name that nobody has ever had, and tell in two sentences what happened on the day on which "
    "it was given. Surprise me."
)
_MAX_TOKENS: Final = 64
_TEMPERATURE: Final = 1.0
# A prompt that counts so many times as much for two replies as for one is paid for twice.
_TWICE: Final = 1.5
# Seconds after which no further story is asked for: a slow endpoint has the run itself to do.
_SECONDS: Final = 30.0
# How often a request is sent that an endpoint refuses for coming too soon.
_PATIENCE: Final = 2
# A text that is shorter may be the same by chance: a refusal, or the name alone.
_TELLING_CHARS: Final = 40
_SAID: Final[dict[str, dict[Any, str]]] = {
    "json_schema": {"object": "JSON mode for a schema", "off": "no schema"},
    "token_parameter": {"max_tokens": "max_tokens for max_completion_tokens"},
    "send_temperature": {False: "no temperature"},
    "system_role": {"user": "the system message at the beginning of the user's"},
}


@dataclass(slots=True)
class ProbeResult:
    """What was found out of one endpoint; None where it could not be.

    Attributes:
        options: how it is asked, as far as the user left that open.
        repeats: whether it gives the same text again and again.
        n: whether it gives several replies to one request, where it was asked for them.
        usage: whether it reports tokens.
        request_id: whether its responses have ids.
        failure: what kind of failure there was, if there was one.
    """

    model: str
    requests: int = 0
    samples: int = 0
    failed_attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    repeats: bool | None = None
    n: bool | None = None
    usage: bool | None = None
    request_id: bool | None = None
    failure: str | None = None
    texts: list[str] = field(default_factory=list)
    temperature: float | None = _TEMPERATURE

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON values, without the texts."""
        return {name: value for name, value in asdict(self).items() if name not in ("texts", "temperature")}

    def summary(self) -> str | None:
        """Return in words what the endpoint does not take as it is sent at first; None for nothing."""
        told = [said[self.options[name]] for name, said in _SAID.items() if self.options.get(name) in said]
        return f"{self.model} takes {', '.join(told)}" if told else None

    def warnings(self) -> list[str]:
        """Return what a reader of the run's result should know, a sentence each."""
        found = []
        if self.n is False and "n" not in self.options:  # then the user asked for it
            found.append(f"{self.model} ignores n: each sample is asked for, and its prompt paid for, alone")
        if self.usage is False:
            found.append(
                f"{self.model} reports no token usage: tokens and cost are not known, and a budget does not "
                "hold it"
            )
        if self.repeats:
            at = "" if self.temperature is None else f" at temperature {self.temperature:g}"
            found.append(
                f"{self.model} gave the same text to each of {len(self.texts)} requests{at}: a "
                "cache or a fixed seed makes its votes on a step one vote"
            )
        return found


async def probe(provider: Paced, found: ProbeResult) -> None:
    """Find out what *provider* takes, and whether it repeats itself; note it in *found* as it comes.

    Whatever goes wrong is a finding: the run's own requests will tell whether it lasts.
    """
    asked = _Probe(provider, found)
    try:
        if provider.dialect is not None:
            await asked.negotiate(provider.dialect)
        await asked.compare()
    except ProviderError as error:
        found.failure = error.kind
    except anyio.get_cancelled_exc_class():
        found.failure = "cancelled"
        raise
    except Exception as error:  # a provider's own mistake: the run names it where it matters
        found.failure = type(error).__name__


class _Probe:
    """The requests of one probe, and what is counted of them."""

    def __init__(self, provider: Paced, found: ProbeResult) -> None:
        self._provider = provider
        self._found = found
        self._began_at = monotonic()

    async def negotiate(self, dialect: Dialect[Any]) -> None:
        """Find out which options the endpoint takes."""
        if dialect.open:
            error = await negotiate(dialect, self._check)
            self._found.options = dialect.found
            if error is not None:
                self._found.failure = error.kind
                if not is_refusal(error):
                    raise error
        self._found.temperature = self._provider.sent_temperature(_TEMPERATURE)

    async def compare(self) -> None:
        """Ask for stories: two, and a third if they are the same; then for two in one request."""
        found = self._found
        both = self._provider.max_n > 1
        first = await self._tell(0, 2 if both else 1)
        if both:
            found.n = len(first) == 2
        if _too_long(first) and await self._has_another_name():
            del found.texts[:-1]
        while len(found.texts) < 2 or (len(found.texts) < 3 and _same(found.texts)):
            if monotonic() - self._began_at > _SECONDS:
                raise TransientError("the probe takes too long", kind="timeout")
            await self._tell(len(found.texts), 1)
        found.repeats = _same(found.texts)
        if first and not found.repeats and monotonic() - self._began_at < _SECONDS:
            await self._measure_n(first[0])

    async def _measure_n(self, alone: Reply) -> None:
        """Request several samples at once from now on, if one such request returns different stories."""
        dialect, worth = self._provider.dialect, False
        if dialect is None or "n" not in dialect.open:
            return
        dialect.adopt({"n": True})
        try:
            both = await self._tell(len(self._found.texts), 2)
            self._found.n = len(both) == 2
            paid, once = (sum(reply.input_tokens or 0 for reply in replies) for replies in (both, [alone]))
            # One story told twice would be two votes.
            differ = len({reply.text for reply in both}) == 2
            worth = differ and 0 < paid < _TWICE * once
        except ProviderError as error:
            self._found.n = False if isinstance(error, RejectedError) else None
        finally:
            dialect.adopt({"n": worth})
            self._found.options = dialect.found

    async def _has_another_name(self) -> bool:
        """Return whether the limit of tokens, which a reply ignores, has another name."""
        dialect = self._provider.dialect
        other = {} if dialect is None else dialect.next_of(["token_parameter"])
        if dialect is None or not other:
            return False
        before = dialect.found
        dialect.adopt(other)
        try:
            better = not _too_long(await self._tell(0, 1))
        except ProviderError:
            better = False
        if not better:
            dialect.adopt(before)
        self._found.options = dialect.found
        return better

    async def _check(self) -> ProviderError | None:
        """Send one request with all that an option may change."""
        digest = prompt_digest(_SYSTEM, _CHECK)
        temperature = self._provider.sent_temperature(0.0)
        request = SampleRequest(_SYSTEM, _CHECK, digest, "probe", (0,), temperature, _CHECK_TOKENS, _SCHEMA)
        tries = 0
        while True:
            tries += 1
            try:
                await self._ask(request)
            except ProviderError as error:
                # After a refusal for coming too soon, the next one waits for as long as this one asks.
                if tries == _PATIENCE or not isinstance(error, RateLimitError):
                    return error
            else:
                return None

    async def _tell(self, first: int, count: int) -> Sequence[Reply]:
        digest, ordinals = prompt_digest("", _QUESTION), tuple(range(first, first + count))
        temperature = self._provider.sent_temperature(_TEMPERATURE)
        request = SampleRequest("", _QUESTION, digest, "probe", ordinals, temperature, _MAX_TOKENS)
        texts = self._found.texts
        try:
            replies = await self._ask(request)
        except TransientError as error:
            if error.kind != "repeated" or not texts:
                raise
            texts.append(texts[-1])  # by its id, it is the very response that came before
            return ()
        texts += [reply.text.strip() for reply in replies]
        return replies

    async def _ask(self, request: SampleRequest) -> Sequence[Reply]:
        found = self._found
        found.requests += 1
        try:
            replies = await self._provider.sample(request._replace(priority=-1, trace=Trace()))
            if not replies:
                raise TransientError("the provider returned no reply at all", kind="no_reply")
        except BaseException as error:
            found.failed_attempts += 1
            _count(found, error)
            raise
        found.samples += len(replies)
        for reply in replies:
            _count(found, reply)
        found.usage = found.usage is not False and all(reply.output_tokens is not None for reply in replies)
        found.request_id = found.request_id is not False and all(reply.request_id for reply in replies)
        return replies


def _count(found: ProbeResult, billed: object) -> None:
    """Count the tokens of a reply, or of a failure after which the endpoint has billed some."""
    for name in ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens"):
        setattr(found, name, getattr(found, name) + (getattr(billed, name, None) or 0))


def _too_long(replies: Sequence[Reply]) -> bool:
    return any((reply.output_tokens or 0) > _MAX_TOKENS for reply in replies)


def _same(texts: Sequence[str]) -> bool | None:
    """Return whether all *texts* are the same; None where they are too short to tell."""
    if len(texts) < 2 or min(map(len, texts)) < _TELLING_CHARS:
        return None
    return len(set(texts)) == 1
