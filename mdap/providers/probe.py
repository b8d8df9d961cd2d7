"""What an endpoint can do, found out by two small requests before it is trusted with votes.

The question has many good answers, and is asked at temperature 1. Two honest replies to it are the same
about as often as two strangers tell the same story in the same words, so an endpoint that gives one text
three times draws nothing: there is a cache in the way, or a seed that is always the same. All its votes on
a step would be one vote.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import anyio

from mdap.errors import ProviderError
from mdap.providers.paced import Paced
from mdap.records import SampleRequest, Trace
from mdap.rules.digests import prompt_digest

__all__ = ["Findings", "probe"]

_QUESTION: Final = (
    "Make up a name that nobody has ever had, and tell in two sentences what happened on the day on which "
    "it was given. Surprise me."
)
_MAX_TOKENS: Final = 64
_TEMPERATURE: Final = 1.0
_SECONDS: Final = 30.0
# A text that is shorter may be the same by chance: a refusal, or the name alone.
_TELLING_CHARS: Final = 40


@dataclass(slots=True)
class Findings:
    """What was found out of one endpoint; None where it could not be.

    Attributes:
        model: the model's name.
        requests: requests that were sent.
        input_tokens: tokens of their prompts, as far as they were reported.
        output_tokens: tokens of their replies, as above.
        repeats: whether it gives the same text again and again.
        n: whether it gives several replies to one request, where it is to be asked for them.
        usage: whether it reports tokens.
        request_id: whether its responses have ids.
        failure: what kind of failure there was, if there was one.
    """

    model: str
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    repeats: bool | None = None
    n: bool | None = None
    usage: bool | None = None
    request_id: bool | None = None
    failure: str | None = None
    texts: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON values, without the texts."""
        return {name: value for name, value in asdict(self).items() if name != "texts"}

    def warnings(self) -> list[str]:
        """Return what a reader of the run's result should know, a sentence each."""
        found = []
        if self.n is False:
            found.append(f"{self.model} ignores n: each sample is asked for, and its prompt paid for, alone")
        if self.usage is False:
            found.append(
                f"{self.model} reports no token usage: tokens and cost are not known, and a budget does not "
                "hold it"
            )
        if self.repeats:
            found.append(
                f"{self.model} gave the same text to each of {len(self.texts)} requests at temperature 1: a "
                "cache or a fixed seed makes its votes on a step one vote"
            )
        return found


async def probe(provider: Paced) -> Findings:
    """Ask *provider* twice, and a third time if both replies are the same.

    Whatever goes wrong is a finding: the run's own requests will tell whether it lasts.
    """
    found = Findings(provider.name)
    with anyio.move_on_after(_SECONDS) as scope:
        try:
            await _ask(provider, found, 0, 2 if provider.max_n > 1 else 1)
            if len(found.texts) < 2:
                await _ask(provider, found, 1, 1)
            found.repeats = _same(found.texts)
            if found.repeats:
                await _ask(provider, found, 2, 1)
                found.repeats = _same(found.texts)
        except ProviderError as error:
            found.failure = error.kind
        except Exception as error:  # a provider's own mistake: the run names it where it matters
            found.failure = type(error).__name__
    if scope.cancelled_caught:
        found.failure = "timeout"
    return found


async def _ask(provider: Paced, found: Findings, first: int, count: int) -> None:
    found.requests += 1
    replies = await provider.sample(_request(tuple(range(first, first + count))))
    found.texts += [reply.text.strip() for reply in replies]
    found.input_tokens += sum(reply.input_tokens or 0 for reply in replies)
    found.output_tokens += sum(reply.output_tokens or 0 for reply in replies)
    found.usage = found.usage is not False and all(reply.output_tokens is not None for reply in replies)
    found.request_id = found.request_id is not False and all(reply.request_id for reply in replies)
    if count > 1:
        found.n = len(replies) == count


def _request(ordinals: tuple[int, ...]) -> SampleRequest:
    digest = prompt_digest("", _QUESTION)
    return SampleRequest(
        "", _QUESTION, digest, "probe", ordinals, _TEMPERATURE, _MAX_TOKENS, priority=-1, trace=Trace()
    )


def _same(texts: Sequence[str]) -> bool | None:
    """Return whether all *texts* are the same; None where they are too short to tell."""
    if len(texts) < 2 or min(map(len, texts)) < _TELLING_CHARS:
        return None
    return len(set(texts)) == 1
