"""Anthropic's Messages API against a real server on loopback, well-behaved and not."""

import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.errors import ProviderError, RateLimitError, RejectedError, TransientError, UsageError
from mdap.protocols import Provider
from mdap.providers.anthropic import AnthropicProvider, create
from mdap.providers.paced import Paced
from mdap.records import Reply, SampleRequest
from mdap.testing import Canned, Faults, FaultyServer
from mdap_hanoi import Hanoi
from tests.acceptance.player import play
from tests.helpers import mostly_slow

CANARY = "sk-ant-canary-0123456789abcdef"


def ask(**changes: Any) -> SampleRequest:
    return SampleRequest("Be exact.", "2 + 2?", "d1", "0", (0,), 0.5, 100)._replace(**changes)


def four(body: dict[str, Any], rng: random.Random) -> str:
    return "4"


_carried: dict[str, str] = {}


@pytest.fixture(params=mostly_slow(["aiohttp", "sdk"]), autouse=True)
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whatever carries the requests, all of this holds."""
    _carried["transport"] = request.param
    yield request.param
    _carried.clear()


@asynccontextmanager
async def serving(
    *script: str | Canned, faults: Faults | None = None, **options: Any
) -> AsyncIterator[tuple[FaultyServer, AnthropicProvider]]:
    async with FaultyServer(four, script=script, faults=faults) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANTHROPIC_API_KEY", CANARY)
            provider = create("m1", {"base_url": server.base_url.removesuffix("/v1"), **_carried, **options})
        try:
            yield server, provider
        finally:
            await provider.aclose()


def message(**changes: Any) -> Canned:
    body = {
        "content": [{"type": "text", "text": "4"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "output_tokens": 2},
    }
    return Canned(body={**body, **changes}, headers={"request-id": "r1"})


@pytest.mark.slow
async def test_a_request_is_what_the_api_wants() -> None:
    """System message apart, one user message, the token limit; the key in its header and nowhere else."""
    async with serving() as (server, provider):
        assert isinstance(provider, Provider)
        [reply] = await provider.sample(ask())
        await provider.sample(ask(system=""))
    [first, second] = server.log
    assert first.body == {
        "model": "m1",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "system": [{"type": "text", "text": "Be exact.", "cache_control": {"type": "ephemeral"}}],
        "temperature": 0.5,
    }
    assert "system" not in second.body
    # Versions of the SDK differ in the header that carries it.
    assert [value for value in first.headers.values() if CANARY in value]
    assert CANARY not in str(provider.describe())
    assert reply[:6] == ("4", "anthropic/m1", "end_turn", first.prompt_tokens, first.completion_tokens, None)
    assert reply.request_id == "req-0"
    assert reply.latency > 0


async def test_what_further_requests_repeat_is_marked() -> None:
    """The document that steps share, or all of a prompt for its samples; nothing if nobody repeats it."""
    document, mark = "d" * 3000, {"cache_control": {"type": "ephemeral"}}
    asked = ask(user=f"{document}total?", shared=len(document), warm=True)
    async with serving() as (server, provider):
        for request in (asked, asked._replace(shared=0), asked._replace(warm=False)):
            await provider.sample(request)
    async with serving(cache_breakpoints=False) as (other, provider):
        await provider.sample(asked)
    shared, alone, unmarked = (served.body["messages"][0]["content"] for served in server.log)
    text = {"type": "text", "text": document}
    assert shared == [{**text, **mark}, {"type": "text", "text": "total?"}]
    assert alone == [{"type": "text", "text": f"{document}total?", **mark}]
    assert unmarked == other.log[0].body["messages"][0]["content"] == f"{document}total?"
    assert other.log[0].body["system"] == "Be exact."


@pytest.mark.parametrize(
    ("response", "fields"),
    [
        (message(), {"text": "4", "input_tokens": 5, "output_tokens": 2, "request_id": "r1"}),
        (
            message(
                usage={
                    "input_tokens": 5,
                    "output_tokens": 2,
                    "cache_read_input_tokens": 70,
                    "cache_creation_input_tokens": 20,
                }
            ),
            {"input_tokens": 95, "cached_tokens": 70, "cache_write_tokens": 20, "output_tokens": 2},
        ),
        (message(usage=None), {"input_tokens": None, "output_tokens": None, "cached_tokens": None}),
        (message(usage={"input_tokens": -1, "output_tokens": "9"}), {"input_tokens": None}),
        (
            message(content=[{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "5"}]),
            {"text": "5", "reasoning": "hm"},
        ),
        (message(model="m1-2026", content=[{"type": "text", "text": "4"}]), {"served_model": "m1-2026"}),
        (message(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), {"text": "ab"}),
        (message(content=[], stop_reason="refusal"), {"text": "", "finish_reason": "refusal"}),
        (message(stop_reason="max_tokens"), {"finish_reason": "max_tokens"}),
        (message(stop_reason=None), {"finish_reason": "end_turn"}),
    ],
)
async def test_a_reply_is_read(response: Canned, fields: dict[str, Any]) -> None:
    """Text blocks joined; tokens read from the cache and written to it are part of the prompt's."""
    async with serving(response) as (_, provider):
        [reply] = await provider.sample(ask())
    assert {name: getattr(reply, name) for name in fields} == fields
    assert isinstance(reply, Reply)


def refusal(status: int, kind: str, message: str, **headers: str) -> Canned:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Canned(status, {"type": "error", "error": {"type": kind, "message": message}}, named)


@pytest.mark.parametrize(
    ("response", "kind", "retry_after"),
    [
        (refusal(429, "rate_limit_error", "slow down", retry_after="7"), "rate_limit", 7.0),
        (refusal(429, "rate_limit_error", "slow down"), "rate_limit", None),
        (refusal(529, "overloaded_error", "overloaded"), "http_529", None),
        (refusal(529, "overloaded_error", "overloaded", retry_after="3"), "http_529", 3.0),
        (refusal(500, "api_error", "oh"), "http_500", None),
        (refusal(401, "authentication_error", "invalid x-api-key"), "auth", None),
        (refusal(403, "permission_error", "no"), "forbidden", None),
        (refusal(404, "not_found_error", "model: m1"), "model_not_found", None),
        (refusal(400, "invalid_request_error", "Your credit balance is too low to go on"), "quota", None),
        (refusal(402, "billing_error", "pay"), "quota", None),
        (refusal(400, "invalid_request_error", "temperature: too hot"), "http_400", None),
        (refusal(413, "request_too_large", "too large"), "http_413", None),
        (Canned(200, "<html>", {"Content-Type": "text/html"}), "wrong_type", None),
        (Canned(200, {"content": None}), "empty_choices", None),
        (Canned(200, '{"content": ['), "garbled_body", None),
    ],
)
async def test_a_failure_is_classified(response: Canned, kind: str, retry_after: float | None) -> None:
    """By status and words; one request, nothing retried by the SDK, and no key in what is said."""
    async with serving(response) as (server, provider):
        with pytest.raises(ProviderError) as caught:
            await provider.sample(ask())
    error = caught.value
    assert (error.kind, getattr(error, "retry_after", None)) == (kind, retry_after)
    assert isinstance(error, TransientError) is (
        kind in ("rate_limit", "wrong_type", "empty_choices", "garbled_body") or kind.startswith("http_5")
    )
    assert isinstance(error, RejectedError) is (kind in ("http_400", "http_413"))
    assert isinstance(error, RateLimitError) is (kind == "rate_limit" or retry_after is not None)
    assert len(server.log) == 1
    assert CANARY not in str(error) + repr(error.__cause__) + repr(error.__context__)
    if kind == "auth":
        assert "check ANTHROPIC_API_KEY" in str(error)


@pytest.mark.parametrize("kind", ["reset", "truncated", "hang"])
async def test_a_broken_connection_is_transient(kind: str) -> None:
    """Whatever happens on the wire, another attempt may follow."""
    async with serving(kind) as (_, provider):
        paced = mdap.Limits(attempt_timeout=0.3)
        with pytest.raises(TransientError):
            await Paced(provider, paced).sample(ask())


async def test_limits_are_told() -> None:
    """From the headers that Anthropic sends, prompts and replies together."""
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-output-tokens-limit": "8000",
    }
    limited = Canned(200, message().body, headers)
    async with serving(limited) as (_, provider):
        await provider.sample(ask())
    assert (provider.told.requests_per_minute, provider.told.tokens_per_minute) == (50, 38_000)


async def test_options() -> None:
    """What reasoning models refuse can be left out, and what they want added."""
    async with serving(send_temperature="false", extra_body='{"thinking": {"type": "disabled"}}') as served:
        server, provider = served
        await provider.sample(ask())
    assert "temperature" not in server.log[0].body
    assert server.log[0].body["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("", {}, "anthropic needs the name of a model"),
        ("m", {"n": True}, "anthropic has no option 'n'"),
        ("m", {"extra_body": {"system": "x"}}, "mdap itself sets system"),
        ("m", {"extra_body": {"metadata": {"api_key": "x"}}}, "api_key must not be among them"),
        ("m", {"base_url": "nowhere"}, "the base URL of anthropic"),
    ],
)
def test_wrong_use(
    model: str, options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence that says what to do."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    with pytest.raises(UsageError, match=sentence):
        create(model, options)


async def test_a_token_opens_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gateways hand them out; a key comes first."""
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", CANARY)
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Team: red")
    refused = refusal(401, "authentication_error", "no")
    async with FaultyServer(four, script=["ok", refused]) as server:
        provider = create("m1", {"base_url": server.base_url.removesuffix("/v1"), **_carried})
        await provider.sample(ask())
        with pytest.raises(ProviderError, match="check ANTHROPIC_AUTH_TOKEN"):
            await provider.sample(ask())
        await provider.aclose()

    headers = server.log[0].headers
    assert (headers["authorization"], headers["x-team"]) == (f"Bearer {CANARY}", "red")
    assert "x-api-key" not in headers


def test_a_missing_key_or_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable to set, or what to install."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    with pytest.raises(UsageError, match="set ANTHROPIC_API_KEY to use anthropic models"):
        create("m", {})
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(UsageError, match=r"pip install 'mdap\[anthropic\]'"):
        create("m", {})


@pytest.mark.slow
async def test_a_run_through_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second wire proves the seam: a whole run, with faults, exactly accounted for."""
    faults = Faults(
        rate_limit_silent=0.03, server_error=0.05, reset=0.03, truncated=0.03, content_filter=0.03
    )
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    with FaultyServer.in_thread(play, faults=faults) as server:
        solution = await mdap.solve(
            Hanoi(disks=5),
            model="anthropic/m1",
            options={"base_url": server.base_url.removesuffix("/v1")},
            db=tmp_path / "a.db",
            k=4,
            speculate="off",
            limits=mdap.Limits(probe=False),
        )
    assert solution.result == {"solved": True, "moves": 31}
    met = server.counts()
    assert solution.totals.samples == met["ok"] + met["content_filter"]
    assert solution.totals.failed_attempts == len(server.log) - solution.totals.samples > 0
    assert CANARY.encode() not in (tmp_path / "a.db").read_bytes()
