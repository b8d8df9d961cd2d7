"""Requests without the SDK are those of the SDK, and go nowhere else."""

import asyncio
import inspect
import io
import logging
import sys
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, get_args

import aiohttp
import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mdap.errors import ProviderError, TransientError, UnavailableError
from mdap.providers.direct import Direct
from mdap.providers.endpoint import Endpoint, Transport
from mdap.providers.sdk import SDK
from mdap.providers.wire import Wire
from mdap.testing import Canned, FaultyServer, Served

KEY = "k-0123456789abcdef"
CLIENTS = {"openai": ("AsyncOpenAI", "/chat/completions"), "anthropic": ("AsyncAnthropic", "/v1/messages")}
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
    async with served() as server:
        url = server.base_url.replace("//", f"//{login}")
        url = url if vendor == "openai" else url.removesuffix("/v1")
        async with wired(url, transport, vendor) as wire:
            await wire.post(BODY)
            await wire.post({**BODY, "max_tokens": 4})
        return list(server.log)


@pytest.mark.slow
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


async def test_an_address_with_a_login(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """User and password go where HTTP wants them, and are in no log."""
    caplog.set_level(logging.DEBUG)
    [first, _] = await seen(transport, "openai", "somebody:s3cret%2Dword@")

    assert first.headers["authorization"] == "Basic c29tZWJvZHk6czNjcmV0LXdvcmQ="
    assert "@" not in first.headers["host"]
    assert "s3cret" not in caplog.text


async def test_nothing_is_logged_that_was_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """The request that the SDK only puts together appears in no log as sent."""
    caplog.set_level(logging.INFO)
    sdk, _ = sdk_of("openai", "http://127.0.0.1:9/v1")
    await sdk.pattern()

    assert not caplog.records


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
    assert not {"idempotency-key", "content-length"} & pattern.headers.keys()


@asynccontextmanager
async def raw_server(talk: Callable[[anyio.abc.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, talk)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/v1"
        group.cancel_scope.cancel()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(status: int, transport: Transport) -> None:
    """Neither prompt nor key goes to whom the user did not name; the sentence says where to."""
    async with served() as other:
        away = Canned(status, headers={"Location": f"{other.base_url}/chat/completions"})
        async with served([away]) as server, wired(server.base_url, transport) as wire:
            with pytest.raises(UnavailableError, match=f"answered {status}, a redirect to http://") as caught:
                await wire.post(BODY)

    assert caught.value.kind == f"http_{status}"
    assert other.base_url in str(caught.value)
    assert (len(server.log), len(other.log)) == (1, 0)


async def test_headers_that_are_no_text(transport: Transport) -> None:
    """Whatever bytes a server puts into a header, what is made of them can be stored."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nX-Request-Id: \xff\xfe-id\r\nContent-Length: 2\r\n\r\n{}")

    async with raw_server(answer) as url, wired(url, transport) as wire:
        response = await wire.post(BODY)

    assert response.headers["x-request-id"].encode().endswith(b"-id")


class Loopback(aiohttp.ThreadedResolver):
    """Finds every host here, by IPv4."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> Any:
        return await super().resolve("127.0.0.1", port, family)


async def test_headers_of_one_name(transport: Transport) -> None:
    """They are one list, whatever carries them: none hides another."""

    async def refuse(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: identity\r\n"
                b"Content-Length: 2\r\n\r\n{}"
            )

    async with raw_server(refuse) as url, wired(url, transport) as wire:
        with pytest.raises(TransientError) as caught:
            await wire.post(BODY)

    assert caught.value.kind == "compressed"


@pytest.mark.parametrize("length", ["0" * 4_400 + "2", "9" * 4_400, "9" * 18])
async def test_a_length_of_many_digits(length: str, transport: Transport) -> None:
    """A number that Python refuses to read is an answer of the endpoint, and no fault of the program."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{{}}".encode())

    async with raw_server(answer) as url, wired(url, transport) as wire:
        if length.startswith("0"):
            assert (await wire.post(BODY)).content == b"{}"
        else:
            with pytest.raises(TransientError):
                await wire.post(BODY)


async def test_a_reason_that_is_no_text(transport: Transport) -> None:
    """A server that says nonsense is not the prompt's fault."""

    async def refuse(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 500 \xff\xfe\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(refuse) as url, wired(url, transport) as wire:
        with pytest.raises(TransientError):
            await wire.post(BODY)


async def test_a_large_body() -> None:
    """A prompt of megabytes arrives whole, and without a warning."""
    text = "word " * 500_000
    async with served() as server, wired(server.base_url, "aiohttp") as wire:
        await wire.post({**BODY, "messages": [{"role": "user", "content": text}]})

    assert server.log[0].body["messages"][0]["content"] == text


async def test_no_frame_of_an_error_holds_the_key(transport: Transport) -> None:
    """Programs that print the locals of each frame are not to print the key."""
    async with served(["huge_body"]) as server, wired(server.base_url, transport) as wire:
        with pytest.raises(TransientError) as caught:
            await wire.post(BODY)

    assert caught.value.kind == "huge_body"
    told = io.StringIO()
    traceback.TracebackException.from_exception(caught.value, capture_locals=True).print(file=told)
    own = told.getvalue().partition("in post")[2]
    assert own
    assert KEY not in own


async def test_what_holds_the_key_does_not_show_it() -> None:
    """Neither the pattern nor who sends by it."""
    sdk, _ = sdk_of("openai", "http://127.0.0.1:9/v1")
    pattern = await sdk.pattern()
    direct = Direct(sdk)
    await direct._open()

    assert KEY not in repr(pattern) + repr(direct) + repr(direct._opened)
    await direct.aclose()


@pytest.mark.parametrize("host", ["h\\x", "[v1.x]", "1.2.3.999", "a..b", f"{'a' * 64}.invalid"])
async def test_addresses_that_cannot_be(host: str, transport: Transport) -> None:
    """Such an address gets a sentence, whoever stumbles over it first."""
    async with wired(f"http://{host}/v1", transport) as wire:
        with pytest.raises(ProviderError) as caught:
            await wire.post(BODY)

    assert caught.value.kind in ("address", "connection", "disconnected")


async def test_a_host_of_other_letters() -> None:
    """It is asked for in the spelling that name servers know."""
    direct = Direct(sdk_of("openai", "http://müller.example:1/v1")[0])
    opened = await direct._open()
    await direct.aclose()

    assert str(opened.url) == "http://xn--mller-kva.example:1/v1/chat/completions"


async def test_certificates_that_are_not_there(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting will not bring them."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    async with wired("https://127.0.0.1:9/v1", transport) as wire:
        with pytest.raises(UnavailableError, match="SSL_CERT_FILE") as caught:
            await wire.post(BODY)

    assert caught.value.kind == "certificates"


async def test_an_sdk_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a version choose its transport otherwise, nothing is sent, and the way out is named."""
    sdk, _ = sdk_of("openai", "http://127.0.0.1:9/v1")
    sent: list[Any] = []

    class Otherwise(sdk.http.AsyncClient):  # type: ignore[misc,name-defined]
        def __init__(self, **_: Any) -> None:
            super().__init__(transport=sdk.http.MockTransport(sent.append))

        def __init_subclass__(cls) -> None:
            del cls._init_transport

    monkeypatch.setattr(sdk.module, "DefaultAioHttpClient", Otherwise)
    with pytest.raises(UnavailableError, match="transport=sdk"):
        await sdk.pattern()

    assert not sent


async def test_closing_while_it_opens() -> None:
    """What was being opened is closed, and not left to the garbage collector."""
    async with served() as server:
        sdk, _ = sdk_of("openai", server.base_url)
        direct = Direct(sdk)

        async def send() -> None:
            with pytest.raises(aiohttp.ClientError, match="closed"):
                await direct.send(BODY)

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            while not direct._opening.locked():
                await anyio.lowlevel.checkpoint()
            await direct.aclose()

    assert direct._opened is None


async def test_a_close_that_is_cancelled_closes() -> None:
    """Asyncio's own cancelling comes through every shield, at the first wait."""
    sdk, _ = sdk_of("openai", "http://127.0.0.1:9/v1")
    direct = Direct(sdk)
    session = (await direct._open()).session
    work = direct.aclose()
    closing = asyncio.get_running_loop().create_task(work)
    while inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        await anyio.lowlevel.checkpoint()
    closing.cancel()
    await asyncio.wait([closing])

    assert session.closed


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
    "named", ["ftp://user:s3cret-word@127.0.0.1:9", "http://u:s3cret-word@h:99999", "http://"]
)
async def test_a_proxy_that_cannot_be_used(
    named: str, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said once and plainly, before anything is sent; and no obstacle to a server that it is not for."""
    monkeypatch.setenv("all_proxy", named)
    async with wired("http://nowhere.invalid/v1", transport) as wire:
        with pytest.raises(
            UnavailableError, match=r"the proxy that the environment names.*NO_PROXY"
        ) as caught:
            await wire.post(BODY)

    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.0/8,::1")
    async with served() as server, wired(server.base_url, transport) as wire:
        await wire.post(BODY)


@asynccontextmanager
async def socks_server(logins: list[bytes], names: list[bytes]) -> AsyncIterator[int]:
    """A SOCKS5 proxy that notes who logs in, and what it is asked for."""

    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            methods = await stream.receive()
            if 2 in methods[2:]:
                await stream.send(b"\x05\x02")
                logins.append(await stream.receive())
                await stream.send(b"\x01\x00")
            else:
                await stream.send(b"\x05\x00")
            asked = await stream.receive()
            names.append(asked[3:-2])
            port = int.from_bytes(asked[-2:], "big")
            async with await anyio.connect_tcp("127.0.0.1", port) as there:
                await stream.send(b"\x05\x00\x00\x01" + bytes(6))
                await there.send(await stream.receive())
                await stream.send(await there.receive())

    async with raw_server(talk) as url:
        yield int(url.rpartition(":")[2].partition("/")[0])


@pytest.mark.parametrize(
    ("kind", "name"),
    [("socks5", b"\x01\x7f\x00\x00\x01"), ("socks5h", b"\x03\x09localhost"), ("socks", b"\x03\x09localhost")],
)
async def test_a_socks_proxy(kind: str, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It carries the request, with its login, and looks the host up where its kind says so."""
    logins: list[bytes] = []
    names: list[bytes] = []
    async with served() as server, socks_server(logins, names) as port:
        monkeypatch.setenv("ALL_PROXY", f"{kind}://joe:s3cret-word@127.0.0.1:{port}")
        # Not an address, so that somebody has to look it up.
        monkeypatch.setattr("aiohttp.connector.DefaultResolver", Loopback)
        async with wired(server.base_url.replace("127.0.0.1", "localhost"), "aiohttp") as wire:
            await wire.post(BODY)

    assert len(server.log) == 1
    assert (logins, names) == ([b"\x01\x03joe\x0bs3cret-word"], [name])


async def test_a_socks_proxy_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come back: another attempt may work."""
    monkeypatch.setenv("ALL_PROXY", "socks5://joe:s3cret-word@127.0.0.1:9")
    async with wired("http://10.0.0.1/v1", "aiohttp") as wire:
        with pytest.raises(TransientError) as caught:
            await wire.post(BODY)

    assert caught.value.kind == "connection"
    assert "10.0.0.1 through the proxy 127.0.0.1:9, which the environment names" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_encryption_that_is_not_spoken() -> None:
    """A local server that is asked with https is told from one that is not there."""

    async def refuse(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(refuse) as url, wired(url.replace("http:", "https:"), "aiohttp") as wire:
        with pytest.raises(TransientError, match="its address may begin with http://"):
            await wire.post(BODY)


async def test_a_socks_proxy_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    async with wired("http://10.0.0.1/v1", "aiohttp") as wire:
        with pytest.raises(UnavailableError, match=r"pip install 'mdap\[socks\]'"):
            await wire.post(BODY)


@pytest.mark.parametrize("login", ["user:s3cret-word", ":s3cret-word"])
async def test_the_login_of_a_proxy(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to the proxy, and no error tells it."""
    heads: list[bytes] = []

    async def refuse(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heads.append(await stream.receive())
            await stream.send(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(refuse) as url:
        monkeypatch.setenv("all_proxy", url.replace("//", f"//{login}@"))
        for scheme in ("http", "https"):
            async with wired(f"{scheme}://nowhere.invalid/v1", "aiohttp") as wire:
                with pytest.raises(UnavailableError, match="407") as caught:
                    await wire.post(BODY)
                assert "s3cret" not in str(caught.value)

    basic = b64encode(login.encode()).lower()
    assert all(b"proxy-authorization: basic " + basic in head.lower() for head in heads)
    assert [head.split()[0] for head in heads] == [b"POST", b"CONNECT"]
    # What is not encrypted the proxy sees whole; of a tunnel it must learn no more than where it leads.
    assert [KEY.encode() in head for head in heads] == [True, False]


async def test_closing_what_was_never_opened() -> None:
    """Nothing was opened, so there is nothing to close."""
    sdk, _ = sdk_of("openai", "http://127.0.0.1:9/v1")
    direct = Direct(sdk)
    await direct.aclose()
    await direct.aclose()
