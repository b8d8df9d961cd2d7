"""Send requests identical to the SDK's, without the SDK.

For each request, the SDK and its HTTP library take several times the processor time of the connection itself.
So the SDK builds one request; mdap keeps everything of it but the body, and sends each further body straight
over a connection of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final
from urllib.parse import SplitResult

import aiohttp
import anyio
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mdap.errors import UnavailableError
from mdap.providers.endpoint import basic
from mdap.providers.proxies import SOCKS, login_of
from mdap.providers.sdk import SDK, Pattern
from mdap.providers.sending import (
    CLOSE_SECONDS,
    IDLE_SECONDS,
    MOST_CONNECTIONS,
    Response,
    bounded,
    check_head,
    spelled,
    unpacked,
)

# Below the five seconds after which common servers close an idle connection: a request that meets them at it
# would be a failed attempt.
_IDLE_CONNECTION_SECONDS: Final = 4.0
# Larger bodies are handed over as a file, from which aiohttp sends piece by piece.
_LARGE: Final = 2**20


@dataclass(frozen=True, slots=True, repr=False)
class _Opened:
    """All that the requests to one endpoint share; it holds the key, so it is never shown."""

    session: aiohttp.ClientSession
    url: URL
    headers: CIMultiDict[str]
    proxy: URL | None
    proxy_headers: CIMultiDict[str] | None


class Direct:
    """Sends requests with aiohttp, in the way that the SDK would."""

    def __init__(self, sdk: SDK) -> None:
        self._sdk = sdk
        # Fast: asyncio's own cancelling knows no shield, and could come between a free lock and the closing.
        self._opening = anyio.Lock(fast_acquire=True)
        self._opened: _Opened | None = None

    async def send(self, body: Mapping[str, Any]) -> Response:
        """Send one request; raise whatever aiohttp does where nothing whole comes back."""
        content = spelled(body)
        opened = self._opened or await self._open()
        async with opened.session.post(
            opened.url,
            data=content if len(content) < _LARGE else BytesIO(content),
            # Not set for the whole session: aiohttp would send the key to the proxy too.
            headers=opened.headers,
            proxy=opened.proxy,
            proxy_headers=opened.proxy_headers,
            # A redirect would carry the prompt, and may carry the key, to whom the user never named.
            allow_redirects=False,
        ) as response:
            headers = _legible(response.headers)
            if check_head(headers):
                content = await response.read()
            else:
                content = b"".join([chunk async for chunk in bounded(response.content.iter_any())])
            return Response(response.status, headers, unpacked(content, headers.get("content-encoding", "")))

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        with anyio.CancelScope(shield=True):
            async with self._opening:
                opened, self._opened = self._opened, None
            if opened is not None:
                with anyio.move_on_after(CLOSE_SECONDS):
                    await opened.session.close()

    async def _open(self) -> _Opened:
        async with self._opening:  # many may be the first
            if self._opened is None:
                pattern = await self._sdk.pattern()
                with self._sdk.usable():
                    self._opened = self._session(pattern)
            return self._opened

    def _session(self, pattern: Pattern) -> _Opened:
        url, headers = URL(pattern.url), CIMultiDict(pattern.headers)
        proxy = pattern.proxy
        login = None if proxy is None else login_of(proxy)
        socks = proxy if proxy is not None and proxy.scheme in SOCKS else None
        encrypted = url.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        options: dict[str, Any] = {
            "limit": MOST_CONNECTIONS,
            "keepalive_timeout": _IDLE_CONNECTION_SECONDS,
            # Trusted as the SDK trusts them; to load certificates takes a while.
            "ssl": self._sdk.http.create_ssl_context() if encrypted else True,
        }
        tunnel = {} if login is None or socks else {"Proxy-Authorization": basic(*login)}
        # What is encrypted goes through a tunnel, and a login belongs to the request for that.
        if tunnel and url.scheme != "https":
            headers.update(tunnel)
            tunnel = {}
        session = aiohttp.ClientSession(
            connector=_through_socks(socks, options) if socks else aiohttp.TCPConnector(**options),
            # A cookie could tie requests together that are to be independent.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=IDLE_SECONDS, sock_read=IDLE_SECONDS),
        )
        # Errors tell its address: no more of it than is needed.
        origin = None if proxy is None or socks else URL(proxy.geturl()).origin()
        return _Opened(session, url, headers, origin, CIMultiDict(tunnel) if tunnel else None)


def _through_socks(proxy: SplitResult, options: dict[str, Any]) -> aiohttp.BaseConnector:
    try:
        from aiohttp_socks import ProxyConnector, ProxyType
    except ModuleNotFoundError:
        raise UnavailableError(
            "the environment names a SOCKS proxy, which needs an extra library: pip install 'mdap[socks]', "
            "or add the endpoint's host to NO_PROXY",
            kind="proxy",
        ) from None
    user, password = login_of(proxy) or (None, None)
    old = proxy.scheme.startswith("socks4")
    # As elsewhere, the last letter says that the proxy shall look up host names.
    remote = proxy.scheme in ("socks", "socks4a", "socks5h")
    return ProxyConnector(
        host=proxy.hostname or "",
        port=proxy.port or 1080,
        proxy_type=ProxyType.SOCKS4 if old else ProxyType.SOCKS5,
        username=user,
        password=password,
        rdns=remote,
        **options,
    )


def _legible(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    """Return *headers* as storable text by lower-case name, joining values of the same name."""
    legible: dict[str, str] = {}
    for name, value in headers.items():
        if not value.isascii():
            # Invalid UTF-8 arrives as lone surrogates, which cannot be stored or printed.
            value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        name = name.lower()
        legible[name] = f"{legible[name]}, {value}" if name in legible else value
    return legible
