"""Requests to a model, one by one or in jobs of a batch API, and its replies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


class Subject(Protocol):
    """The content of a step, for providers that simulate a model; mdap never sends it."""

    def truth(self) -> Any:
        """Return the right answer; raise NotImplementedError where the task has no oracle."""

    def mistakes(self, truth: Any) -> list[Any]:
        """Return plausible wrong answers, at least one."""

    def render(self, answer: Any) -> str:
        """Return a reply as a model would write it to give *answer*."""


@dataclass(slots=True, eq=False)
class Trace:
    """The sending state of a request, set by its sender; an unsent request costs nothing.

    Attributes:
        sent: whether the latest attempt has left for the endpoint, and has not failed.
        began: when the latest attempt left, in milliseconds of Unix time; None if not set.
        batched: whether it left in a job of a batch API, at that API's price.
        withdrawn: whether mdap no longer needs it and cancels it, so that the provider must not send it.
    """

    sent: bool = False
    began: int | None = None
    batched: bool = False
    withdrawn: bool = False


class SampleRequest(NamedTuple):
    """One request for one or more independent samples of one prompt.

    Attributes:
        system: the system message; empty for none.
        user: the user message.
        prompt_digest: digest of both messages in hexadecimal; equal prompts have equal digests.
        key: the step's key in its run: in a chain, its number.
        ordinals: the numbers of the requested samples within the step, from 0; each needs one reply.
        temperature: sampling temperature; of the first sample, if the model ignores it; None to send none.
        max_tokens: output tokens after which the endpoint cuts the reply.
        schema: JSON schema of the answer, or None.
        priority: among waiting requests, the smallest goes first.
        subject: the step's content, for simulation.
        member: the number of the model in an ensemble, from 0.
        view: the number of the step's view in the prompt, from 0.
        trace: the sending state, set by the sender of the request.
        step_digest: digest over all views of the step, in hexadecimal.
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
    trace: Trace = Trace()  # shared by all requests without a trace
    step_digest: str = ""
    shared: int = 0
    warm: bool = False

    @property
    def n(self) -> int:
        """The number of independent replies to return."""
        return len(self.ordinals)


class Reply(NamedTuple):
    """A model's reply for one sample.

    Attributes:
        text: the reply, as it came.
        model: the model that replied, as ``provider/model``.
        finish_reason: the endpoint's reason for the end of the reply: ``stop``, ``length``, ...
        input_tokens: tokens of the prompt billed to this sample; None where unknown.
        output_tokens: tokens of the reply; None where unknown.
        cached_tokens: the part of *input_tokens* read from the provider's cache; None where unknown.
        latency: seconds from the request to the reply, waiting for a slot not included.
        request_id: the endpoint's id of the request, for support.
        attempts: the number of attempts in the original run, for a replayed reply.
        reasoning: the model's reasoning text: recorded, never parsed; None for none.
        reasoning_tokens: the part of *output_tokens* spent on reasoning; None where unknown.
        served_model: the model that the endpoint reports; None if it reports none.
        fingerprint: the endpoint's system fingerprint; None if it reports none.
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
        return answer_tokens(self.output_tokens, self.reasoning_tokens)


def answer_tokens(output: int | None, reasoning: int | None) -> int | None:
    """Return the tokens of a reply without its reasoning; None where unknown."""
    return output if output is None or reasoning is None else max(output - reasoning, 0)


class BatchRow(NamedTuple):
    """One request of a batch job, *custom_id* there: samples of a step, in a view, that a run wants.

    The step is known by its *key* in the run, and by the *digest* of its prompts.
    """

    custom_id: str
    run: int
    key: str
    digest: str
    view: int
    ordinals: tuple[int, ...]

    @property
    def where(self) -> tuple[int, str, str]:
        """Run, key and digest: what a step is known by."""
        return self.run, self.key, self.digest


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A recorded job of a vendor's batch API.

    Attributes:
        number: its key in the log.
        token: mdap's name for it, also in the vendor's metadata and file names.
        model: the model that replies.
        wave: the jobs of one wave leave together.
        requests: its number of requests.
        intended: when mdap was about to submit it, in seconds of Unix time.
        file: the vendor's id of its upload; None for none.
        vendor_id: the vendor's id of the job; None if mdap does not know that it exists.
        state: the kind of its last event, or the vendor's state; ``intended`` without events.
        data: the data of its last event: of the collection, or else of its state.
    """

    number: int
    token: str
    model: str
    wave: int
    requests: int
    intended: float
    file: str | None = None
    vendor_id: str | None = None
    state: str = "intended"
    data: Mapping[str, Any] = field(default_factory=dict)
