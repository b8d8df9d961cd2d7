"""The OpenAI provider against a real server on loopback, well-behaved and not."""

import gzip
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

import mdap.providers.openai as openai_module
from mdap.errors import (
    ProviderError,
    RateLimitError,
    RejectedError,
    TransientError,
    UnavailableError,
    UsageError,
)
from mdap.protocols import Provider
from mdap.providers.endpoint import Endpoint
from mdap.providers.openai import OpenAIProvider, create, create_named
from mdap.providers.sending import MAX_BODY
from mdap.records import Reply, SampleRequest
from mdap.testing import Answer, Canned, Faults, FaultyServer
from tests.helpers import mostly_slow

CANARY = "sk-canary-0123456789abcdef"

Script = list[str | Canned]


def ask(*ordinals: int, **changes: Any) -> SampleRequest:
    request = SampleRequest("Be exact.", "2 + 2?", "d1", "0", ordinals or (0,), 0.5, 100)
    return request._replace(**changes)


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
    script: Script | None = None,
    *,
    answer: Answer = four,
    faults: Faults | None = None,
    **options: Any,
) -> AsyncIterator[tuple[FaultyServer, OpenAIProvider]]:
    async with FaultyServer(answer, script=script or [], faults=faults) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", CANARY)
            provider = create("m1", {"base_url": server.base_url, **_carried, **options})
        try:
            yield server, provider
        finally:
            await provider.aclose()


async def failure_of(response: str | Canned, faults: Faults | None = None) -> ProviderError:
    async with serving([response], faults=faults) as (server, provider):
        with pytest.raises(ProviderError) as caught:
            await provider.sample(ask())
    assert len(server.log) == 1, "an attempt is one request"
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value.__cause__) + repr(caught.value.__context__)
    assert "\n" not in str(caught.value)
    return caught.value


def completion(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"choices": list(choices), **more}


def choice(content: Any = "4", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **more}


async def replies_to(body: Any, *, n: int = 1, headers: dict[str, str] | None = None) -> list[Reply]:
    async with serving([Canned(200, body, headers or {})], n=n > 1) as (_, provider):
        return list(await provider.sample(ask(*range(n))))


# Asking


async def test_a_request_and_its_reply() -> None:
    """The body holds the prompt, the limits and nothing else; the reply says what was billed."""
    async with serving() as (server, provider):
        replies = await provider.sample(ask())

    [served] = server.log
    assert served.body == {
        "model": "m1",
        "messages": [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "2 + 2?"}],
        "max_completion_tokens": 100,
        "temperature": 0.5,
    }
    assert f"Bearer {CANARY}" == served.headers["authorization"]
    expected = Reply("4", "openai/m1", "stop", served.prompt_tokens, served.completion_tokens)
    expected = expected._replace(request_id="req-0", latency=replies[0].latency, served_model="m1")
    assert [expected] == replies
    assert replies[0].latency > 0


async def test_options_change_the_body() -> None:
    """What a user sets arrives, converted from the strings of a command line."""
    options: dict[str, Any] = {
        "token_parameter": "max_tokens",
        "send_temperature": "false",
        "extra_body": '{"reasoning_effort": "low"}',
    }
    async with serving(**options) as (server, provider):
        await provider.sample(ask(system=""))

    assert server.log[0].body == {
        "model": "m1",
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "max_tokens": 100,
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(("mode", "strict"), [("loose", False), ("strict", True), ("off", None)])
async def test_a_schema_is_sent_unless_switched_off(mode: str, strict: bool | None) -> None:
    """A step's schema becomes the response format."""
    async with serving(json_schema=mode) as (server, provider):
        await provider.sample(ask(schema={"type": "integer"}))

    schema = {"name": "answer", "schema": {"type": "integer"}, "strict": strict}
    expected = None if strict is None else {"type": "json_schema", "json_schema": schema}
    assert expected == server.log[0].body.get("response_format")


async def test_seeds_differ_by_sample_and_prompt_and_repeat() -> None:
    """Samples get seeds of their own; the same sample gets the same seed again."""
    async with serving(seed="7", n=True) as (server, provider):
        requests = [ask(0), ask(1), ask(0, prompt_digest="d2"), ask(0), ask(0, 1)]
        for request in requests:
            await provider.sample(request)

    seeds = [served.body["seed"] for served in server.log]
    assert len(set(seeds)) == 3
    assert seeds[0] == seeds[3] == seeds[4]
    assert all(0 <= seed < 2**31 for seed in seeds)


async def test_several_replies_in_one_request() -> None:
    """Replies come in order, and their tokens add up to what was billed."""

    def answer(body: dict[str, Any], rng: random.Random) -> str:
        return "x" * rng.randrange(40)

    async with serving(n=True, answer=answer) as (server, provider):
        replies = await provider.sample(ask(*range(5)))

    [served] = server.log
    assert provider.max_n == 8
    assert 5 == served.body["n"] == len(replies) == served.replies
    assert [served.prompt_tokens, 0, 0, 0, 0] == [reply.input_tokens for reply in replies]
    outputs = [reply.output_tokens or 0 for reply in replies]
    assert served.completion_tokens == sum(outputs)
    assert max(outputs) - min(outputs) <= 1


async def test_a_server_that_ignores_n() -> None:
    """The choices that came are counted, not those that were asked for."""
    async with serving(n=True, faults=Faults(supports_n=False)) as (server, provider):
        replies = await provider.sample(ask(0, 1, 2))

    assert server.log[0].body["n"] == 3
    assert [reply.text for reply in replies] == ["4"]


async def test_one_reply_a_request_unless_allowed() -> None:
    """Without the option, no request asks for several, whatever the caller wants."""
    async with serving() as (server, provider):
        replies = await provider.sample(ask(0, 1, 2))

    assert 1 == provider.max_n == len(replies)
    assert "n" not in server.log[0].body


async def test_many_at_once() -> None:
    """One client carries concurrent requests, each reply going to its own asker."""
    answers: dict[str, str] = {}

    async def one(provider: OpenAIProvider, number: int) -> None:
        [reply] = await provider.sample(ask(user=f"{number}"))
        answers[f"{number}"] = reply.text

    async with (
        serving(answer=lambda body, rng: body["messages"][1]["content"]) as (server, provider),
        anyio.create_task_group() as tasks,
    ):
        for number in range(200):
            tasks.start_soon(one, provider, number)

    assert {f"{number}": f"{number}" for number in range(200)} == answers
    assert server.counts() == {"ok": 200}


# Reading


async def test_tokens_from_the_cache() -> None:
    """Cached tokens are part of the prompt, so they too are counted once."""
    details = {"cached_tokens": 64, "cache_write_tokens": 20}
    usage = {"prompt_tokens": 90, "completion_tokens": 7, "prompt_tokens_details": details}

    replies = await replies_to(completion(choice(), choice(), choice(), usage=usage), n=3)

    assert [
        (reply.input_tokens, reply.cached_tokens, reply.cache_write_tokens, reply.output_tokens)
        for reply in replies
    ] == [(90, 64, 20, 3), (0, 0, 0, 2), (0, 0, 0, 2)]


async def test_another_name_for_tokens_from_the_cache() -> None:
    """DeepSeek counts them beside the prompt's."""
    usage = {"prompt_tokens": 90, "completion_tokens": 7, "prompt_cache_hit_tokens": 64}
    [reply] = await replies_to(completion(choice(), usage=usage))
    assert (reply.input_tokens, reply.cached_tokens, reply.cache_write_tokens) == (90, 64, None)


@pytest.mark.parametrize("prompt", [{"prompt_tokens": 6}, {}])
async def test_tokens_from_the_cache_may_be_counted_apart(prompt: dict[str, int]) -> None:
    """As gateways to Anthropic's API do: a prompt never costs less than nothing."""
    details = {"cached_tokens": 64, "cache_write_tokens": 20}
    usage = {**prompt, "completion_tokens": 7, "prompt_tokens_details": details}
    [reply] = await replies_to(completion(choice(), usage=usage))
    assert reply.input_tokens == prompt.get("prompt_tokens", 0) + 84


async def test_the_shared_beginning_is_marked_where_a_model_wants_that() -> None:
    """GPT-5.6 keeps what ends at a mark; unless that is wished for, the message is a plain text."""
    document = "d" * 3000
    asked = SampleRequest("", f"{document}total?", "d", "0", (0,), 0.5, 100, shared=3000, warm=True)
    bodies = []
    given: tuple[dict[str, Any], ...] = ({"cache_breakpoints": True}, {})
    for options in given:
        async with serving(**options) as (server, provider):
            await provider.sample(asked)
        bodies.append(server.log[0].body["messages"][0]["content"])
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    assert bodies == [
        [{"type": "text", "text": document, **mark}, {"type": "text", "text": "total?"}],
        f"{document}total?",
    ]


@pytest.mark.parametrize(
    "usage",
    [
        None,
        3,
        {},
        {"prompt_tokens": "nine"},
        {"prompt_tokens": -1, "completion_tokens": True},
        {"prompt_tokens": 2**80},
    ],
)
async def test_unknown_usage_is_none(usage: Any) -> None:
    """What was not reported, or cannot be, is unknown and not zero."""
    [reply] = await replies_to(completion(choice(), usage=usage))

    assert (reply.input_tokens, reply.output_tokens, reply.cached_tokens) == (None, None, None)


async def test_more_choices_than_asked_for() -> None:
    """Surplus choices are no votes, but what they cost is."""
    [reply] = await replies_to(completion(choice("a"), choice("b"), usage={"completion_tokens": 9}))

    assert (reply.text, reply.output_tokens) == ("a", 9)


@pytest.mark.parametrize("reason", ["content_filter", "length", "tool_calls", "stop"])
async def test_a_reply_without_content(reason: str) -> None:
    """A filtered reply was paid for: it comes back empty, to be flagged, not retried."""
    [reply] = await replies_to(completion(choice(None, finish_reason=reason)))

    assert ("", reason) == (reply.text, reply.finish_reason)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I will not."},
        {"content": "", "refusal": "I will not."},
        {"content": [{"type": "refusal", "refusal": "I will not."}]},
    ],
)
async def test_a_refusal_is_what_the_model_says(message: dict[str, Any]) -> None:
    """Its words are the reply's text, and its finish reason says what it is."""
    [reply] = await replies_to(completion({"message": message, "finish_reason": "stop"}))

    assert (reply.text, reply.finish_reason) == ("I will not.", "refusal")


@pytest.mark.parametrize("refusal", [None, "", " ", False])
async def test_no_refusal(refusal: Any) -> None:
    """Servers that always send the field leave it empty."""
    [reply] = await replies_to(completion(choice("4") | {"message": {"content": "4", "refusal": refusal}}))

    assert (reply.text, reply.finish_reason) == ("4", "stop")


THOUGHT: list[tuple[Any, str | None]] = [
    ({"content": "<think>\nhm\n</think>\n\n4"}, "hm"),
    ({"content": "4", "reasoning_content": "hm"}, "hm"),
    (
        {"content": "4", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        "hm",
    ),
    ({"content": "4", "reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]}, "hm"),
    ({"content": "4", "reasoning_content": None, "reasoning": ""}, None),
    (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "4"},
            ]
        },
        "hm",
    ),
    ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}]}, "hm"),
    (
        {"content": [{"type": "text", "text": "<think>hm</think>"}, {"type": "output_text", "text": "4"}]},
        "hm",
    ),
    ({"content": [{"type": "reference", "reference_ids": [1]}, "4"]}, None),
    ({"content": {"type": "text", "text": "4"}}, None),
    ({"content": [7, None, {"type": ["text"], "text": "5"}, {"type": {}}, "4"]}, None),
    ({"content": "4", "reasoning": 7, "thinking": "hm"}, None),
    ({"content": [{"type": "thinking", "thought": "no", "thinking": "hm"}, "4"]}, "hm"),
]


@pytest.mark.parametrize(("message", "reasoning"), THOUGHT)
async def test_reasoning_is_no_part_of_the_reply(message: dict[str, Any], reasoning: str | None) -> None:
    """Whichever way a server marks it; content in parts is one text."""
    [reply] = await replies_to(completion({"message": message, "finish_reason": "stop"}))

    assert ("4", reasoning) == (reply.text, reply.reasoning)


@pytest.mark.parametrize("field", [None, 7, {}, {"id": 1}, [{"id": 1}] * 3])
async def test_a_field_without_a_text_takes_no_search(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reply is looked through for reasoning: one that has none must cost next to nothing."""
    looked = 0
    text_of = openai_module._text_of

    def counted(*arguments: Any) -> str:
        nonlocal looked
        looked += 1
        return text_of(*arguments)

    monkeypatch.setattr(openai_module, "_text_of", counted)
    [reply] = await replies_to(completion({"message": {"content": "4", "reasoning": field}}))
    assert (reply.text, reply.reasoning) == ("4", None)
    assert looked < 50


async def test_reasoning_alone_is_no_reply() -> None:
    """A server that puts all of it into the field of the reasoning leaves the reply empty."""
    [reply] = await replies_to(completion(choice(None) | {"message": {"reasoning_content": "4"}}))

    assert (reply.text, reply.reasoning) == ("", "4")


async def test_who_served_it() -> None:
    """The endpoint's own name of the model, and its fingerprint, as it says them; nonsense is nothing."""
    [reply] = await replies_to(completion(choice(), model="m1-2026-01", system_fingerprint="fp_1"))
    [other] = await replies_to(completion(choice(), model=7, system_fingerprint=" "))

    assert (reply.served_model, reply.fingerprint) == ("m1-2026-01", "fp_1")
    assert (other.served_model, other.fingerprint) == (None, None)


USAGES: list[tuple[dict[str, Any], tuple[int | None, ...]]] = [
    ({"prompt_tokens": 50.0, "completion_tokens": 10.0}, (50, 10)),
    ({"prompt_tokens": "50", "completion_tokens": "10", "total_tokens": "60"}, (50, 10)),
    ({"prompt_tokens": "-5", "completion_tokens": "many"}, (None, None)),
    ({"input_tokens": 50, "output_tokens": 10}, (50, 10)),
    # What the model thought is in the total alone.
    ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, (32, 103)),
    ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 0}, (32, 9)),
]


@pytest.mark.parametrize(("usage", "tokens"), USAGES)
async def test_usage_as_servers_spell_it(usage: dict[str, Any], tokens: tuple[int | None, ...]) -> None:
    """All that is billed is counted."""
    [reply] = await replies_to(completion(choice(), usage=usage))

    assert tokens == (reply.input_tokens, reply.output_tokens)


PAID: list[Any] = [
    completion(choice(7)),
    completion({"message": None, "finish_reason": "stop"}),
    completion(),
    {"choices": None, "base_resp": {"status_code": 1000, "status_msg": "unknown error"}},
    completion(
        {"error": {"code": 502, "message": "upstream"}, "finish_reason": "error", "message": {"content": ""}}
    ),
    completion(choice("", finish_reason="error")),
    completion(choice("half", finish_reason="insufficient_system_resource")),
    completion(choice("half", finish_reason="abort")),
]


async def test_hidden_reasoning_makes_no_reply_too_long() -> None:
    """All of it is billed; what can be read is counted against the limit."""
    usage = {
        "prompt_tokens": 50,
        "completion_tokens": 1500,
        "completion_tokens_details": {"reasoning_tokens": 1490},
    }
    [reply] = await replies_to(completion(choice(finish_reason=None), usage=usage))

    assert (reply.output_tokens, reply.answer_tokens, reply.finish_reason) == (1500, 10, "stop")
    three = await replies_to(completion(*[choice()] * 3, usage=usage), n=3)
    assert [sum(reply.output_tokens or 0 for reply in three)] == [1500]
    assert [sum(reply.reasoning_tokens or 0 for reply in three)] == [1490]


FOUR = json.dumps(completion(choice(), usage={"prompt_tokens": 50, "completion_tokens": 10}, of="é"))
GATEWAYS: list[tuple[bytes, str]] = [
    (FOUR.encode() + b"\n<!-- served by a gateway -->", "application/json"),
    (FOUR.encode() + b"}", "application/json; charset=utf-8"),
    (b"\xef\xbb\xbf \n" + FOUR.encode() + b"\0", "text/html"),
    (FOUR.replace(r"\u00e9", "é").encode("latin-1"), "application/json; charset=ISO-8859-1"),
    (FOUR.replace(r"\u00e9", "é").encode("latin-1"), "application/json"),
]


@pytest.mark.parametrize(("body", "kind"), GATEWAYS)
async def test_what_a_gateway_does_to_a_whole_answer(body: bytes, kind: str) -> None:
    """It adds something behind it, or spells it otherwise: the answer is whole, and paid for."""
    [reply] = await replies_to(body, headers={"Content-Type": kind})

    assert (reply.text, reply.input_tokens, reply.output_tokens) == ("4", 50, 10)


STREAM = [
    {"choices": [{"delta": {"content": '"usage": {"prompt_tokens": 9}'}}], "usage": None},
    {"choices": [{"delta": {"content": "4"}}], "usage": {"prompt_tokens": 50, "completion_tokens": 1}},
    {"choices": [], "usage": {"completion_tokens": 10}},
]


async def test_a_stream_that_nobody_asked_for_is_counted() -> None:
    """It cannot be read, but says what it cost; the last word counts, and no text of the model."""
    told = "".join(f"data: {json.dumps(part)}\n\n" for part in STREAM) + "data: [DONE]\n\n"
    error = await failure_of(Canned(200, told, {"Content-Type": "text/event-stream"}))

    assert (error.kind, error.input_tokens, error.output_tokens) == ("wrong_type", 50, 10)


@pytest.mark.parametrize("body", PAID)
async def test_what_was_paid_for_is_counted(body: dict[str, Any]) -> None:
    """Also where the answer cannot be read, or says that it failed: a failed attempt with its tokens."""
    error = await failure_of(Canned(200, {**body, "usage": {"prompt_tokens": 50, "completion_tokens": 10}}))

    assert isinstance(error, TransientError)
    assert (error.input_tokens, error.output_tokens) == (50, 10)


async def test_a_router_says_why_a_choice_failed() -> None:
    """Its code counts as the status would."""
    limited = completion({"error": {"code": 429, "message": "slow down"}, "message": {"content": ""}})

    error = await failure_of(Canned(200, limited))

    assert isinstance(error, RateLimitError)
    assert "slow down" in str(error)


async def test_the_completion_of_an_older_api() -> None:
    """Some servers answer in its shape."""
    [reply] = await replies_to(completion({"text": "4", "finish_reason": "stop"}))

    assert reply.text == "4"


@pytest.mark.parametrize(("tokens", "reason"), [(99, "stop"), (100, "length"), (None, "stop")])
async def test_a_missing_finish_reason(tokens: int | None, reason: str) -> None:
    """A reply that says nothing of its end is complete unless it used all tokens it was allowed."""
    body = completion(choice(finish_reason=None), usage={"completion_tokens": tokens})

    [reply] = await replies_to(body)

    assert reason == reply.finish_reason


@pytest.mark.parametrize(
    "kind",
    [
        *("", "application/json; charset=utf-8", "application/vnd.x+json"),
        "text/plain",
        "application/octet-stream",
    ],
)
async def test_content_types_of_json(kind: str) -> None:
    """JSON has several names, and goes by wrong ones: what the body is counts."""
    [reply] = await replies_to(completion(choice()), headers={"Content-Type": kind})

    assert reply.text == "4"


async def test_a_drip_arrives() -> None:
    """A slow body is a body: how long to wait is for the caller to say."""
    async with serving(["drip"], faults=Faults(drip_interval=0)) as (_, provider):
        [reply] = await provider.sample(ask())

    assert reply.text == "4"


@pytest.mark.parametrize("fault", ["missing_usage", "content_filter"])
async def test_odd_but_whole_answers(fault: str) -> None:
    """These faults are for the judge of replies, not for transport."""
    async with serving([fault]) as (_, provider):
        [reply] = await provider.sample(ask())

    assert (fault == "content_filter") == (reply.finish_reason == "content_filter")
    assert (fault == "missing_usage") == (reply.output_tokens is None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"choices": [',
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        completion(None),
        completion({}),
        completion({"message": None}),
        completion(choice(7)),
        completion(choice(), choice(7)),
    ],
)
async def test_garbled_bodies(body: Any) -> None:
    """Whatever is not a list of texts is a failed attempt, never a reply."""
    error = await failure_of(Canned(200, body))

    assert (TransientError, "garbled_body") == (type(error), error.kind)


@pytest.mark.parametrize("body", [{}, completion(), {"choices": None}, {"choices": "4"}])
async def test_no_choices(body: Any) -> None:
    """A response without a single choice is a failed attempt."""
    error = await failure_of(Canned(200, body))

    assert (TransientError, "empty_choices") == (type(error), error.kind)


# Failing


@pytest.mark.parametrize(
    ("fault", "cls", "kind"),
    [
        ("rate_limit", RateLimitError, "rate_limit"),
        ("rate_limit_silent", RateLimitError, "rate_limit"),
        ("server_error", TransientError, "http_500"),
        ("overloaded", TransientError, "http_503"),
        ("reset", TransientError, "disconnected"),
        ("truncated", TransientError, "garbled_body"),
        ("wrong_type", TransientError, "wrong_type"),
        ("empty_choices", TransientError, "empty_choices"),
        ("huge_body", TransientError, "huge_body"),
    ],
)
async def test_every_fault_has_its_error(fault: str, cls: type[ProviderError], kind: str) -> None:
    """Each fault of the test server is told apart."""
    error = await failure_of(fault)

    assert (cls, kind) == (type(error), error.kind)


@pytest.mark.parametrize(
    ("status", "code", "cls", "kind"),
    [
        (400, None, RejectedError, "http_400"),
        (400, "context_length_exceeded", RejectedError, "http_400"),
        (400, "model_not_found", UnavailableError, "model_not_found"),
        (400, "invalid_api_key", UnavailableError, "auth"),
        (401, "invalid_api_key", UnavailableError, "auth"),
        (402, None, UnavailableError, "quota"),
        (403, None, UnavailableError, "forbidden"),
        (403, "content_filter", RejectedError, "http_403"),
        (403, "insufficient_quota", UnavailableError, "quota"),
        (404, "model_not_found", UnavailableError, "model_not_found"),
        (404, None, UnavailableError, "model_not_found"),
        (405, None, UnavailableError, "http_405"),
        (408, None, TransientError, "http_408"),
        (409, None, TransientError, "http_409"),
        (413, None, RejectedError, "http_413"),
        (422, None, RejectedError, "http_422"),
        (429, None, RateLimitError, "rate_limit"),
        (429, "insufficient_quota", UnavailableError, "quota"),
        (502, None, TransientError, "http_502"),
        (529, "overloaded_error", TransientError, "http_529"),
    ],
)
async def test_statuses(status: int, code: str | None, cls: type[ProviderError], kind: str) -> None:
    """Status and code decide whether to retry, to stop, or to give up the prompt."""
    error = await failure_of(Canned(status, {"error": {"message": "Because.", "code": code}}))

    assert (cls, kind) == (type(error), error.kind)
    assert str(error).endswith(f"answered {status}: Because.")


async def test_quota_without_a_code() -> None:
    """An empty account is known by its message where the code is missing."""
    message = "You exceeded your current quota, please check your plan and billing details."

    assert (await failure_of(Canned(429, {"error": {"message": message}}))).kind == "quota"
    limited = await failure_of(Canned(429, [{"error": {"message": message, "code": 429}}]))
    assert limited.kind == "rate_limit"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "upstream", "code": 429}}, "rate_limit"),
        ({"error": {"message": "upstream", "code": 403}}, "forbidden"),
        ({"error": {"message": 'Your input was flagged for "violence"', "code": 403}}, "http_403"),
        ({"error": {"message": "not authorized: no policy allows it", "code": 403}}, "forbidden"),
        ({"error": {"message": "API key not valid. Please pass a valid one", "code": 400}}, "auth"),
        ({"error": {"message": "upstream", "code": "weird"}}, "error_body"),
        ({"error": "upstream", "choices": []}, "error_body"),
    ],
)
async def test_an_error_with_status_200(body: Any, kind: str) -> None:
    """A router's error is an error, whatever its status says."""
    error = await failure_of(Canned(200, body))

    assert kind == error.kind
    told = body["error"]
    assert (told if isinstance(told, str) else told["message"]) in str(error)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "No such model."}, "No such model."),
        ({"detail": [{"loc": ["n"]}]}, '[{"loc": ["n"]}]'),
        ({"error": "plain"}, "plain"),
        ({"object": "error", "message": "vllm", "code": 400}, "vllm"),
        ("text\r\nwith \x1b[31mred\x1b[0m \u202eparts", "text with [31mred [0m parts"),
    ],
)
async def test_messages_of_all_shapes(body: Any, said: str) -> None:
    """What the server says is told on one line, whichever way it says it, without control characters."""
    error = await failure_of(Canned(400, body))

    assert str(error).endswith(f"answered 400: {said}")


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
async def test_the_key_is_never_told(status: int) -> None:
    """A server that repeats the key, in message, text or header, does not get it into an error."""
    body = {"error": {"message": f"{'x' * 270} bad key {CANARY}, really {CANARY}", "code": CANARY}}

    error = await failure_of(Canned(status, body))
    in_type = await failure_of(Canned(200, b"{}", {"Content-Type": f"text/{CANARY}"}))

    assert "***" in str(error)
    assert len(str(error)) < 400
    assert "sk-" not in f"{error}{in_type}"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": "600"}, 600.0),
        ({"retry-after-ms": "150", "Retry-After": "1"}, 0.15),
        ({"retry-after-ms": "soon", "Retry-After": "1"}, 1.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
async def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    """A pause may be asked for in milliseconds, seconds, or by a date; nonsense asks for none."""
    error = await failure_of(Canned(429, {}, headers))

    assert isinstance(error, RateLimitError)
    assert seconds == error.retry_after


async def test_waiting_until_a_date() -> None:
    """A date in the future is turned into seconds from now."""
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)

    error = await failure_of(Canned(429, {}, {"Retry-After": date}))

    assert isinstance(error, RateLimitError)
    assert error.retry_after is not None
    assert 3000 < error.retry_after <= 3600


async def test_an_overloaded_server_that_asks_for_a_pause() -> None:
    """A pause is a pause, also from a server that is overloaded."""
    error = await failure_of(Canned(503, {}, {"Retry-After": "3"}))

    assert isinstance(error, RateLimitError)
    assert (error.kind, error.retry_after) == ("http_503", 3.0)


async def test_a_huge_body_that_says_so() -> None:
    """An announced length is enough to refuse a body."""
    error = await failure_of(Canned(200, b" " * (MAX_BODY + 1)))

    assert error.kind == "huge_body"


async def test_a_small_body_that_is_huge_when_unpacked() -> None:
    """No compressed body is asked for, and of one that comes no more is unpacked than any body may have."""
    body = gzip.compress(b" " * (MAX_BODY + 1))
    async with serving([Canned(200, body, {"Content-Encoding": "gzip"})]) as (server, provider):
        with pytest.raises(TransientError) as caught:
            await provider.sample(ask())

    assert caught.value.kind == "huge_body"
    assert server.log[0].headers["accept-encoding"] == "identity"


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("GZip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)],
)
async def test_a_body_that_is_compressed_all_the_same(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """It is unpacked, by what it says it is."""
    body = pack(json.dumps(completion(choice())).encode())

    [reply] = await replies_to(body, headers={"Content-Encoding": encoding})

    assert reply.text == "4"


@pytest.mark.parametrize("encoding", ["br", "gzip", "zstd, gzip"])
async def test_a_body_that_cannot_be_unpacked(encoding: str) -> None:
    """An unknown method, or a body that is something else."""
    error = await failure_of(Canned(200, b"{}", {"Content-Encoding": encoding}))

    assert (TransientError, "compressed") == (type(error), error.kind)


async def test_nobody_listens() -> None:
    """A refused connection is a connection that failed, not a timeout."""
    with socket.socket() as taken:  # so that nobody else begins to listen there
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        provider = create("m1", {"base_url": address, **_carried})
        with pytest.raises(TransientError) as caught:
            await provider.sample(ask())
        await provider.aclose()

    assert caught.value.kind == "connection"


async def test_no_answer_in_time(monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    """The client's own clock, should it ever strike, is a timeout."""
    module = {"aiohttp": "direct", "sdk": "sdk"}[transport]
    monkeypatch.setattr(f"mdap.providers.{module}.IDLE_SECONDS", 0.05)

    error = await failure_of("hang")

    assert (TransientError, "timeout") == (type(error), error.kind)


async def test_a_retry_inside_a_handler_is_judged_by_itself() -> None:
    """The failure that a caller is handling does not colour the next one."""
    async with serving(["huge_body", "server_error"]) as (_, provider):
        try:
            await provider.sample(ask())
        except TransientError:
            with pytest.raises(TransientError) as second:
                await provider.sample(ask())

    assert second.value.kind == "http_500"


async def test_a_hung_request_can_be_given_up() -> None:
    """A caller's deadline ends the wait, and the provider still works."""
    async with serving(["hang", "ok"]) as (server, provider):
        async with anyio.create_task_group() as group:
            group.start_soon(provider.sample, ask())
            # Whoever gives up does so while the server keeps it waiting, not before it was reached.
            while not server.log:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        [reply] = await provider.sample(ask())

    assert reply.text == "4"
    assert [served.outcome for served in server.log] == ["hang", "ok"]


async def test_a_prompt_that_cannot_be_sent() -> None:
    """Half a surrogate pair cannot become bytes, however often it is tried."""
    async with serving() as (server, provider):
        with pytest.raises(RejectedError, match="cannot be sent"):
            await provider.sample(ask(user="\ud800"))

    assert not server.log


async def test_the_client_may_be_closed_twice_or_never_opened() -> None:
    """Closing is safe at any time, and a provider opens again when asked."""
    async with serving() as (_, provider):
        await provider.aclose()
        await provider.sample(ask())
        await provider.aclose()
        await provider.aclose()


# Setting up


def test_it_is_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol accepts it; the description has no secrets."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://joe:{CANARY}@host:81/v1?key={CANARY}")
    provider: Provider = create("org/m1", {"extra_body": {"user": "me"}})

    assert isinstance(provider, Provider)
    assert (provider.name, provider.nonblocking, provider.max_n) == ("openai/org/m1", False, 1)
    assert provider.describe() == {
        "model": "org/m1",
        "host": "host:81",
        "allow_duplicates": False,
        "n": False,
        "seed": None,
        "token_parameter": "max_completion_tokens",
        "send_temperature": True,
        "json_schema": "loose",
        "extra_body": {"user": "me"},
    }
    json.dumps(provider.describe())
    assert CANARY not in repr(provider)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("", {}, "openai needs the name of a model"),
        (
            "m1",
            {"tempo": 1, "api_key": CANARY},
            "openai has no option 'tempo'; there are allow_duplicates, base_url,",
        ),
        ("m1", {"n": CANARY}, "openai option n: Input should be a valid boolean"),
        ("m1", {"token_parameter": "tokens"}, "openai option token_parameter: Input should be"),
        ("m1", {"extra_body": "{"}, "openai option extra_body: this is no JSON object"),
        ("m1", {"extra_body": '{"x": NaN}'}, "openai option extra_body: it holds what has no form in JSON"),
        ("m1", {"transport": "pigeon"}, "openai option transport: Input should be 'aiohttp' or 'sdk'"),
        ("m1", {"extra_body": "[]"}, "openai option extra_body: Input should be a valid dictionary"),
        ("m1", {"extra_body": {"n": 3}}, "openai option extra_body: mdap itself sets n"),
        ("m1", {"base_url": f"http://joe:{CANARY}@h/v1"}, "openai option base_url: options are stored"),
        ("m1", {"base_url": f"http://h/v1?key={CANARY}"}, "openai option base_url: options are stored"),
        ("m1", {"headers": {"Authorization": "Bearer x"}}, "openai option headers: options are stored"),
        ("m1", {"headers": {"X-Api-Key": "x"}}, "openai option headers: options are stored"),
        ("m1", {"headers": {"X Team": "x"}}, "openai option headers: a header's name is one word"),
        ("m1", {"headers": {"X-Team": "x\r\ny"}}, "openai option headers: the value of X-Team has"),
        ("m1", {"query": "a=1"}, "openai option query: this is no JSON object"),
        ("m1", {"query": {"sig": "x"}}, "openai option query: options are stored"),
        ("m1", {"extra_body": {"user": CANARY}}, "options are stored with the run, so none may hold the key"),
        ("m1", {"extra_body": {"a": [{"access_token": 1}]}}, "openai option extra_body: options are"),
        ("m1", {"base_url": "localhost:80"}, "the base URL of openai must look like"),
        ("m1", {"base_url": "http://h:x/v1"}, "the base URL of openai must look like"),
        ("m1", {"base_url": "http://a b/v1"}, "the base URL of openai must look like"),
    ],
)
def test_wrong_use(model: str, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake is told in one sentence that names it."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    with pytest.raises(UsageError) as caught:
        create(model, options)

    assert str(caught.value).startswith(said)
    assert CANARY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [None, "", " "])
def test_a_missing_key(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without key and base URL, the sentence says what to set."""
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match=r"^set OPENAI_API_KEY to use openai models, or set OPENAI_BASE_URL"):
        create("m1", {})


def test_a_damaged_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key pasted with more than a key is refused before a header library quotes it."""
    monkeypatch.setenv("OPENAI_API_KEY", f"“{CANARY}”")
    with pytest.raises(UsageError, match="copy the key again") as caught:
        create("m1", {})
    assert CANARY not in str(caught.value)


async def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base URL from the environment is enough."""
    async with FaultyServer(four) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        provider = create("m1", dict(_carried))
        [reply] = await provider.sample(ask())
        await provider.aclose()

    assert reply.text == "4"


def test_the_endpoint_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key alone means OpenAI; an empty base URL is none."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert create("m1", {}).describe()["host"] == "api.openai.com"


@pytest.mark.slow
def test_importing_it_is_light() -> None:
    """The SDK is loaded by who makes a provider, not by who imports the package."""
    code = "import sys, mdap.providers.openai; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


# The server that all this stands on


async def test_faults_are_drawn_by_number() -> None:
    """The same seed meets the same faults; another seed does not."""

    async def outcomes(seed: int) -> list[str]:
        faults = Faults(server_error=0.3, empty_choices=0.3)
        async with FaultyServer(four, faults=faults, seed=seed) as server:
            provider = create("m1", {"base_url": server.base_url, **_carried})
            for _ in range(30):
                with suppress(TransientError):
                    await provider.sample(ask())
            await provider.aclose()
        return [served.outcome for served in server.log]

    first = await outcomes(1)
    assert {"ok", "server_error", "empty_choices"} == set(first)
    assert first == await outcomes(1)
    assert first != await outcomes(2)


async def test_a_slow_server_answers_all_the_same() -> None:
    """Latency delays an answer and changes nothing else."""
    async with serving(faults=Faults(latency=0.001, sigma=1.0)) as (server, provider):
        [reply] = await provider.sample(ask())

    assert (reply.text, server.counts()) == ("4", {"ok": 1})


async def test_a_body_that_is_not_so_huge() -> None:
    """A body within bounds is read to its end, and found to have no choices."""
    error = await failure_of("huge_body", Faults(huge_bytes=10))

    assert error.kind == "empty_choices"


async def test_the_account_runs_empty() -> None:
    """Answered requests are paid for; failed ones are not."""
    async with serving(["ok", "server_error", "ok"], faults=Faults(out_of_quota_after=2)) as (
        server,
        provider,
    ):
        kinds = []
        for _ in range(5):
            try:
                await provider.sample(ask())
            except ProviderError as error:
                kinds.append(error.kind)

    assert kinds == ["http_500", "quota", "quota"]
    assert server.counts() == {"ok": 2, "server_error": 1, "out_of_quota": 2}


async def test_a_broken_answer_function_shows() -> None:
    """A bug in a test's own function is told, not hidden in a hang."""
    async with serving(answer=lambda body, rng: str(1 // 0)) as (server, provider):
        with pytest.raises(TransientError, match="ZeroDivisionError"):
            await provider.sample(ask())

    assert server.counts() == {"broken_answer": 1}


async def test_leaving_with_a_hung_connection() -> None:
    """The server ends though a client still waits, and the client hears of it."""
    kinds = []

    async def wait(provider: OpenAIProvider) -> None:
        try:
            await provider.sample(ask())
        except TransientError as error:
            kinds.append(error.kind)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks, FaultyServer(four, script=["hang"]) as server:
            provider = create("m1", {"base_url": server.base_url, **_carried})
            tasks.start_soon(wait, provider)
            while not server.log:
                await anyio.lowlevel.checkpoint()
        await provider.aclose()

    assert kinds == ["disconnected"]


async def test_an_error_in_the_block_stays_itself() -> None:
    """What a test raises is not wrapped into a group by the server's tasks."""
    with pytest.raises(KeyError):
        async with FaultyServer(four):
            raise KeyError


def test_a_server_for_code_without_a_loop() -> None:
    """A thread of its own serves plain synchronous clients, and other processes."""
    with FaultyServer.in_thread(four, script=["rate_limit"]) as server:
        host, _, root = server.base_url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=120)
        said = []
        for method, path, body in [
            ("GET", "models", None),
            ("GET", "weather", None),
            ("POST", "chat/completions", "{}"),
            ("POST", "chat/completions", "{"),
            ("POST", "chat/completions", '{"messages": []}'),
            ("POST", "chat/completions", '{"messages": []}'),
        ]:
            connection.request(method, f"/{root}/{path}", body)
            response = connection.getresponse()
            said.append((response.status, next(iter(json.load(response)))))
        connection.close()

    assert said == [
        (200, "object"),
        (404, "error"),
        (400, "error"),
        (400, "error"),
        (429, "error"),
        (200, "object"),
    ]
    assert [served.outcome for served in server.log] == ["rate_limit", "ok"]


# --- endpoints with a name


async def test_named_endpoints_have_keys_and_addresses_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them side by side, each with its own variables; replies say which it was."""
    async with FaultyServer(four) as one, FaultyServer(four) as two:
        for prefix, server in (("GROQ", one), ("MY_BOX", two)):
            monkeypatch.setenv(f"{prefix}_BASE_URL", server.base_url)
            monkeypatch.setenv(f"{prefix}_API_KEY", f"{CANARY}-{prefix}")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        providers = [create_named("groq/meta/llama-3", {}), create_named("my-box/m", {"seed": 1})]
        replies = [(await provider.sample(ask()))[0] for provider in providers]
        for provider in providers:
            await provider.aclose()
    assert [reply.model for reply in replies] == ["openai-api/groq/meta/llama-3", "openai-api/my-box/m"]
    assert [server.log[0].body["model"] for server in (one, two)] == ["meta/llama-3", "m"]
    keys = [server.log[0].headers["authorization"] for server in (one, two)]
    assert keys == [f"Bearer {CANARY}-GROQ", f"Bearer {CANARY}-MY_BOX"]


STRANGERS = {
    "OPENAI_ORG_ID": "org-stranger",
    "OPENAI_PROJECT_ID": "proj-stranger",
    "OPENAI_API_KEY": "sk-stranger",
    "OPENAI_ADMIN_KEY": "sk-admin-stranger",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer stranger\nX-Gateway-Key: stranger\nUser-Agent: stranger",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Other: stranger",
    "ANTHROPIC_AUTH_TOKEN": "stranger",
}


@pytest.mark.parametrize("key", [None, CANARY])
async def test_nothing_that_is_meant_for_one_endpoint_reaches_another(
    key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of OpenAI's variables a named endpoint sees none; it has headers of its own."""
    for name, value in STRANGERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GROQ_CUSTOM_HEADERS", "X-Team: red\nX-Empty:")
    async with FaultyServer(four) as server:
        monkeypatch.setenv("GROQ_BASE_URL", server.base_url)
        if key:
            monkeypatch.setenv("GROQ_API_KEY", key)
        provider = create_named("groq/m", dict(_carried))
        await provider.sample(ask())
        await provider.aclose()
    [served] = server.log

    assert "stranger" not in str(served.headers)
    assert not [name for name in served.headers if name.startswith("openai-")]
    assert served.headers.get("authorization") == (f"Bearer {key}" if key else None)
    assert served.headers["x-team"] == "red"


async def test_what_is_meant_for_openai_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its SDK reads it."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: red")
    async with serving(headers='{"X-Run": "7"}') as (server, provider):
        await provider.sample(ask())
    [served] = server.log

    assert (served.headers["openai-organization"], served.headers["x-team"]) == ("org-1", "red")
    assert (served.headers["x-run"], served.headers["authorization"]) == ("7", f"Bearer {CANARY}")


TARGETS = [
    (
        "{base}/openai/deployments/gpt4o?api-version=2024-10-21",
        {},
        "/openai/deployments/gpt4o",
        "api-version=2024-10-21",
    ),
    ("{base}/v1/?a=1&a=2&b=", {}, "/v1", "a=1&a=2&b="),
    ("{base}/v1", {"query": '{"api-version": "2024 10"}'}, "/v1", "api-version=2024+10"),
    ("{base}/v1", {}, "/v1", ""),
]


@pytest.mark.parametrize(("base_url", "options", "path", "query"), TARGETS)
async def test_the_query_of_a_base_url(
    base_url: str, options: dict[str, str], path: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays behind the path, whether the environment or an option names it."""
    async with recording() as (base, heads):
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        monkeypatch.setenv("OPENAI_BASE_URL", base_url.format(base=base))
        named: list[dict[str, Any]] = [options, {**options, "base_url": base_url.format(base=base)}]
        for chosen in named:
            provider = create("m", {**chosen, **_carried})
            with suppress(ProviderError):
                await provider.sample(ask())
            await provider.aclose()
    target = f"{path}/chat/completions" + (f"?{query}" if query else "")

    assert [head.split()[1] for head in heads] == [target, target]
    # Azure's deployments take the key in a header of their own.
    assert [f"api-key: {CANARY}" in head.lower() for head in heads] == ["/deployments/" in path] * 2


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[str, list[str]]]:
    """A server that notes the head of each request, and knows no answer."""
    heads: list[str] = []

    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heads.append((await stream.receive()).decode("latin-1"))
            await stream.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, talk)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}", heads
        group.cancel_scope.cancel()


HTML = Canned(200, "\n<!doctype html>\n<html>App</html>", {"Content-Type": "text/html"})
ELSEWHERE: list[tuple[Canned, str]] = [
    (HTML, "answered 200 with text/html, not JSON: <!doctype html>"),
    (
        Canned(200, "data: {}\n\ndata: [DONE]\n", {"Content-Type": "text/event-stream"}),
        "event-stream, not JSON: data: {}",
    ),
    (
        Canned(200, "It works!", {"Content-Type": "text/plain"}),
        "answered 200 with text/plain, not JSON: It works!",
    ),
    (Canned(200, {"status": "ok"}), r'answered 200 without a choice: {"status": "ok"}'),
    (Canned(200, {"error": "Unexpected endpoint or method. (POST /x)"}), "answered 200: Unexpected endpoint"),
    (
        Canned(200, {"choices": None, "base_resp": {"status_code": 7, "status_msg": "no"}}),
        "without a choice: no",
    ),
    (Canned(200, b""), "broken JSON: nothing at all"),
    (Canned(200, b"\0\1", {"Content-Encoding": "br"}), "the response is compressed .br."),
    (Canned(200, "{'choices': []}", {"Content-Type": "application/json"}), "broken JSON: {'choices'"),
    (Canned(999, "denied"), "answered 999: denied"),
    (Canned(498, {"error": {"message": "capacity exceeded"}}), "answered 498: capacity exceeded"),
    (
        Canned(400, "<h1>plain HTTP request was sent to HTTPS port</h1>", {"Content-Type": "text/html"}),
        "answered 400: <h1>",
    ),
]


@pytest.mark.parametrize(("response", "said"), ELSEWHERE)
async def test_a_wrong_address_is_told_at_the_third_answer(response: Canned, said: str) -> None:
    """With status, first line and what to check; whoever asks, and one by one as well as together."""
    script: Script = [*[response] * 3]
    async with serving(script) as (server, provider):
        kinds = []
        for _ in range(2):
            with pytest.raises((TransientError, RejectedError)) as passing:
                await provider.sample(ask())
            kinds.append(passing.value.kind)
        with pytest.raises(UnavailableError, match=said) as caught:
            await provider.sample(ask())

    assert len(server.log) == 3
    assert (caught.value.kind, "wrong_address" in kinds) == ("wrong_address", False)
    assert "Check the address in -M base_url" in str(caught.value)


@pytest.mark.parametrize("fault", ["server_error", "overloaded", "rate_limit", "reset", "truncated"])
async def test_trouble_is_no_wrong_address(fault: str) -> None:
    """A server that loads its model, is busy, or breaks off may be asked as often as limits say."""
    script: Script = [*[fault] * 12]
    async with serving(script, faults=Faults(retry_after=0)) as (_, provider):
        for _ in range(12):
            with pytest.raises(TransientError):
                await provider.sample(ask())
        assert (await provider.sample(ask()))[0].text == "4"


async def test_an_endpoint_that_is_known_may_stumble() -> None:
    """After some good answers, three odd ones in a row are an accident; ten are not."""
    script: Script = [*["ok"] * 5, *["wrong_type"] * 9, "ok", *["wrong_type"] * 10]
    kinds = []
    async with serving(script) as (_, provider):
        for _ in script:
            try:
                await provider.sample(ask())
                kinds.append("ok")
            except ProviderError as error:
                kinds.append(type(error).__name__)

    ended = ["ok"] * 5 + ["TransientError"] * 9 + ["ok"] + ["TransientError"] * 9 + ["UnavailableError"]
    assert kinds == ended


HINTS = [
    ("http://h:1234", "most servers want http://h:1234/v1"),
    ("http://h:1234/", "most servers want http://h:1234/v1"),
    ("http://h/api", "most servers want http://h/api/v1"),
    ("http://h/v1/chat/completions", "leave out /chat/completions at its end"),
    ("http://h/v1/chat", "leave out /chat at its end"),
    ("http://h/v1", ""),
    ("http://h/v1beta/openai", ""),
    ("http://h/api/paas/v4", ""),
    ("http://h/openai/deployments/m?api-version=1", ""),
    ("http://h/openai/deployments/m", "Azure wants ?api-version=... at its end"),
]


@pytest.mark.parametrize(("base_url", "hint"), HINTS)
def test_how_an_address_should_look(base_url: str, hint: str) -> None:
    """By what is usual for this API."""
    assert Endpoint(base_url, None, "KEY").hint("/chat/completions") == hint


def test_how_anthropics_address_should_look() -> None:
    """It has no version at its end: the path of the API brings it."""
    assert Endpoint("http://h/v1", None, "KEY").hint("/v1/messages") == "leave out /v1 at its end"
    assert Endpoint("http://h", None, "KEY").hint("/v1/messages") == ""


async def test_a_path_that_is_not_there_is_told_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is enough."""
    async with FaultyServer(four) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url.removesuffix("/v1"))
        provider = create("m", dict(_carried))
        with pytest.raises(
            UnavailableError, match=r"404: no POST /chat/completions here. Check .*OPENAI_BASE_URL: most"
        ):
            await provider.sample(ask())
        await provider.aclose()


@pytest.mark.parametrize(
    ("status", "message", "cls"),
    [
        (
            403,
            "Your chosen model requires moderation and your input was flagged for violence.",
            RejectedError,
        ),
        (403, "blocked by content filter", RejectedError),
        (403, "no access to this project", UnavailableError),
        (400, "API key not valid. Please pass a valid API key.", UnavailableError),
        (400, "Incorrect API key provided", UnavailableError),
        (400, "the prompt is too long", RejectedError),
        (451, "unavailable", RejectedError),
        (424, "model error", TransientError),
        (420, "calm", TransientError),
        (523, "origin is unreachable", TransientError),
        (501, "unsupported method", UnavailableError),
        (418, "teapot", UnavailableError),
    ],
)
async def test_what_a_status_means_depends_on_its_words(
    status: int, message: str, cls: type[ProviderError]
) -> None:
    """A filtered prompt is not the key's fault, and a bad key not the prompt's."""
    error = await failure_of(Canned(status, {"error": {"message": message}}))

    assert type(error) is cls
    assert ("check OPENAI_API_KEY" in str(error)) == (error.kind in ("auth", "forbidden"))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Your API key has been revoked by the admin", "auth"),
        ("Permission denied: Consumer 'projects/7' has been suspended.", "auth"),
        ("This organization has been disabled.", "auth"),
        ("The security token included in the request is expired", "auth"),
        ("Forbidden", "forbidden"),
        ("Access denied", "forbidden"),
    ],
)
async def test_a_key_that_is_gone_is_told_from_a_prompt_that_is_denied(message: str, kind: str) -> None:
    """A bare denial may be for this prompt alone; one that speaks of the key or the account is for all."""
    error = await failure_of(Canned(403, {"message": message}))

    assert (type(error), error.kind) == (UnavailableError, kind)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("", "openai-api needs a name and a model"),
        ("groq", "openai-api needs a name and a model"),
        ("groq/", "openai-api needs a name and a model"),
        ("/m", "openai-api needs a name and a model"),
        ("gr oq/m", "openai-api needs a name and a model"),
        ("groq/m", r"set GROQ_BASE_URL \(or -M base_url=...\) to the address of groq"),
    ],
)
def test_a_named_endpoint_must_be_named(model: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that says how, or which variable is missing."""
    monkeypatch.delenv("GROQ_BASE_URL", raising=False)
    with pytest.raises(UsageError, match=sentence):
        create_named(model, {})


async def test_a_named_endpoints_refusal_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """And needs none where the server asks for none."""
    refused = Canned(401, {"error": {"message": "no", "code": "invalid_api_key"}})
    async with FaultyServer(four, script=["ok", refused]) as server:
        monkeypatch.setenv("LOCAL_BASE_URL", server.base_url)
        monkeypatch.delenv("LOCAL_API_KEY", raising=False)
        provider = create_named("local/m", {})
        await provider.sample(ask())
        with pytest.raises(UnavailableError, match="check LOCAL_API_KEY"):
            await provider.sample(ask())
        await provider.aclose()
