"""What is asked of a model, and what comes back."""

from typing import Any, NamedTuple, Protocol

__all__ = ["Reply", "SampleRequest", "Subject", "Trace", "answer_tokens"]


class Subject(Protocol):
    """What a step is really about, for providers that simulate a model; it is never sent anywhere."""

    def truth(self) -> Any:
        """Return the right answer; raise NotImplementedError where the task has no oracle."""

    def mistakes(self, truth: Any) -> list[Any]:
        """Return plausible wrong answers, at least one."""

    def render(self, answer: Any) -> str:
        """Return a reply as a model would write it to give *answer*."""


class Trace:
    """Where whoever sends a request notes that it has been sent; until then it costs nothing.

    Attributes:
        sent: whether an attempt has left for the endpoint.
        began: when the latest attempt left, in milliseconds of Unix time; None where nobody noted it.
        batched: whether it left in a job of a batch API, at that API's price.
        withdrawn: whether nobody wants it any more: its cancellation is on its way, and nothing may be sent.
    """

    __slots__ = ("batched", "began", "sent", "withdrawn")

    def __init__(self) -> None:
        self.sent = False
        self.began: int | None = None
        self.withdrawn = False
        self.batched = False


class SampleRequest(NamedTuple):
    """One request for one or more independent samples of one prompt.

    Attributes:
        system: the system message; empty for none.
        user: the user message.
        prompt_digest: digest of both messages in hexadecimal; equal prompts have equal digests.
        key: what the step is known by in its run: in a chain, its number.
        ordinals: which samples of the step these are, counted from 0; one reply is wanted for each.
        temperature: sampling temperature; of the first sample, where the model does not heed it; None where
            none is sent.
        max_tokens: output tokens after which the endpoint shall cut the reply.
        schema: JSON schema of the answer, or None.
        priority: smaller goes first where requests wait for a slot.
        subject: what the step is about, for simulation.
        member: which model of an ensemble is asked, from 0.
        view: which presentation of the step the prompt is, from 0.
        trace: noted in by whoever sends the request.
        step_digest: digest over all presentations of the step, in hexadecimal.
        shared: characters of *user*, from its beginning, that prompts of further steps repeat.
        warm: whether further requests will repeat a part of the prompt, and may wait for this one.
    """

    system: str
    user: str
    prompt_digest: str
    key: str
    ordinals: tuple[int, ...]
    temperature: float | None
    max_tokens: int
    schema: dict[str, Any] | None = None
    priority: int = 0
    subject: Subject | None = None
    member: int = 0
    view: int = 0
    trace: Trace = Trace()  # shared by all requests that nobody traces
    step_digest: str = ""
    shared: int = 0
    warm: bool = False

    @property
    def n(self) -> int:
        """How many independent replies are wanted."""
        return len(self.ordinals)


class Reply(NamedTuple):
    """What a model answered to one sample.

    Attributes:
        text: the reply, as it came.
        model: who answered, as ``provider/model``.
        finish_reason: the endpoint's word for why the reply ended: ``stop``, ``length``, ...
        input_tokens: tokens of the prompt billed to this sample; None where unknown.
        output_tokens: tokens of the reply; None where unknown.
        cached_tokens: the part of *input_tokens* read from the provider's cache; None where unknown.
        latency: seconds from the request to the reply, waiting for a slot not included.
        request_id: the endpoint's id of the request, for support.
        attempts: attempts it took where it comes from, for replies that are recorded already.
        reasoning: what the model thought before it answered: recorded, never parsed; None for nothing.
        reasoning_tokens: the part of *output_tokens* spent on reasoning; None where unknown.
        served_model: the model that the endpoint says it served; None where it says nothing.
        fingerprint: the endpoint's word for the state of its system; None where it says nothing.
        cache_write_tokens: the part of *input_tokens* written to the provider's cache; None where unknown.
    """

    text: str
    model: str
    finish_reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    latency: float = 0.0
    request_id: str | None = None
    attempts: int = 1
    reasoning: str | None = None
    reasoning_tokens: int | None = None
    served_model: str | None = None
    fingerprint: str | None = None
    cache_write_tokens: int | None = None

    @property
    def answer_tokens(self) -> int | None:
        """Tokens of the reply without its reasoning; None where unknown."""
        thought = self.reasoning_tokens
        return self.output_tokens if thought is None else answer_tokens(self.output_tokens, thought)


def answer_tokens(output: int | None, reasoning: int | None) -> int | None:
    """Return the tokens of a reply without its reasoning; None where unknown."""
    return output if output is None or reasoning is None else max(output - reasoning, 0)
