"""Requests that look as the SDK's, sent without it.

Per request, the SDK and the library under it take several times the processor time of the connection that
they in turn stand on. So the SDK puts one request together, and what does not change in it, all but the
body, is kept; each body then goes straight to that connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import aiohttp
import anyio
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mdap.errors import UnavailableError
from mdap.providers.sdk import SDK, Pattern
from mdap.providers.sending import (
    CLOSE_SECONDS,
    IDLE_SECONDS,
    MOST_CONNECTIONS,
    Answer,
    bounded,
    check_head,
    spelled,
)

__all__ = ["Direct"]

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

    async def send(self, body: Mapping[str, Any]) -> Answer:
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
            return Answer(response.status, headers, content)

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
        url, headers = URL(pattern.url, encoded=True), CIMultiDict(pattern.headers)
        proxy = None if pattern.proxy is None else _proxy(pattern.proxy)
        # What is encrypted goes through a tunnel, and a login belongs to the request for that.
        tunnel = pattern.proxy_headers if url.scheme == "https" else {}
        if not tunnel:
            headers.update(pattern.proxy_headers)
        encrypted = "https" in (url.scheme, proxy and proxy.scheme)
        connector = aiohttp.TCPConnector(
            limit=MOST_CONNECTIONS,
            keepalive_timeout=_IDLE_CONNECTION_SECONDS,
            # Trusted as the SDK trusts them; to load certificates takes a while.
            ssl=self._sdk.http.create_ssl_context() if encrypted else True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            # A cookie could tie requests together that are to be independent.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=IDLE_SECONDS, sock_read=IDLE_SECONDS),
        )
        return _Opened(session, url, headers, proxy, CIMultiDict(tunnel) if tunnel else None)


def _proxy(address: str) -> URL:
    proxy = URL(address)
    if proxy.scheme not in ("http", "https"):
        raise UnavailableError(
            f"the environment names a proxy of kind {proxy.scheme!r}; only http and https can be used",
            kind="proxy",
        )
    # Errors tell its address: no more of it than is needed.
    return proxy.origin()


def _legible(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    """Return *headers* by name in lower case, those of one name as one, as text that can be stored."""
    legible: dict[str, str] = {}
    for name, value in headers.items():
        if not value.isascii():
            # Bytes that are no UTF-8 come as lone surrogates, which can neither be stored nor printed.
            value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        name = name.lower()
        legible[name] = f"{legible[name]}, {value}" if name in legible else value
    return legible
