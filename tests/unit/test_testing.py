"""The stand-ins themselves: what a script says, and in which turn."""

import gc
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import ValidationError

from mdap.errors import TransientError, UnavailableError
from mdap.protocols import Provider
from mdap.records import Reply, SampleRequest
from mdap.testing import Faults, FaultyServer, ScriptedProvider


def ask(*ordinals: int) -> SampleRequest:
    return SampleRequest("", "2 + 2?", "d1", "0", ordinals or (0,), 0.1, 100)


def texts(replies: Sequence[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_it_is_a_provider() -> None:
    """The protocol accepts it, and its settings are harmless."""
    provider: Provider = ScriptedProvider([], name="mine", nonblocking=False, max_n=3)

    assert isinstance(provider, Provider)
    assert (
        provider.name,
        provider.nonblocking,
        provider.max_n,
        provider.describe(),
    ) == ("mine", False, 3, {})


async def test_a_list_is_said_in_order() -> None:
    """Texts become replies of this provider; replies stay as they are."""
    whole = Reply("5", "other/model", finish_reason="length", output_tokens=3)
    provider = ScriptedProvider(["4", whole])

    said = [*await provider.sample(ask(0)), *await provider.sample(ask(1))]

    assert [Reply("4", "scripted"), whole] == said
    await provider.aclose()


@pytest.mark.parametrize("nonblocking", [True, False])
async def test_an_iterator_is_read_only_as_far_as_asked(nonblocking: bool) -> None:
    """An endless script works, whether or not the provider waits."""
    endless = iter(range(1000))
    provider = ScriptedProvider(map(str, endless), nonblocking=nonblocking, max_n=4)

    assert texts(await provider.sample(ask(0, 1, 2))) == ["0", "1", "2"]
    assert next(endless) == 3


async def test_a_function_sees_request_and_ordinal() -> None:
    """A function decides for each ordinal."""
    provider = ScriptedProvider(lambda request, ordinal: f"{request.user} {ordinal}", max_n=8)

    assert texts(await provider.sample(ask(4, 7))) == ["2 + 2? 4", "2 + 2? 7"]


async def test_no_more_replies_than_max_n() -> None:
    """A caller that asks for more than allowed gets what is allowed."""
    provider = ScriptedProvider("abc", max_n=2)

    assert texts(await provider.sample(ask(0, 1, 2))) == ["a", "b"]


async def test_an_exception_is_raised_in_its_turn() -> None:
    """An exception behind replies does not lose them: it meets the next request."""
    provider = ScriptedProvider(["a", TransientError("oops", kind="timeout"), "b"], max_n=3)

    assert texts(await provider.sample(ask(0, 1, 2))) == ["a"]
    with pytest.raises(TransientError, match="oops"):
        await provider.sample(ask(1, 2))
    assert texts(await provider.sample(ask(1))) == ["b"]


async def test_an_exception_of_a_function_keeps_earlier_replies() -> None:
    """The function is asked anew, so nothing need be kept for it."""

    def answer(request: SampleRequest, ordinal: int) -> str | Exception:
        return TransientError("oops") if ordinal == 1 else "a"

    provider = ScriptedProvider(answer, max_n=2)

    assert texts(await provider.sample(ask(0, 1))) == ["a"]
    with pytest.raises(TransientError):
        await provider.sample(ask(1))
    assert texts(await provider.sample(ask(2))) == ["a"]


async def test_a_used_up_script_is_no_endless_retry() -> None:
    """A script that has come to its end says so with an error that stops a run."""
    provider = ScriptedProvider(["a"], max_n=2)

    assert texts(await provider.sample(ask(0, 1))) == ["a"]
    with pytest.raises(UnavailableError, match="used up") as caught:
        await provider.sample(ask(1))
    assert caught.value.kind == "script_used_up"


async def test_requests_are_kept() -> None:
    """What was asked can be looked at, failed requests included."""
    provider = ScriptedProvider([TransientError("oops"), "a"])

    with pytest.raises(TransientError):
        await provider.sample(ask(0))
    await provider.sample(ask(1))

    assert [ask(0), ask(1)] == provider.requests


def test_rates_that_cannot_be() -> None:
    """Rates beyond all requests, or of unknown faults, are refused where they are written."""
    with pytest.raises(ValidationError, match="more than 1"):
        Faults(hang=0.6, reset=0.6)
    with pytest.raises(ValidationError):
        Faults(hang=-0.1)
    with pytest.raises(ValueError, match="no such faults: rest"):
        FaultyServer(lambda body, rng: "", script=["ok", "rest"])


# --- limits that the server enforces


def post(server: FaultyServer, prompt: str = "hello") -> tuple[int, dict[str, str], Any]:
    """Send a request; return status, headers and body."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}]}).encode()
    call = urllib.request.Request(
        f"{server.base_url}/chat/completions", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(call, timeout=10) as response:
            return response.status, dict(response.headers), json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.load(error)


@pytest.mark.parametrize(
    ("faults", "through"),
    [(Faults(requests_per_minute=3), 3), (Faults(tokens_per_minute=10), 2), (Faults(at_once=1), 5)],
)
def test_a_server_can_enforce_limits(faults: Faults, through: int) -> None:
    """What is beyond them meets 429; a request and its answer take five tokens here."""
    with FaultyServer.in_thread(lambda body, rng: "four", faults=faults) as server:
        statuses = [post(server)[0] for _ in range(5)]
    assert statuses == [200] * through + [429] * (5 - through)
    assert server.counts()["limited"] == 5 - through


def test_a_server_can_tell_its_limits() -> None:
    """In the headers that OpenAI uses, with each answer and each refusal."""
    faults = Faults(requests_per_minute=1, tokens_per_minute=500, tells_limits=True)
    with FaultyServer.in_thread(lambda body, rng: "x", faults=faults) as server:
        answers = [post(server) for _ in range(2)]
    assert [status for status, _, _ in answers] == [200, 429]
    for _, headers, _ in answers:
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("1", "500")


@pytest.mark.parametrize("repeats", [True, False])
def test_a_server_can_repeat_itself(repeats: bool) -> None:
    """As a cache does: the same prompt gets the same response, its id included; another one does not."""
    faults = Faults(repeats=repeats)
    with FaultyServer.in_thread(lambda body, rng: str(rng.random()), faults=faults) as server:
        first, second, other = (post(server, prompt)[2] for prompt in ("a", "a", "b"))
    assert (first == second) is repeats
    assert other["id"] not in (first["id"], second["id"])


@pytest.mark.parametrize("turns", range(4))
async def test_a_server_closes_a_connection_that_comes_as_it_ends(turns: int) -> None:
    """Whichever turn of the loop accepts it: an open socket left behind is a warning, so an error here."""
    async with FaultyServer(lambda body, rng: "x") as server:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()  # it waits for connections
        port = int(server.base_url.removesuffix("/v1").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    gc.collect()
