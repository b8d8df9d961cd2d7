"""A vendor's SDK: the requests it builds, and the requests it sends itself.

The SDKs of OpenAI and Anthropic are made by the same generator: their clients and errors go by the same
names. They retry nothing here: an attempt is one request, so that limits, counts and the log are true.
"""

import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult

import anyio

from mdap._version import __version__
from mdap.errors import UnavailableError
from mdap.providers.endpoint import Endpoint
from mdap.providers.proxies import SOCKS, proxy_for
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

# What an endpoint learns that the SDK's own variables are not meant for. No compressed body is asked for: how
# large it is shows only afterwards.
_PLAIN: Final = {"accept-encoding": "identity"}
_NEUTRAL: Final = {
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": f"mdap/{__version__}",
    **_PLAIN,
}
# These belong to one body, or, where an SDK sends it, to one request alone.
_OF_ONE_REQUEST: Final = frozenset({"content-length", "idempotency-key"})


@dataclass(frozen=True, slots=True, repr=False)
class Pattern:
    """A request as the SDK would send it, but for its body. It holds keys, so it is never shown."""

    url: str
    headers: Mapping[str, str]
    proxy: SplitResult | None


class SDK:
    """One vendor's SDK, pointed at one endpoint.

    Attributes:
        module: the SDK.
        http: the library that it stands on: httpx for some versions, httpx2 for others.
        path: of the API that is called, from the base URL on.
        url: where requests go.
    """

    def __init__(self, name: str, client: str, path: str, endpoint: Endpoint) -> None:
        # Half a second: paid here, by who wants it, and not inside the loop.
        self.module: Final = importlib.import_module(name)
        # Both libraries let what they export say that it comes from their top.
        kinds = self.module.DefaultAioHttpClient.__mro__
        [base] = [kind for kind in kinds if kind.__name__ == "AsyncClient"]
        self.http: Final = sys.modules[base.__module__]
        self.path: Final = path
        self.url: Final = endpoint.url(path)
        self._client = client
        self._endpoint = endpoint

    def client(self, http_client: Any) -> Any:
        """Return a client that sends through *http_client*, and closes it."""
        endpoint = self._endpoint
        secret = "auth_token" if endpoint.token else "api_key"
        return getattr(self.module, self._client)(
            **{secret: endpoint.key or "none"},
            base_url=endpoint.plain_url,
            max_retries=0,
            timeout=IDLE_SECONDS,
            http_client=http_client,
        )

    def connected(self, hooks: Mapping[str, Any], **options: Any) -> Any:
        """Return a client whose requests go through the proxy that the environment names, if any.

        *hooks* and *options* are those of the HTTP library's client.

        Raises:
            UnavailableError: the proxy, the address or the certificates cannot be used.
        """
        proxy = proxy_for(self.url)
        with self.usable():
            http_client = self.module.DefaultAioHttpClient(
                event_hooks=hooks,
                trust_env=False,
                proxy=None if proxy is None else proxy.geturl(),
                verify=self.http.create_ssl_context(),
                timeout=IDLE_SECONDS,
                **options,
            )
            return self.client(http_client)

    def dress(self, request: Any, *kept: str) -> None:
        """Give *request*, which the SDK made, the headers that it has without the SDK; keep those *kept*."""
        own = {name: request.headers[name] for name in kept if name in request.headers}
        request.headers = self.http.Headers({**self.headers(request.headers), **own})

    def headers(self, made: Mapping[str, str]) -> dict[str, str]:
        """Return the headers to send, by name in lower case, given those that the SDK *made*.

        What it reads from the environment is meant for its own vendor: another endpoint gets none of them.
        """
        endpoint = self._endpoint
        key = {} if endpoint.key is None else {"authorization": f"Bearer {endpoint.key}"}
        chosen = {**made, **_PLAIN} if endpoint.own else {**_NEUTRAL, **key}
        # Of an SDK's own headers some may have no value.
        headers = {name.lower(): value for name, value in chosen.items() if value}
        more = {**endpoint.login(), **endpoint.headers}
        headers |= {name.lower(): value for name, value in more.items()}
        return {name: value for name, value in headers.items() if name not in _OF_ONE_REQUEST}

    async def post(self, client: Any, body: Mapping[str, Any]) -> Any:
        """Return the response to *body* as the HTTP library has it.

        This is not the method that the SDK documents for completions: that one spends more time on checking
        and copying parameters than all the rest takes. The request that leaves is the same.
        """
        # A redirect would carry the prompt, and may carry the key, to whom the user never named.
        options = {"follow_redirects": False, "timeout": IDLE_SECONDS}
        return await client.post(self.path, body=body, cast_to=self.http.Response, options=options)

    async def pattern(self) -> Pattern:
        """Have the SDK put a request together without sending it anywhere.

        Raises:
            UnavailableError: the address, or a proxy's, cannot be used.
        """
        caught: list[Any] = []
        made = 0

        class Catching(self.module.DefaultAioHttpClient):  # type: ignore[misc,name-defined]
            def _init_transport(self, *_: Any, **__: Any) -> Any:
                nonlocal made
                made += 1
                return Net()

        class Net(self.http.AsyncBaseTransport):  # type: ignore[misc,name-defined]
            async def handle_async_request(self, request: Any) -> Any:
                caught.append(request)
                # No response, or a log would tell of a request that never was.
                raise _CaughtError

        with self.usable():
            # Which proxy there is, is not the SDK's business: it stumbles over those that it need not use.
            async with self.client(Catching(trust_env=False)) as client:
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
            return Pattern(self.url, self.headers(caught[0].headers), proxy_for(self.url))

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


class ThroughSDK:
    """Sends every request through the SDK's client."""

    def __init__(self, sdk: SDK) -> None:
        self._sdk = sdk
        self._client: Any = None

    async def send(self, body: Mapping[str, Any]) -> Response:
        """Send one request; raise whatever the SDK does where nothing whole comes back."""
        # The SDK spells it itself, but from its error nobody could tell that the prompt is to blame.
        spelled(body)
        if self._client is None:
            self._client = self._open()
        try:
            response = await self._sdk.post(self._client, body)
        except self._sdk.module.APIStatusError as error:
            response = error.response
        return Response(response.status_code, dict(response.headers.items()), response.content)

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        client, self._client = self._client, None
        await closed(client)

    def _open(self) -> Any:
        sdk, http = self._sdk, self._sdk.http
        proxy = proxy_for(sdk.url)
        if proxy is not None and proxy.scheme in SOCKS:
            raise UnavailableError(
                "the environment names a SOCKS proxy: leave out -M transport=sdk to use it", kind="proxy"
            )
        limits = http.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS)
        return sdk.connected({"request": [self._address], "response": [_body_cap(http)]}, limits=limits)

    async def _address(self, request: Any) -> None:
        """Have *request* go where it would go without the SDK, with the same headers."""
        request.url = self._sdk.http.URL(self._sdk.url)
        self._sdk.dress(request, "content-length")


async def closed(client: Any) -> None:
    """Close a *client* of an SDK in order, if there is one, within a few seconds."""
    if client is not None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await client.close()


def _body_cap(http: Any) -> Callable[[Any], Awaitable[None]]:
    """Return a response hook that keeps the SDK from reading an endless body into memory."""

    class Capped(http.AsyncByteStream):  # type: ignore[misc] # which library's, is known at run time only
        def __init__(self, stream: Any, encoding: str) -> None:
            self._stream = stream
            self._encoding = encoding

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield unpacked(b"".join([chunk async for chunk in bounded(self._stream)]), self._encoding)

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def cap(response: Any) -> None:
        headers = dict(response.headers.items())
        encoding = response.headers.pop("content-encoding", "")
        if not check_head(headers) or encoding:
            response.stream = Capped(response.stream, encoding)

    return cap
