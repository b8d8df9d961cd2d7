"""Requests without the SDK are those of the SDK, and go nowhere else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import anyio
import anyio.abc
import pytest

from mdap.errors import ProviderError, UnavailableError
from mdap.providers.direct import Direct
from mdap.providers.endpoint import Endpoint, Transport
from mdap.providers.sdk import SDK
from mdap.providers.wire import Wire
from mdap.testing import Canned, FaultyServer, Served

KEY = "k-0123456789abcdef"
CLIENTS = {"openai": ("AsyncOpenAI", "/chat/completions"), "anthropic": ("AsyncAnthropic", "/messages")}
BODY = {"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "2 + 2? ⟂ \"'\n"}]}

Script = list[str | Canned]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(params=get_args(Transport))
def transport(request: pytest.FixtureRequest) -> Transport:
    kind: Transport = request.param
    return kind


def sdk_of(vendor: str, url: str) -> tuple[SDK, Endpoint]:
    endpoint = Endpoint(url, KEY, "KEY")
    client, path = CLIENTS[vendor]
    return SDK(vendor, client, path, endpoint), endpoint


@asynccontextmanager
async def wired(url: str, transport: Transport, vendor: str = "openai") -> AsyncIterator[Wire]:
    wire = Wire(*sdk_of(vendor, url), transport)
    try:
        yield wire
    finally:
        await wire.aclose()


def served(script: Script | None = None) -> FaultyServer:
    return FaultyServer(lambda body, rng: "4", script=script or [])


async def seen(transport: Transport, vendor: str, login: str = "") -> list[Served]:
    """Return what a server sees of two requests."""
    async with (
        served() as server,
        wired(server.base_url.replace("//", f"//{login}"), transport, vendor) as wire,
    ):
        await wire.post(BODY)
        await wire.post({**BODY, "max_tokens": 4})
        return list(server.log)


@pytest.mark.parametrize("vendor", CLIENTS)
async def test_a_request_is_the_sdks(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Path, body and headers, with all that the SDK reads from the environment; the second as the first."""
    monkeypatch.setenv("OPENAI_ORG_ID", "the-org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "the-project")
    ours, theirs = [await seen(transport, vendor) for transport in get_args(Transport)]

    assert len(ours) == len(theirs) == 2
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.body == its.body
        assert {**mine.headers, "host": ""} == {**its.headers, "host": ""}
    first = ours[0].headers
    # Versions of Anthropic's SDK differ in this.
    assert {first.get("authorization"), first.get("x-api-key")} & {KEY, f"Bearer {KEY}"}
    if vendor == "openai":
        assert (first["openai-organization"], first["openai-project"]) == ("the-org", "the-project")


async def test_an_address_with_a_login() -> None:
    """User and password go where HTTP wants them, as the SDK has it, and not into the address."""
    [first, _] = await seen("aiohttp", "openai", "somebody:s3cret-word@")

    assert first.headers["authorization"] == "Basic c29tZWJvZHk6czNjcmV0LXdvcmQ="
    assert "@" not in first.headers["host"]


async def test_many_at_first_share_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK is asked once, however many requests are the first, and again only after a close."""
    asked = 0
    learn = SDK.pattern

    async def counted(sdk: SDK) -> Any:
        nonlocal asked
        asked += 1
        return await learn(sdk)

    monkeypatch.setattr(SDK, "pattern", counted)
    async with served() as server, wired(server.base_url, "aiohttp") as wire:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(wire.post, BODY)
        assert (asked, len(server.log)) == (1, 20)
        await wire.aclose()
        await wire.post(BODY)

    assert asked == 2


async def test_what_belongs_to_one_request_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One idempotency key for all requests would get one answer for all of them."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Idempotency-Key: one\nX-Mine: kept")
    sdk, _ = sdk_of("openai", "http://127.0.0.1:9/v1")
    pattern = await sdk.pattern()

    assert pattern.headers["x-mine"] == "kept"
    assert not {"idempotency-key", "host", "content-length"} & pattern.headers.keys()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(status: int, transport: Transport) -> None:
    """Neither prompt nor key goes to whom the user did not name."""
    async with served() as other:
        away = Canned(status, headers={"Location": f"{other.base_url}/chat/completions"})
        async with served([away]) as server, wired(server.base_url, transport) as wire:
            with pytest.raises(UnavailableError, match=f"answered {status}") as caught:
                await wire.post(BODY)

    assert caught.value.kind == f"http_{status}"
    assert (len(server.log), len(other.log)) == (1, 0)


async def test_headers_that_are_no_text(transport: Transport) -> None:
    """Whatever bytes a server puts into a header, what is made of them can be stored."""
    request_id = b"\xff\xfe-id".decode("latin-1")
    script: Script = [Canned(body={}, headers={"X-Request-Id": request_id})]
    async with served(script) as server, wired(server.base_url, transport) as wire:
        response = await wire.post(BODY)

    assert response.headers["x-request-id"].encode().endswith(b"-id")


# -- proxies


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
async def test_a_proxy_of_the_environment(
    name: str, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request goes to the proxy, and not where the address says."""
    async with served() as proxy:
        monkeypatch.setenv(name.lower(), proxy.base_url.removesuffix("/v1"))
        async with wired("http://nowhere.invalid/v1", transport) as wire:
            # Which is no proxy in truth, and says what it was asked for.
            with pytest.raises(UnavailableError, match=r"POST http://nowhere\.invalid/v1/chat/completions"):
                await wire.post(BODY)


async def test_an_address_that_needs_no_proxy(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment exempts is reached directly."""
    async with served() as proxy, served() as server:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
        async with wired(server.base_url, transport) as wire:
            await wire.post(BODY)

    assert (len(proxy.log), len(server.log)) == (0, 1)


async def test_a_proxy_that_cannot_be_reached(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come back: another attempt may work."""
    async with served() as proxy:
        pass
    monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
    async with wired("http://nowhere.invalid/v1", transport) as wire:
        with pytest.raises(ProviderError) as caught:
            await wire.post(BODY)

    assert caught.value.kind == "connection"


@pytest.mark.parametrize(
    "named", ["socks5://user:s3cret-word@127.0.0.1:9", "://", "http://127.0.0.1:99999", "http://"]
)
async def test_a_proxy_that_cannot_be_used(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once and plainly, before anything is sent."""
    monkeypatch.setenv("all_proxy", named)
    async with wired("http://nowhere.invalid/v1", "aiohttp") as wire:
        with pytest.raises(UnavailableError, match="must look like http://host:port") as caught:
            await wire.post(BODY)

    assert "s3cret" not in str(caught.value)


async def test_the_login_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to the proxy, and no error tells it."""
    heads: list[bytes] = []

    async def refuse(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heads.append(await stream.receive())
            await stream.send(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    monkeypatch.setenv("all_proxy", f"http://user:s3cret-word@127.0.0.1:{port}")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, refuse)
        for scheme in ("http", "https"):
            async with wired(f"{scheme}://nowhere.invalid/v1", "aiohttp") as wire:
                with pytest.raises(ProviderError, match="407") as caught:
                    await wire.post(BODY)
                assert "s3cret" not in str(caught.value)
        group.cancel_scope.cancel()

    assert all(b"proxy-authorization: basic dxnlcjpzm2nyzxqtd29yza==" in head.lower() for head in heads)
    assert [head.split()[0] for head in heads] == [b"POST", b"CONNECT"]
    # What is not encrypted the proxy sees whole; of a tunnel it must learn no more than where it leads.
    assert [KEY.encode() in head for head in heads] == [True, False]


async def test_closing_what_was_never_opened() -> None:
    """Nothing was opened, so there is nothing to close."""
    sdk, _ = sdk_of("openai", "http://127.0.0.1:9/v1")
    direct = Direct(sdk)
    await direct.aclose()
    await direct.aclose()
