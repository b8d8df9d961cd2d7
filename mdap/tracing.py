"""OpenTelemetry spans of runs, steps and attempts, by the semantic conventions for generative AI.

mdap imports OpenTelemetry only if the program itself uses it.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from mdap._version import __version__
from mdap.errors import ProviderError
from mdap.protocols import Journal, Provider
from mdap.records import (
    Decided,
    Fact,
    Identity,
    RecordedOpening,
    Reply,
    RunEvent,
    RunStatus,
    SampleRequest,
    SampleTaken,
    StepOpened,
    StepResolved,
    StopCause,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

_Place = tuple[int, int]

# Number of finished steps to remember: their requests may still fail and be retried.
_MOST_OVER: Final = 256

# The standard variable that makes instrumentations record prompts and replies.
_TEXTS: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def tracing(provider: "TracerProvider | None") -> "Tracing | None":
    """Return a maker of spans for *provider* or the program's own provider; None without either."""
    if provider is None:
        api: Any = sys.modules.get("opentelemetry.trace")
        provider = None if api is None else api.get_tracer_provider()
        if provider is None or isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider):
            return None
    return Tracing(provider.get_tracer("mdap", __version__))


class Tracing:
    """Create the spans of all runs of a session."""

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer
        wanted = os.environ.get(_TEXTS, "").lower()
        self._texts = wanted in ("true", "1", "span_only", "span_and_event")

    @contextmanager
    def run(self, run_id: str, task: str, k: int) -> Iterator["RunTrace"]:
        """Create the span of a run; it is the current span within the block."""
        about = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": task}
        with self._tracer.start_as_current_span(
            f"invoke_workflow {task}",
            attributes={**about, "mdap.run_id": run_id, "mdap.k": k},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            trace = RunTrace(self._tracer, span, run_id, texts=self._texts)
            try:
                yield trace
            finally:
                trace.close()


class RunTrace:
    """The spans of one run, created from its requests and recorded facts.

    They hold prompts and replies only with *texts*.
    """

    def __init__(self, tracer: "Tracer", span: "Span", run_id: str, *, texts: bool) -> None:
        from opentelemetry import trace

        self._api = trace
        self._tracer = tracer
        self._span = span
        self._run_id = run_id
        self._texts = texts
        self._context = trace.set_span_in_context(span)
        self._places: dict[Identity, _Place] = {}
        self._identities: dict[_Place, Identity] = {}
        self._steps: dict[_Place, Span] = {}
        self._over: dict[Identity, Span] = {}

    def provider(self, inner: Provider, models: Sequence[str]) -> Provider:
        """Return *inner*, with a span for every attempt; *models* are the names of its members."""
        return _TracedProvider(self, inner, models)

    def journal(self, inner: Journal) -> Journal:
        """Return *inner*, with a span for every step that is recorded."""
        return _TracedJournal(self, inner)

    def reopened(self, openings: Iterable[RecordedOpening]) -> None:
        """Remember steps that earlier sessions opened; each gets a span with its next request."""
        for recorded in openings:
            self._place(recorded.opened)

    def note(self, fact: Fact) -> None:
        """Update spans for a *fact* that the run records."""
        if isinstance(fact, StepOpened):
            self._open(fact.key, self._place(fact))
        elif isinstance(fact, SampleTaken):
            about = {"ordinal": fact.ordinal, "verdict": fact.verdict, "flag_reason": fact.flag_reason}
            self._tell("sample", about, (fact.step, fact.opening))
        elif isinstance(fact, Decided):
            self._end(
                (fact.step, fact.opening), {"votes": fact.votes, "margin": fact.margin, "decided": True}
            )
        elif isinstance(fact, StepResolved) and not fact.confirmed:
            self._end((fact.step, fact.opening), {"void": True, "decided": False})
        elif isinstance(fact, RunEvent):
            data = fact.data or {}
            self._tell(fact.kind, {}, (data.get("step"), data.get("opening", 0)))

    def ended(self, status: RunStatus, cause: StopCause | None) -> None:
        """Set the end of the run on its span."""
        self._span.set_attribute("mdap.status", str(status))
        if cause is not None:
            self._span.set_attributes({"mdap.stop_cause": str(cause), "error.type": str(cause)})
            if cause is not StopCause.INTERRUPTED:
                self._span.set_status(self._api.StatusCode.ERROR)

    def close(self) -> None:
        """End the spans of all steps that are still open."""
        for place in list(self._steps):
            self._end(place, {"decided": False})

    def attempt(self, request: SampleRequest, model: str) -> Any:
        """Return the span of an attempt as a context; it is the current span within it."""
        identity = (request.key, request.step_digest)
        place = self._places.get(identity)
        if place is None:
            step = self._over.get(identity)
        else:
            step = self._steps.get(place) or self._open(request.key, place)
        parent = self._context if step is None else self._within(step)
        provider, _, name = model.partition("/")
        about: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": name or provider,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.choice.count": request.n,
            "gen_ai.request.temperature": request.temperature,
            "mdap.run_id": self._run_id,
            "mdap.ordinals": list(request.ordinals),
        }
        if self._texts:
            about["gen_ai.system_instructions"] = json.dumps(_parts(request.system))
            about["gen_ai.input.messages"] = json.dumps([{"role": "user", "parts": _parts(request.user)}])
        return self._tracer.start_as_current_span(
            f"chat {name or provider}",
            context=parent,
            kind=self._api.SpanKind.CLIENT,
            attributes=_known(about),
            record_exception=False,
            set_status_on_exception=False,
        )

    def answered(self, span: "Span", replies: Sequence[Reply]) -> None:
        """Set the result of an attempt on its span."""
        first = replies[0]
        about: dict[str, Any] = {
            "gen_ai.response.model": first.served_model,
            "gen_ai.response.id": first.request_id,
            "gen_ai.response.finish_reasons": [reply.finish_reason for reply in replies],
            "gen_ai.usage.input_tokens": _sum(reply.input_tokens for reply in replies),
            "gen_ai.usage.output_tokens": _sum(reply.output_tokens for reply in replies),
            "gen_ai.usage.cache_read.input_tokens": _sum(reply.cached_tokens for reply in replies),
            "gen_ai.usage.cache_creation.input_tokens": _sum(reply.cache_write_tokens for reply in replies),
            "gen_ai.usage.reasoning.output_tokens": _sum(reply.reasoning_tokens for reply in replies),
            "mdap.latency": first.latency,
        }
        if self._texts:
            said = [
                {"role": "assistant", "parts": _parts(reply.text), "finish_reason": reply.finish_reason}
                for reply in replies
            ]
            about["gen_ai.output.messages"] = json.dumps(said)
        span.set_attributes(_known(about))

    def failed(self, span: "Span", error: BaseException) -> None:
        """Set the failure or withdrawal of an attempt, without the error's text: it may quote a prompt."""
        span.set_attribute(
            "error.type", error.kind if isinstance(error, ProviderError) else type(error).__name__
        )
        if isinstance(error, Exception):
            span.set_status(self._api.StatusCode.ERROR)

    def _place(self, opened: StepOpened) -> _Place:
        place, identity = (opened.step, opened.opening), (opened.key, opened.prompt_digest)
        self._places[identity], self._identities[place] = place, identity
        return place

    def _open(self, key: str, place: _Place) -> "Span":
        about: dict[str, Any] = {
            "mdap.run_id": self._run_id,
            "mdap.step": place[0],
            "mdap.opening": place[1],
            "mdap.key": key,
        }
        span = self._steps[place] = self._tracer.start_span(f"step {key}", self._context, attributes=about)
        return span

    def _end(self, place: _Place, about: dict[str, Any]) -> None:
        span = self._steps.pop(place, None)
        if span is not None:
            span.set_attributes({f"mdap.{name}": value for name, value in about.items()})
            span.end()
        identity = self._identities.pop(place, None)
        if identity is not None and self._places.get(identity) == place:
            del self._places[identity]
            if span is not None:
                self._over[identity] = span
        if len(self._over) > _MOST_OVER:
            del self._over[next(iter(self._over))]

    def _tell(self, name: str, about: dict[str, Any], place: tuple[Any, Any]) -> None:
        named = {f"mdap.{key}": value for key, value in about.items()}
        self._steps.get(place, self._span).add_event(name, _known(named))

    def _within(self, span: "Span") -> "Context":
        return self._api.set_span_in_context(span, self._context)


class _TracedProvider:
    def __init__(self, trace: RunTrace, inner: Provider, models: Sequence[str]) -> None:
        self._trace = trace
        self._inner = inner
        self._models = models
        self.name = inner.name
        self.nonblocking = inner.nonblocking
        self.max_n = inner.max_n
        self.describe = inner.describe
        self.aclose = inner.aclose

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        with self._trace.attempt(request, self._models[request.member]) as span:
            try:
                replies = await self._inner.sample(request)
            except BaseException as error:
                self._trace.failed(span, error)
                raise
            if replies:
                self._trace.answered(span, replies)
            return replies


class _TracedJournal:
    def __init__(self, trace: RunTrace, inner: Journal) -> None:
        self._trace = trace
        self._inner = inner
        self.wait_for_room = inner.wait_for_room
        self.flush = inner.flush

    @property
    def behind(self) -> bool:
        return self._inner.behind

    def append(self, *facts: Fact) -> None:
        self._inner.append(*facts)
        for fact in facts:
            self._trace.note(fact)


def _known(about: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if value is not None}


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": text}] if text else []
