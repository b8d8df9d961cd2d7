"""The faults of a `FaultyServer`, and its record of each request."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Faults(BaseModel):
    """How often a `FaultyServer` misbehaves, and how; the rates are shares of all requests.

    Attributes:
        rate_limit: status 429 with ``Retry-After``.
        rate_limit_silent: status 429 without a word on how long.
        server_error: status 500.
        overloaded: status 503.
        hang: no answer until the client hangs up.
        drip: the right answer, byte by byte.
        reset: the connection is reset in the middle of the body.
        truncated: half a body, ended so that only the JSON shows it.
        wrong_type: status 200 with a page of HTML.
        empty_choices: status 200 with an empty list of choices.
        missing_usage: the right answer without ``usage``.
        content_filter: a choice without content.
        huge_body: a body of `huge_bytes`, its length not announced.
        refused: status 400 of a content filter, for this share of all prompts: the same ones each time.
        longest_prompt: tokens of a prompt beyond which it is refused with status 400; None for any.
        unreadable: usage, and a choice that says only that something broke.
        out_of_quota_after: answered requests after which the account is empty; None for never.
        requests_per_minute: requests let through in any 60 seconds, the others getting 429; None for any.
        tokens_per_minute: tokens let through in any 60 seconds, as above.
        at_once: requests let through while others are being answered, as above.
        tells_limits: whether headers tell requests and tokens per minute.
        repeats: whether the same prompt always gets the very same response, as from a cache.
        supports_n: whether ``n`` is honoured rather than ignored.
        latency: median seconds until an answer.
        sigma: spread of the latency: standard deviation of its logarithm.
        retry_after: seconds that ``Retry-After`` asks for.
        drip_interval: seconds between two bytes of a drip.
        huge_bytes: bytes of a huge body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_limit: float = Field(0.0, ge=0, le=1)
    rate_limit_silent: float = Field(0.0, ge=0, le=1)
    server_error: float = Field(0.0, ge=0, le=1)
    overloaded: float = Field(0.0, ge=0, le=1)
    hang: float = Field(0.0, ge=0, le=1)
    drip: float = Field(0.0, ge=0, le=1)
    reset: float = Field(0.0, ge=0, le=1)
    truncated: float = Field(0.0, ge=0, le=1)
    wrong_type: float = Field(0.0, ge=0, le=1)
    empty_choices: float = Field(0.0, ge=0, le=1)
    missing_usage: float = Field(0.0, ge=0, le=1)
    content_filter: float = Field(0.0, ge=0, le=1)
    huge_body: float = Field(0.0, ge=0, le=1)
    refused: float = Field(0.0, ge=0, le=1)
    longest_prompt: int | None = Field(None, ge=1)
    unreadable: float = Field(0.0, ge=0, le=1)
    out_of_quota_after: int | None = Field(None, ge=0)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    at_once: int | None = Field(None, ge=1)
    tells_limits: bool = False
    repeats: bool = False
    supports_n: bool = True
    latency: float = Field(0.0, ge=0)
    sigma: float = Field(0.0, ge=0)
    retry_after: float = Field(1.0, ge=0)
    drip_interval: float = Field(0.01, ge=0)
    huge_bytes: int = Field(64 * 2**20, ge=0)

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if sum(getattr(self, kind) for kind in KINDS) > 1 + 1e-9:
            raise ValueError("the rates of all faults add up to more than 1")
        return self


KINDS: Final = (
    "rate_limit",
    "rate_limit_silent",
    "server_error",
    "overloaded",
    "hang",
    "drip",
    "reset",
    "truncated",
    "wrong_type",
    "empty_choices",
    "missing_usage",
    "content_filter",
    "huge_body",
    "unreadable",
)
# The model did its work for these, so an endpoint bills them whether or not the answer arrives.
ANSWERED: Final = frozenset(
    {"ok", "drip", "reset", "truncated", "missing_usage", "content_filter", "unreadable"}
)


@dataclass(frozen=True, slots=True)
class Canned:
    """A response written by hand, for a server's script.

    Attributes:
        status: the HTTP status.
        body: bytes or text as they are, or a JSON value.
        headers: headers to send; ``Content-Type`` is JSON unless given, and left out where it is empty.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """Return the body's bytes."""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


@dataclass(frozen=True, slots=True)
class Served:
    """One request for a completion, and what it met.

    Attributes:
        number: its place in the order of arrival, from 0.
        outcome: ``ok``, ``batched`` for an answered row of a job, a fault's name,
            ``limited``, ``refused`` by the server's manners, ``prompt_refused``,
            ``prompt_too_long``, ``out_of_quota``, ``canned`` or ``broken_answer``.
        body: the request's JSON.
        headers: the request's headers, names in lower case.
        replies: choices the model wrote for it, whether or not they arrived.
        prompt_tokens: tokens billed for the prompt.
        completion_tokens: tokens billed for all its replies.
        at: when it arrived, in seconds of `time.monotonic`.
    """

    number: int
    outcome: str
    body: dict[str, Any]
    headers: dict[str, str]
    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    at: float = field(default_factory=time.monotonic)
