"""A vendor's SDK: what it makes of a request, and requests that it sends itself.

The SDKs of OpenAI and Anthropic are made by the same generator: their clients and errors go by the same
names. They retry nothing here: an attempt is one request, so that limits, counts and the log are true.
"""

import importlib
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import anyio

from mdap.errors import UnavailableError
from mdap.providers.endpoint import Endpoint
from mdap.providers.sending import (
    CLOSE_SECONDS,
    IDLE_SECONDS,
    MOST_CONNECTIONS,
    Answer,
    bounded,
    check_head,
    spelled,
)

__all__ = ["SDK", "Pattern", "ThroughSDK"]

# See `check_head`.
_PLAIN: Final = {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True, repr=False)
class Pattern:
    """A request as the SDK would send it, but for its body. It holds keys, so it is never shown.

    Attributes:
        url: where it goes.
        headers: by name, in lower case.
        proxy: the address of what carries it there, if anything does.
        proxy_headers: what that wants to see, such as a login.
    """

    url: str
    headers: Mapping[str, str]
    proxy: str | None
    proxy_headers: Mapping[str, str]


class SDK:
    """One vendor's SDK, pointed at one endpoint.

    Args:
        name: of the module, ``openai`` or ``anthropic``.
        client: the name of its client's class.
        path: of the API that is called, from the base URL on.
        endpoint: whom to ask.

    Attributes:
        module: the SDK.
        http: the library that it stands on: httpx for some versions, httpx2 for others.
    """

    def __init__(self, name: str, client: str, path: str, endpoint: Endpoint) -> None:
        # Half a second: paid here, by who wants it, and not inside the loop.
        self.module: Final = importlib.import_module(name)
        # Both libraries let what they export say that it comes from their top.
        kinds = self.module.DefaultAioHttpClient.__mro__
        [base] = [kind for kind in kinds if kind.__name__ == "AsyncClient"]
        self.http: Final = sys.modules[base.__module__]
        self._client = client
        self._path = path
        self._endpoint = endpoint
        # Apart from the address, which the SDK and the library under it log.
        self._base_url, self._headers = _without_login(endpoint.base_url)

    def client(self, http_client: Any) -> Any:
        """Return a client that sends through *http_client*, and closes it."""
        return getattr(self.module, self._client)(
            api_key=self._endpoint.key or "none",
            base_url=self._base_url,
            max_retries=0,
            timeout=IDLE_SECONDS,
            default_headers={**_PLAIN, **self._headers},
            http_client=http_client,
        )

    async def post(self, client: Any, body: Mapping[str, Any]) -> Any:
        """Return the response to *body* as the HTTP library has it.

        This is not the method that the SDK documents for completions: that one spends more time on checking
        and copying parameters than all the rest takes. The request that leaves is the same.
        """
        # A redirect would carry the prompt, and may carry the key, to whom the user never named.
        options = {"follow_redirects": False, "timeout": IDLE_SECONDS}
        return await client.post(self._path, body=body, cast_to=self.http.Response, options=options)

    async def pattern(self) -> Pattern:
        """Have the SDK put a request together, and choose its proxy, without sending it anywhere.

        Raises:
            UnavailableError: the address, or a proxy's, cannot be used.
        """
        caught: list[tuple[Any, Any]] = []
        made = 0

        class Catching(self.module.DefaultAioHttpClient):  # type: ignore[misc,name-defined]
            def _init_transport(self, *_: Any, **__: Any) -> Any:
                nonlocal made
                made += 1
                return Net(None)

            def _init_proxy_transport(self, proxy: Any, *_: Any, **__: Any) -> Any:
                return Net(proxy)

        class Net(self.http.AsyncBaseTransport):  # type: ignore[misc,name-defined]
            def __init__(self, proxy: Any) -> None:
                self.proxy = proxy

            async def handle_async_request(self, request: Any) -> Any:
                caught.append((request, self.proxy))
                # No response, or a log would tell of a request that never was.
                raise _CaughtError

        with self.usable():
            async with self.client(Catching()) as client:
                if not made:
                    version = f"{self.module.__name__} {self.module.__version__}"
                    raise UnavailableError(
                        f"{version} makes requests in a way that mdap does not know: add -M transport=sdk",
                        kind="sdk",
                    )
                try:
                    await self.post(client, {})
                except Exception:
                    if not caught:
                        raise
            return _pattern(*caught[0])

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Say what is wrong with what a client is made of, without quoting it: there may be logins in it."""
        try:
            yield
        except OSError as error:
            detail = self._endpoint.tell(error.strerror or str(error))
            said = f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({detail})"
            failure = UnavailableError(said, kind="certificates")
        except (ValueError, self.http.InvalidURL):
            said = (
                f"the address of {self._endpoint.host}, or of the proxy that the environment names for it, "
                "cannot be used: it must look like http://host:port"
            )
            failure = UnavailableError(said, kind="address")
        else:
            return
        raise failure


class _CaughtError(Exception):
    """A request went no further than it was to go."""


def _without_login(url: str) -> tuple[str, dict[str, str]]:
    """Return *url* without user and password, and the header that carries them."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    user, _, password = login.partition(":")
    return parts._replace(netloc=host).geturl(), {"Authorization": _basic(unquote(user), unquote(password))}


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _pattern(request: Any, proxy: Any) -> Pattern:
    headers = {name.lower(): value for name, value in request.headers.items()}
    # These belong to one body, or, where an SDK sends it, to one request alone.
    for name in ("content-length", "idempotency-key"):
        headers.pop(name, None)
    if proxy is None:
        return Pattern(str(request.url), headers, None, {})
    login = {"Proxy-Authorization": _basic(*proxy.auth)} if proxy.auth else {}
    return Pattern(str(request.url), headers, str(proxy.url), login)


class ThroughSDK:
    """Sends every request through the SDK's client."""

    def __init__(self, sdk: SDK) -> None:
        self._sdk = sdk
        self._client: Any = None

    async def send(self, body: Mapping[str, Any]) -> Answer:
        """Send one request; raise whatever the SDK does where nothing whole comes back."""
        # The SDK spells it itself, but from its error nobody could tell that the prompt is to blame.
        spelled(body)
        if self._client is None:
            self._client = self._open()
        try:
            response = await self._sdk.post(self._client, body)
        except self._sdk.module.APIStatusError as error:
            response = error.response
        return Answer(response.status_code, dict(response.headers.items()), response.content)

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await client.close()

    def _open(self) -> Any:
        http = self._sdk.http
        limits = http.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS)
        hooks = {"response": [_body_cap(http)]}
        with self._sdk.usable():
            return self._sdk.client(self._sdk.module.DefaultAioHttpClient(limits=limits, event_hooks=hooks))


def _body_cap(http: Any) -> Callable[[Any], Awaitable[None]]:
    """Return a response hook that keeps the SDK from reading an endless body into memory."""

    class Capped(http.AsyncByteStream):  # type: ignore[misc] # which library's, is known at run time only
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __aiter__(self) -> AsyncIterator[bytes]:
            return bounded(self._stream)

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def cap(response: Any) -> None:
        if not check_head(dict(response.headers.items())):
            response.stream = Capped(response.stream)

    return cap
