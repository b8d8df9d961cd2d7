"""Requests that look as the SDK's, sent without it.

Per request, the SDK and the library under it take several times the processor time of the connection that
they in turn stand on. So the SDK puts one request together, and what does not change in it, all but the
body, is kept; each body then goes straight to that connection.
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
from multidict import CIMultiDict
from yarl import URL

from mdap.errors import UnavailableError
from mdap.providers.sdk import SDK
from mdap.providers.sending import IDLE_SECONDS, MAX_BODY, MOST_CONNECTIONS, Answer, check_head, too_large
from mdap.rules.canonical import json_encoder

__all__ = ["Direct"]

# As the SDKs spell it: not everything beyond ASCII is escaped, and a lone surrogate cannot be sent.
_encode: Final = json_encoder(ascii_only=False)


class _Opened(NamedTuple):
    """All that the requests to one endpoint share."""

    session: aiohttp.ClientSession
    url: URL
    headers: CIMultiDict[str]
    proxy: URL | None
    proxy_headers: CIMultiDict[str] | None


class Direct:
    """Sends requests with aiohttp, in the way that the SDK would."""

    def __init__(self, sdk: SDK) -> None:
        self._sdk = sdk
        self._opening = anyio.Lock()
        self._opened: _Opened | None = None

    async def send(self, body: Mapping[str, Any]) -> Answer:
        """Send one request; raise whatever aiohttp does where nothing whole comes back."""
        content = _encode(body).encode()
        session, url, headers, proxy, proxy_headers = self._opened or await self._open()
        async with session.post(
            url,
            data=content,
            # Not set for the whole session: aiohttp would send the key to the proxy too.
            headers=headers,
            proxy=proxy,
            proxy_headers=proxy_headers,
            # A redirect would carry the prompt, and may carry the key, to whom the user never named.
            allow_redirects=False,
        ) as response:
            told = {name.lower(): _legible(value) for name, value in response.headers.items()}
            read = response.read() if check_head(told) else _read_within_bounds(response)
            return Answer(response.status, told, await read)

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        opened, self._opened = self._opened, None
        if opened is not None:
            with anyio.CancelScope(shield=True):
                await opened.session.close()

    async def _open(self) -> _Opened:
        async with self._opening:  # many may be the first
            if self._opened is None:
                pattern = await self._sdk.pattern()
                url, headers = URL(pattern.url, encoded=True), CIMultiDict(pattern.headers)
                proxy, login = _proxy_for(url)
                # A proxy tunnels what is encrypted: then the login belongs to the request for the tunnel.
                encrypted = url.scheme == "https"
                if not encrypted:
                    headers.update(login)
                # Certificates are trusted as the SDK trusts them; to load them takes a while.
                trusted = self._sdk.http.create_ssl_context() if encrypted else True
                session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS, ssl=trusted),
                    # A cookie could tie requests together that are to be independent.
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    timeout=aiohttp.ClientTimeout(total=IDLE_SECONDS),
                )
                self._opened = _Opened(session, url, headers, proxy, login if login and encrypted else None)
            return self._opened


def _proxy_for(url: URL) -> tuple[URL | None, CIMultiDict[str]]:
    """Return the proxy that the environment names for *url*, if any, and the header that opens it.

    User and password are taken out of its address, since errors tell that.
    """
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if named is None or proxy_bypass(url.host or ""):
        return None, CIMultiDict()
    try:
        proxy = URL(named if "://" in named else f"http://{named}")
    except ValueError:
        proxy = URL()
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise UnavailableError(
            f"the proxy that the environment names for {url.host} must look like http://host:port; "
            "no other kind can be used",
            kind="proxy",
        )
    if proxy.user is None:
        return proxy, CIMultiDict()
    login = b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return proxy.with_user(None), CIMultiDict({"Proxy-Authorization": f"Basic {login}"})


async def _read_within_bounds(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_BODY:
            raise too_large()
    return bytes(content)


def _legible(value: str) -> str:
    # Bytes that are no UTF-8 come as lone surrogates, which can neither be stored nor printed.
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
