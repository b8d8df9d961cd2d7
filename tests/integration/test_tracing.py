"""OpenTelemetry spans of runs, steps and attempts, as the SDK's own exporter in memory gets them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import mdap
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, Model, Walk

TEXTS = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class Spans:
    """A tracer provider, and what it made."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._kept.get_finished_spans() if span.name.startswith(name)]

    def children(self, parent: ReadableSpan) -> list[ReadableSpan]:
        return [
            span
            for span in self._kept.get_finished_spans()
            if span.parent is not None and span.parent.span_id == parent.context.span_id
        ]


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture(autouse=True)
def _providers() -> Iterator[None]:
    PROVIDED.clear()
    yield
    PROVIDED.clear()


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def tree(spans: Spans, span: ReadableSpan, depth: int = 0) -> list[str]:
    """The names of a span and of all below it, each with its error."""
    error = about(span).get("error.type")
    lines = [f"{'  ' * depth}{span.name}{f' ({error})' if error else ''}"]
    for child in sorted(spans.children(span), key=lambda one: one.start_time or 0):
        lines += tree(spans, child, depth + 1)
    return lines


async def test_a_run_its_steps_and_their_attempts(db: Path, spans: Spans) -> None:
    """Each has a span below the other; an attempt that failed says why, and what was asked is not in them."""
    busy = mdap.TransientError("SECRET", kind="http_503")
    reply = mdap.Reply("0", "toy", "stop", 20, 3, 5, served_model="toy-1", request_id="r-1")
    PROVIDED["it"] = ScriptedProvider([busy, reply, "no SECRET", reply, reply])
    model = "tests.helpers:provided/it"
    solution = await mdap.solve(
        Walk(steps=1), model=model, db=db, run_id="one", tracer_provider=spans.provider
    )
    [run] = spans.of("invoke_workflow")
    assert tree(spans, run) == [
        "invoke_workflow Walk",
        "  step 0",
        "    chat scripted (http_503)",
        "    chat scripted",
        "    chat scripted",
        "    chat scripted",
        "    chat scripted",
    ]
    assert about(run) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "Walk",
        "mdap.run_id": "one",
        "mdap.k": 3,
        "mdap.status": "finished",
    }
    [step] = spans.children(run)
    assert about(step) == {
        "mdap.run_id": "one",
        "mdap.step": 0,
        "mdap.opening": 0,
        "mdap.key": "0",
        "mdap.votes": 3,
        "mdap.margin": 3,
        "mdap.decided": True,
    }
    verdicts = [dict(event.attributes or {})["mdap.verdict"] for event in step.events]
    assert verdicts == ["vote", "flag", "vote", "vote"]
    failed, good, *_ = sorted(spans.children(step), key=lambda one: one.start_time or 0)
    assert (failed.status.status_code, failed.kind) == (StatusCode.ERROR, SpanKind.CLIENT)
    assert {name: value for name, value in about(good).items() if name.startswith("gen_ai")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.max_tokens": 750,
        "gen_ai.request.choice.count": 1,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.response.model": "toy-1",
        "gen_ai.response.id": "r-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 5,
    }
    assert "SECRET" not in "".join(span.to_json() for span in spans.of(""))
    assert len(spans.of("chat")) == solution.totals.samples + solution.totals.failed_attempts


async def test_texts_are_there_if_asked_for(db: Path, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable that all instrumentations of models heed."""
    monkeypatch.setenv(TEXTS, "true")
    PROVIDED["it"] = ScriptedProvider(["1", "1", "1"])
    await mdap.solve(Walk(steps=1), model="tests.helpers:provided/it", db=db, tracer_provider=spans.provider)
    said = about(spans.of("chat")[0])
    [asked] = json.loads(said["gen_ai.input.messages"])
    [answered] = json.loads(said["gen_ai.output.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "0 0 0"}]}
    assert answered == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "1"}],
        "finish_reason": "stop",
    }


@pytest.mark.slow
@pytest.mark.parametrize("speculate", ["off", "vote"])
async def test_every_attempt_is_below_its_step(db: Path, spans: Spans, speculate: str) -> None:
    """With faults, flags and speculation: as many spans as there are rows, each under the right parent."""
    options = {"error_rate": 0.2, "flag_rate": 0.1, "fault_rate": 0.1, "latency": 0.0005, "seed": 4}
    solution = await mdap.solve(
        Walk(steps=12, seed=1),
        db=db,
        run_id="one",
        options=options,
        speculate=speculate,
        tracer_provider=spans.provider,
    )
    [run] = spans.of("invoke_workflow")
    steps = spans.children(run)
    assert sum(about(step)["mdap.decided"] for step in steps) == solution.steps == 12
    assert len(steps) == len({(about(step)["mdap.step"], about(step)["mdap.opening"]) for step in steps})
    attempts = [attempt for step in steps for attempt in spans.children(step)]
    assert len(attempts) == len(spans.of("chat"))
    failed = [one for one in attempts if one.status.status_code is StatusCode.ERROR]
    assert len(failed) == solution.totals.failed_attempts > 0
    assert all(
        step.start_time <= attempt.start_time  # type: ignore[operator]
        for step in steps
        for attempt in spans.children(step)
    )


class Whole(mdap.Process[Any]):
    """Solves a chain as a part of itself."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.solve(Walk(steps=1))


async def test_spans_stand_below_the_callers(db: Path, spans: Spans) -> None:
    """Under whatever span is the current one; a nested run under that of its process."""
    with spans.provider.get_tracer("app").start_as_current_span("request") as request:
        await mdap.solve(Whole(), db=db, tracer_provider=spans.provider)
    [whole] = spans.of("invoke_workflow Whole")
    [part] = spans.of("invoke_workflow Walk")
    assert whole.parent is not None
    assert whole.parent.span_id == request.get_span_context().span_id
    assert part in spans.children(whole)


async def test_how_a_run_ended(db: Path, spans: Spans) -> None:
    """As status, stop cause and error; a resume goes on in a span of its own, with the steps left open."""
    model = Model(Walk(steps=3))
    script = [model.says("0 0 0", n) for n in range(9)]
    PROVIDED["it"] = ScriptedProvider([*script[:1], mdap.UnavailableError("no", kind="quota")])
    async with mdap.Session("tests.helpers:provided/it", db=db, tracer_provider=spans.provider) as session:
        await session.run(Walk(steps=1), run_id="one")
    [first] = spans.of("invoke_workflow")
    assert (about(first)["mdap.status"], about(first)["mdap.stop_cause"]) == ("stopped", "quota")
    assert first.status.status_code is StatusCode.ERROR
    assert about(spans.children(first)[0])["mdap.decided"] is False
    PROVIDED["it"] = ScriptedProvider(lambda request, n: model.says(request.user, n))
    async with mdap.Session("tests.helpers:provided/it", db=db, tracer_provider=spans.provider) as session:
        await session.run(Walk(steps=1), run_id="one")
    [_, second] = spans.of("invoke_workflow")
    assert [about(step)["mdap.decided"] for step in spans.children(second)] == [True]


async def test_the_programs_own_provider_is_used(
    db: Path, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that has set a global one gets spans without saying so; one that has not gets none."""
    await mdap.solve(Walk(steps=1), db=db)
    assert spans.of("") == []
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    await mdap.solve(Walk(steps=1), db=db)
    assert len(spans.of("invoke_workflow")) == 1


@pytest.mark.slow
def test_nothing_of_opentelemetry_is_imported_unasked(tmp_path: Path) -> None:
    """A program without it pays nothing."""
    script = (
        "import sys, mdap; from mdap_hanoi import Hanoi; mdap.solve_sync(Hanoi(disks=1), db='a.db'); "
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=240)
